"""`./keap-connect token-keys …`: the keys that seal what is stored."""

import sys

import click
from flask.cli import AppGroup

from keap_connect.cli.exit_codes import ExitCode, help_with, plainly
from keap_connect.cli.output import json_option, show_json
from keap_connect.key_rotation import reseal as reseal_all

token_keys = AppGroup("token-keys", help="The keys that seal what is stored.")


@token_keys.command("reseal", epilog=help_with("token-keys reseal"))
@json_option
@plainly
def reseal(as_json: bool) -> None:
    """Seal everything anew with the first of TOKEN_KEYS, while the service runs.

    First put the new key in front and restart every process; afterwards take the old one away. A run that was
    interrupted is started again.
    """
    done = reseal_all()
    if as_json:
        show_json({"resealed": done.resealed, "older_keys_must_stay": bool(done.reasons), "reasons": done.reasons})
    else:
        click.echo(f"{done.resealed} values were sealed anew.")
        if not done.reasons:
            click.echo("The first key opens everything: take the older ones out of TOKEN_KEYS.")
    for reason in done.reasons:
        click.echo(f"The older keys must stay. {reason}", err=True)
    if done.reasons:
        sys.exit(ExitCode.FAILED)
    sys.exit(ExitCode.DONE if done.resealed else ExitCode.NOTHING_TO_DO)
