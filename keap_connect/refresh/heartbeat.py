"""What processes write about themselves: that they live, and by which key they seal; workers also how far behind they
are, what they did, and why they pause.
"""

import os
import socket
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from keap_connect.clock import utc_now
from keap_connect.database import read_session, write_transaction
from keap_connect.models import Process, Worker
from keap_connect.services import services

SILENT_AFTER = timedelta(seconds=60)
FORGOTTEN_AFTER = timedelta(days=1)


def process_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def beat(worker: Worker) -> None:
    """Write that a worker lives."""
    worker.beat_at = utc_now()
    with write_transaction() as session:
        session.merge(worker)
        session.execute(delete(Worker).where(Worker.beat_at <= worker.beat_at - FORGOTTEN_AFTER))
        _report(session, worker.name)


def beat_as_server() -> None:
    """Write that this process, which is no worker, lives."""
    with write_transaction() as session:
        _report(session, process_name())


def retire(name: str) -> None:
    """Delete what a process that ends has written."""
    with write_transaction() as session:
        for table in (Worker, Process):
            session.execute(delete(table).where(table.name == name))


def list_workers() -> list[Worker]:
    """Return the workers that wrote within the last minute."""
    with read_session() as session:
        alive = select(Worker).where(Worker.beat_at > utc_now() - SILENT_AFTER).order_by(Worker.started_at)
        return list(session.scalars(alive))


def list_without_first_key() -> list[str]:
    """Return the names of the living processes that have not reported the first of TOKEN_KEYS as theirs."""
    alive_after = utc_now() - SILENT_AFTER
    with read_session() as session:
        keys = dict(
            session.execute(select(Process.name, Process.sealing_key).where(Process.beat_at > alive_after)).all()
        )
        workers = session.scalars(select(Worker.name).where(Worker.beat_at > alive_after)).all()
    # A worker of an older version reports no key.
    return sorted(name for name in {*keys, *workers} if keys.get(name) != services().cipher.sealing_key)


def _report(session: Session, name: str) -> None:
    now = utc_now()
    session.merge(Process(name=name, beat_at=now, sealing_key=services().cipher.sealing_key))
    session.execute(delete(Process).where(Process.beat_at <= now - FORGOTTEN_AFTER))
