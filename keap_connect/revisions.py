"""The revisions of the tables, in migrations/. Alembic is loaded only to change tables: each start would wait."""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from keap_connect.errors import SettingsError

MIGRATIONS = Path(__file__).parent.parent / "migrations"


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

    Raises:
        SettingsError, DBAPIError: it failed, and the database is as it was before.
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
