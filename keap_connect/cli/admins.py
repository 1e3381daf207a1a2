"""`flask admins …`: the people who may see and repair all accounts."""

import sys
from dataclasses import asdict

import click
from flask.cli import AppGroup

from keap_connect.access.admins import create_admin, get_admin, invite_admin, list_admins
from keap_connect.access.passwords import issue_new_password_code
from keap_connect.access.second_factor import switch_off
from keap_connect.accounts.history import Actor
from keap_connect.cli.exit_codes import ExitCode, help_with, plainly
from keap_connect.cli.output import json_option, show_json, show_table
from keap_connect.models import Role
from keap_connect.runtime import runtime

admins = AppGroup("admins", help="The people who may see and repair all accounts.")


@admins.command(
    "create",
    epilog=help_with(
        "admins create --email ann@example.com", "admins create --email ben@example.com --role viewer --with-code"
    ),
)
@click.option("--email", required=True)
@click.option("--role", type=click.Choice([role.value for role in Role]), default=Role.ADMIN.value)
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input instead of asking.")
@click.option("--with-code", is_flag=True, help="Print a code with which they choose their password themselves.")
@click.option("--only-first", is_flag=True, help="Do nothing (exit code 3) when there is an admin already.")
@json_option
@plainly
def create(*, email: str, role: str, password_stdin: bool, with_code: bool, only_first: bool, as_json: bool) -> None:
    """Make an admin, or a viewer."""
    if with_code:
        if only_first and list_admins():
            _do_nothing(email, as_json)
        _tell_code(invite_admin(email, Role(role), Actor.COMMAND_LINE), as_json)
        return
    if password_stdin:
        password = sys.stdin.readline().rstrip("\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=as_json)
    if create_admin(email, password, role=Role(role), only_first=only_first) is None:
        _do_nothing(email, as_json)
    email = email.strip().lower()
    if as_json:
        show_json({"email": email, "is_created": True})
    else:
        click.echo(f"{'Admin' if role == Role.ADMIN else 'Viewer'} {email} was created.")


@admins.command("list", epilog=help_with("admins list", "admins list --json"))
@json_option
@plainly
def list_(as_json: bool) -> None:
    """List them: id, role, second factor, e-mail."""
    found = list_admins()
    if as_json:
        show_json([asdict(admin) for admin in found])
    else:
        rows = [(one.id, one.role, "on" if one.has_second_factor else None, one.email) for one in found]
        show_table(("ID", "ROLE", "SECOND FACTOR", "E-MAIL"), rows)


@admins.command("reset-password", epilog=help_with("admins reset-password --email ann@example.com"))
@click.option("--email", required=True)
@click.option("--second-factor-off", is_flag=True, help="Also switch the second factor off, for a phone that is gone.")
@json_option
@plainly
def reset_password(email: str, second_factor_off: bool, as_json: bool) -> None:
    """Print a code with which an admin chooses a new password, once, within a day."""
    code = issue_new_password_code(email, Actor.COMMAND_LINE)
    if second_factor_off:
        switch_off(get_admin(email), Actor.COMMAND_LINE)
    _tell_code(code, as_json)


def _tell_code(code: str, as_json: bool) -> None:
    url = f"{runtime().settings.public_url}/new-password"
    if as_json:
        show_json({"url": url, "code": code})
    else:
        click.echo(f"Open {url} and give this code, within a day:\n{code}")


def _do_nothing(email: str, as_json: bool) -> None:
    if as_json:
        show_json({"email": email.strip().lower(), "is_created": False})
    else:
        click.echo("There is an admin already.")
    sys.exit(ExitCode.NOTHING_TO_DO)
