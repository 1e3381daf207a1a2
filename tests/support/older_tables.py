"""Brings a database back to an older revision."""

from pathlib import Path

from alembic import command
from alembic.config import Config

from keap_connect.revisions import MIGRATIONS


def downgrade(revision: str, folder: Path = MIGRATIONS) -> None:
    """Undo the revisions after this one, in the database of the current app."""
    config = Config()
    config.set_main_option("script_location", str(folder))
    command.downgrade(config, revision)
