"""The audit page: the whole history, searched, and as a file. There is nothing on it that changes anything."""

from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlencode

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
    """Show one page of the events that the address asks for, newest first."""
    page = list_events(_search(), request.args.get("before", type=int))
    asked = {name: value for name in FIELDS if (value := request.args.get(name, "").strip()[:LONGEST_SEARCH])}
    older = {**asked, "before": str(page.next_id)}
    return render_template(
        "audit/index.html",
        events=page.events,
        asked=asked,
        kinds=list(EventKind),
        newest_url=_with("audit.index", asked) if request.args.get("before") else None,
        older_url=_with("audit.index", older) if page.next_id else None,
        csv_url=_with("audit.download", asked),
    )


@bp.get("/audit.csv")
@open_to(Audience.ADMIN)
def download() -> Response:
    """Give all events that the address asks for, as CSV."""
    answer = Response(stream_with_context(events_as_csv(_search())), mimetype="text/csv")
    answer.headers["Content-Disposition"] = "attachment; filename=audit.csv"
    return answer


def _with(endpoint: str, query: dict[str, str]) -> str:
    return f"{url_for(endpoint)}?{urlencode(query)}" if query else url_for(endpoint)


def _search() -> Search:
    """Read the search from the address; what cannot be meant is as if it were not there."""
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
    """Return the begin of a day in UTC; years far off are no days that anything happened on."""
    try:
        day = date.fromisoformat(request.args.get(name, ""))
    except ValueError:
        return None
    return datetime(day.year, day.month, day.day, tzinfo=UTC) if 2000 <= day.year < 2200 else None
