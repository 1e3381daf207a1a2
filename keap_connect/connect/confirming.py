"""The grants that came by an invitation and wait until an admin or a program confirms who connected.

The grant is sealed in the row of its flow for seven days at most. Where the person had connected before, their account
has it already, and what waits is whether it is the account of this invitation.
"""

import logging
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from keap_connect.accounts.directory import lock_accounts
from keap_connect.accounts.state import state_of
from keap_connect.accounts.stored_state import registration
from keap_connect.clock import utc_now
from keap_connect.connect.callback import ACCESS_TOKEN_LIFE, identify_and_store, keep_pending, open_pending
from keap_connect.connect.endings import Ending
from keap_connect.connect.flows import end_flow
from keap_connect.connect.invitations import OPEN, find_waiting, get_invitation, lock_invitation
from keap_connect.connect.invited import must_wait, note_waiting
from keap_connect.connect.matching import Grant, Match, has_newer_grant, is_of, match_grant, use_invitation
from keap_connect.connect.reconnect_links import revoke_open_links
from keap_connect.database import purge_deleted, read_session, write_or_retry, write_transaction
from keap_connect.errors import InvitationClosed, SealBroken
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.keap.user_info import Identity, ask_identity
from keap_connect.models import Account, AccountEvent, AuthorizationFlow, Invitation, InvitationState
from keap_connect.services import services

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
        came_at = flow.ended_at or utc_now()
        record(session, EventKind.INVITATION_CONFIRMED, None, actor, invitation=invitation_id)
        grant = open_pending(flow)
        which = is_of(grant.identity) if grant else Account.id == flow.account_id
        known = next(iter(lock_accounts(session, which).values()), None)
        if (
            known is not None
            and known.disconnected_at is not None
            and (grant is None or known.disconnected_at > came_at)
        ):
            raise InvitationClosed("The account was disconnected after this person had allowed it. Decline it.")
        if known is not None and (grant is None or has_newer_grant(known, came_at)):
            if grant is None and _has_changed_person(session, known, came_at):
                raise InvitationClosed("The account was connected by another person since then. Decline it.")
            _give_to_connected(session, flow, invitation, known)
            return
        if grant is None:
            raise InvitationClosed("The account no longer exists.")
        match = _store_late(session, grant, came_at, invitation)
        end_flow(session, flow.id, match.ending, match.account_id)

    get_invitation(invitation_id)
    write_or_retry(store)
    return get_invitation(invitation_id)


def decline(invitation_id: int, actor: str) -> Invitation:
    """Delete the grant that waits, unless an account has it already. The link works again until it expires.

    Raises:
        InvitationNotFound: there is none.
        InvitationClosed: nobody waits.
    """
    get_invitation(invitation_id)
    with write_transaction() as session:
        flow, invitation = _lock_waiting(session, invitation_id)
        end_flow(session, flow.id, Ending.CONFIRMATION_DECLINED, flow.account_id)
        invitation.state = OPEN[-1]
        grant = "Their account keeps its grant." if flow.account_id else "Their grant is deleted."
        details = {"grant": grant, "until": f"{invitation.expires_at:%Y-%m-%d %H:%M} UTC"}
        record(session, EventKind.INVITATION_DECLINED, None, actor, invitation=invitation_id, **details)
    purge_deleted()
    return get_invitation(invitation_id)


def _lock_waiting(session: Session, invitation_id: int) -> tuple[AuthorizationFlow, Invitation]:
    flow, invitation = find_waiting(session, invitation_id), lock_invitation(session, invitation_id)
    if flow is None or invitation.state != InvitationState.WAITING:
        raise InvitationClosed("Nobody waits to be confirmed.")
    return flow, invitation


def list_waiting() -> list[int]:
    """Return the flows of the last day whose grant waits and is of somebody whom Keap has not named.

    First come those that wait for nothing else, and so are the most urgent.
    """
    flow, now = AuthorizationFlow, utc_now()
    is_nameless = flow.ending == Ending.IDENTITY_PENDING
    waits = is_nameless | (flow.ending == Ending.CONFIRMATION_PENDING) & flow.account_id.is_(None)
    is_recent = flow.pending_until > now, flow.ended_at > now - ACCESS_TOKEN_LIFE
    with read_session() as session:
        found = session.scalars(select(flow).where(waits, *is_recent).order_by(~is_nameless, flow.id)).all()
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
    with read_session() as session:
        flow = session.get(AuthorizationFlow, flow_id)
    if flow is not None and flow.ending == Ending.IDENTITY_PENDING:
        identify_and_store(flow)
        return
    grant = open_pending(flow) if flow else None
    if flow is None or grant is None or grant.identity.is_complete or not grant.is_ours:
        return
    identity = ask_identity(services().keap, grant.token_response.access_token, grant.token_response.tenant_id)
    if not identity.is_complete:
        return
    named = replace(grant, identity=identity)

    def store(session: Session) -> None:
        stored = session.get(AuthorizationFlow, flow_id, with_for_update=True)
        invitation = session.get(Invitation, flow.invitation_id or 0, with_for_update=True)
        is_same = stored is not None and stored.pending_grant_sealed == flow.pending_grant_sealed
        if stored is None or not is_same or invitation is None or invitation.state != InvitationState.WAITING:
            return  # somebody has decided meanwhile
        came_at, until = stored.ended_at or utc_now(), stored.pending_until or utc_now()
        known = next(iter(lock_accounts(session, is_of(identity)).values()), None)
        ended_at = known.disconnected_at if known else None
        owner = known if ended_at is None else None
        if not must_wait(invitation, identity) and (ended_at is None or ended_at <= came_at):
            if owner is not None and has_newer_grant(owner, came_at):
                _give_to_connected(session, stored, invitation, owner)
            else:
                match = _store_late(session, named, came_at, invitation)
                end_flow(session, flow_id, match.ending, match.account_id)
            return
        if owner is None:
            keep_pending(session, stored, named, until)
        else:
            if not has_newer_grant(owner, came_at):
                _store_late(session, named, came_at, None)
            end_flow(session, flow_id, Ending.CONFIRMATION_PENDING, owner.id)
            session.get_one(AuthorizationFlow, flow_id, populate_existing=True).pending_until = until
        note_waiting(session, invitation, identity, owner.id if owner else None, until)

    write_or_retry(store)


def _store_late(session: Session, grant: Grant, came_at: datetime, invitation: Invitation | None) -> Match:
    """Store a grant that had waited, with the date on which it came."""
    match = match_grant(session, replace(grant, came_at=came_at), invitation=invitation)
    revoke_open_links(session, match.account_id)
    return match


def _give_to_connected(session: Session, flow: AuthorizationFlow, invitation: Invitation, account: Account) -> None:
    """End an invitation with an account that has this grant, or a newer one, already."""
    use_invitation(session, invitation, account)
    if state_of(account, utc_now(), registration(session)).is_alive:
        record(session, EventKind.INVITATION_FITS, account.id, Actor.SYSTEM, invitation=invitation.id)
    end_flow(session, flow.id, Ending.RECONNECTED, account.id)
    flow.person_signed_in_at = utc_now()  # what is connected is not by the grant of this flow


def _has_changed_person(session: Session, account: Account, since: datetime) -> bool:
    changes = AccountEvent.account_id == account.id, AccountEvent.kind == EventKind.PERSON_CHANGED
    return session.scalar(select(AccountEvent.id).where(*changes, AccountEvent.at > since).limit(1)) is not None
