"""`./keap-connect database …`, `db …` and `token-keys …`: what is stored, and the keys that seal it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from sqlalchemy.exc import DBAPIError, OperationalError

from keap_connect import backup as backups
from keap_connect import deployment
from keap_connect.cli.command import Answer, asks, command, group
from keap_connect.database import db as models
from keap_connect.database_copy import copy_database
from keap_connect.deployment import connected, find_revisions
from keap_connect.errors import DatabaseSilent, ExitCode, SettingsError, TemporarilyUnavailable
from keap_connect.keap.answers import cut
from keap_connect.key_rotation import drop_closed
from keap_connect.key_rotation import reseal as reseal_all
from keap_connect.refresh.heartbeat import list_living
from keap_connect.services import services

HOW_TO_RUN = (
    "These lines are for sh; run them with PostgreSQL's own programs. They name no password, since other "
    "users could read it there: it is taken from PGPASSFILE or ~/.pgpass, or asked for."
)
NEXT = (
    "Refreshing is paused: the backup may hold refresh tokens that were used since. When no other installation uses "
    "the accounts: ./keap-connect refreshing confirm-only-one"
)
OLDEST = "0014"  # of version 0.1.0
UPGRADE = "It is older than this program. Before you start anything: ./keap-connect db upgrade\n"

db = group("db", "The tables of the database.")
database = group("database", "Backups of the database, and its move to PostgreSQL.")
file_argument = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
token_keys = group("token-keys", "The keys that seal what is stored.")


@command("upgrade", "", within=db, checks_database=False)
def upgrade() -> Answer:
    """Bring the tables up to this version; run it once before a new version starts."""
    present, newest = _migrate(deployment.upgrade, "head", "The database could not be brought up to date")
    place = models.engine.url.render_as_string(hide_password=True)
    made = "" if present else f" There were no tables, so new ones were made in {place}"
    return Answer({"revision": newest}, f"The database is up to date.{made}")


@command("downgrade", "0014 --yes", within=db, checks_database=False)
@click.argument("revision")
@asks("Delete what only newer versions know, for good?")
def downgrade(revision: str) -> Answer:
    """Take the tables back to those of an older version; what only newer versions know is deleted.

    End all processes before. The tables of version 0.1.0, which are those of revision 0014, are the oldest.
    """
    known = [one for one in deployment.list_revisions() if one >= OLDEST]
    if revision not in known:
        raise SettingsError(f"There is no way back to revision {revision}: name one of {known[0]} to {known[-1]}.")
    with deployment.connected() as connection:
        present, newest = deployment.find_revisions(connection, "The database")
    if present == newest and (living := list_living()):
        names = ", ".join(sorted(living)[:5])
        raise TemporarilyUnavailable(f"End these processes first: {names}. One that was killed counts for a minute.")
    _migrate(deployment.downgrade, revision, "The tables could not be taken back")
    return Answer({"revision": revision}, f"The tables are those of revision {revision}.")


def _migrate(change: Callable[[str], None], revision: str, failed: str) -> tuple[str | None, str | None]:
    """Change the tables, and return the revision that they had and the one that this program needs."""
    try:
        deployment.check_file()
        with models.engine.connect() as connection:
            found = deployment.find_revisions(connection, "The database")
        change(revision)
    except DBAPIError as problem:
        kind = DatabaseSilent if isinstance(problem, OperationalError) else SettingsError
        raise kind(f"{failed}: {cut(str(problem.orig), 1000)}") from problem
    return found


@command(
    "backup",
    "/backups/keap_connect.db",
    "/backups/keap_connect.dump > /backups/backup.sh && sh /backups/backup.sh   # PostgreSQL",
    within=database,
    checks_database=False,
)
@file_argument
def backup(file: Path) -> Answer:
    """Copy the SQLite database to FILE while everything runs; with PostgreSQL, print the lines that do it."""
    database_file = services().settings.sqlite_file
    if database_file is None:
        return _lines(backups.dump_lines(file))
    backups.back_up(database_file, file)
    text = f"The backup is in {file}. Keep TOKEN_KEYS elsewhere: each is useless without the other."
    return Answer({"file": str(file), "bytes": file.stat().st_size}, text)


@command(
    "restore",
    "/backups/keap_connect.db",
    "/backups/keap_connect.dump > /backups/restore.sh && sh /backups/restore.sh   # PostgreSQL",
    within=database,
    checks_database=False,
)
@file_argument
def restore(file: Path) -> Answer:
    """Put FILE in the place of the SQLite database, keep the old one beside it, and pause refreshing.

    End all processes before. With PostgreSQL, it prints the lines that restore FILE into an empty database.
    """
    database_file = services().settings.sqlite_file
    if database_file is None:
        return _lines(backups.restore_lines(file))
    kept, is_older = backups.restore(file, database_file)
    text = f"{file} was restored. The database before it: {kept or 'there was none'}.\n{_next(is_older)}"
    return Answer({"file": str(file), "old_database": kept or None, "needs_upgrade": is_older}, text)


@command("restored", "", within=database, checks_database=False)
def restored() -> Answer:
    """Check a database that another program restored, such as pg_restore, and pause refreshing."""
    is_older = backups.pause_restored()
    text = f"The database is complete, and TOKEN_KEYS opens it.\n{_next(is_older)}"
    return Answer({"needs_upgrade": is_older}, text)


@command("copy", "--to postgresql://keap@db.example.com/keap", within=database, checks_database=False)
@click.option("--to", "url", required=True, metavar="URL", help="The new database, as DATABASE_URL will name it.")
def copy(url: str) -> Answer:
    """Copy the SQLite database to an empty PostgreSQL database, which takes its place.

    End all processes before. The old database is never used again. A copy that was interrupted is started again.
    """
    done = copy_database(url, _progress)
    text = f"{done.rows} rows were copied, and every sealed value was opened. Set DATABASE_URL to {done.place}"
    if not done.rows:
        text = f"The copy was complete already. Set DATABASE_URL to {done.place}"
    note = f"No key in TOKEN_KEYS opens {done.closed} of them, neither here nor there." if done.closed else ""
    return Answer({"database": done.place, "rows": done.rows, "unreadable": done.closed}, text, note)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str, int], None]]:
    if sys.stderr.isatty():
        with click.progressbar(length=total, label="Copying rows", file=sys.stderr) as bar:
            yield lambda _table, rows: bar.update(rows)
        click.echo("Opening every sealed value …", err=True)
        return
    done = 0

    def show_tenths(table: str, rows: int) -> None:
        nonlocal done
        before, done = done, done + rows
        if done * 10 // total > before * 10 // total:
            click.echo(f"{done * 100 // total} %: {done} of {total} rows, in {table}", err=True)

    yield show_tenths


def _next(is_older: bool) -> str:
    return (UPGRADE if is_older else "") + NEXT


def _lines(lines: list[str]) -> Answer:
    return Answer({"lines": lines}, "\n".join(lines), HOW_TO_RUN)


@command("reseal", "", within=token_keys)
def reseal() -> Answer:
    """Seal everything again with the first of TOKEN_KEYS, while the service runs.

    Before, put the new key in front and restart every process; afterwards remove the old one. A run that was
    interrupted can be started again.
    """
    done = reseal_all()
    text = f"Values that were sealed again: {done.resealed}."
    if not done.reasons and len(services().settings.token_keys) > 1:
        text += "\nThe first key opens everything: remove the older ones from TOKEN_KEYS. Old backups need them."
    return Answer(
        {"resealed": done.resealed, "older_keys_must_stay": bool(done.reasons), "reasons": done.reasons},
        text,
        "\n".join(f"The older keys must stay. {reason}" for reason in done.reasons),
        ExitCode.FAILED if done.reasons else ExitCode.DONE if done.resealed else ExitCode.NOTHING_TO_DO,
    )


@command("drop-unreadable", "--all --yes", within=token_keys, checks_database=False)
@click.option("may_be_all", "--all", is_flag=True, help="Also if no stored value opens, as with a mistyped key.")
@asks("Delete the tokens that no key in TOKEN_KEYS opens, for good?")
def drop_unreadable(may_be_all: bool) -> Answer:
    """Delete the tokens that no key in TOKEN_KEYS opens, when their key is lost; these accounts must be reconnected.

    Before, end every process and put a new key into TOKEN_KEYS. Nothing else starts until this was done.
    """
    with connected() as connection:
        find_revisions(connection, "The database")
    number = drop_closed(may_be_all)
    return Answer({"accounts": number}, f"Accounts that must be reconnected: {number}.")
