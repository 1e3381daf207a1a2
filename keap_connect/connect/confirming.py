"""The grants that came by an invitation and wait until an admin or a program confirms who connected.

The grant is sealed in the row of its flow for seven days at most. Where the person had connected before, their account
has it already, and what waits is whether it is the account of this invitation.
"""

import logging
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from keap_connect.accounts.changes import has_other_person
from keap_connect.accounts.directory import lock_accounts
from keap_connect.clock import minute, utc_now
from keap_connect.connect.callback import ACCESS_TOKEN_LIFE, end_with, identify_and_store, open_pending
from keap_connect.connect.endings import Ending
from keap_connect.connect.flows import end_flow
from keap_connect.connect.invitations import OPEN, find_waiting, get_invitation, lock_invitation
from keap_connect.connect.matching import Match, fit_invitation, match_grant
from keap_connect.database import purge_deleted, read_all, read_one, read_session, write_or_retry, write_transaction
from keap_connect.errors import InvitationClosed, SealBroken
from keap_connect.events.history import EventKind, record
from keap_connect.keap.user_info import Identity
from keap_connect.models import Account, AuthorizationFlow, Invitation, InvitationState

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Waiting:
    """Who has used an invitation, as far as Keap said, and until when that can be confirmed.

    `was_connected`: they have an account with the grant already. `is_unreadable`: the stored grant does not open.
    """

    tenant_id: str | None
    business_name: str | None
    person_name: str | None
    person_email: str | None
    until: datetime
    was_connected: bool
    is_unreadable: bool


def view_waiting(invitation_id: int) -> Waiting | None:
    """Return who waits to be confirmed, if anybody does."""
    with read_session() as session:
        flow = find_waiting(session, invitation_id)
        account = session.get(Account, flow.account_id) if flow and flow.account_id else None
    if flow is None or flow.pending_until is None:
        return None
    who: Account | Identity = account or Identity()
    is_unreadable = False
    try:
        if grant := open_pending(flow):
            who = grant.identity
    except SealBroken as problem:
        log.error("The grant that waits for invitation %s does not open: %s", invitation_id, problem)
        is_unreadable = True
    facts = who.tenant_id, who.business_name, who.person_name, who.person_email
    return Waiting(*facts, flow.pending_until, account is not None, is_unreadable)


def confirm(invitation_id: int, actor: str) -> Invitation:
    """Store the grant that waits; its account gets the label and the external id of the invitation.

    An account of the same person that was connected after the grant came keeps its own: Keap may have ended the older.

    Raises:
        InvitationNotFound: there is none.
        InvitationClosed: nobody waits, or the account was disconnected or is another person's since the grant came.
        SealBroken: the stored grant does not open.
    """

    def store(session: Session) -> None:
        flow, invitation = _lock_waiting(session, invitation_id)
        record(session, EventKind.INVITATION_CONFIRMED, None, actor, invitation=invitation_id)
        grant = open_pending(flow)
        if grant is None:
            match = _match_connected(session, flow, invitation)
        else:
            match = match_grant(session, grant, invitation=invitation)
        if match.account_id is None:
            raise InvitationClosed("The account was disconnected after this person had allowed it. Decline it.")
        end_with(session, flow, match)

    get_invitation(invitation_id)
    write_or_retry(store)
    return get_invitation(invitation_id)


def decline(invitation_id: int, actor: str) -> Invitation:
    """Delete the grant that waits, unless an account has it already. The link works again until it expires.

    Raises InvitationNotFound; InvitationClosed: nobody waits.
    """
    get_invitation(invitation_id)
    with write_transaction() as session:
        flow, invitation = _lock_waiting(session, invitation_id)
        end_flow(session, flow.id, Ending.CONFIRMATION_DECLINED, flow.account_id)
        invitation.state = OPEN[-1]
        grant = "Their account keeps its grant." if flow.account_id else "Their grant is deleted."
        details = {"grant": grant, "until": minute(invitation.expires_at)}
        record(session, EventKind.INVITATION_DECLINED, None, actor, invitation=invitation_id, **details)
    purge_deleted()
    return get_invitation(invitation_id)


def _match_connected(session: Session, flow: AuthorizationFlow, invitation: Invitation) -> Match:
    """End an invitation with the account that got the grant of this flow when it came."""
    account = lock_accounts(session, Account.id == flow.account_id).get(flow.account_id or 0)
    if account is None:
        raise InvitationClosed("The account no longer exists.")
    if account.disconnected_at is not None:
        return Match(Ending.DISCONNECTED, None)
    if session.scalar(select(has_other_person()).where(AuthorizationFlow.id == flow.id)):
        raise InvitationClosed("The account was connected by another person since then. Decline it.")
    fit_invitation(session, invitation, account)
    return Match(Ending.RECONNECTED, account.id)


def _lock_waiting(session: Session, invitation_id: int) -> tuple[AuthorizationFlow, Invitation]:
    flow, invitation = find_waiting(session, invitation_id), lock_invitation(session, invitation_id)
    if flow is None or invitation.state != InvitationState.WAITING:
        raise InvitationClosed("Nobody waits to be confirmed.")
    return flow, invitation


def list_waiting() -> list[int]:
    """Return the flows of the last day whose grant waits, and whose person Keap has not named.

    First come those that wait for nothing else, and so are the most urgent.
    """
    flow, now = AuthorizationFlow, utc_now()
    is_nameless = flow.ending == Ending.IDENTITY_PENDING
    waits = is_nameless | (flow.ending == Ending.CONFIRMATION_PENDING) & flow.account_id.is_(None)
    is_recent = flow.pending_until > now, flow.ended_at > now - ACCESS_TOKEN_LIFE
    found = read_all(select(flow).where(waits, *is_recent).order_by(~is_nameless, flow.id))
    return [one.id for one in found if _is_unnamed(one)]


def _is_unnamed(flow: AuthorizationFlow) -> bool:
    try:
        grant = open_pending(flow)
    except SealBroken:
        return False
    return grant is not None and not grant.identity.is_complete


def identify_waiting(flow_id: int) -> None:
    """Ask Keap again whose a waiting grant is. It is stored at once, unless somebody must confirm who it is.

    Then it waits as before, and says who it is; the account of a person who is connected already gets it at once.
    """
    flow = read_one(select(AuthorizationFlow).where(AuthorizationFlow.id == flow_id))
    if flow is not None and _is_unnamed(flow):
        identify_and_store(flow)
