"""One thing for many accounts or invitations: those that were ticked in the list, or all that match its filter."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import flash, render_template, request
from werkzeug.wrappers import Response

from keap_connect.accounts import directory
from keap_connect.accounts.exporting import export_csv
from keap_connect.accounts.naming import check_names, tidy_name
from keap_connect.clock import utc_now
from keap_connect.connect import invitation_lists
from keap_connect.errors import FormRefused
from keap_connect.jobs.bulk import start_bulk
from keap_connect.models import LARGEST_ID, JobKind
from keap_connect.services import services
from keap_connect.web.accounts import LONGEST_SEARCH
from keap_connect.web.auth import Audience, Pages, actor, check_password, see_other
from keap_connect.web.invitations import SHOWN
from keap_connect.web.rendering import as_download

bp = Pages("bulk", __name__)
EXPORT = "export"
BY_MAIL = {JobKind.LINKS: JobKind.MAILS, JobKind.INVITATION_LINKS: JobKind.INVITATION_MAILS}


@dataclass(frozen=True)
class List:
    """A list with boxes to tick, what can be done with its rows, and how many rows of it a filter finds."""

    noun: str
    endpoint: str
    page_size: int
    acts: tuple[str, ...]
    count: Callable[[str, str], tuple[int, str]]
    most: int = LARGEST_ID  # how many of those that match can be chosen at once, the oldest first


ACTS = (JobKind.LINKS, JobKind.REFRESH, JobKind.LABEL, JobKind.DISCONNECT, EXPORT)
INVITATION_ACTS = (JobKind.INVITATION_LINKS, JobKind.WITHDRAW)
LISTS = {
    "accounts": List("account", "accounts.index", directory.PAGE_SIZE, ACTS, directory.count_matching),
    "invitations": List(
        "invitation",
        "invitations.index",
        SHOWN,
        INVITATION_ACTS,
        invitation_lists.count_matching,
        invitation_lists.MOST_COUNTED,
    ),
}


def _chosen(rows: List) -> tuple[list[int], dict[str, str], int, str]:
    """Return the ticked ids, the filter of the list, how many match it, and why nobody can choose all of these.

    The number is 0 unless a whole page was ticked.
    """
    ids = sorted({one for one in request.values.getlist(rows.noun, type=int) if 0 < one <= LARGEST_ID})
    matching = {"text": request.values.get("q", "").strip()[:LONGEST_SEARCH]}
    matching["state"] = request.values.get("state", "")[:LONGEST_SEARCH]
    count, note = rows.count(matching["text"], matching["state"]) if len(ids) >= rows.page_size else (0, "")
    why = f"All that match cannot be chosen. {note}" if note else ""
    return ids, matching, count if count > len(ids) and not why else 0, why


def _can_mail(rows: List) -> bool:
    settings = services().settings
    return settings.mails_customers if rows.noun == "account" else settings.mail is not None


def _page(of: str) -> Response | str:
    rows = LISTS[of]
    ids, matching, count, why_not_all = _chosen(rows)
    act = request.values.get("act", "")
    if act not in rows.acts or not ids:
        return _back_to_the_list(rows, matching)
    return render_template(
        "jobs/bulk.html",
        of=of,
        rows=rows,
        act=act,
        ids=ids,
        matching=matching,
        count=count,
        why_not_all=why_not_all,
        typed=request.form,
        now=utc_now(),
        can_mail=_can_mail(rows),
    )


def _back_to_the_list(rows: List, matching: dict[str, str]) -> Response:
    flash(f"Tick the {rows.noun}s first.", "attention")
    chosen: dict[str, Any] = {"q": matching["text"] or None, "state": matching["state"] or None}
    return see_other(rows.endpoint, **chosen)


def _seen_at() -> datetime:
    """Return when the page that asks was opened; now, if somebody sends another text or a later time."""
    try:
        return min(datetime.fromisoformat(request.form.get("seen_at", "")), utc_now())
    except (TypeError, ValueError):  # without a time zone, it cannot be compared
        return utc_now()


@bp.form("/accounts/bulk", Audience.ADMIN, defaults={"of": "accounts"})
@bp.form("/invitations/bulk", Audience.ADMIN, _page, defaults={"of": "invitations"})
def choose(of: str) -> Response:
    """Ask what is meant, and do it in a job; an export is a download."""
    rows = LISTS[of]
    ids, matching, count, why_not_all = _chosen(rows)
    act = request.form.get("act", "")
    if act not in rows.acts or not ids:
        return _back_to_the_list(rows, matching)
    if why_not_all and request.form.get("which") == "all":
        raise FormRefused(why_not_all, "which")
    takes_all = count > 0 and request.form.get("which") == "all"
    number = min(count, rows.most) if takes_all else len(ids)
    work = {"seen_at": _seen_at().isoformat()}
    if act == JobKind.LABEL:
        work["label"] = request.form.get("label", "")
        check_names(label=tidy_name(work["label"]))
    if act == JobKind.DISCONNECT and request.form.get("count", "").strip() != str(number):
        raise FormRefused(f"Type {number}, the number of accounts.", "count")
    is_mailed = act in BY_MAIL and request.form.get("how") == "mail" and _can_mail(rows)
    if act in (JobKind.DISCONNECT, EXPORT) or (act in BY_MAIL and not is_mailed):
        check_password()
    if act == EXPORT:
        return as_download(export_csv(actor(), **({**matching} if takes_all else {"only": ids}), count=number))
    kind = BY_MAIL[JobKind(act)] if is_mailed else JobKind(act)
    chosen = {"matching": matching} if takes_all else {"ids": ids}
    return see_other("jobs.show", job_id=start_bulk(kind, actor(), number, work=work, **chosen))
