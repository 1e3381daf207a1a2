"""`./keap-connect serve`: pages and API, on the server that comes with the app."""

import sys
from pathlib import Path

import click
from flask import current_app

from keap_connect.cli.command import Answer, command
from keap_connect.errors import SettingsError
from keap_connect.server.checks import prepare_to_serve
from keap_connect.server.serve import serve as serve_app
from keap_connect.services import services

File = click.Path(exists=True, dir_okay=False, path_type=Path)


@command(
    "serve", "serve", "serve --certificate fullchain.pem --key privkey.pem", checks_database=False, speaks_json=False
)
@click.option("--certificate", type=File, help="Serve HTTPS with this certificate, without a proxy in front.")
@click.option("--key", type=File, help="The private key of the certificate.")
def serve(certificate: Path | None, key: Path | None) -> Answer:
    """Serve the pages and the token API at HOST and PORT, until SIGTERM or Ctrl-C."""
    if bool(certificate) != bool(key):
        raise click.UsageError("--certificate and --key belong together.")
    settings = services().settings
    try:
        prepare_to_serve(settings)
        serve_app(current_app._get_current_object(), settings, certificate, key)  # type: ignore[attr-defined]
    except SettingsError as refusal:
        sys.exit(refusal.report)
