"""`./keap-connect db upgrade`. What else Flask-Migrate can do is for developers: `flask --app app db`."""

import flask_migrate  # type: ignore[import-untyped]
from flask.cli import AppGroup
from sqlalchemy.exc import DBAPIError

from keap_connect.cli.exit_codes import fail, help_with
from keap_connect.errors import DatabaseSilent
from keap_connect.keap.judgement import cut

db = AppGroup("db", help="The tables of the database.")


@db.command("upgrade", epilog=help_with("db upgrade"))
def upgrade() -> None:
    """Bring the tables up to this version; to be run once before a new version starts."""
    try:
        flask_migrate.upgrade()
    except DBAPIError as problem:
        fail(DatabaseSilent([f"The database could not be brought up to date: {cut(str(problem.orig))}"]), as_json=False)
