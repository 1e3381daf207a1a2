"""`./keap-connect invitations …`: personal links, by which customers connect."""

from typing import Any

import click

from keap_connect.cli.command import Answer, command, group, table
from keap_connect.connect import confirming
from keap_connect.connect import invitations as invited
from keap_connect.connect.invitation_lists import list_invitations
from keap_connect.connect.invitations import LONGEST_DAYS, USUAL_DAYS, MadeInvitation, NewInvitation
from keap_connect.events.history import Actor
from keap_connect.models import Invitation, InvitationState

FACTS = (
    "id state label external_id email note return_url expected_tenant_id needs_confirmation is_mailed account_id "
    "made_by made_at sent_at opened_at expires_at"
)

invitations = group("invitations", "Personal links, by which customers connect.")
number = click.argument("invitation_id", type=click.IntRange(min=1))


@command("create", "--label 'Bright Dental' --external-id crm:7", "--expected-tenant ab123 --json", within=invitations)
@click.option("--label", help="The customer's name; they see it, and the account gets it.")
@click.option("--external-id", help="Your own id of this customer.")
@click.option("--email", help="Their address.")
@click.option("--note", help="For admins and programs.")
@click.option("--return-url", help="Where the customer goes back to; its origin is one of RETURN_ORIGINS.")
@click.option("--expected-tenant", help="A grant of another Keap account waits until you confirm it.")
@click.option("--needs-confirmation", is_flag=True, help="Any grant waits until you confirm it.")
@click.option("--days", type=click.IntRange(1, LONGEST_DAYS), default=USUAL_DAYS, help="How long it is valid.")
def create(expected_tenant: str | None, days: int, **wanted: Any) -> Answer:
    """Make an invitation and print its link; it is shown only once."""
    made = NewInvitation(**wanted, expected_tenant_id=expected_tenant, valid_days=days)
    return _made(invited.make_invitation(made, Actor.COMMAND_LINE))


@command("list", "", "--state waiting --json", within=invitations)
@click.option("--state", type=click.Choice([state.value for state in InvitationState]))
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many at most.")
def list_(state: str | None, limit: int) -> Answer:
    """List invitations, the newest first, without their links."""
    found = list_invitations(limit, state=state).rows
    rows = [
        (one.id, one.state, one.expires_at, one.external_id, one.account_id, one.label or one.email) for one in found
    ]
    headings = ("ID", "STATE", "EXPIRES", "EXTERNAL ID", "ACCOUNT", "FOR WHOM")
    return Answer([_facts(one) for one in found], table(headings, rows))


@command("resend", "7", within=invitations)
@number
def resend(invitation_id: int) -> Answer:
    """Print a new link of an invitation; the one before no longer works."""
    return _made(invited.resend(invitation_id, Actor.COMMAND_LINE))


@command("withdraw", "7", within=invitations)
@number
def withdraw(invitation_id: int) -> Answer:
    """End an invitation: its link no longer works, and a grant that waits is deleted."""
    return _changed(invited.withdraw(invitation_id, Actor.COMMAND_LINE))


@command("confirm", "7", within=invitations)
@number
def confirm(invitation_id: int) -> Answer:
    """Confirm who used an invitation; their grant is stored in its account."""
    return _changed(confirming.confirm(invitation_id, Actor.COMMAND_LINE))


@command("decline", "7", within=invitations)
@number
def decline(invitation_id: int) -> Answer:
    """Decline who used an invitation: their grant is deleted, and the link works again."""
    return _changed(confirming.decline(invitation_id, Actor.COMMAND_LINE))


def _facts(one: Invitation) -> dict[str, object]:
    return {name: getattr(one, name) for name in FACTS.split()}


def _made(made: MadeInvitation) -> Answer:
    note = f"This is the link of invitation {made.row.id}. It is not shown again."
    return Answer({**_facts(made.row), "url": made.url}, made.url, note)


def _changed(row: Invitation) -> Answer:
    account = f", as account {row.account_id}" if row.account_id else ""
    return Answer(_facts(row), f"Invitation {row.id} is {row.state}{account}.")
