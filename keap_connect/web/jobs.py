"""The page of a job: how far it is, what became of its items, and a button that stops it; and downloads as CSV."""

from flask import Response as FlaskResponse
from flask import render_template, request, url_for
from werkzeug.wrappers import Response

from keap_connect.accounts.exporting import export_csv
from keap_connect.jobs.bulk import BULK, LINK_COLUMNS, links_csv
from keap_connect.jobs.records import ItemOutcome, items_csv, list_items, stop_job, view_job
from keap_connect.jobs.runner import at_once
from keap_connect.models import OF_INVITATIONS
from keap_connect.refresh.heartbeat import list_workers
from keap_connect.web.auth import Audience, Pages, actor, check_password, see_other
from keap_connect.web.rendering import as_download

exports = Pages("exports", __name__, url_prefix="/export")
bp = Pages("jobs", __name__, url_prefix="/jobs/<int:job_id>")
MOST_SHOWN = 40  # of each outcome; the page stays under 60 kB


def _export_form() -> str:
    lead = "A CSV file with states, names, ids and dates. It has no tokens, but people's names and e-mail addresses."
    return ask_for_password("Export all accounts", lead, (url_for("accounts.index"), "Accounts"))


def ask_for_password(heading: str, lead: str, back: tuple[str, str]) -> str:
    return render_template("exports/download.html", heading=heading, lead=lead, back=back[0], back_to=back[1])


@exports.form("", Audience.ADMIN, _export_form)
def accounts() -> FlaskResponse:
    check_password()
    return as_download(export_csv(actor()))


@bp.page("", Audience.VIEWER)
def show(job_id: int) -> str:
    view = view_job(job_id)
    shown = {outcome.value: list_items(job_id, outcome, MOST_SHOWN) for outcome in ItemOutcome}
    return render_template(
        "jobs/show.html",
        view=view,
        shown=shown,
        is_bulk=view.job.kind in BULK,
        of_invitations=view.job.kind in OF_INVITATIONS,
        makes_links=view.job.kind in LINK_COLUMNS,
        has_worker=bool(list_workers()),
        minutes_left=-(-view.waiting // (60 * at_once(view.job))),
    )


@bp.page("/items.csv", Audience.VIEWER)
def download(job_id: int) -> FlaskResponse:
    view_job(job_id)
    outcome = ItemOutcome.REFUSED if request.args.get("only") == ItemOutcome.REFUSED else None
    return as_download(items_csv(job_id, outcome), f"job-{job_id}{f'-{outcome}' if outcome else ''}")


def _links_form(job_id: int) -> str:
    view_job(job_id)
    lead = "A CSV file of name, address and link. Anybody who has a link can use it, once."
    return ask_for_password("Download the links", lead, (url_for("jobs.show", job_id=job_id), "The job"))


@bp.form("/links", Audience.ADMIN, _links_form)
def links(job_id: int) -> FlaskResponse:
    """Return the links that the job made, with whom they are for."""
    check_password()
    return as_download(links_csv(job_id, actor()), f"links-{job_id}")


@bp.act("/stop", Audience.ADMIN)
def stop(job_id: int) -> Response:
    stop_job(job_id, actor())
    return see_other("jobs.show", "The job was stopped. What it has done stays.", job_id=job_id)
