"""`./keap-connect database …` and `db upgrade`. The rest of Flask-Migrate is for developers: `flask --app app db`."""

from pathlib import Path

import click
import flask_migrate  # type: ignore[import-untyped]
from flask.cli import AppGroup
from sqlalchemy.exc import DBAPIError

from keap_connect import backup as backups
from keap_connect.cli.exit_codes import fail, help_with, in_words
from keap_connect.cli.output import json_option, show_json
from keap_connect.errors import DatabaseSilent
from keap_connect.keap.answers import cut

HOW_TO_RUN = (
    "These lines are for sh; run them with PostgreSQL's own programs. They name no password, since other "
    "users could read it there: it is taken from PGPASSFILE or ~/.pgpass, or asked for."
)
NEXT = (
    "Refreshing is paused: the backup may hold refresh tokens that were used since. When no other installation uses "
    "the accounts: ./keap-connect refreshing confirm-only-one"
)
UPGRADE = "It is older than this program. Before you start anything: ./keap-connect db upgrade"

db = AppGroup("db", help="The tables of the database.")
database = AppGroup("database", help="Backups of the database.")
file_argument = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@db.command("upgrade", epilog=help_with("db upgrade"))
def upgrade() -> None:
    """Bring the tables up to this version; to be run once before a new version starts."""
    try:
        flask_migrate.upgrade()
    except DBAPIError as problem:
        fail(DatabaseSilent([f"The database could not be brought up to date: {cut(str(problem.orig))}"]), as_json=False)


@database.command(
    "backup",
    epilog=help_with(
        "database backup /backups/keap_connect.db",
        "database backup /backups/keap_connect.dump > backup.sh && sh backup.sh   # PostgreSQL",
    ),
)
@file_argument
@json_option
@in_words
def backup(file: Path, as_json: bool) -> None:
    """Copy the SQLite database to FILE while everything runs; with PostgreSQL, print the lines that do it."""
    if not backups.is_sqlite():
        _show_lines(backups.dump_lines(file), as_json)
        return
    backups.back_up(file)
    if as_json:
        show_json({"file": str(file), "bytes": file.stat().st_size})
    else:
        click.echo(f"The backup is in {file}. Keep TOKEN_KEYS elsewhere: each is useless without the other.")


@database.command(
    "restore",
    epilog=help_with(
        "database restore /backups/keap_connect.db",
        "database restore /backups/keap_connect.dump > restore.sh && sh restore.sh   # PostgreSQL",
    ),
)
@file_argument
@json_option
@in_words
def restore(file: Path, as_json: bool) -> None:
    """Put FILE in the place of the SQLite database, keep the old one beside it, and pause refreshing.

    End all processes before. With PostgreSQL, it prints the lines that restore FILE into an empty database.
    """
    if not backups.is_sqlite():
        _show_lines(backups.restore_lines(file), as_json)
        return
    done = backups.restore(file)
    if as_json:
        kept = str(done.kept) if done.kept else None
        show_json({"file": str(file), "old_database": kept, "needs_upgrade": done.is_older})
        return
    click.echo(f"{file} was restored. The database before it: {done.kept or 'there was none'}.")
    _say_what_is_next(done.is_older)


@database.command("restored", epilog=help_with("database restored"))
@json_option
@in_words
def restored(as_json: bool) -> None:
    """Check a database that another program restored, such as pg_restore, and pause refreshing."""
    is_older = backups.pause_restored()
    if as_json:
        show_json({"needs_upgrade": is_older})
        return
    click.echo("The database is a whole one, and TOKEN_KEYS opens it.")
    _say_what_is_next(is_older)


def _say_what_is_next(is_older: bool) -> None:
    if is_older:
        click.echo(UPGRADE)
    click.echo(NEXT)


def _show_lines(lines: list[str], as_json: bool) -> None:
    if as_json:
        show_json({"lines": lines})
    else:
        click.echo("\n".join(lines))
        click.echo(HOW_TO_RUN, err=True)
