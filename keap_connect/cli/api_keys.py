"""`./keap-connect api-keys …`: the keys of programs."""

from datetime import timedelta

import click

from keap_connect.access.api_keys import APIKeyView, Scope, get_api_key, issue_api_key, list_api_keys, revoke_api_key
from keap_connect.accounts.naming import find_account_id
from keap_connect.cli.command import AccountName, Answer, Days, command, confirm, group, table
from keap_connect.clock import utc_now
from keap_connect.errors import ExitCode
from keap_connect.events.history import Actor

api_keys = group("api-keys", "The keys by which programs use the API.")


@command(
    "create",
    "nightly-sync",
    "crm --scope tokens:read --scope accounts:read --account external:acme --expires-in 365d",
    within=api_keys,
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
@click.option("--expires-in", type=Days(), help="In days, such as 365d; without it, it is valid until it is revoked.")
def create(name: str, scopes: tuple[str, ...], accounts: tuple[str, ...], expires_in: timedelta | None) -> Answer:
    """Create a key and show it; it is shown only once."""
    issued = issue_api_key(
        name,
        scopes,
        Actor.COMMAND_LINE,
        expires_at=utc_now() + expires_in if expires_in else None,
        account_ids=[find_account_id(account) for account in accounts] if accounts else None,
    )
    note = f"This is API key {issued.row.id}, for {', '.join(issued.row.scopes)}. It is not shown again."
    return Answer({"key": issued.text, **_facts(issued.row)}, issued.text, note)


@command("list", "", "--json", within=api_keys)
def list_() -> Answer:
    """List all keys, the newest first, the revoked ones too."""
    keys = list_api_keys()
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
    headings = ("ID", "STATE", "BEGINS", "SCOPES", "ACCOUNTS", "EXPIRES", "LAST USED", "NAME")
    return Answer([_facts(key) for key in keys], table(headings, rows))


@command("revoke", "3", "3 --yes", within=api_keys)
@click.argument("key_id", type=click.IntRange(min=1))
@click.option("--yes", is_flag=True, help="Do not ask.")
def revoke(key_id: int, yes: bool) -> Answer:
    """Refuse a key from now on, in every process; the programs that use it get 401."""
    key = get_api_key(key_id)
    if key.revoked_at:
        return Answer(_facts(key), "It was revoked before.", code=ExitCode.NOTHING_TO_DO)
    if not yes:
        confirm(f"Revoke the key {key.name!r}?")
    revoke_api_key(key_id, Actor.COMMAND_LINE)
    return Answer(_facts(get_api_key(key_id)), "Revoked.")


def _facts(key: APIKeyView) -> dict[str, object]:
    return {**key._asdict(), "is_usable": key.is_usable}
