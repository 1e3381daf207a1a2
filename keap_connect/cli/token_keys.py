"""`./keap-connect token-keys …`: the keys that seal what is stored."""

import click

from keap_connect.cli.command import Answer, command, group
from keap_connect.deployment import connected, find_revisions
from keap_connect.errors import ExitCode
from keap_connect.key_rotation import drop_closed
from keap_connect.key_rotation import reseal as reseal_all
from keap_connect.services import services

token_keys = group("token-keys", "The keys that seal what is stored.")


@command("reseal", "token-keys reseal", within=token_keys)
def reseal() -> Answer:
    """Seal everything again with the first of TOKEN_KEYS, while the service runs.

    Before, put the new key in front and restart every process; afterwards remove the old one. A run that was
    interrupted can be started again.
    """
    done = reseal_all()
    text = f"Values that were sealed again: {done.resealed}."
    if not done.reasons and len(services().settings.token_keys) > 1:
        text += "\nThe first key opens everything: remove the older ones from TOKEN_KEYS."
    return Answer(
        {"resealed": done.resealed, "older_keys_must_stay": bool(done.reasons), "reasons": done.reasons},
        text,
        "\n".join(f"The older keys must stay. {reason}" for reason in done.reasons),
        ExitCode.FAILED if done.reasons else ExitCode.DONE if done.resealed else ExitCode.NOTHING_TO_DO,
    )


@command("drop-unreadable", "token-keys drop-unreadable --all --yes", within=token_keys, checks_database=False)
@click.option("may_be_all", "--all", is_flag=True, help="Also if no stored value opens, as with a mistyped key.")
@click.confirmation_option(prompt="Delete the tokens that no key in TOKEN_KEYS opens, for good?")
def drop_unreadable(may_be_all: bool) -> Answer:
    """Delete the tokens that no key in TOKEN_KEYS opens, when their key is lost; these accounts must be reconnected.

    Before, end every process and put a new key into TOKEN_KEYS. Nothing else starts until this was done.
    """
    with connected() as connection:
        find_revisions(connection, "The database")
    number = drop_closed(may_be_all)
    return Answer({"accounts": number}, f"Accounts that must be reconnected: {number}.")
