"""Checks the database before this process serves or refreshes, and before a backup is restored; and changes its tables.

Their revisions are in migrations/. Alembic is loaded only to change tables: each start would wait.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, select, text
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError, ProgrammingError

from keap_connect.accounts.state import AccountState, Cause
from keap_connect.accounts.stored_state import count_places, registration, store_registration
from keap_connect.database import db, read_one, read_session, write_transaction
from keap_connect.errors import DatabaseDamaged, DatabaseSilent, SealBroken, SettingsError
from keap_connect.keap.answers import cut
from keap_connect.models import KeyCheck
from keap_connect.services import services

MIGRATIONS = Path(__file__).parent.parent / "migrations"
VERSION = "0.2.0"  # of this program, as in pyproject.toml
KEY_CHECK = "key_check"
# In the place of the revision, so that no version of this program uses the database: `database copy` writes them.
MOVED, UNFINISHED = "moved to ", "copy of "
KEY_CHECK_TEXT = "the keys of this ring open what is stored here"


def read_revision(connection: Connection) -> str | None:
    """Return the revision of a database; None for one without our tables."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def list_revisions() -> list[str]:
    """Return the revisions that this program knows, oldest first; the name of each file begins with its own."""
    return sorted(file.name[:4] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def upgrade(revision: str = "head", folder: Path = MIGRATIONS) -> None:
    """Bring the database of the current app to a revision, by default the newest.

    Raises SettingsError, DBAPIError: it failed, and the database is as it was before.
    """
    _change("upgrade", revision, folder)


def downgrade(revision: str, folder: Path = MIGRATIONS) -> None:
    """Undo the revisions after this one; raises as `upgrade` does."""
    _change("downgrade", revision, folder)


def _change(what: str, revision: str, folder: Path) -> None:
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    try:
        getattr(command, what)(config, revision)
    except CommandError as problem:
        raise SettingsError(f"The tables could not be changed to revision {revision}: {problem}") from problem


def check_deployment() -> list[str]:
    """Check tables and keys; return what the operator should know but can live with.

    Raises:
        DatabaseSilent: it does not answer.
        SettingsError: it cannot be written, tables are missing, or TOKEN_KEYS does not open what is stored.
    """
    check_writable()
    with connected() as connection:
        present, newest = find_revisions(connection, "The database")
    if present != newest:
        has = f"is at revision {present}" if present else "has no tables yet"
        raise SettingsError(
            f"The database {has}, and this program needs revision {newest}: run `./keap-connect db upgrade`."
        )
    check_keys()
    store_registration(is_first=True)
    warning = foreign_warning()
    return [warning] if warning else []


@contextmanager
def connected() -> Iterator[Connection]:
    """Connect to the database; raise DatabaseSilent with its reason if it does not answer, or refuses the role."""
    try:
        with db.engine.connect() as connection:
            yield connection
    except (OperationalError, ProgrammingError) as problem:  # as when the role may not read the tables
        raise DatabaseSilent(
            f"The database that DATABASE_URL names does not answer: {cut(str(problem.orig), 1000)}"
        ) from None


def find_revisions(connection: Connection, name: str) -> tuple[str | None, str | None]:
    """Return the revision of a database, None for one without our tables, and the one that this program needs.

    Raises SettingsError: it is newer than this program, or `database copy` took it out of service.
    """
    present = read_revision(connection)
    if present and present.startswith(MOVED):
        place = present.removeprefix(MOVED)
        raise SettingsError(f"{name} was moved to {place}, and is not used again: name that one in DATABASE_URL.")
    if present and present.startswith(UNFINISHED):
        raise SettingsError(f"{name} is an unfinished copy: run `database copy` again, with the old DATABASE_URL.")
    known = list_revisions()
    if present and present not in known:
        raise SettingsError(
            f"{name} is newer than this program: it is at revision {cut(present)}. Install the version that made it."
        )
    return present, known[-1]


def check_file(most_bytes: int | None = None) -> None:
    """Check whether an SQLite file is damaged or cannot be written; PostgreSQL checks its files itself.

    Args:
        most_bytes: a larger file is not read as a whole, which may take minutes; None reads any.

    Raises SettingsError: one of both; nothing was changed.
    """
    path = services().settings.sqlite_file
    if path is None:
        return
    check_writable()
    if most_bytes is not None and path.exists() and path.stat().st_size > most_bytes:
        return
    try:
        damage = find_damage(db.engine)
    except OperationalError:
        return  # it is missing or in use: `check_deployment` reports that
    if damage:
        raise DatabaseDamaged(damage)


def check_writable() -> None:
    """Raise SettingsError if this user cannot write an SQLite file, or its folder, where SQLite makes others."""
    path = services().settings.sqlite_file
    for place in (path, path.parent) if path else ():
        if place.exists() and not os.access(place, os.W_OK):
            raise SettingsError(f"{place} cannot be written by this user: give the user that runs this app access.")


def find_damage(engine: Engine) -> str | None:
    """Return in SQLite's words what is damaged in a file. Raises OperationalError: the file is missing or in use."""
    try:
        with engine.connect() as connection:
            found = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
    except OperationalError:
        raise
    except DatabaseError as problem:
        found = str(problem.orig)
    return None if found == "ok" else cut(found)


def check_keys() -> None:
    """Check that TOKEN_KEYS opens what is stored. A new database gets its key check here. Raises SettingsError."""
    stored = read_one(select(KeyCheck))
    if stored is None:
        sealed = services().cipher.seal(KEY_CHECK_TEXT, KEY_CHECK)
        try:
            with write_transaction() as session:
                session.add(KeyCheck(id=1, sealed=sealed))
        except IntegrityError:
            check_keys()  # another process was first
        return
    open_key_check(stored.sealed, "this database")


def open_key_check(sealed: bytes, name: str) -> None:
    """Raise SettingsError if TOKEN_KEYS does not open the key check of a database."""
    try:
        services().cipher.open(sealed, KEY_CHECK)
    except SealBroken:
        raise SettingsError(
            f"TOKEN_KEYS does not open what is stored in {name}: put the key back that sealed it."
        ) from None


def foreign_warning() -> str:
    """Say how many grants belong to another client id or token URL than the settings name; "" if none does.

    Until a worker with these settings has derived the states, all grants but those of disconnected accounts count.
    """
    with read_session() as session:
        is_changed = registration(session)[:2] != services().keap.registration
    count = sum(
        number
        for (state, cause), number in count_places().items()
        if cause is Cause.OTHER_REGISTRATION or (is_changed and state is not AccountState.DISCONNECTED)
    )
    if count == 0:
        return ""
    grants = "1 stored grant belongs" if count == 1 else f"{count} stored grants belong"
    return (
        f"{grants} to another client id or token URL than the settings name. They are never sent elsewhere: put the "
        "old settings back, or let these customers reconnect."
    )
