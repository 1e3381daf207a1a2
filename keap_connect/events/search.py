"""The one query of the history, behind the account's page, the audit page, the CSV file, the commands and the API."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, String, TextClause, func, or_, select, text, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from keap_connect.clock import utc_now
from keap_connect.database import Page, db, read_rows, read_session
from keap_connect.events.history import EventKind, hide_others, sentence_of
from keap_connect.models import LARGEST_ID, NAMELESS, Account, AccountEvent
from keap_connect.spreadsheet import csv_line

PAGE_SIZE = 50
ROWS_AT_ONCE = 1000
MOST_LOOKED_AT = 4000  # for a text, which no index finds
# The words of the index: with others, SQLite would not read it.
IS_RARE = text(f"account_event.kind <> '{EventKind.REFRESHED}'")
COLUMNS = ("at", "event", "what", "who", "from", "account", "details")
# PostgreSQL assigns ids before transactions commit. While an older transaction is open, younger events are not
# returned yet: a cursor would skip what that transaction adds. SQLite has one writer at a time.
IS_SETTLED = "age(account_event.xmin) > age(pg_snapshot_xmin(pg_current_snapshot())::xid)"
SETTLED_AFTER = timedelta(hours=1)  # longer than any transaction; the numbers of much older ones wrap around


@dataclass(frozen=True)
class Search:
    """Which events to find; None and "" do not narrow the search."""

    kind: str | None = None
    account_id: int | None = None
    only: Collection[int] | None = None  # the ids of the accounts that the caller may see
    hides_others: bool = False  # the sentences say nothing of accounts that are not in `only`
    who: str = ""  # a part of the actor, of the e-mail address in the details, or of the network address
    since: datetime | None = None  # included
    until: datetime | None = None  # not included


@dataclass(frozen=True)
class EventView:
    """One event as people and programs see it. `details` is JSON, or empty."""

    id: int
    at: datetime
    kind: str
    sentence: str
    actor: str
    address: str | None = None
    account_id: int | None = None
    account_title: str | None = None
    details: str = ""


def list_events(search: Search, before: int | None = None, limit: int = PAGE_SIZE) -> Page[EventView]:
    """Return events newest first; with `before`, those after the event of this id. Days are read in order of time.

    A page of a search for `who` may have few events, or none, and a next one.
    """
    at, ids = AccountEvent.at, AccountEvent.id
    keys: list[InstrumentedAttribute[Any]] = [at, ids] if search.since or search.until else [ids]
    conditions: list[ColumnElement[bool]] = []
    if before is not None:
        before = max(0, min(before, LARGEST_ID))
        then = select(at).where(ids <= before).order_by(ids.desc()).limit(1)  # that event may be deleted by now
        conditions.append(tuple_(*keys) < tuple_(*[then.scalar_subquery(), before][-len(keys) :]))
    order = [key.desc() for key in keys]
    last = None
    if search.who:
        looked_at = select(*keys).where(*_conditions(replace(search, who="")), *conditions).order_by(*order)
        with read_session() as session:
            last = session.execute(looked_at.offset(MOST_LOOKED_AT - 1).limit(1)).one_or_none()
        if last is not None:
            conditions.append(tuple_(*keys) >= tuple_(*last, types=[key.type for key in keys]))
    page = _page(search, conditions, order, limit)
    return page if page.next_cursor or last is None else page._replace(next_cursor=last.id)


def list_events_after(cursor: int, search: Search, limit: int) -> Page[EventView]:
    """Return the events of accounts with an id above `cursor`, oldest first; a caller that follows them misses none."""
    conditions: list[ColumnElement[bool]] = [AccountEvent.id > cursor, AccountEvent.account_id.is_not(None)]
    if db.engine.dialect.name == "postgresql":
        conditions.append(or_(AccountEvent.at < utc_now() - SETTLED_AFTER, text(IS_SETTLED)))
    return _page(search, conditions, [AccountEvent.id.asc()], limit)


def events_as_csv(search: Search) -> Iterator[str]:
    """Yield the events as lines, newest first; no cell is a formula."""
    yield csv_line(COLUMNS)
    before: int | None = None
    while True:
        page = list_events(search, before, ROWS_AT_ONCE)
        for row in page.rows:
            yield csv_line((row.at, row.kind, row.sentence, row.actor, row.address, row.account_id, row.details))
        before = page.next_cursor
        if before is None:
            return


def _page(
    search: Search, conditions: Collection[ColumnElement[bool]], order: Collection[ColumnElement[Any]], limit: int
) -> Page[EventView]:
    query = select(AccountEvent, Account.id, Account.title)
    query = query.outerjoin(Account, Account.id == AccountEvent.account_id)
    query = query.where(*_conditions(search), *conditions).order_by(*order).limit(limit + 1)
    found = read_rows(query)
    events = [
        _view(event, (title or NAMELESS) if is_there else None, search.only if search.hides_others else None)
        for event, is_there, title in found[:limit]
    ]
    return Page(events, events[-1].id if len(found) > limit else None)


def _conditions(search: Search) -> Iterator[ColumnElement[bool] | TextClause]:
    if search.kind is not None:
        yield AccountEvent.kind == search.kind
        if search.kind != EventKind.REFRESHED and search.only is None and search.account_id is None:
            yield IS_RARE
    if search.account_id is not None:
        yield AccountEvent.account_id == min(search.account_id, LARGEST_ID)
    if search.only is not None:
        yield AccountEvent.account_id.in_(search.only)
    if search.since is not None:
        yield AccountEvent.at >= search.since
    if search.until is not None:
        yield AccountEvent.at < search.until
    if search.who:
        places = (AccountEvent.actor, *(AccountEvent.details[name].as_string() for name in ("email", "address")))
        yield or_(*(func.lower(place, type_=String).contains(search.who.lower(), autoescape=True) for place in places))


def _view(event: AccountEvent, title: str | None, only: Collection[int] | None) -> EventView:
    said = event.details if only is None else hide_others(event.kind, event.details, only)
    details = {name: value for name, value in said.items() if name != "address"}
    return EventView(
        id=event.id,
        at=event.at,
        kind=event.kind,
        sentence=sentence_of(event.kind, said),
        actor=event.actor,
        address=event.details.get("address"),
        account_id=event.account_id,
        account_title=title,
        details=json.dumps(details, ensure_ascii=False) if details else "",
    )
