"""What a worker says of itself: it lives, how far behind it is, what it did, why it pauses."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select

from keap_connect.clock import utc_now
from keap_connect.database import read_session, write_transaction
from keap_connect.models import Worker

SILENT_AFTER = timedelta(seconds=60)
FORGOTTEN_AFTER = timedelta(days=1)


@dataclass(frozen=True)
class Beat:
    """One message."""

    name: str
    started_at: datetime
    refreshed: int
    failed: int
    lag_seconds: float
    paused_until: datetime | None
    pause_reason: str | None


def beat(message: Beat) -> None:
    """Write it down; rows of workers long gone are forgotten."""
    now = utc_now()
    with write_transaction() as session:
        session.merge(Worker(beat_at=now, **vars(message)))
        session.execute(delete(Worker).where(Worker.beat_at <= now - FORGOTTEN_AFTER))


def retire(name: str) -> None:
    """Take a worker that ended properly off the list."""
    with write_transaction() as session:
        session.execute(delete(Worker).where(Worker.name == name))


def list_workers() -> list[Worker]:
    """Return the workers that were heard of within the last minute."""
    with read_session() as session:
        alive = select(Worker).where(Worker.beat_at > utc_now() - SILENT_AFTER).order_by(Worker.started_at)
        return list(session.scalars(alive))
