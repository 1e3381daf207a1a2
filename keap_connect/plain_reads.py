"""Queries run without SQLAlchemy's session, for the most frequent calls."""

import contextlib
from collections import deque
from typing import Any

from flask import current_app
from sqlalchemy import Select, event
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import SQLAlchemyError

from keap_connect.clock import seconds_since_boot
from keap_connect.database import Trouble, db
from keap_connect.errors import TemporarilyUnavailable


def plain_reads(query: Select[*tuple[Any, ...]]) -> "PlainReads":
    kept: dict[object, PlainReads] = current_app.extensions.setdefault("keap_connect.plain_reads", {})
    return kept.get(query) or kept.setdefault(query, PlainReads(query))


class PlainReads:
    """One query, on connections of its own. Each run sees what any process committed before it."""

    def __init__(self, query: Select[*tuple[Any, ...]]) -> None:
        self._engine = db.engine
        dialect = self._engine.dialect
        self._error = dialect.loaded_dbapi.Error
        compiled = query.compile(dialect=dialect)
        self._sql, self._names = str(compiled), compiled.positiontup
        types = [column.type.dialect_impl(dialect) for column in query.selected_columns]
        readers = [kind.result_processor(dialect, None) for kind in types]
        self._readers = [(place, read) for place, read in enumerate(readers) if read]
        self._idle: deque[DBAPICursor] = deque()  # each with a connection of its own
        event.listen(self._engine, "engine_disposed", lambda _engine: self.close())

    def one(self, **values: object) -> list[Any] | None:
        """Return the values of the row, or None. Raises TemporarilyUnavailable."""
        bound = [values[name] for name in self._names] if self._names else values
        try:
            return self._ask(self._idle.pop(), bound)
        except IndexError:
            pass
        except self._error:
            self.close()  # a restart of the database ends all of them; the next line tries a new one
        try:
            return self._ask(self._connect(), bound)
        except (SQLAlchemyError, self._error) as problem:
            Trouble.last_at = seconds_since_boot()
            raise TemporarilyUnavailable("The database does not answer.", 5) from problem

    def _ask(self, cursor: DBAPICursor, bound: Any) -> list[Any] | None:
        try:
            cursor.execute(self._sql, bound)
            rows = cursor.fetchall()  # or SQLite's snapshot would stay open
        except self._error:
            cursor.connection.close()
            raise
        self._idle.append(cursor)
        if not rows:
            return None
        found = list(rows[0])
        for place, read in self._readers:
            if found[place] is not None:
                found[place] = read(found[place])
        return found

    def close(self) -> None:
        with contextlib.suppress(IndexError):  # another thread may close them, too
            while True:
                self._idle.pop().connection.close()

    def _connect(self) -> DBAPICursor:
        proxy = self._engine.raw_connection()
        proxy.detach()
        connection = proxy.dbapi_connection
        assert connection is not None  # noqa: S101  (it was opened a line above)
        if self._engine.dialect.name == "postgresql":
            connection.prepare_threshold = None if connection.is_pooled else 0
        return connection.cursor()
