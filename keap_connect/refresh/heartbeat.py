"""What processes write about themselves: that they live, by which key they seal, and what they counted; workers also
what they did, and why they pause.
"""

import os
import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from keap_connect import counters
from keap_connect.accounts.stored_state import FAR_AHEAD
from keap_connect.clock import utc_now
from keap_connect.database import count_updated, read_all, read_rows, take_turns, write_transaction
from keap_connect.models import Counter, Process, Worker
from keap_connect.refresh import figures
from keap_connect.refresh.lease import notice_clock_step
from keap_connect.services import services

SILENT_AFTER = timedelta(seconds=60)
FORGOTTEN_AFTER = timedelta(days=1)


def process_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def beat(worker: Worker) -> None:
    """Write that a worker lives."""
    worker.beat_at = utc_now()
    with _reporting() as session:
        session.merge(worker)
        session.execute(delete(Worker).where(~_wrote_within(FORGOTTEN_AFTER, Worker.beat_at)))
        _report(session, worker.name)


def beat_as_server() -> None:
    """Write that this process, which is no worker, lives, and look whether the database's clock jumped."""
    notice_clock_step()
    with _reporting() as session:
        _report(session, process_name())


def retire(name: str) -> None:
    """Delete the rows by which a process that ends counts as living."""
    with _reporting() as session:
        for table in (Worker, Process):
            session.execute(delete(table).where(table.name == name))


def report_counted() -> None:
    """Write what a process that ends has counted, such as a command."""
    if counters.has_counted():
        with _reporting():
            pass


def read_counters() -> dict[str, dict[str, float]]:
    """Return what all processes have counted: the values by name and labels."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for row in read_all(select(Counter)):
        found[row.name][row.labels] = row.value
    return found


def list_workers() -> list[Worker]:
    """Return the workers that wrote within the last minute."""
    return read_all(select(Worker).where(_wrote_within(SILENT_AFTER, Worker.beat_at)).order_by(Worker.started_at))


def list_living() -> dict[str, str | None]:
    """Return the names of the living processes, each with the key by which it seals; None if it has reported none."""
    keys = select(Process.name, Process.sealing_key).where(_wrote_within(SILENT_AFTER, Process.beat_at))
    workers = read_all(select(Worker.name).where(_wrote_within(SILENT_AFTER, Worker.beat_at)))
    # A worker of an older version reports no key.
    return {**dict.fromkeys(workers), **dict(read_rows(keys))}


def list_without_first_key() -> list[str]:
    """Return the names of the living processes that have not reported the first of TOKEN_KEYS as theirs."""
    return sorted(name for name, key in list_living().items() if key != services().cipher.sealing_key)


def _report(session: Session, name: str) -> None:
    session.merge(Process(name=name, beat_at=utc_now(), sealing_key=services().cipher.sealing_key))
    session.execute(delete(Process).where(~_wrote_within(FORGOTTEN_AFTER, Process.beat_at)))


def _wrote_within(age: timedelta, beat_at: InstrumentedAttribute[datetime]) -> ColumnElement[bool]:
    now = utc_now()  # what is far ahead was written before the clock was set back
    return beat_at.between(now - age, now + FAR_AHEAD)


@contextmanager
def _reporting() -> Iterator[Session]:
    """Open a transaction that also writes what this process has counted since the last one."""
    counted = counters.take()
    try:
        with write_transaction() as session:
            yield session
            if counted:
                take_turns(session, figures.TURN)
                figures.add_to_hours(session, counted)
            for (_, name, labels), value in counted.items():
                if labels.endswith(counters.LARGEST):
                    continue  # of all time, it says nothing
                known = update(Counter).where(Counter.name == name, Counter.labels == labels)
                if not count_updated(session, known.values(value=Counter.value + value)):
                    session.add(Counter(name=name, labels=labels, value=value))
    except BaseException:
        counters.give_back(counted)
        raise
