"""The audit page: the whole history, searched, and as a file. Nothing on it changes anything."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

from flask import Response, render_template, request, url_for

from keap_connect.accounts.naming import find_ids_in_history, read_typed_name
from keap_connect.database import Page
from keap_connect.errors import AccountNotFound
from keap_connect.events.history import EventKind
from keap_connect.events.search import Search, events_as_csv, list_events
from keap_connect.web.auth import Audience, Pages
from keap_connect.web.rendering import as_download

bp = Pages("audit", __name__)
LONGEST_SEARCH = 100


@bp.page("/audit", Audience.VIEWER)
def index() -> str:
    search, errors = _read_search()
    page = Page([], None) if errors else list_events(search, request.args.get("before", type=int))
    typed = {name: request.args.get(name, "").strip()[:LONGEST_SEARCH] for name in READERS}
    asked: dict[str, Any] = {name: value for name, value in typed.items() if value}
    return render_template(
        "audit/index.html",
        events=page.rows,
        asked=asked,
        errors=errors,
        kinds=list(EventKind),
        newest_url=url_for("audit.index", **asked) if request.args.get("before") else None,
        older_url=url_for("audit.index", **asked, before=page.next_cursor) if page.next_cursor else None,
        csv_url=url_for("audit.download", **asked),
    )


@bp.page("/audit.csv", Audience.VIEWER)
def download() -> Response:
    search, errors = _read_search()
    if errors:
        return Response("\n".join(errors.values()), 400, mimetype="text/plain")
    return as_download(events_as_csv(search), "audit")


def _read_search() -> tuple[Search, dict[str, str]]:
    """Return the search that the address asks for, and what is wrong with it: a sentence by the name of its field."""
    found: dict[str, Any] = {}
    errors = {}
    for name, read in READERS.items():
        text = request.args.get(name, "").strip()[:LONGEST_SEARCH]
        try:
            found[name] = read(text) if text else None
        except (ValueError, AccountNotFound) as problem:
            errors[name] = str(problem)
    until = found.get("to")
    return Search(
        kind=found.get("kind"),
        only=found.get("account"),
        who=found.get("who") or "",
        since=found.get("from"),
        until=until + timedelta(days=1) if until else None,
    ), errors


def _kind(text: str) -> str:
    if text not in set(EventKind):
        raise ValueError("There is no such kind of event.")
    return text


def _accounts(text: str) -> list[int]:
    name = read_typed_name(text)
    if name is None:
        raise ValueError("Enter a number, a Keap account such as ab123, or external: and your own id.")
    return find_ids_in_history(name)


def _day(text: str) -> datetime:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise ValueError("Enter a day as 2026-11-29.") from None
    if not 2000 <= day.year < 2200:  # the database has limits of its own
        raise ValueError("Enter a year from 2000 to 2199.")
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


READERS: dict[str, Callable[[str], Any]] = {"kind": _kind, "account": _accounts, "who": str, "from": _day, "to": _day}
