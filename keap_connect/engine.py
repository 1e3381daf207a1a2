"""The engine: time limits on PostgreSQL, pragmas and the lock file on SQLite."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from flask import Flask
from sqlalchemy import Connection, Dialect, Engine, ExceptionContext, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError

from keap_connect.clock import seconds_since_boot
from keap_connect.database import BUSY_SECONDS, Trouble, db
from keap_connect.errors import TemporarilyUnavailable

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
UNDEFINED_TABLE = "42P01"  # PostgreSQL's code
ROWS_OF_INSERT = 8  # of one statement that returns their ids; the driver parses one with 50 values or more each time
PREPARE_AFTER = 5  # times that a connection has sent a statement; the default of the driver
PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",  # a lost commit would be a used refresh token
    "foreign_keys=ON",
    f"busy_timeout={BUSY_SECONDS * 1000}",
    "secure_delete=ON",
)
CUT_SHORT = "a restore was cut short. Run `database restore` again, with the backup or with what was here before:"


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
        # libpq sends it with each connection, through a pooler too; the driver reads no other style.
        os.environ["PGDATESTYLE"] = "ISO"
        named = make_url(url).query
        limits = {name: limit for name, limit in CONNECTION_LIMITS.items() if name not in named}
        options["connect_args"] = {**limits, "prepare_threshold": None}
        options["insertmanyvalues_page_size"] = ROWS_OF_INSERT
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = options
    db.init_app(app)
    with app.app_context():
        event.listen(db.engine, "handle_error", _note_trouble, retval=True)
        if is_postgresql:
            from keap_connect.answer_limit import LimitedConnection  # noqa: PLC0415  (SQLite does without it)

            def connect(_: Dialect, _record: object, args: list[Any], options: dict[str, Any]) -> DBAPIConnection:
                connection = LimitedConnection.connect(*args, **options)
                Trouble.connected_at = seconds_since_boot()
                return cast("DBAPIConnection", connection)

            event.listen(db.engine, "do_connect", connect)
            event.listen(db.engine, "connect", _note_pooler)
            event.listen(db.engine, "begin", _begin_on_postgresql)
        else:
            prepare_sqlite(db.engine)
        # Made once: making it takes longer than many statements.
        app.extensions["keap_connect.writing"] = db.engine.execution_options(writes=True)


def _note_pooler(connection: Any, _record: object) -> None:
    """Note whether a pooler is in between: it gives its clients another process number than the session's, or none."""
    (number,) = connection.execute("SELECT pg_backend_pid()").fetchone()
    connection.is_pooled = number != connection.info.backend_pid


def is_pooled(connection: Connection) -> bool:
    """Whether a connection to PostgreSQL leads through a pooler.

    A pooler gives each transaction another session, which does not know the statements that were prepared before.
    """
    pooled: bool = connection.connection.dbapi_connection.is_pooled  # type: ignore[union-attr]
    return pooled


def _begin_on_postgresql(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    # Not for pages: PostgreSQL may choose one plan for all states and dates, which is bad for some.
    threshold = PREPARE_AFTER if writes and not is_pooled(connection) else None
    connection.connection.dbapi_connection.prepare_threshold = threshold  # type: ignore[union-attr]
    if writes:
        limit = f"= '{STATEMENT_SECONDS}s'"
        connection.exec_driver_sql(  # the driver's own BEGIN would be one more message to wait for
            f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout {limit}; "
            f"SET LOCAL idle_in_transaction_session_timeout {limit}"
        )


def _note_trouble(context: ExceptionContext) -> OperationalError | None:
    error = context.sqlalchemy_exception
    if isinstance(error, ProgrammingError) and getattr(error.orig, "sqlstate", None) == UNDEFINED_TABLE:
        # As SQLite's driver says it: somebody restores the database at this moment, or did so half.
        return OperationalError(error.statement, error.params, context.original_exception, hide_parameters=True)
    # A constraint, or a right that the role lacks, is no sign that the database is away.
    if isinstance(error, DBAPIError) and not isinstance(error, IntegrityError | ProgrammingError):
        Trouble.last_at = seconds_since_boot()
    return None


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
