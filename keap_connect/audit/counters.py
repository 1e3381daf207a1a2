"""How often somebody was handed an account's token, per hour: counted in memory, added up in the database.

Up to 5 seconds are lost when a process is killed; the audit log has every single hand-out.
"""

import atexit
import logging
import threading
from collections import Counter
from datetime import datetime

from flask import Flask
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from keap_connect.database import read_session, write_transaction
from keap_connect.models import HandOutCount

log = logging.getLogger(__name__)
FLUSH_SECONDS = 5.0
Counted = tuple[str, int, datetime]


class HandOutCounters:
    """The counts of one process that are not in the database yet."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._counts: Counter[Counted] = Counter()
        self._timer: threading.Timer | None = None

    def count(self, actor: str, account_id: int, hour: datetime) -> None:
        """Count one hand-out; the first one sets the clock for the next flush."""
        with self._lock:
            self._counts[actor, account_id, hour] += 1
            if self._timer is None:
                self._timer = threading.Timer(FLUSH_SECONDS, self.flush)
                self._timer.daemon = True
                self._timer.start()
                atexit.unregister(self.flush)
                atexit.register(self.flush)

    def flush(self) -> None:
        """Add what was counted to the database; when it does not answer, the counts stay for the next time."""
        with self._lock:
            counts, self._counts, self._timer = self._counts, Counter(), None
        if not counts:
            return
        try:
            with self._app.app_context():
                _add(counts)
        except SQLAlchemyError as problem:
            log.warning("Hand-outs could not be counted in the database (%s); they wait.", type(problem).__name__)
            with self._lock:
                self._counts.update(counts)

    def forget(self) -> None:
        """Drop what was counted."""
        with self._lock:
            self._counts.clear()


def list_hand_out_counts(account_id: int) -> list[HandOutCount]:
    """Return who was handed an account's token how often, the latest hour first."""
    query = select(HandOutCount).where(HandOutCount.account_id == account_id)
    with read_session() as session:
        return list(session.scalars(query.order_by(HandOutCount.hour.desc(), HandOutCount.actor)))


def _add(counts: Counter[Counted]) -> None:
    rows = [
        {"actor": actor, "account_id": account_id, "hour": hour, "number": number}
        for (actor, account_id, hour), number in sorted(counts.items())  # in one order, so that no two lock each other
    ]
    with write_transaction() as session:
        dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
        insert = dialect.insert(HandOutCount)
        total = HandOutCount.number + insert.excluded.number
        key = ["actor", "account_id", "hour"]
        session.connection().execute(insert.on_conflict_do_update(index_elements=key, set_={"number": total}), rows)
