"""What a worker writes about itself: it lives, how far behind it is, what it did, why it pauses."""

from datetime import timedelta

from sqlalchemy import delete, select

from keap_connect.clock import utc_now
from keap_connect.database import read_session, write_transaction
from keap_connect.models import Worker

SILENT_AFTER = timedelta(seconds=60)
FORGOTTEN_AFTER = timedelta(days=1)


def beat(worker: Worker) -> None:
    """Write that a worker lives, and delete the rows of those that were silent for a day."""
    worker.beat_at = utc_now()
    with write_transaction() as session:
        session.merge(worker)
        session.execute(delete(Worker).where(Worker.beat_at <= worker.beat_at - FORGOTTEN_AFTER))


def retire(name: str) -> None:
    with write_transaction() as session:
        session.execute(delete(Worker).where(Worker.name == name))


def list_workers() -> list[Worker]:
    """Return the workers that wrote within the last minute."""
    with read_session() as session:
        alive = select(Worker).where(Worker.beat_at > utc_now() - SILENT_AFTER).order_by(Worker.started_at)
        return list(session.scalars(alive))
