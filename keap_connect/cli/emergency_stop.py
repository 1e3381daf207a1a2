"""`./keap-connect emergency-stop`: for when keys, cookies or passwords may be in the wrong hands."""

import click

from keap_connect.cli.command import Answer, command
from keap_connect.cli.output import table
from keap_connect.emergency_stop import stop_everything
from keap_connect.events.history import Actor

UNDO = """\
Nobody is signed in, no password and no API key works, and nothing is refreshed. When the danger is over:
  ./keap-connect admins reset-password --email you@example.com   # for each admin
  ./keap-connect api-keys create nightly-sync                    # for each program
  ./keap-connect refreshing confirm-only-one
If database and TOKEN_KEYS may both be stolen, the accounts above must also be withdrawn at Keap and reconnected."""
NAMES = ("id", "tenant_id", "external_id", "person_email", "title")


@command("emergency-stop", "emergency-stop", "emergency-stop --yes --json")
@click.confirmation_option(prompt="End all sign-ins, passwords and API keys, and pause refreshing?")
def emergency_stop() -> Answer:
    """End all sign-ins, passwords, API keys and links, pause refreshing, and list whose consent may be stolen."""
    rows = [[getattr(account, name) for name in NAMES] for account in stop_everything(Actor.COMMAND_LINE)]
    document = {"accounts": [dict(zip(NAMES, row, strict=True)) for row in rows]}
    return Answer(document, table(("ID", "TENANT", "EXTERNAL ID", "PERSON", "TITLE"), rows), UNDO)
