"""The customer's half of an invitation: its link, the flow that it starts, and the grant that comes by it."""

from datetime import datetime

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from keap_connect.clock import minute, utc_now
from keap_connect.connect import invitations
from keap_connect.connect.endings import Ending
from keap_connect.connect.flows import start_flow
from keap_connect.crypto import hash_secret
from keap_connect.database import read_one, write_transaction
from keap_connect.errors import LinkGone
from keap_connect.events.history import Actor, EventKind
from keap_connect.keap.user_info import Identity
from keap_connect.models import AuthorizationFlow, Invitation, InvitationState


def return_link(invitation_id: int | None) -> str | None:
    """Return where the customer goes back to, if that is known and still allowed. It names the invitation, no more."""
    row = read_one(select(Invitation).where(Invitation.id == invitation_id))
    if row is None or not row.return_url or not invitations.is_allowed_return_url(row.return_url):
        return None
    return f"{row.return_url}{'&' if '?' in row.return_url else '?'}invitation={row.id}"


def open_link(token: str, *, is_seen: bool) -> Invitation:
    """Return the invitation of a link, and note that it was opened if a person sees the answer.

    Raises LinkGone: the link is unknown, expired, withdrawn, or replaced by a newer one.
    """
    row = invitations.get_by_link(Invitation.token_hash == hash_secret(token))
    if row.state == InvitationState.SENT and is_seen:
        with write_transaction() as session:
            row = invitations.lock_invitation(session, row.id)
            if row.state == InvitationState.SENT:
                row.state, row.opened_at = InvitationState.OPENED, utc_now()
    return row


def start_by_invitation(token: str, browser: str) -> str:
    """Start connecting and return the authorization URL. Raises LinkGone: the link does not work, or was used."""
    return _start(Invitation.token_hash == hash_secret(token), browser)


def start_by_invitation_again(flow: AuthorizationFlow, browser: str) -> str:
    """Start again with the invitation that started a flow of this browser. Raises LinkGone."""
    return _start(and_(Invitation.id == flow.invitation_id, Invitation.sent_at <= flow.started_at), browser)


def find_usable(session: Session, flow: AuthorizationFlow) -> Invitation | None:
    """Return the invitation that started a flow if it may still be used, locked until the transaction ends.

    A flow may end after its invitation has expired, but not after that was used, withdrawn or got a newer link.
    An invitation that waits may be used by the flow whose grant waits for it.
    """
    row = session.get(Invitation, flow.invitation_id or 0, with_for_update=True)
    states = (InvitationState.WAITING,) if flow.ending == Ending.CONFIRMATION_PENDING else invitations.UNUSED
    return row if row is not None and row.state in states and row.sent_at <= flow.started_at else None


def must_wait(invitation: Invitation, identity: Identity) -> bool:
    """Whether somebody must confirm first that this is the person who was invited."""
    expected = invitation.expected_tenant_id
    return invitation.needs_confirmation or (expected is not None and expected != identity.tenant_id)


def note_waiting(
    session: Session, invitation: Invitation, identity: Identity, account_id: int | None, until: datetime
) -> None:
    """Record that a grant waits; `account_id` is the account of the same person and tenant if there is one already."""
    invitation.state = InvitationState.WAITING
    details = {"tenant_id": identity.tenant_id, "until": minute(until)}
    invitations.record_about(
        session, EventKind.INVITATION_WAITING, invitation, Actor.CUSTOMER, account_id=account_id, **details
    )


def _start(which: ColumnElement[bool], browser: str) -> str:
    row = invitations.get_by_link(which)
    if row.state not in invitations.OPEN:
        raise LinkGone("The invitation was used.")
    return start_flow(browser, invitation_id=row.id)
