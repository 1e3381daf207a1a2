"""`flask admins …`: the people who may see and repair all accounts."""

import sys

import click
from flask.cli import AppGroup

from keap_connect.access.admins import create_admin
from keap_connect.cli.exit_codes import ExitCode, help_with, plainly
from keap_connect.cli.output import json_option, show_json

admins = AppGroup("admins", help="The people who may see and repair all accounts.")


@admins.command("create", epilog=help_with("admins create --email ann@example.com"))
@click.option("--email", required=True)
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input instead of asking.")
@click.option("--only-first", is_flag=True, help="Do nothing (exit code 3) when there is an admin already.")
@json_option
@plainly
def create(email: str, password_stdin: bool, only_first: bool, as_json: bool) -> None:
    """Make an admin."""
    if password_stdin:
        password = sys.stdin.readline().rstrip("\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=as_json)
    admin = create_admin(email, password, only_first=only_first)
    email = email.strip().lower()
    if as_json:
        show_json({"email": email, "is_created": admin is not None})
    else:
        click.echo(f"Admin {email} was created." if admin else "There is an admin already.")
    sys.exit(ExitCode.DONE if admin else ExitCode.NOTHING_TO_DO)
