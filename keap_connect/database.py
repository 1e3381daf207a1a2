"""The database: one metadata, UTC times, and two kinds of transaction that behave alike on SQLite and PostgreSQL.

On SQLite, writing transactions start with `BEGIN IMMEDIATE`, so that two writers wait for each other and do not fail.
Reads open no transaction, so none can last as long as a network call or see an old snapshot.
"""

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

from flask import Flask, current_app
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import (
    Connection,
    CursorResult,
    DateTime,
    Dialect,
    Engine,
    ExceptionContext,
    Float,
    MetaData,
    Select,
    Update,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from keap_connect.clock import seconds_since_boot
from keap_connect.errors import TemporarilyUnavailable

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
# No statement and no silent network may block a thread forever. Each transaction sets it: a pooler in transaction
# mode refuses it among the options of a connection, and would pass a session's setting on to other clients.
# PostgreSQL also keeps the locks of a transaction whose client vanished from the network for so long.
STATEMENT_SECONDS = 30
CONNECTION_LIMITS: dict[str, int] = {
    "connect_timeout": 10,
    "tcp_user_timeout": 15_000,  # milliseconds
    "keepalives_idle": 10,
    "keepalives_interval": 5,
}
PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",  # a lost commit would be a used refresh token
    "foreign_keys=ON",
    f"busy_timeout={BUSY_SECONDS * 1000}",
    "secure_delete=ON",
)
CUT_SHORT = "a restore was cut short. Run `database restore` again, with the backup or with what was here before:"

Result = TypeVar("Result")
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


class database_clock(FunctionElement[float]):  # noqa: N801
    """Seconds on the one clock that all processes of this database share; for leases, never for expiry.

    PostgreSQL's own clock; with SQLite, which lives on one machine, the time since boot, which no clock step moves.
    """

    type = Float()
    inherit_cache = True


@compiles(database_clock, "sqlite")
def _sqlite_clock(*_: object, **__: object) -> str:
    return "seconds_since_boot()"


@compiles(database_clock, "postgresql")
def _postgresql_clock(*_: object, **__: object) -> str:
    return "EXTRACT(EPOCH FROM clock_timestamp())::float8"


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {datetime: UTCDateTime}  # noqa: RUF012


db = SQLAlchemy(metadata=Base.metadata)


def connect_database(app: Flask, url: str) -> None:
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    is_postgresql = url.startswith("postgresql")
    options: dict[str, object] = {
        "pool_pre_ping": is_postgresql,
        "pool_size": 20,
        "max_overflow": 20,
        "hide_parameters": True,  # the text of an error is logged
    }
    if is_postgresql:
        options["isolation_level"] = "AUTOCOMMIT"
        named = make_url(url).query
        limits = {name: limit for name, limit in CONNECTION_LIMITS.items() if name not in named}
        # A pooler gives each transaction another session, which does not know the statements prepared here.
        options["connect_args"] = {**limits, "prepare_threshold": None}
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = options
    db.init_app(app)
    with app.app_context():
        event.listen(db.engine, "handle_error", _note_trouble)
        if is_postgresql:
            from keap_connect.answer_limit import LimitedConnection  # noqa: PLC0415  (SQLite does without it)

            def connect(_: Dialect, _record: object, args: list[Any], options: dict[str, Any]) -> DBAPIConnection:
                return cast("DBAPIConnection", LimitedConnection.connect(*args, **options))

            event.listen(db.engine, "do_connect", connect)
            event.listen(db.engine, "begin", _limit_statements)
            writing = db.engine.execution_options(limits_statements=True, isolation_level="READ COMMITTED")
        else:
            prepare_sqlite(db.engine)
            writing = db.engine.execution_options(writes=True)
        app.extensions["keap_connect.writing"] = writing  # made once: making it takes longer than many statements


def _limit_statements(connection: Connection) -> None:
    if connection.get_execution_options().get("limits_statements", False):
        limit = f"= '{STATEMENT_SECONDS}s'"
        connection.exec_driver_sql(
            f"SET LOCAL statement_timeout {limit}; SET LOCAL idle_in_transaction_session_timeout {limit}"
        )


class Trouble:
    """When the database last failed for this process; the start of the process counts as a failure."""

    last_at = seconds_since_boot()


def seconds_since_trouble() -> float:
    return seconds_since_boot() - Trouble.last_at


def _note_trouble(context: ExceptionContext) -> None:
    error = context.sqlalchemy_exception
    # A constraint, or a right that the role lacks, is no sign that the database is away.
    if isinstance(error, DBAPIError) and not isinstance(error, IntegrityError | ProgrammingError):
        Trouble.last_at = seconds_since_boot()


def prepare_sqlite(engine: Engine) -> None:
    """Set our pragmas and our BEGIN on every connection; while one is open, no restore can replace the file."""
    uses: list[TextIO] = []
    database = engine.url.database or ""

    @event.listens_for(engine, "do_connect")
    def note_use(*_: object) -> None:
        if not uses and database:
            try:
                lock = _lock_beside(Path(os.path.realpath(database)), fcntl.LOCK_SH)
                kept = lock.read()
                if kept:
                    lock.close()
                    raise sqlite3.OperationalError(f"{CUT_SHORT} {kept}")
                uses.append(lock)
            except BlockingIOError:
                raise sqlite3.OperationalError("it is being restored") from None
            except OSError as problem:
                raise sqlite3.OperationalError(f"unable to open {database}.lock ({problem.strerror})") from problem

    @event.listens_for(engine, "engine_disposed")
    def end_use(_engine: Engine) -> None:
        while uses:
            uses.pop().close()

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late; ours is below
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        connection.create_function("lower", 1, _lower, deterministic=True)
        connection.create_function("seconds_since_boot", 0, seconds_since_boot)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("writes", False):
            connection.exec_driver_sql("BEGIN IMMEDIATE")


def _lock_beside(database: Path, kind: int) -> TextIO:
    """Open and lock the file that shows whether processes use an SQLite database; closing it ends the lock.

    SQLite's own locks do not show a process that has opened the file and has not executed a statement yet.
    """
    lock = open(f"{database}.lock", "a+", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
        lock.seek(0)
    except OSError:
        lock.close()
        raise
    return lock


@contextmanager
def keep_others_out(database: Path) -> Iterator[TextIO]:
    """Let no process of this program on this machine open an SQLite file until the end of the block.

    The block gets the lock file. While that is not empty, it names the copy of the database before a restore, and no
    process opens the database after the block either. Processes on other hosts, of version 0.1.0 and of other programs,
    such as `sqlite3`, are not noticed. Raises TemporarilyUnavailable: a process uses the database.
    """
    try:
        lock = _lock_beside(database, fcntl.LOCK_EX)
    except BlockingIOError:
        raise TemporarilyUnavailable(
            f"A process of this installation uses {database}: end `make run`, `serve`, workers and commands."
        ) from None
    with lock:
        yield lock


def _lower(text: object) -> object:
    """Replace SQLite's own, which knows only ASCII: searches must find the same on both databases."""
    return text.lower() if isinstance(text, str) else text


@contextmanager
def read_session() -> Iterator[Session]:
    """Open a session for reading; what it returns stays readable after its end."""
    with Session(db.engine, expire_on_commit=False) as session:
        yield session


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
    """Write in a transaction, and once again if another one stored the same row at that moment, or locked in reverse.

    Raises:
        IntegrityError, OperationalError: the second transaction failed for the same reason.
    """
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


def count_updated(session: Session, statement: Update) -> int:
    return cast("CursorResult[Any]", session.execute(statement)).rowcount


def plain_reads(query: Select[*tuple[Any, ...]]) -> "PlainReads":
    kept: dict[object, PlainReads] = current_app.extensions.setdefault("keap_connect.plain_reads", {})
    return kept.get(query) or kept.setdefault(query, PlainReads(query))


class PlainReads:
    """One query, run without SQLAlchemy's session on connections of its own: for the most frequent calls.

    Each run sees what any process committed before it.
    """

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
            connection.autocommit = True  # or a transaction would stay open
        return connection.cursor()
