"""Copies an SQLite database to PostgreSQL, and takes the old one out of service before the new one enters it.

Which of both is in service is written in each, in the place of the revision. A copy that ended before the last step
is started again from the beginning, since the old database may have changed meanwhile.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flask import Flask
from sqlalchemy import JSON, Connection, String, Table, func, inspect, literal, make_url, select, text

from keap_connect.backup import in_words, opened, refuse_damaged, refuse_in_use, refuse_pooler, without_password
from keap_connect.database import Base, db
from keap_connect.deployment import MOVED, UNFINISHED, find_revisions, open_key_check, read_revision, upgrade
from keap_connect.engine import CUT_SHORT, connect_database, keep_others_out
from keap_connect.errors import BackupRefused, KeapConnectError, SettingsError, TemporarilyUnavailable
from keap_connect.key_rotation import list_closed_values
from keap_connect.models import KeyCheck
from keap_connect.refresh.lease import restart_waits
from keap_connect.refresh.recovery import list_kept
from keap_connect.services import attach_services, services

BATCH = 5000
TABLES = Base.metadata.sorted_tables
NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # for NUL, which PostgreSQL does not store
NUL_IN_JSON = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
LOOKS, LOOK_SECONDS = 20, 0.1
IS_FILLED = (
    "The new database is not empty and holds no unfinished copy of the old one. Create an empty one with createdb."
)
NOT_COPIED = "The database was not copied, and the old one stays in service"
NOT_IN_SERVICE = (
    "The old database is retired, and the copy is complete. Run the same command again: it only has to start"
)
# Is called with the number of all rows; gives a function that is called with a table and how many of its rows are done.
ShowProgress = Callable[[int], AbstractContextManager[Callable[[str, int], None]]]


@dataclass(frozen=True)
class Copied:
    place: str  # the URL of the new database, without its password
    rows: int
    closed: int  # sealed values that no key of TOKEN_KEYS opens, in both databases


def copy_database(url: str, show: ShowProgress) -> Copied:
    """Copy the SQLite database of this installation to an empty PostgreSQL database, and retire the old one.

    Raises:
        BackupRefused: a step failed; the message says which database is in service.
        SettingsError: the URL is wrong, or the old database is not in service or not of this version.
        TemporarilyUnavailable: a process uses one of both, or new pairs wait in recovery files.
    """
    here = services().settings
    there = here.with_database(url)
    if here.sqlite_file is None or there.sqlite_file:
        raise BackupRefused("Only an SQLite database is copied, and only to PostgreSQL.")
    if list_kept():
        raise TemporarilyUnavailable("New token pairs wait in recovery files: start a worker, which stores them.")
    target = Flask("copy")
    attach_services(target, there)
    connect_database(target, there.database_url)
    place = without_password(make_url(there.database_url))
    database = Path(os.path.realpath(here.sqlite_file))
    with in_words(NOT_COPIED), _only_here(database) as source, target.app_context():
        try:
            return _copy(source, place, show)
        except db.engine.dialect.loaded_dbapi.Error as problem:  # from COPY, which SQLAlchemy does not know
            raise BackupRefused(f"{NOT_COPIED}: {problem.diag.message_primary or problem}.") from problem
        finally:
            db.engine.dispose()


@contextmanager
def _only_here(database: Path) -> Iterator[Connection]:
    """Open the old database, which no other process opens until the end of the block."""
    if not database.exists():
        raise BackupRefused(f"The database {database}, which DATABASE_URL names, does not exist.")
    with keep_others_out(database) as lock, opened(database) as engine:
        if kept := lock.read():
            raise BackupRefused(f"{NOT_COPIED}: {CUT_SHORT} {kept}")
        refuse_damaged(engine, f"{database}")
        with engine.connect() as connection:
            yield connection


def _copy(source: Connection, place: str, show: ShowProgress) -> Copied:
    with db.engine.connect() as connection:
        refuse_pooler(connection)
        refuse_in_use(connection)
        revision = read_revision(connection)
    is_retired = read_revision(source) == f"{MOVED}{place}"
    if not is_retired:
        _check_version(source)
    sealed = source.scalar(select(KeyCheck.sealed))
    if sealed is None:
        raise BackupRefused("The old database has never been used: name the new one in DATABASE_URL.")
    digest = hashlib.sha256(sealed).hexdigest()[:16]
    if is_retired and revision and revision.startswith(UNFINISHED) and revision.endswith(digest):
        _put_in_service(revision.removeprefix(UNFINISHED).split()[0])
        return Copied(place, 0, 0)
    newest = _check_version(source)
    open_key_check(sealed, "the old database")
    mark = f"{UNFINISHED}{newest} {digest}"
    _reserve(revision, newest, mark)
    rows = _copy_rows(source, show)
    closed = _check_sealed(source)
    restart_waits()  # their ends are times on the clock of the old database
    source.execute(text("UPDATE alembic_version SET version_num = :moved"), {"moved": f"{MOVED}{place}"})
    source.commit()  # from here on nothing uses the old database
    _put_in_service(newest)
    return Copied(place, rows, closed)


def _check_version(source: Connection) -> str:
    """Return the revision of the old database, which must be the one that this program needs, and in service."""
    present, newest = find_revisions(source, "The old database")
    if present != newest or not newest:
        raise SettingsError("The old database is not of this version: run `./keap-connect db upgrade` first.")
    return newest


def _reserve(revision: str | None, newest: str, mark: str) -> None:
    """Make the tables of the new database, unless an earlier try has done so, and let nobody else use them.

    Raises BackupRefused: the database is not empty; TemporarilyUnavailable: a process uses it.
    """
    if revision == mark:
        return
    with db.engine.connect() as connection:
        is_filled = revision != newest and inspect(connection).get_table_names()
    if is_filled:
        raise BackupRefused(IS_FILLED)
    if revision != newest:  # else an earlier try was killed before it wrote its mark
        upgrade()
    _refuse_filled()
    _write_revision(mark)
    try:  # a process may have begun to use it since it had its tables
        _refuse_filled()
        _refuse_in_use()
    except KeapConnectError:
        _write_revision(newest)
        raise


def _refuse_filled() -> None:
    with db.engine.connect() as connection:
        if any(connection.scalar(select(literal(1)).select_from(table).limit(1)) for table in TABLES):
            raise BackupRefused(IS_FILLED)


def _refuse_in_use() -> None:
    """Raise TemporarilyUnavailable if others use the new database; it may list our closed connections for a moment."""
    for _ in range(LOOKS):
        with suppress(TemporarilyUnavailable), db.engine.connect() as connection:
            refuse_in_use(connection)
            return
        time.sleep(LOOK_SECONDS)
    with db.engine.connect() as connection:
        refuse_in_use(connection)


def _write_revision(revision: str) -> None:
    with db.engine.connect() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def _put_in_service(newest: str) -> None:
    with in_words(NOT_IN_SERVICE):
        _write_revision(newest)


def _copy_rows(source: Connection, show: ShowProgress) -> int:
    counts = {table: source.scalar(select(func.count()).select_from(table)) or 0 for table in TABLES}
    writing = db.engine.execution_options(isolation_level="READ COMMITTED")
    with writing.connect() as connection, show(sum(counts.values())) as note:
        connection.connection.dbapi_connection.answer_seconds = None  # type: ignore[union-attr]  # it takes long
        connection.detach()  # nobody else uses it afterwards
        connection.execute(text("SET LOCAL timezone = 'UTC'"))  # SQLite's times have no zone
        connection.execute(text(f"TRUNCATE {', '.join(table.name for table in TABLES)}"))
        for table in TABLES:
            _copy_table(source, connection, table, note)
            _set_sequence(source, connection, table)
            arrived = connection.scalar(select(func.count()).select_from(table))
            if arrived != counts[table]:
                raise BackupRefused(f"{NOT_COPIED}: {table.name} has {counts[table]} rows, and {arrived} arrived.")
        connection.commit()
        connection.execute(text(f"ANALYZE {', '.join(table.name for table in TABLES)}"))
        connection.commit()
    return sum(counts.values())


def _copy_table(source: Connection, target: Connection, table: Table, note: Callable[[str, int], None]) -> None:
    texts = [place for place, column in enumerate(table.columns) if isinstance(column.type, String)]
    documents = [place for place, column in enumerate(table.columns) if isinstance(column.type, JSON)]
    columns = ", ".join(target.dialect.identifier_preparer.format_column(column) for column in table.columns)
    into = f"COPY {table.name} ({columns}) FROM STDIN"
    driver = target.connection.dbapi_connection
    # As SQLite stores them: PostgreSQL reads its times, its 0 and 1, and its JSON.
    rows = source.execution_options(stream_results=True).exec_driver_sql(str(select(table)))
    with driver.cursor() as cursor, cursor.copy(into.encode()) as copy:  # type: ignore[union-attr]
        for batch in rows.partitions(BATCH):
            for row in batch:
                values = list(row)
                for place in texts:
                    if values[place] and "\0" in values[place]:
                        values[place] = values[place].replace("\0", NO_CHARACTER)
                for place in documents:
                    if values[place] and r"\u0000" in values[place]:
                        values[place] = NUL_IN_JSON.sub(rf"\1{NO_CHARACTER}", values[place])
                copy.write_row(values)
            note(table.name, len(batch))


def _set_sequence(source: Connection, target: Connection, table: Table) -> None:
    """Continue after the highest id that was ever given, also if its row is deleted: an id is never used again."""
    column = table.autoincrement_column
    if column is None:
        return
    given = source.scalar(text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": table.name})
    last = max(given or 0, source.scalar(select(func.max(column))) or 0)
    if last:
        sequence = func.pg_get_serial_sequence(table.name, column.name)
        target.execute(select(func.setval(sequence, last)))


def _check_sealed(source: Connection) -> int:
    """Open every sealed value of the copy; return how many do not open, as they did not before."""
    number = 0
    for (name, column, _table, _what), key in list_closed_values():
        with db.engine.connect() as connection:
            query = select(column).where(name == key)
            if connection.scalar(query) != source.scalar(query):
                raise BackupRefused(f"{NOT_COPIED}: a value of {column} arrived damaged.")
        number += 1
    return number
