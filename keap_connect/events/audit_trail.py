"""Reading the whole history: who did what to which account, when, from where. It grows by `history.record` alone.

Rows leave it in two ways, each by an operator's command that writes down that it was done: pruning deletes old rows,
and erasing a customer deletes all rows of one account.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, String, delete, func, or_, select
from sqlalchemy.orm import Session

from keap_connect.clock import utc_now
from keap_connect.database import read_session, write_transaction
from keap_connect.events.history import Actor, EventKind, record, sentence_of
from keap_connect.models import LARGEST_ID, Account, AccountEvent
from keap_connect.spreadsheet import csv_line

PAGE_SIZE = 50
BATCH = 1000
# The brakes count refusals by these rows, and an account's page tells its last weeks.
LEAST_KEPT = timedelta(days=30)
COLUMNS = ("at", "event", "what", "who", "from", "account", "details")


@dataclass(frozen=True)
class Wanted:
    """Which events are looked for; what is not given does not narrow the search.

    Args:
        who: a part of the actor, of the e-mail address that the event tells of, or of the network address.
        since: included. until: not included.
    """

    kind: EventKind | None = None
    account_id: int | None = None
    who: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class TrailRow:
    """One event as the audit page shows it."""

    id: int
    at: datetime
    kind: str
    sentence: str
    actor: str
    address: str | None
    account_id: int | None
    account_title: str | None
    details: str


@dataclass(frozen=True)
class TrailPage:
    """One page, newest first. `next_before` asks for the next one; None at the end."""

    rows: list[TrailRow]
    next_before: int | None


def search_trail(wanted: Wanted, before: int | None = None, limit: int = PAGE_SIZE) -> TrailPage:
    """Return the newest events that are wanted, or those older than the event with the id `before`.

    New events do not move what a later page shows.
    """
    query = select(AccountEvent, func.coalesce(Account.label, Account.business_name, Account.tenant_id))
    query = query.outerjoin(Account, Account.id == AccountEvent.account_id).where(*_conditions(wanted))
    if before is not None:
        query = query.where(AccountEvent.id < min(before, LARGEST_ID))
    with read_session() as session:
        found = session.execute(query.order_by(AccountEvent.id.desc()).limit(limit + 1)).all()
    rows = [_row(event, title) for event, title in found[:limit]]
    return TrailPage(rows, rows[-1].id if len(found) > limit else None)


def trail_as_csv(wanted: Wanted) -> Iterator[str]:
    """Give the wanted events, newest first, line by line; none of them becomes a formula."""
    yield csv_line(COLUMNS)
    before: int | None = None
    while True:
        page = search_trail(wanted, before, BATCH)
        for row in page.rows:
            yield csv_line((row.at, row.kind, row.sentence, row.actor, row.address, row.account_id, row.details))
        before = page.next_before
        if before is None:
            return


def count_older(age: timedelta) -> int:
    """Count what `prune_trail` would delete."""
    with read_session() as session:
        return session.scalar(select(func.count(AccountEvent.id)).where(AccountEvent.at < utc_now() - age)) or 0


def prune_trail(age: timedelta, actor: str = Actor.COMMAND_LINE) -> int:
    """Delete the events that are older, and write down before that it is done; return how many there were.

    Raises:
        ValueError: younger than `LEAST_KEPT`.
    """
    if age < LEAST_KEPT:
        raise ValueError(f"the last {LEAST_KEPT.days} days are always kept")
    is_old = AccountEvent.at < utc_now() - age
    old = count_older(age)
    if old == 0:
        return 0
    with write_transaction() as session:
        until = f"{utc_now() - age:%Y-%m-%d %H:%M} UTC"
        record(session, EventKind.HISTORY_PRUNED, None, actor, count=old, until=until)
    # In batches, so that nobody waits for long: SQLite lets one write at a time.
    ids = select(AccountEvent.id).where(is_old).order_by(AccountEvent.id).limit(BATCH)
    for _ in range(0, old, BATCH):
        with write_transaction() as session:
            session.execute(
                delete(AccountEvent).where(AccountEvent.id.in_(ids)).execution_options(synchronize_session=False)
            )
    return old


def delete_history(session: Session, account_id: int) -> None:
    """Delete all events of an account that is being erased, in the caller's transaction."""
    events = delete(AccountEvent).where(AccountEvent.account_id == account_id)
    session.execute(events.execution_options(synchronize_session=False))


def _conditions(wanted: Wanted) -> Iterator[ColumnElement[bool]]:
    if wanted.kind is not None:
        yield AccountEvent.kind == wanted.kind
    if wanted.account_id is not None:
        yield AccountEvent.account_id == min(wanted.account_id, LARGEST_ID)
    if wanted.since is not None:
        yield AccountEvent.at >= wanted.since
    if wanted.until is not None:
        yield AccountEvent.at < wanted.until
    if wanted.who:
        places = (AccountEvent.actor, *(AccountEvent.details[name].as_string() for name in ("email", "address")))
        yield or_(*(func.lower(place, type_=String).contains(wanted.who.lower(), autoescape=True) for place in places))


def _row(event: AccountEvent, title: str | None) -> TrailRow:
    details = {name: value for name, value in event.details.items() if name != "address"}
    return TrailRow(
        id=event.id,
        at=event.at,
        kind=event.kind,
        sentence=sentence_of(event),
        actor=event.actor,
        address=event.details.get("address"),
        account_id=event.account_id,
        account_title=title,
        details=json.dumps(details, ensure_ascii=False) if details else "",
    )
