"""The WSGI application, for any server; `./keap-connect serve` starts the one that ships."""

import os
import sys

import click
from flask.cli import FlaskGroup

from keap_connect.application import create_app
from keap_connect.errors import SettingsError


def serves() -> bool:
    """Whether this is for serving requests; `flask --app app db upgrade` must run before the database is ready."""
    command = click.get_current_context(silent=True)
    # Granian's own command is one of click's, too.
    return command is None or not isinstance(command.find_root().command, FlaskGroup) or command.info_name == "run"


os.umask(0o077)  # What it makes holds secrets: the database and its journals, recovery files, the audit log.
try:
    app = create_app(serves=serves())
except SettingsError as refusal:
    sys.exit(refusal.report)
