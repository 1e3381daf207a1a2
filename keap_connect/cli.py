"""`flask --app app …`: what an operator does from a shell. Exit codes: 1 an error, 3 nothing to do."""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import click
from flask import Flask, current_app
from flask.cli import AppGroup
from sqlalchemy.exc import OperationalError

from keap_connect.access.admins import create_admin
from keap_connect.accounts.credentials import fingerprint
from keap_connect.accounts.directory import disconnect as disconnect_account
from keap_connect.accounts.directory import list_accounts, list_refreshable_ids, view_account
from keap_connect.accounts.history import Actor, list_events
from keap_connect.audit.hand_outs import record_hand_out
from keap_connect.deployment import check_deployment
from keap_connect.errors import KeapConnectError
from keap_connect.refreshing import brakes
from keap_connect.refreshing.serving import refresh_account, valid_token
from keap_connect.worker import instance
from keap_connect.worker.due import reserve_calls
from keap_connect.worker.loop import SweepWorker

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
NOTHING_TO_DO = 3

admins = AppGroup("admins", help="The people who may see and repair all accounts.")
accounts = AppGroup("accounts", help="The connected Keap accounts.")


def register_commands(app: Flask) -> None:
    """Add our commands to `flask`."""
    app.cli.add_command(admins)
    app.cli.add_command(accounts)
    app.cli.add_command(worker)
    app.cli.add_command(sandbox)


def _plainly(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Turn our own errors, and a database that is not ready, into one sentence and exit code 1."""

    @wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            check_deployment()
            return command(*args, **kwargs)
        except KeapConnectError as problem:
            raise click.ClickException(str(problem)) from problem
        except OperationalError as problem:
            raise click.ClickException("The database does not answer. Try again in a minute.") from problem

    return run


@admins.command("create")
@click.option("--email", required=True)
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input instead of asking.")
@click.option("--only-first", is_flag=True, help="Do nothing (exit code 3) when there is an admin already.")
@_plainly
def create(email: str, password_stdin: bool, only_first: bool) -> None:
    """Make an admin."""
    if password_stdin:
        password = sys.stdin.readline().rstrip("\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    if create_admin(email, password, only_first=only_first) is None:
        click.echo("There is an admin already.")
        sys.exit(NOTHING_TO_DO)
    click.echo(f"Admin {email.strip().lower()} was created.")


@accounts.command("list")
@click.argument("text", default="")
@_plainly
def list_(text: str) -> None:
    """List accounts, what needs attention first; TEXT searches them."""
    page = 1
    while True:
        found = list_accounts(text, page=page)
        for account in found.accounts:
            person = account.person_email or "-"
            click.echo(
                f"{account.id:>6}  {account.state:<18}  {account.tenant_id or '-':<10}  {person}  {account.title}"
            )
        if page >= found.pages:
            break
        page += 1


@accounts.command("show")
@click.argument("account_id", type=int)
@_plainly
def show(account_id: int) -> None:
    """Show one account and its history."""
    account = view_account(account_id)
    for name in (
        "id",
        "state",
        "next_step",
        "tenant_id",
        "business_name",
        "person_name",
        "person_email",
        "kind",
    ):
        click.echo(f"{name:<26}{getattr(account, name) or '-'}")
    for name in ("connected_at", "refreshed_at", "access_token_expires_at", "refresh_token_expires_at"):
        moment = getattr(account, name)
        click.echo(f"{name:<26}{moment.isoformat(timespec='seconds') if moment else '-'}")
    for event in list_events(account_id):
        click.echo(f"{event.at.isoformat(timespec='seconds')}  {event.actor}  {event.sentence}")


@accounts.command("token")
@click.argument("account_id", type=int)
@_plainly
def token(account_id: int) -> None:
    """Print a valid access token; refresh first when it must."""
    served = valid_token(account_id, Actor.COMMAND_LINE)
    record_hand_out(account_id, fingerprint(served.access_token), Actor.COMMAND_LINE)
    if served.warning:
        click.echo(f"Warning: {served.warning}", err=True)
    click.echo(served.access_token)


@accounts.command("refresh")
@click.argument("account_id", type=int, required=False)
@click.option("--all", "everything", is_flag=True, help="Every account that has a refresh token, one after the other.")
@_plainly
def refresh(account_id: int | None, everything: bool) -> None:
    """Refresh one account now, or all of them; Ctrl-C stops after the one under way."""
    if everything == (account_id is not None):
        raise click.UsageError("Name one account, or --all.")
    if account_id is not None:
        refresh_account(account_id, Actor.COMMAND_LINE)
        click.echo("Refreshed: new tokens are stored.")
        return
    failed = []
    with click.progressbar(list_refreshable_ids(), label="Refreshing", show_pos=True) as ids:
        for each in ids:
            time.sleep(reserve_calls(1))
            try:
                refresh_account(each, Actor.COMMAND_LINE)
            except KeapConnectError as problem:
                failed.append(f"Account {each}: {problem}")
    click.echo("\n".join(failed) or "All are refreshed.")
    sys.exit(1 if failed else 0)


@accounts.command("disconnect")
@click.argument("account_id", type=int)
@click.confirmation_option(prompt="Forget the tokens of this account?")
@_plainly
def disconnect(account_id: int) -> None:
    """Forget an account's tokens."""
    disconnect_account(account_id, Actor.COMMAND_LINE)
    click.echo("Disconnected. To withdraw the consent too, remove this app in Keap's API settings.")


@click.command("worker")
@click.option("--once", is_flag=True, help="Refresh what is due now, then end.")
@click.option("--confirm-only-one", is_flag=True, help="Confirm that no other installation uses these accounts.")
@click.option("--resume", is_flag=True, help="Let the sweep go on after a mass refusal or a refused client.")
@_plainly
def worker(once: bool, confirm_only_one: bool, resume: bool) -> None:
    """Refresh accounts ahead of time, until SIGTERM; any number of workers share one database."""
    if resume:
        for name in (brakes.MASS_REFUSAL, brakes.CLIENT_REFUSED):
            brakes.end_alarm(name)
    if confirm_only_one:
        instance.confirm_only_one()
    for warning in check_deployment():
        click.echo(warning, err=True)
    SweepWorker(current_app._get_current_object()).run(until_idle=once)  # type: ignore[attr-defined]
    for alarm in brakes.list_alarms():
        click.echo(f"The sweep is held: {alarm.reason}", err=True)


@click.command("sandbox", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def sandbox(arguments: tuple[str, ...]) -> None:
    """Start the sandbox, a stand-in for Keap, as a program of its own."""
    sys.exit(subprocess.call([sys.executable, "-m", "keap_connect.sandbox", *arguments]))  # noqa: S603
