"""The grants that came by an invitation and wait until an admin or a program confirms who connected.

The grant is sealed in the row of its flow for seven days at most. Where the person had connected before, their account
has it already, and what waits is whether it is the account of this invitation.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from keap_connect.accounts.schedule import next_refresh_at
from keap_connect.clock import utc_now
from keap_connect.connect.callback import open_pending
from keap_connect.connect.endings import Ending
from keap_connect.connect.flows import end_flow
from keap_connect.connect.invitations import OPEN, find_waiting, get_invitation, lock_invitation
from keap_connect.connect.matching import match_grant, use_invitation
from keap_connect.connect.reconnect_links import revoke_open_links
from keap_connect.database import purge_deleted, read_session, write_or_retry, write_transaction
from keap_connect.errors import InvitationClosed
from keap_connect.events.history import EventKind, record
from keap_connect.keap.user_info import Identity
from keap_connect.models import Account, AuthorizationFlow, Invitation


@dataclass(frozen=True)
class Waiting:
    """Who has used an invitation, as far as Keap said, and until when that can be confirmed."""

    tenant_id: str | None
    business_name: str | None
    person_name: str | None
    person_email: str | None
    until: datetime


def view_waiting(invitation_id: int) -> Waiting | None:
    """Return who waits to be confirmed, if anybody does.

    Raises:
        SealBroken: the stored grant does not open.
    """
    with read_session() as session:
        flow = find_waiting(session, invitation_id)
        grant = open_pending(flow) if flow else None
        account = session.get(Account, flow.account_id) if flow and flow.account_id else None
    who: Account | Identity | None = grant.identity if grant else account
    if flow is None or flow.pending_until is None or who is None:
        return None
    return Waiting(who.tenant_id, who.business_name, who.person_name, who.person_email, flow.pending_until)


def confirm(invitation_id: int, actor: str) -> Invitation:
    """Store the grant that waits; its account gets the label and the external id of the invitation.

    Raises:
        InvitationNotFound: there is none.
        InvitationClosed: nobody waits.
        SealBroken: the stored grant does not open.
    """

    def store(session: Session) -> None:
        flow = _get_waiting(session, invitation_id)
        invitation = lock_invitation(session, invitation_id)
        record(session, EventKind.INVITATION_CONFIRMED, None, actor, invitation=invitation_id)
        grant = open_pending(flow)
        if grant is None:  # a person who had connected before
            account = session.get_one(Account, flow.account_id, with_for_update=True)
            use_invitation(session, invitation, account)
            end_flow(session, flow.id, Ending.RECONNECTED, account.id)
            return
        match = match_grant(session, grant, invitation=invitation)
        account = session.get_one(Account, match.account_id)
        if account.refresh_token_issued_at is not None and flow.ended_at is not None:
            account.refresh_token_issued_at = flow.ended_at  # Keap counts its 45 days from when it gave the grant
            account.next_refresh_at = next_refresh_at(account, utc_now())
        revoke_open_links(session, account.id)
        end_flow(session, flow.id, match.ending, account.id)

    get_invitation(invitation_id)
    write_or_retry(store)
    return get_invitation(invitation_id)


def decline(invitation_id: int, actor: str) -> Invitation:
    """Delete the grant that waits. The link works again until the invitation expires.

    Raises:
        InvitationNotFound: there is none.
        InvitationClosed: nobody waits.
    """
    get_invitation(invitation_id)
    with write_transaction() as session:
        flow = _get_waiting(session, invitation_id)
        end_flow(session, flow.id, Ending.CONFIRMATION_DECLINED, flow.account_id)
        lock_invitation(session, invitation_id).state = OPEN[-1]
        record(session, EventKind.INVITATION_DECLINED, None, actor, invitation=invitation_id)
    purge_deleted()
    return get_invitation(invitation_id)


def _get_waiting(session: Session, invitation_id: int) -> AuthorizationFlow:
    flow = find_waiting(session, invitation_id)
    if flow is None:
        raise InvitationClosed("Nobody waits to be confirmed.")
    return flow
