"""`flask --app app admins …`: who may come in. Exit codes: 1 an error, 3 nothing to do."""

import sys

import click
from flask.cli import AppGroup

from keap_connect.access.admins import create_admin, get_admin, invite_admin, list_admins
from keap_connect.access.passwords import issue_new_password_code
from keap_connect.access.second_factor import switch_off
from keap_connect.accounts.history import Actor
from keap_connect.cli import plainly
from keap_connect.models import Role
from keap_connect.runtime import runtime

NOTHING_TO_DO = 3

admins = AppGroup("admins", help="The people who may see and repair all accounts.")


@admins.command("create")
@click.option("--email", required=True)
@click.option("--role", type=click.Choice([role.value for role in Role]), default=Role.ADMIN.value)
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input instead of asking.")
@click.option("--with-code", is_flag=True, help="Print a code with which they choose their password themselves.")
@click.option("--only-first", is_flag=True, help="Do nothing (exit code 3) when there is an admin already.")
@plainly
def create(email: str, role: str, password_stdin: bool, with_code: bool, only_first: bool) -> None:
    """Make an admin, or a viewer."""
    if with_code:
        if only_first and list_admins():
            _do_nothing()
        _tell_code(invite_admin(email, Role(role), Actor.COMMAND_LINE))
        return
    if password_stdin:
        password = sys.stdin.readline().rstrip("\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    if create_admin(email, password, role=Role(role), only_first=only_first) is None:
        _do_nothing()
    click.echo(f"{'Admin' if role == Role.ADMIN else 'Viewer'} {email.strip().lower()} was created.")


@admins.command("list")
@plainly
def list_() -> None:
    """List them: id, role, second factor, e-mail."""
    for admin in list_admins():
        factor = "second factor" if admin.has_second_factor else "-"
        click.echo(f"{admin.id:>6}  {admin.role:<6}  {factor:<13}  {admin.email}")


@admins.command("reset-password")
@click.option("--email", required=True)
@click.option("--second-factor-off", is_flag=True, help="Also switch the second factor off, for a phone that is gone.")
@plainly
def reset_password(email: str, second_factor_off: bool) -> None:
    """Print a code with which an admin chooses a new password, once, within a day."""
    code = issue_new_password_code(email, Actor.COMMAND_LINE)
    if second_factor_off:
        switch_off(get_admin(email), Actor.COMMAND_LINE)
    _tell_code(code)


def _tell_code(code: str) -> None:
    click.echo(f"Open {runtime().settings.public_url}/new-password and give this code, within a day:\n{code}")


def _do_nothing() -> None:
    click.echo("There is an admin already.")
    sys.exit(NOTHING_TO_DO)
