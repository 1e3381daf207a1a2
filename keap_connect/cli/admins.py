"""`./keap-connect admins …`: the people who may see and repair all accounts."""

import sys
from dataclasses import asdict
from typing import NoReturn

import click
from flask.cli import AppGroup

from keap_connect.access.admins import create_admin, get_admin, invite_admin, invite_first_admin, list_admins
from keap_connect.access.passwords import issue_password_link
from keap_connect.access.second_factor import switch_off
from keap_connect.cli.exit_codes import ExitCode, help_with, plainly
from keap_connect.cli.output import json_option, show_json, show_table
from keap_connect.events.history import Actor
from keap_connect.models import Role

admins = AppGroup("admins", help="The people who may see and repair all accounts.")


@admins.command(
    "create",
    epilog=help_with(
        "admins create --email ann@example.com", "admins create --email ben@example.com --role viewer --with-link"
    ),
)
@click.option("--email", required=True)
@click.option("--role", type=click.Choice([role.value for role in Role]), default=Role.ADMIN.value)
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input instead of asking.")
@click.option("--with-link", is_flag=True, help="Print a link by which they choose their password themselves.")
@click.option(
    "--only-first",
    is_flag=True,
    help="Do nothing (exit code 3) when there is an admin already. With --with-link, make new links until one is used.",
)
@json_option
@plainly
def create(*, email: str, role: str, password_stdin: bool, with_link: bool, only_first: bool, as_json: bool) -> None:
    """Make an admin, or a viewer."""
    if with_link:
        link = (
            invite_first_admin(email, Actor.COMMAND_LINE)
            if only_first
            else invite_admin(email, Role(role), Actor.COMMAND_LINE)
        )
        if link is None:
            _do_nothing(email, as_json)
        _show_link(link, as_json)
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
    """Print a link by which an admin chooses a new password, once, within a day."""
    link = issue_password_link(email, Actor.COMMAND_LINE)
    if second_factor_off:
        switch_off(get_admin(email), Actor.COMMAND_LINE)
    _show_link(link, as_json)


def _show_link(link: str, as_json: bool) -> None:
    if as_json:
        show_json({"url": link})
    else:
        click.echo("This link lets them choose a password, once, within a day.", err=True)
        click.echo(link)


def _do_nothing(email: str, as_json: bool) -> NoReturn:
    if as_json:
        show_json({"email": email.strip().lower(), "is_created": False})
    else:
        click.echo("There is an admin already.")
    sys.exit(ExitCode.NOTHING_TO_DO)
