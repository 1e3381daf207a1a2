"""Deleting events: by an operator's command, or with an account that is erased. Both leave one event behind."""

from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from keap_connect.clock import utc_now
from keap_connect.database import read_session, write_transaction
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.models import AccountEvent

# The alarms count refusals by these rows, and an account's page shows its last weeks.
LEAST_KEPT = timedelta(days=30)
ROWS_AT_ONCE = 1000


def count_older(age: timedelta) -> int:
    with read_session() as session:
        return session.scalar(select(func.count(AccountEvent.id)).where(AccountEvent.at < utc_now() - age)) or 0


def prune_history(age: timedelta) -> int:
    """Record the deletion, delete the events that are older than `age`, and return how many there were.

    Raises:
        ValueError: `age` is less than `LEAST_KEPT`.
    """
    if age < LEAST_KEPT:
        raise ValueError(f"the last {LEAST_KEPT.days} days are always kept")
    before = utc_now() - age
    old = count_older(age)
    if old == 0:
        return 0
    with write_transaction() as session:
        until = f"{before:%Y-%m-%d %H:%M} UTC"
        record(session, EventKind.HISTORY_PRUNED, None, Actor.COMMAND_LINE, count=old, until=until)
    # In batches, so that other writers do not wait for long: SQLite allows one at a time.
    ids = select(AccountEvent.id).where(AccountEvent.at < before).order_by(AccountEvent.id).limit(ROWS_AT_ONCE)
    for _ in range(0, old, ROWS_AT_ONCE):
        with write_transaction() as session:
            session.connection().execute(delete(AccountEvent).where(AccountEvent.id.in_(ids)))
    return old


def delete_history(session: Session, account_id: int) -> None:
    session.connection().execute(delete(AccountEvent).where(AccountEvent.account_id == account_id))
