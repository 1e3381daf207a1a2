"""Backs up the database while everything runs, and restores it with refreshing paused until somebody confirms it.

SQLite's file is copied and replaced here. For PostgreSQL this makes the lines that run its own programs, then checks
and pauses what they restored.
"""

import contextlib
import os
import secrets
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, delete, inspect, make_url, select, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session

from keap_connect.clock import utc_now
from keap_connect.database import db
from keap_connect.deployment import connected, find_damage, find_revisions, open_key_check
from keap_connect.durable_files import put_in_place, sync
from keap_connect.engine import is_pooled, keep_others_out
from keap_connect.errors import BackupRefused, TemporarilyUnavailable
from keap_connect.keap.answers import cut
from keap_connect.models import Account, Alarm, KeyCheck, SignIn
from keap_connect.refresh import alarms
from keap_connect.services import services
from keap_connect.settings import ROOT

SECRET_OPTIONS = ("password", "sslpassword", "oauth_client_secret")  # libpq's
PART = ".part"  # what the name of a copy ends with until it is whole
SQLITE_HEADER = b"SQLite format 3\0"
OLD_KEY_CHECK = "SELECT value FROM deployment WHERE name = 'key_check'"
OLD_PAUSE = (
    "INSERT INTO deployment (name, value) VALUES ('instance', :value) "
    "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)
REASON = "This database was restored from a backup, and another installation may use its accounts."


def back_up(database: Path, file: Path) -> None:
    """Copy an SQLite database to a new file, while others may write to it.

    Raises BackupRefused: it cannot be copied, is not ours, or the copy is damaged; no part of the copy stays.
    """
    _refuse_to_overwrite(file)
    if not database.exists():  # SQLite would make an empty one
        raise BackupRefused(f"The database {database}, which DATABASE_URL names, does not exist.")
    part = file.with_name(f"{file.name}.{secrets.token_hex(4)}{PART}")
    with in_words(f"The backup {file} was not made"), _emptied(part):
        part.touch(0o600, exist_ok=False)  # SQLite would make it readable for others where the umask allows that
        with db.engine.connect() as connection:
            find_revisions(connection, "The database")  # a backup of one that was moved would hold nothing new
            connection.exec_driver_sql("VACUUM INTO ?", (str(part),))
        with opened(part) as engine:
            refuse_damaged(engine, "The backup")
            with engine.connect() as connection:
                _check_tables(connection, f"{database}")
        sync(part)
        _refuse_to_overwrite(file)
        put_in_place(part, file)


def restore(file: Path, database: Path) -> tuple[str, bool]:
    """Replace an SQLite database by a backup with refreshing paused, and keep the old one beside it.

    Returns its name, "" if there was none, and whether the backup is older than this program.

    Raises:
        BackupRefused: the file cannot be used, or the folder cannot be written; nothing was changed.
        TemporarilyUnavailable: a process uses the database; nothing was changed.
    """
    database = Path(os.path.realpath(database))
    part = database.with_name(f"{database.name}{PART}")
    if file.resolve() == part:
        raise BackupRefused(f"A restore that was cut short left {file}. Rename it first.")
    if file.resolve() == database:
        raise BackupRefused(f"{file} is the database itself and not a backup.")
    if file.exists() and not file.is_file():
        raise BackupRefused(f"{file} is not a file.")
    with in_words(f"{file} was not restored"), keep_others_out(database) as lock, _emptied(part):
        _copy(file, part)
        with opened(part) as engine:
            refuse_damaged(engine, f"{file}")
            is_older = _check_and_pause(engine, f"{file}")
        sync(part)
        kept = lock.read()
        if not kept:
            kept = _keep_aside(database)
            lock.write(kept)  # from here on no process opens the database, until all of the backup is in its place
            lock.flush()
            os.fsync(lock.fileno())
        _delete(database)
        put_in_place(part, database)
        lock.truncate(0)
    return kept, is_older


def pause_restored() -> bool:
    """Check a database that another program restored, pause refreshing, and return whether `db upgrade` is needed.

    Raises BackupRefused: this program cannot use the database.
    """
    with in_words("The database cannot be checked"):
        if services().settings.sqlite_file:
            refuse_damaged(db.engine, "The database")
        return _check_and_pause(db.engine, "The database")


def dump_lines(file: Path) -> list[str]:
    """Return the lines for sh that back up a PostgreSQL database and read the backup once.

    Raises:
        BackupRefused: the file exists, the database is not ours, or DATABASE_URL leads through a pooler.
        DatabaseSilent: the database does not answer.
    """
    _refuse_to_overwrite(file)
    with connected() as connection:
        refuse_pooler(connection)
        _check_tables(connection, "The database that DATABASE_URL names")
    name = shlex.quote(str(file))
    return [
        "set -e",
        "umask 077",
        f"trap {shlex.quote(f'rm -f {name}{PART}')} EXIT",
        f"pg_dump --format=custom --file={name}{PART} --dbname={shlex.quote(without_password(_url()))}",
        f"pg_restore --file=/dev/null {name}{PART}",
        f"mv {name}{PART} {name}",
    ]


def restore_lines(file: Path) -> list[str]:
    """Return the lines for sh that restore a PostgreSQL database, which must be empty and unused.

    Raises:
        BackupRefused: the file is missing, the database is not empty, or DATABASE_URL leads through a pooler.
        DatabaseSilent: the database does not answer.
        TemporarilyUnavailable: a process uses the database.
    """
    if not file.is_file():
        raise BackupRefused(f"{file} does not exist.")
    with connected() as connection:
        refuse_pooler(connection)
        if inspect(connection).get_table_names():
            raise BackupRefused(
                "The database that DATABASE_URL names is not empty. Make a new one with createdb, name that in "
                "DATABASE_URL, and keep the old one aside."
            )
        refuse_in_use(connection)
    return [
        "set -e",
        f"pg_restore --exit-on-error --single-transaction --no-owner --dbname={shlex.quote(without_password(_url()))} "
        f"{shlex.quote(str(file))}",
        f"{shlex.quote(str(ROOT / 'keap-connect'))} database restored",
    ]


def refuse_in_use(connection: Connection) -> None:
    """Raise TemporarilyUnavailable if another connection uses a PostgreSQL database."""
    others = connection.scalar(
        text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            # An ordinary role sees only these columns of other roles' rows. A background process has no user.
            "AND usesysid IS NOT NULL AND pid <> pg_backend_pid()"
        )
    )
    if others:
        raise TemporarilyUnavailable(f"{others} other connections use this database: end those processes first.")


def refuse_pooler(connection: Connection) -> None:
    """Refuse a pooler: it would give the next client of a session the empty search_path of pg_dump and pg_restore."""
    if is_pooled(connection):
        raise BackupRefused(
            "The URL of the database leads through a pooler, and PostgreSQL's own programs would leave settings in its "
            "sessions that break the app. Name the server itself for this command."
        )


def _url() -> URL:
    return make_url(services().settings.database_url)


def without_password(url: URL) -> str:
    url = url.set(drivername="postgresql").difference_update_query(SECRET_OPTIONS)
    # Without this, SQLAlchemy writes *** for the password.
    bare = URL.create(url.drivername, url.username, None, url.host, url.port, url.database, url.query)
    return bare.render_as_string(hide_password=False)


def _refuse_to_overwrite(file: Path) -> None:
    if os.path.lexists(file):
        raise BackupRefused(f"{file} exists already and is not overwritten.")


@contextlib.contextmanager
def in_words(what_failed: str) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        reason = ": ".join(str(part) for part in (problem.strerror, problem.filename) if part)
        raise BackupRefused(f"{what_failed} ({reason}).") from problem
    except DatabaseError as problem:
        raise BackupRefused(f"{what_failed}: {cut(str(problem.orig))}.") from problem


@contextlib.contextmanager
def _emptied(part: Path) -> Iterator[None]:
    """Delete the database of this name before and after the block."""
    try:
        _delete(part)
        yield
    finally:
        _delete(part)


def _delete(database: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Engine]:
    engine = create_engine(URL.create("sqlite", database=str(file)), poolclass=NullPool, hide_parameters=True)
    try:
        yield engine
    finally:
        engine.dispose()


def _copy(file: Path, part: Path) -> None:
    with file.open("rb") as source:
        if source.read(len(SQLITE_HEADER)) != SQLITE_HEADER:
            raise BackupRefused(f"{file} is not a Keap Connect database: it is not an SQLite file.")
    for suffix in ("", "-wal"):  # a copy made by hand may have its newest changes in the -wal file
        if suffix == "" or Path(f"{file}{suffix}").exists():
            Path(f"{part}{suffix}").touch(0o600, exist_ok=False)
            shutil.copyfile(f"{file}{suffix}", f"{part}{suffix}")


def refuse_damaged(engine: Engine, name: str) -> None:
    if damage := find_damage(engine):
        raise BackupRefused(f"{name} is damaged ({damage}).")


def _check_and_pause(engine: Engine, name: str) -> bool:
    with engine.connect() as connection:
        present, newest = find_revisions(connection, name)
        tables = _check_tables(connection, name)
        is_typed = KeyCheck.__tablename__ in tables  # older databases have the key check among other facts
        sealed = connection.scalar(select(KeyCheck.sealed) if is_typed else text(OLD_KEY_CHECK))
    if sealed is not None:
        open_key_check(sealed, name)
    with Session(engine) as session, session.begin():
        if SignIn.__tablename__ in tables:  # some may have been ended since
            session.execute(delete(SignIn))
        if Alarm.__tablename__ in tables:
            alarms.raise_alarm(session, alarms.UNKNOWN_INSTANCE, REASON, has_history=present == newest)
        else:  # version 0.1.0 had no alarms: no host has this instance, so the first start pauses refreshing
            session.execute(text(OLD_PAUSE), {"value": f"restored-{secrets.token_hex(8)}:0".encode()})
    return present != newest


def _check_tables(connection: Connection, name: str) -> set[str]:
    tables = set(inspect(connection).get_table_names())
    if not {"alembic_version", Account.__tablename__} <= tables:
        raise BackupRefused(f"{name} is not a Keap Connect database.")
    return tables


def _keep_aside(database: Path) -> str:
    """Give the database and its -wal a second name; return that of the database, or "" if there is none."""
    if not database.exists():
        return ""
    kept = f"{database}.{utc_now():%Y%m%dT%H%M%SZ}"
    for suffix in ("", "-wal"):
        if Path(f"{database}{suffix}").exists():
            os.link(f"{database}{suffix}", f"{kept}{suffix}")
    sync(database.parent)
    return kept
