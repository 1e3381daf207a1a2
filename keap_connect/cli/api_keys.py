"""`./keap-connect api-keys …`: how programs come in."""

import sys
from dataclasses import asdict
from datetime import timedelta

import click
from flask.cli import AppGroup

from keap_connect.access.api_keys import (
    APIKeyView,
    Scope,
    get_api_key,
    issue_api_key,
    list_api_keys,
    revoke_api_key,
)
from keap_connect.accounts.naming import find_account_id
from keap_connect.cli.accounts import AccountName
from keap_connect.cli.ages import Days
from keap_connect.cli.exit_codes import ExitCode, help_with, plainly
from keap_connect.cli.output import json_option, show_json, show_table
from keap_connect.clock import utc_now
from keap_connect.events.history import Actor

api_keys = AppGroup("api-keys", help="The keys by which programs come in.")


@api_keys.command(
    "create",
    epilog=help_with(
        "api-keys create nightly-sync",
        "api-keys create crm --scope tokens:read --scope accounts:read --account external:acme --expires-in 365d",
    ),
)
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice([scope.value for scope in Scope]),
    multiple=True,
    default=[Scope.TOKENS_READ.value],
    show_default=True,
    help="What it may do; give it once for each.",
)
@click.option("--account", "accounts", type=AccountName(), multiple=True, help="Only for these accounts.")
@click.option("--expires-in", type=Days(), help="In days, such as 365d; without it the key holds until it is revoked.")
@json_option
@plainly
def create(
    name: str, scopes: tuple[str, ...], accounts: tuple[str, ...], expires_in: timedelta | None, as_json: bool
) -> None:
    """Make a key and show it, once: nobody can tell it again."""
    issued = issue_api_key(
        name,
        scopes,
        Actor.COMMAND_LINE,
        expires_at=utc_now() + expires_in if expires_in else None,
        account_ids=[find_account_id(account) for account in accounts] if accounts else None,
    )
    if as_json:
        show_json({"key": issued.text, **_facts(issued.row)})
    else:
        click.echo(issued.text)
        click.echo(f"Key {issued.row.id} may {', '.join(issued.row.scopes)}. It is not shown again.", err=True)


@api_keys.command("list", epilog=help_with("api-keys list", "api-keys list --json"))
@json_option
@plainly
def list_(as_json: bool) -> None:
    """List all keys, the newest first, the revoked ones too."""
    keys = list_api_keys()
    if as_json:
        show_json([_facts(key) for key in keys])
        return
    rows = [
        (
            key.id,
            "usable" if key.is_usable else "revoked" if key.revoked_at else "expired",
            f"kc_{key.public_id}",
            " ".join(key.scopes),
            "all" if key.account_ids is None else " ".join(map(str, key.account_ids)),
            key.expires_at,
            key.last_used_at,
            key.name,
        )
        for key in keys
    ]
    show_table(("ID", "STATE", "BEGINS", "SCOPES", "ACCOUNTS", "EXPIRES", "LAST USED", "NAME"), rows)


@api_keys.command("revoke", epilog=help_with("api-keys revoke 3", "api-keys revoke 3 --yes"))
@click.argument("key_id", type=click.IntRange(min=1))
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@plainly
def revoke(key_id: int, yes: bool, as_json: bool) -> None:
    """Refuse a key from now on, in every process; the programs that use it get 401."""
    key = get_api_key(key_id)
    if key.revoked_at is None:
        if not yes:
            click.confirm(f"Revoke the key {key.name!r}?", abort=True, err=as_json)
        revoke_api_key(key_id, Actor.COMMAND_LINE)
    if as_json:
        show_json(_facts(get_api_key(key_id)))
    else:
        click.echo("It was revoked before." if key.revoked_at else "Revoked.")
    sys.exit(ExitCode.NOTHING_TO_DO if key.revoked_at else ExitCode.DONE)


def _facts(key: APIKeyView) -> dict[str, object]:
    return {**asdict(key), "is_usable": key.is_usable}
