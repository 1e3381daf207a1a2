"""`./keap-connect admins …`: the people who may see and repair all accounts."""

import sys

import click

from keap_connect.access import admins as access
from keap_connect.access.passwords import issue_password_link, issue_sign_in_code
from keap_connect.access.second_factor import switch_off
from keap_connect.cli.command import Answer, command, group, table
from keap_connect.errors import ExitCode
from keap_connect.events.history import Actor
from keap_connect.models import Role

admins = group("admins", "The people who may see and repair all accounts.")


@command("create", "--email ann@example.com", "--email ben@example.com --role viewer --with-link", within=admins)
@click.option("--email", required=True)
@click.option("--role", type=click.Choice([role.value for role in Role]), default=Role.ADMIN.value)
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input instead of asking.")
@click.option("--with-link", is_flag=True, help="Print a link by which they choose their own password.")
@click.option(
    "--only-first",
    is_flag=True,
    help="Do nothing (exit code 3) when there is an admin already. With --with-link, make new links until one is used.",
)
def create(*, email: str, role: str, password_stdin: bool, with_link: bool, only_first: bool) -> Answer:
    """Create an admin, or a viewer."""
    address = email.strip().lower()
    exists = Answer({"email": address, "is_created": False}, "There is an admin already.", code=ExitCode.NOTHING_TO_DO)
    if with_link and only_first:
        link = access.invite_first_admin(email, Actor.COMMAND_LINE)
        return exists if link is None else _link(link, access.INVITED_FOR.days)
    if with_link:
        return _link(access.invite_admin(email, Role(role), Actor.COMMAND_LINE), access.INVITED_FOR.days)
    if password_stdin:
        try:
            password = sys.stdin.readline().rstrip("\n").encode().decode()
        except UnicodeError:
            raise click.UsageError("The password is not UTF-8 text.") from None
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    if access.create_admin(email, password, role=Role(role), only_first=only_first) is None:
        return exists
    return Answer({"email": address, "is_created": True}, f"{role.capitalize()} {address} was created.")


@command("list", "", "--json", within=admins)
def list_() -> Answer:
    """List them: id, role, second factor, e-mail."""
    found = access.list_admins()
    rows = [(one.id, one.role, "on" if one.has_second_factor else None, one.email) for one in found]
    return Answer([admin._asdict() for admin in found], table(("ID", "ROLE", "SECOND FACTOR", "E-MAIL"), rows))


@command("reset-password", "--email ann@example.com", within=admins)
@click.option("--email", required=True)
@click.option(
    "--second-factor-off", is_flag=True, help="Also turn off two-factor authentication, for a phone that is lost."
)
def reset_password(email: str, second_factor_off: bool) -> Answer:
    """Print a link by which an admin chooses a new password, once, within a day."""
    link = issue_password_link(email, Actor.COMMAND_LINE)
    if second_factor_off:
        switch_off(access.get_admin(email), Actor.COMMAND_LINE)
    return _link(link, days=1)


@command("sign-in-code", "--email ann@example.com", within=admins)
@click.option("--email", required=True)
def sign_in_code(email: str) -> Answer:
    """Print a code that lets an admin sign in from a new browser, once, while others guess at the password."""
    code = issue_sign_in_code(email, Actor.COMMAND_LINE)
    return Answer({"code": code}, code, "They enter it on the sign-in page with their password, once, within an hour.")


def _link(link: str, days: int) -> Answer:
    time = "a day" if days == 1 else f"{days} days"
    return Answer({"url": link}, link, f"This link lets them choose a password, once, within {time}.")
