"""How events leave the history: by an operator's command alone, which writes down that it did."""

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
    """Count what `prune_history` would delete."""
    with read_session() as session:
        return session.scalar(select(func.count(AccountEvent.id)).where(AccountEvent.at < utc_now() - age)) or 0


def prune_history(age: timedelta, actor: str = Actor.COMMAND_LINE) -> int:
    """Delete the events that are older, after writing down that it is done; return how many there were.

    Raises:
        ValueError: younger than `LEAST_KEPT`.
    """
    if age < LEAST_KEPT:
        raise ValueError(f"the last {LEAST_KEPT.days} days are always kept")
    before = utc_now() - age
    old = count_older(age)
    if old == 0:
        return 0
    with write_transaction() as session:
        record(session, EventKind.HISTORY_PRUNED, None, actor, count=old, until=f"{before:%Y-%m-%d %H:%M} UTC")
    # In batches, so that nobody waits for long: SQLite lets one write at a time.
    ids = select(AccountEvent.id).where(AccountEvent.at < before).order_by(AccountEvent.id).limit(ROWS_AT_ONCE)
    for _ in range(0, old, ROWS_AT_ONCE):
        with write_transaction() as session:
            session.connection().execute(delete(AccountEvent).where(AccountEvent.id.in_(ids)))
    return old


def delete_history(session: Session, account_id: int) -> None:
    """Delete all events of an account that is being erased, in the caller's transaction."""
    session.connection().execute(delete(AccountEvent).where(AccountEvent.account_id == account_id))
