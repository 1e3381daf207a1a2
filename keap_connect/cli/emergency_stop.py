"""`./keap-connect emergency-stop`: for the day on which keys, cookies or passwords may be in the wrong hands."""

import click
from flask.cli import with_appcontext

from keap_connect.cli.exit_codes import help_with, plainly
from keap_connect.cli.output import json_option, show_json, show_table
from keap_connect.emergency_stop import stop_everything
from keap_connect.events.history import Actor

UNDO = """\
Nobody is signed in, no password and no API key works, and nothing is refreshed. When the house is clean again:
  ./keap-connect admins reset-password --email you@example.com   # for each admin
  ./keap-connect api-keys create nightly-sync                    # for each program
  ./keap-connect refreshing confirm-only-one
If database and TOKEN_KEYS may both be gone, the accounts above must also be withdrawn at Keap and reconnected."""


@click.command("emergency-stop", epilog=help_with("emergency-stop", "emergency-stop --yes --json"))
@click.confirmation_option(prompt="End all sign-ins, passwords and API keys, and hold every refresh?")
@json_option
@with_appcontext
@plainly
def emergency_stop(as_json: bool) -> None:
    """End all sign-ins, passwords, API keys and links, hold every refresh, and list whose consent may be gone."""
    found = stop_everything(Actor.COMMAND_LINE)
    rows = [(one.id, one.tenant_id, one.external_id, one.person_email, one.title) for one in found]
    if as_json:
        names = ("id", "tenant_id", "external_id", "person_email", "title")
        show_json({"accounts": [dict(zip(names, row, strict=True)) for row in rows]})
    else:
        show_table(("ID", "TENANT", "EXTERNAL ID", "PERSON", "TITLE"), rows)
    click.echo(UNDO, err=True)
