"""Connections to PostgreSQL that end a wait for an answer; only they import the driver, which SQLite does without."""

from typing import TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

ANSWER_SECONDS = 35.0  # longer than STATEMENT_SECONDS, so that PostgreSQL itself ends a slow transaction and says why

Result = TypeVar("Result")


class LimitedConnection(psycopg.Connection):
    """A connection that closes when an answer takes too long.

    No other limit ends that wait when a stopped pooler does not read: its kernel still acknowledges all packets.
    """

    answer_seconds: float | None = ANSWER_SECONDS

    def wait(self, gen: PQGen[Result], interval: float = 0.1, timeout: float | None = None) -> Result:
        try:
            return super().wait(gen, interval, timeout or self.answer_seconds)
        except psycopg.OperationalError:
            if self.info.transaction_status is TransactionStatus.ACTIVE:  # the answer did not arrive, so it is no error
                self.close()
            raise
