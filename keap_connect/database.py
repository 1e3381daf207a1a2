"""The database: one metadata, UTC times, and two kinds of transaction that behave alike on SQLite and PostgreSQL.

On SQLite, writing transactions start with `BEGIN IMMEDIATE`, so that two writers wait for each other and do not fail.
Reads open no transaction, so none can last as long as a network call or see an old snapshot.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, TypeVar, TypeVarTuple, cast

from flask import current_app
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import CursorResult, DateTime, Dialect, Engine, Executable, Float, MetaData, Row, Select, func, select
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from keap_connect.clock import seconds_since_boot

log = logging.getLogger(__name__)
NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
BUSY_SECONDS = 10  # how long a writer waits for another
DEADLOCK = "40P01"  # PostgreSQL's code

Result = TypeVar("Result")
Values = TypeVarTuple("Values")
_sqlite_turn = threading.Lock()


class UTCDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime, also on SQLite, which stores no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is not None and value.tzinfo is None:
            raise ValueError("naive datetime: use clock.utc_now()")
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class _Seconds(FunctionElement[float]):
    """A number of seconds, which each database has other words for."""

    type = Float()
    inherit_cache = True
    sqlite: str
    postgresql: str


@compiles(_Seconds)
def _words(seconds: _Seconds, compiler: SQLCompiler, **_: object) -> str:
    return seconds.sqlite if compiler.dialect.name == "sqlite" else seconds.postgresql


class database_clock(_Seconds):  # noqa: N801
    """Seconds on the one clock that all processes of this database share; for leases, never for expiry.

    PostgreSQL's own clock; with SQLite, which lives on one machine, the time since boot, which no clock step moves.
    """

    inherit_cache = True
    sqlite = "seconds_since_boot()"
    postgresql = "EXTRACT(EPOCH FROM clock_timestamp())::float8"


class server_start(_Seconds):  # noqa: N801
    """When PostgreSQL started: another server, also behind a pooler, has another value. SQLite always has the same."""

    inherit_cache = True
    sqlite = "0.0"
    postgresql = "EXTRACT(EPOCH FROM pg_postmaster_start_time())::float8"


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {datetime: UTCDateTime}  # noqa: RUF012


db = SQLAlchemy(metadata=Base.metadata)


class Trouble:
    """When the database last failed for this process; the start of the process counts as a failure."""

    last_at = seconds_since_boot()
    connected_at = 0.0  # when PostgreSQL last accepted a connection of this process
    server_start = 0.0  # of the server that answered last


def seconds_since_trouble() -> float:
    return seconds_since_boot() - Trouble.last_at


def may_be_another_since(moment: float) -> bool:
    """Whether the database may have been replaced since a moment on the boot clock, as by a failover.

    A connection does not outlive that, so another one was opened since; behind a pooler, `note_server` notices it.
    """
    return max(Trouble.last_at, Trouble.connected_at) >= moment


def note_server(start: float) -> None:
    """Note which server answered: through a pooler, a connection may lead to another one than before."""
    if Trouble.server_start not in (0.0, start):
        Trouble.connected_at = seconds_since_boot()
    Trouble.server_start = start


@contextmanager
def read_session() -> Iterator[Session]:
    """Open a session for reading; what it returns stays readable after its end."""
    with Session(db.engine, expire_on_commit=False) as session:
        yield session


def read_one(query: Select[Result]) -> Result | None:
    """Return the first value of the first row; None if there is no row."""
    with read_session() as session:
        return session.scalar(query)


def read_all(query: Select[Result]) -> list[Result]:
    """Return the first value of each row."""
    with read_session() as session:
        return list(session.scalars(query))


def read_rows(query: Select[*Values]) -> Sequence[Row[*Values]]:
    with read_session() as session:
        return session.execute(query).all()


class Page(NamedTuple, Generic[Result]):
    """A page of a list, the cursor of the next one, None at the end, and what a search says about itself."""

    rows: Sequence[Result]
    next_cursor: int | None
    note: str = ""


def read_page(query: Select[Result], limit: int, note: str = "") -> Page[Result]:
    """Read the first rows of a query; the cursor is the id of the last of them, if there are more."""
    rows = read_all(query.limit(limit + 1))
    last: Any = rows[limit - 1] if len(rows) > limit else None
    return Page(rows[:limit], last and last.id, note)


@contextmanager
def write_transaction() -> Iterator[Session]:
    """Open a session that commits at the end, or rolls back on any exception.

    On SQLite it holds the write lock from its first statement, so what it reads stays true until it writes.
    """
    engine = current_app.extensions["keap_connect.writing"]
    with _one_after_another(engine), Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def _one_after_another(engine: Engine) -> Iterator[None]:
    """Let the writing threads of this process wait for SQLite's one write lock in order.

    In SQLite, a thread that finds the lock taken sleeps, longer each time, even if the lock is free again by then.
    A thread that does not get its turn in time waits in SQLite, and then gets SQLite's error.
    """
    if engine.dialect.name != "sqlite":
        yield
        return
    has_turn = _sqlite_turn.acquire(timeout=BUSY_SECONDS)
    try:
        yield
    finally:
        if has_turn:
            _sqlite_turn.release()


def purge_deleted() -> None:
    """Let nothing that was deleted stay in SQLite's files.

    `secure_delete` overwrites it in the database; this empties the write-ahead log, which has older copies of pages.
    Where others read or write for longer than a second, it stays until the worker's next hour.
    """
    if db.engine.dialect.name != "sqlite":
        return
    with db.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=1000")
        try:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").all()
        except OperationalError as problem:
            log.warning("The write-ahead log is emptied later: %s.", problem.orig)
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")


def write_or_retry(write: Callable[[Session], Result]) -> Result:
    """Write in a transaction, and again if another one stored the same row at that moment, or locked in reverse.

    Raises:
        IntegrityError, OperationalError: the third transaction failed for the same reason.
    """
    for _ in range(2):
        try:
            with write_transaction() as session:
                return write(session)
        except (IntegrityError, OperationalError) as clash:
            if isinstance(clash, OperationalError) and getattr(clash.orig, "sqlstate", None) != DEADLOCK:
                raise
    with write_transaction() as session:
        return write(session)


def take_turns(session: Session, name: str) -> None:
    """Let transactions that give the same name wait for each other, as all writers do on SQLite."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(func.hashtext(name))))


def count_updated(session: Session, statement: Executable) -> int:
    return cast("CursorResult[Any]", session.execute(statement)).rowcount


def write_one(statement: Executable) -> int:
    """Run one statement in a transaction of its own, and return how many rows it changed."""
    with write_transaction() as session:
        return count_updated(session, statement)
