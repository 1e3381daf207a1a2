"""`./keap-connect accounts …`: the connected Keap accounts."""

import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice

import click
from flask.cli import AppGroup

from keap_connect.accounts.changes import disconnect as disconnect_account
from keap_connect.accounts.changes import erase as erase_account
from keap_connect.accounts.credentials import fingerprint
from keap_connect.accounts.directory import AccountView, list_accounts_after, list_refreshable_ids, view_account
from keap_connect.accounts.naming import find_account_id, is_account_name
from keap_connect.accounts.state import AccountState
from keap_connect.cli.exit_codes import ExitCode, answer_of, help_with, plainly
from keap_connect.cli.output import cell, json_option, show_facts, show_json, show_table
from keap_connect.connect.reconnect_links import make_link
from keap_connect.errors import KeapConnectError
from keap_connect.events.hand_outs import record_hand_out
from keap_connect.events.history import Actor
from keap_connect.events.search import Search, list_events
from keap_connect.refresh.due import reserve_calls
from keap_connect.refresh.serving import refresh_account, valid_token
from keap_connect.refresh.timing import LONGEST_VALIDITY_SECONDS
from keap_connect.signals import on_stop

ROWS_AT_ONCE = 500
MASKED = ("access_token_masked", "refresh_token_masked")

accounts = AppGroup("accounts", help="The connected Keap accounts.")


class AccountName(click.ParamType[str]):
    """An account's id, or `external:` and the id that you gave it yourself."""

    name = "account"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what can name no account."""
        if not is_account_name(value):
            self.fail(f"{value!r} is neither an account's id nor external:<your own id>", param, ctx)
        return value


account_argument = click.argument("account", type=AccountName())


@accounts.command(
    "list", epilog=help_with("accounts list", "accounts list acme --state at_risk", "accounts list --json")
)
@click.argument("text", default="")
@click.option("--state", type=click.Choice([state.value for state in AccountState]))
@click.option("--limit", type=click.IntRange(min=1), help="At most so many; all without it.")
@json_option
@plainly
def list_(text: str, state: str | None, limit: int | None, as_json: bool) -> None:
    """List accounts, oldest first; TEXT searches them."""
    found = list(islice(_all_accounts(text, state), limit))
    if as_json:
        show_json([_facts(account) for account in found])
    elif found:
        rows = [(one.id, one.state, one.tenant_id, one.external_id, one.person_email, one.title) for one in found]
        show_table(("ID", "STATE", "TENANT", "EXTERNAL ID", "PERSON", "TITLE"), rows)
    else:
        click.echo("No account is there that fits.", err=True)


@accounts.command("show", epilog=help_with("accounts show 7", "accounts show external:acme --json"))
@account_argument
@json_option
@plainly
def show(account: str, as_json: bool) -> None:
    """Show one account and its history."""
    found = view_account(find_account_id(account))
    events = list_events(Search(account_id=found.id)).events
    if as_json:
        show_json({**_facts(found), "events": [asdict(event) for event in events]})
        return
    show_facts({name: value for name, value in _facts(found).items() if name != "reasons"})
    for reason in found.reasons:
        click.echo(cell(f"! {reason}"))
    for event in events:
        click.echo(cell(f"{event.at.isoformat(timespec='seconds')}  {event.actor}  {event.sentence}"))


@accounts.command(
    "token",
    epilog=help_with("accounts token external:acme", "accounts token 7 --min-validity 1800", "accounts token 7 --json"),
)
@account_argument
@click.option(
    "--min-validity",
    type=click.IntRange(0, LONGEST_VALIDITY_SECONDS),
    metavar="SECONDS",
    help="For how long the token must still hold; exit code 4 when that cannot be had.",
)
@json_option
@plainly
def token(account: str, min_validity: int | None, as_json: bool) -> None:
    """Print a valid access token; refresh first when it must."""
    served = valid_token(find_account_id(account), Actor.COMMAND_LINE, min_validity)
    record_hand_out(served.account.id, fingerprint(served.access_token), Actor.COMMAND_LINE)
    if as_json:
        show_json(served.as_answer())
        return
    if served.warning:
        click.echo(f"Warning: {served.warning}", err=True)
    click.echo(served.access_token)


@accounts.command("refresh", epilog=help_with("accounts refresh 7", "accounts refresh --all --json"))
@click.argument("account", type=AccountName(), required=False)
@click.option("--all", "everything", is_flag=True, help="Every account that has a refresh token, one after the other.")
@json_option
@plainly
def refresh(account: str | None, everything: bool, as_json: bool) -> None:
    """Refresh one account now, or all of them; Ctrl-C stops after the one under way."""
    if everything == (account is not None):
        raise click.UsageError("Name one account, or --all.")
    if account is None:
        _refresh_all(as_json)
        return
    account_id = find_account_id(account)
    refresh_account(account_id, Actor.COMMAND_LINE)
    if as_json:
        show_json({"refreshed": [account_id], "failed": []})
    else:
        click.echo("Refreshed: new tokens are stored.")


@accounts.command("disconnect", epilog=help_with("accounts disconnect external:acme", "accounts disconnect 7 --yes"))
@account_argument
@click.confirmation_option(prompt="Forget the tokens of this account?")
@json_option
@plainly
def disconnect(account: str, as_json: bool) -> None:
    """Forget an account's tokens."""
    account_id = find_account_id(account)
    disconnect_account(account_id, Actor.COMMAND_LINE)
    if as_json:
        show_json({"id": account_id, "state": AccountState.DISCONNECTED})
    else:
        click.echo("Disconnected. To withdraw the consent too, remove this app in Keap's API settings.")


@accounts.command(
    "reconnect-link", epilog=help_with("accounts reconnect-link external:acme", "accounts reconnect-link 7 --json")
)
@account_argument
@json_option
@plainly
def reconnect_link(account: str, as_json: bool) -> None:
    """Print a link by which the customer can reconnect, once, within seven days and without a sign-in."""
    made = make_link(find_account_id(account), Actor.COMMAND_LINE)
    if as_json:
        show_json(asdict(made))
    else:
        click.echo(made.url)


@accounts.command("erase", epilog=help_with("accounts erase external:acme", "accounts erase 7 --yes"))
@account_argument
@click.confirmation_option(prompt="Erase this account for good, its history included?")
@json_option
@plainly
def erase(account: str, as_json: bool) -> None:
    """Erase an account for good: its tokens, its names and its history."""
    account_id = find_account_id(account)
    erase_account(account_id, Actor.COMMAND_LINE)
    if as_json:
        show_json({"id": account_id, "is_erased": True})
    else:
        click.echo("Erased. To withdraw the consent too, remove this app in Keap's API settings.")


def _refresh_all(as_json: bool) -> None:
    ids = list_refreshable_ids()
    refreshed: list[int] = []
    failures: list[tuple[int, KeapConnectError]] = []
    stopping = threading.Event()
    with (
        on_stop(lambda _sign: stopping.set()),
        click.progressbar(ids, label="Refreshing", show_pos=True, hidden=as_json, file=sys.stderr) as progress,
    ):
        for account_id in progress:
            if stopping.wait(reserve_calls(1)):
                break
            try:
                refresh_account(account_id, Actor.COMMAND_LINE)
                refreshed.append(account_id)
            except KeapConnectError as problem:
                failures.append((account_id, problem))
    left = len(ids) - len(refreshed) - len(failures)
    codes = {answer_of(problem)[0] for _, problem in failures} | ({ExitCode.FAILED} if left else set())
    if as_json:
        failed = [{"id": each, "error": answer_of(one)[1], "error_description": str(one)} for each, one in failures]
        show_json({"refreshed": refreshed, "failed": failed, "left": left})
    else:
        for each, one in failures:
            click.echo(cell(f"Account {each}: {one}"))
        if left:
            click.echo(f"Stopped: {left} of {len(ids)} accounts were not tried.")
        elif not codes:
            click.echo("All are refreshed." if ids else "No account has a refresh token.")
    if not ids:
        sys.exit(ExitCode.NOTHING_TO_DO)
    sys.exit(codes.pop() if len(codes) == 1 else ExitCode.FAILED if codes else ExitCode.DONE)


def _all_accounts(text: str, state: str | None) -> Iterator[AccountView]:
    cursor: int | None = 0
    while cursor is not None:
        found, cursor = list_accounts_after(cursor, ROWS_AT_ONCE, text=text, state=state)
        yield from found


def _facts(account: AccountView) -> dict[str, object]:
    return {name: value for name, value in asdict(account).items() if name not in MASKED}
