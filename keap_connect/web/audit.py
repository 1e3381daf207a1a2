"""The audit page: the whole history, searched, and as a file. Nothing on it changes anything."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from flask import Blueprint, Response, render_template, request, stream_with_context, url_for

from keap_connect.events.history import EventKind
from keap_connect.events.search import Search, events_as_csv, list_events
from keap_connect.web.auth import Audience, open_to

bp = Blueprint("audit", __name__)
LONGEST_SEARCH = 100
FIELDS = ("kind", "account", "who", "from", "to")


@bp.get("/audit")
@open_to(Audience.ADMIN)
def index() -> str:
    page = list_events(_search(), request.args.get("before", type=int))
    typed = {name: request.args.get(name, "").strip()[:LONGEST_SEARCH] for name in FIELDS}
    asked: dict[str, Any] = {name: value for name, value in typed.items() if value}
    return render_template(
        "audit/index.html",
        events=page.events,
        asked=asked,
        kinds=list(EventKind),
        newest_url=url_for("audit.index", **asked) if request.args.get("before") else None,
        older_url=url_for("audit.index", **asked, before=page.next_id) if page.next_id else None,
        csv_url=url_for("audit.download", **asked),
    )


@bp.get("/audit.csv")
@open_to(Audience.ADMIN)
def download() -> Response:
    answer = Response(stream_with_context(events_as_csv(_search())), mimetype="text/csv")
    answer.headers["Content-Disposition"] = "attachment; filename=audit.csv"
    return answer


def _search() -> Search:
    """Return the search that the address asks for; values that make no sense are ignored."""
    kind, account = request.args.get("kind", ""), request.args.get("account", "").strip().lstrip("#")
    until = _day("to")
    return Search(
        kind=kind if kind in set(EventKind) else None,
        account_id=int(account[:10]) if account.isascii() and account.isdigit() else None,
        who=request.args.get("who", "").strip()[:LONGEST_SEARCH],
        since=_day("from"),
        until=until + timedelta(days=1) if until else None,
    )


def _day(name: str) -> datetime | None:
    """Return the start of a day in UTC; None for years in which nothing can have happened."""
    try:
        day = date.fromisoformat(request.args.get(name, ""))
    except ValueError:
        return None
    return datetime(day.year, day.month, day.day, tzinfo=UTC) if 2000 <= day.year < 2200 else None
