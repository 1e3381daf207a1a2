"""Deleting events: by a command, by age, or with an account that is erased. Each leaves one event behind."""

from datetime import timedelta

from sqlalchemy import ColumnElement, Delete, Select, String, cast, delete, func, select
from sqlalchemy.orm import Session

from keap_connect.clock import minute, utc_now
from keap_connect.database import purge_deleted, read_one, write_transaction
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.models import AccountEvent, Delivery, Invitation, WebhookEndpoint

# The alarms count refusals by these rows, and an account's page shows its last weeks.
LEAST_KEPT = timedelta(days=30)
DELETED_AT_ONCE = 500
MOST_AT_ONCE = 20_000  # of the worker, which refreshes nothing meanwhile


def delete_in_batches(rows: Delete, most: int = MOST_AT_ONCE) -> None:
    """Run a statement that deletes at most DELETED_AT_ONCE until nothing is left, or `most` are gone.

    So other writers do not wait for long: SQLite allows one at a time.
    """
    for _ in range(0, most, DELETED_AT_ONCE):
        with write_transaction() as session:
            if not session.connection().execute(rows).rowcount:
                break


def count_older(age: timedelta, most: int | None = None) -> int:
    """Count the events that `prune_history` would delete; it stops at `most`."""
    found = select(AccountEvent.id).where(_is_older(age)).limit(most)
    return read_one(select(func.count()).select_from(found.subquery())) or 0


def prune_history(age: timedelta, actor: str = Actor.COMMAND_LINE, most: int | None = None) -> int:
    """Record the deletion, delete the events that are older than `age`, and return how many there were.

    Args:
        most: how many to delete at most; None for all.

    Raises ValueError: `age` is less than `LEAST_KEPT`.
    """
    if age < LEAST_KEPT:
        raise ValueError(f"the last {LEAST_KEPT.days} days are always kept")
    old = count_older(age, most)
    if old == 0:
        return 0
    with write_transaction() as session:
        record(session, EventKind.HISTORY_PRUNED, None, actor, count=old, until=minute(utc_now() - age))
    ids = select(AccountEvent.id).where(_is_older(age)).order_by(AccountEvent.id).limit(DELETED_AT_ONCE)
    delete_in_batches(delete(AccountEvent).where(AccountEvent.id.in_(ids)), old)
    purge_deleted()
    return old


def prune_past(age: timedelta) -> None:
    """Delete the events that are older than `age`, and wait until a day's worth is there: each time adds an event."""
    if count_older(age + timedelta(days=1), most=1):
        prune_history(age, Actor.SYSTEM, MOST_AT_ONCE)


def prune_deliveries(age: timedelta) -> None:
    """Delete the deliveries that were finished longer ago than `age`, and those that nobody sends."""
    until = utc_now() - age
    # One may be written at the moment when its endpoint is removed or switched off. What waits for a worker is kept.
    used = select(cast(WebhookEndpoint.id, String)).where(WebhookEndpoint.switched_off_at.is_(None))
    is_left = (Delivery.channel == "webhook") & Delivery.recipient.not_in(used)
    is_left &= Delivery.finished_at.is_(None) & (Delivery.due_at < until)
    for is_old in (Delivery.finished_at < until, is_left):
        ids = select(Delivery.id).where(is_old).limit(DELETED_AT_ONCE)
        delete_in_batches(delete(Delivery).where(Delivery.id.in_(ids)))


def _is_older(age: timedelta) -> ColumnElement[bool]:
    # The marks of hosts name the newest stored pair. Without its row, an older backup could not be recognized.
    return (AccountEvent.at < utc_now() - age) & AccountEvent.id.is_distinct_from(newest_pair_id().scalar_subquery())


def newest_pair_id() -> Select[int | None]:
    return select(func.max(AccountEvent.id)).where(AccountEvent.pair_mark.is_not(None))


def delete_history(session: Session, account_id: int) -> None:
    """Delete the events of an account and what announced them, sent or not, with the addresses in it.

    Those of its invitation, from before it had an account, have its names, too.
    """
    theirs = select(Invitation.id).where(Invitation.account_id == account_id)
    is_before = AccountEvent.account_id.is_(None), AccountEvent.details["invitation"].as_integer().in_(theirs)
    before = list(session.scalars(select(AccountEvent.id).where(*is_before)))
    session.connection().execute(delete(Delivery).where(Delivery.event_id.in_(before)))
    session.connection().execute(delete(AccountEvent).where(AccountEvent.id.in_(before)))
    for table in (AccountEvent, Delivery):
        session.connection().execute(delete(table).where(table.account_id == account_id))
