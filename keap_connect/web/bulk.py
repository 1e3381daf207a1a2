"""One thing for many accounts: those that were ticked in the list, or all that match its filter."""

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from keap_connect.accounts.directory import PAGE_SIZE, count_matching
from keap_connect.accounts.exporting import export_csv
from keap_connect.accounts.naming import check_names, tidy_name
from keap_connect.errors import FormRefused
from keap_connect.jobs.bulk import start_bulk
from keap_connect.models import LARGEST_ID, JobKind
from keap_connect.services import services
from keap_connect.web.accounts import LONGEST_SEARCH
from keap_connect.web.auth import Audience, actor, open_to
from keap_connect.web.exports import as_download
from keap_connect.web.forms import check_password, form

bp = Blueprint("bulk", __name__, url_prefix="/accounts/bulk")
EXPORT = "export"
ACTS = (JobKind.LINKS, JobKind.REFRESH, JobKind.LABEL, JobKind.DISCONNECT, EXPORT)


def _chosen() -> tuple[list[int], dict[str, str], int, str]:
    """Return the ticked ids, the filter of the list, how many match it, and why nobody can choose all of these.

    The number is 0 unless a whole page was ticked.
    """
    ids = sorted({one for one in request.values.getlist("account", type=int) if 0 < one <= LARGEST_ID})
    matching = {"text": request.values.get("q", "").strip()[:LONGEST_SEARCH]}
    matching["state"] = request.values.get("state", "")[:LONGEST_SEARCH]
    count, note = count_matching(**matching) if len(ids) >= PAGE_SIZE else (0, "")
    why = f"All that match cannot be chosen. {note}" if note else ""
    return ids, matching, count if count > len(ids) and not why else 0, why


def _page(errors: dict[str, str] | None = None) -> Response | str:
    ids, matching, count, why_not_all = _chosen()
    act = request.values.get("act", "")
    if act not in ACTS or not ids:
        return _back_to_the_list(matching)
    return render_template(
        "accounts/bulk.html",
        act=act,
        ids=ids,
        matching=matching,
        count=count,
        why_not_all=why_not_all,
        takes_all=request.form.get("which") == "all",
        label=request.form.get("label", ""),
        can_mail=services().settings.mails_customers,
        errors=errors or {},
    )


def _back_to_the_list(matching: dict[str, str]) -> Response:
    flash("Tick the accounts first.", "attention")
    chosen: dict[str, Any] = {"q": matching["text"] or None, "state": matching["state"] or None}
    return redirect(url_for("accounts.index", **chosen), code=303)


@bp.route("", methods=["GET", "POST"])
@open_to(Audience.ADMIN)
@form(_page)
def choose() -> Response:
    """Ask what is meant, and do it in a job; an export is a download."""
    ids, matching, count, why_not_all = _chosen()
    act = request.form.get("act", "")
    if act not in ACTS or not ids:
        return _back_to_the_list(matching)
    if why_not_all and request.form.get("which") == "all":
        raise FormRefused(why_not_all, "which")
    takes_all = count > 0 and request.form.get("which") == "all"
    number = count if takes_all else len(ids)
    work = {}
    if act == JobKind.LABEL:
        work["label"] = request.form.get("label", "")
        check_names(label=tidy_name(work["label"]))
    if act == JobKind.DISCONNECT and request.form.get("count", "").strip() != str(number):
        raise FormRefused(f"Type {number}, the number of accounts.", "count")
    is_mailed = request.form.get("how") == "mail" and services().settings.mails_customers
    if act in (JobKind.DISCONNECT, EXPORT) or (act == JobKind.LINKS and not is_mailed):
        check_password()
    if act == EXPORT:
        return as_download(export_csv(actor(), **({**matching} if takes_all else {"only": ids}), count=number))
    kind = JobKind.MAILS if act == JobKind.LINKS and is_mailed else JobKind(act)
    chosen = {"matching": matching} if takes_all else {"ids": ids}
    return redirect(url_for("jobs.show", job_id=start_bulk(kind, actor(), number, work=work, **chosen)), code=303)
