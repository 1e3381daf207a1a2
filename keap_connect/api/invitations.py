"""Operations on invitations: make, list, send again, withdraw, and confirm or decline who connected."""

from functools import partial
from typing import Any

from keap_connect.access.api_keys import Scope
from keap_connect.api.operations import Operation, current_key
from keap_connect.api.questions import InvitationFilter, InvitationRequest
from keap_connect.api.schemas import Invitation, InvitationList
from keap_connect.connect import confirming, invitation_lists, invitations
from keap_connect.connect.invitations import MadeInvitation, NewInvitation
from keap_connect.models import Invitation as InvitationRow

ALL, ONE = "/v1/invitations", "/v1/invitations/<int:invitation_id>"
operation = partial(Operation, whole_keys="use invitations, which are for accounts to come")
reads, writes = partial(operation, scope=Scope.ACCOUNTS_READ), partial(operation, scope=Scope.ACCOUNTS_WRITE)


@reads("GET", ALL, "List invitations", InvitationList(), query=InvitationFilter())
def list_invitations(query: dict[str, Any]) -> dict[str, Any]:
    """Newest first, without their links. A key that is only for some accounts can use no invitations."""
    state, external_id = query.get("state"), query.get("external_id")
    found = invitation_lists.list_invitations(query["limit"], query["cursor"], state=state, external_id=external_id)
    return {"invitations": [_shown(row) for row in found.rows], "next_cursor": found.next_cursor}


@writes("POST", ALL, "Invite a customer", Invitation(), body=InvitationRequest(), status=201, refusals=(409,))
def create_invitation(body: dict[str, Any]) -> dict[str, Any]:
    """The answer has the link, `url`, which is shown only once: send it to the customer. It connects one account, once,
    which gets the label and the external id. 409: an account has this external id already, or the return URL is not
    allowed."""
    return _made(invitations.make_invitation(NewInvitation(**body), current_key().actor))


@reads("GET", ONE, "Show an invitation", Invitation())
def show_invitation(invitation_id: int) -> dict[str, Any]:
    """Its state, and the account that it connected. What the return URL of a customer says is no proof: ask here."""
    return _shown(invitations.get_invitation(invitation_id))


@writes("DELETE", ONE, "Withdraw an invitation", Invitation(), refusals=(409,))
def withdraw_invitation(invitation_id: int) -> dict[str, Any]:
    """Its link no longer works, and a grant that waits is deleted. 409: it is connected."""
    return _shown(invitations.withdraw(invitation_id, current_key().actor))


@writes("POST", f"{ONE}/resend", "Make a new link for an invitation", Invitation(), refusals=(409,))
def resend_invitation(invitation_id: int) -> dict[str, Any]:
    """The answer has the new link, `url`, which is shown only once and works for as long as the first one did. The link
    before no longer works. 409: it is connected, waiting or withdrawn."""
    return _made(invitations.resend(invitation_id, current_key().actor))


@writes("POST", f"{ONE}/confirm", "Confirm who used an invitation", Invitation(), refusals=(409,))
def confirm_invitation(invitation_id: int) -> dict[str, Any]:
    """The grant that waits is stored in its account. 409: nobody waits, the stored grant does not open, or the account
    was disconnected or connected by another person since the grant came."""
    return _shown(confirming.confirm(invitation_id, current_key().actor))


@writes("POST", f"{ONE}/decline", "Decline who used an invitation", Invitation(), refusals=(409,))
def decline_invitation(invitation_id: int) -> dict[str, Any]:
    """The grant that waits is deleted, unless an account has it already, and the link works again until it expires.
    409: nobody waits."""
    return _shown(confirming.decline(invitation_id, current_key().actor))


def _shown(row: InvitationRow) -> dict[str, Any]:
    names = [name for name in Invitation().fields if name not in {"waiting", "url"}]
    waiting = confirming.view_waiting(row.id) if row.state == "waiting" else None
    return {name: getattr(row, name) for name in names} | {"waiting": waiting}


def _made(made: MadeInvitation) -> dict[str, Any]:
    return _shown(made.row) | {"url": made.url}
