"""The page of a job: how far it is, what became of its items, and a button that stops it."""

from flask import Blueprint, flash, redirect, render_template, request, stream_with_context, url_for
from flask import Response as FlaskResponse
from werkzeug.wrappers import Response

from keap_connect.jobs.bulk import BULK, links_csv
from keap_connect.jobs.records import ItemOutcome, items_csv, list_items, stop_job, view_job
from keap_connect.jobs.runner import at_once
from keap_connect.refresh.heartbeat import list_workers
from keap_connect.web.auth import Audience, actor, open_to

bp = Blueprint("jobs", __name__, url_prefix="/jobs/<int:job_id>")
MOST_SHOWN = 40  # of each outcome; the page stays under 60 kB


@bp.get("")
@open_to(Audience.VIEWER)
def show(job_id: int) -> str:
    view = view_job(job_id)
    shown = {outcome.value: list_items(job_id, outcome, MOST_SHOWN) for outcome in ItemOutcome}
    return render_template(
        "jobs/show.html",
        view=view,
        shown=shown,
        is_bulk=view.job.kind in BULK,
        has_worker=bool(list_workers()),
        minutes_left=-(-view.waiting // (60 * at_once(view.job))),
    )


@bp.get("/items.csv")
@open_to(Audience.VIEWER)
def download(job_id: int) -> FlaskResponse:
    """Return all items as CSV, or only the refused ones."""
    view_job(job_id)
    outcome = ItemOutcome.REFUSED if request.args.get("only") == ItemOutcome.REFUSED else None
    answer = FlaskResponse(stream_with_context(items_csv(job_id, outcome)), mimetype="text/csv")
    answer.headers["Content-Disposition"] = f'attachment; filename="job-{job_id}{f"-{outcome}" if outcome else ""}.csv"'
    return answer


@bp.get("/links.csv")
@open_to(Audience.ADMIN)
def links(job_id: int) -> FlaskResponse:
    """Return the reconnect links that the job made, with whom they are for."""
    answer = FlaskResponse(stream_with_context(links_csv(job_id, actor())), mimetype="text/csv")
    answer.headers["Content-Disposition"] = f'attachment; filename="reconnect-links-{job_id}.csv"'
    return answer


@bp.post("/stop")
@open_to(Audience.ADMIN)
def stop(job_id: int) -> Response:
    stop_job(job_id, actor())
    flash("The job was stopped. What it has done stays.", "done")
    return redirect(url_for("jobs.show", job_id=job_id), code=303)
