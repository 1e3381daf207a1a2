"""The grants that came by an invitation and wait until an admin or a program confirms who connected.

The grant is sealed in the row of its flow for seven days at most. Where the person had connected before, their account
has it already, and what waits is whether it is the account of this invitation.
"""

import logging
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from keap_connect.accounts.directory import lock_accounts
from keap_connect.accounts.schedule import next_refresh_at
from keap_connect.clock import utc_now
from keap_connect.connect.callback import open_pending
from keap_connect.connect.endings import Ending
from keap_connect.connect.flows import end_flow
from keap_connect.connect.invitations import OPEN, find_waiting, get_invitation, lock_invitation
from keap_connect.connect.matching import is_of, match_grant, use_invitation
from keap_connect.connect.reconnect_links import revoke_open_links
from keap_connect.database import purge_deleted, read_session, write_or_retry, write_transaction
from keap_connect.errors import InvitationClosed, SealBroken
from keap_connect.events.history import EventKind, record
from keap_connect.keap.user_info import Identity
from keap_connect.models import Account, AccountEvent, AuthorizationFlow, Invitation, InvitationState

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
        if known is not None and (grant is None or _is_newer(known, came_at)):
            if grant is None and _has_changed_person(session, known, came_at):
                raise InvitationClosed("The account was connected by another person since then. Decline it.")
            use_invitation(session, invitation, known)
            end_flow(session, flow.id, Ending.RECONNECTED, known.id)
            flow.person_signed_in_at = utc_now()  # what is connected is not by the grant of this flow
            return
        if grant is None:
            raise InvitationClosed("The account no longer exists.")
        match = match_grant(session, grant, invitation=invitation)
        account = session.get_one(Account, match.account_id)
        account.connected_at = came_at
        if account.refresh_token_issued_at is not None:
            account.refresh_token_issued_at = came_at  # Keap counts its 45 days from when it gave the grant
            account.next_refresh_at = next_refresh_at(account, utc_now())
        revoke_open_links(session, account.id)
        end_flow(session, flow.id, match.ending, account.id)

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


def _is_newer(account: Account, came_at: datetime) -> bool:
    """Whether an account got a better grant since then; an import that was not refreshed yet may not work at all."""
    return account.connected_at > came_at and account.refused_at is None and not account.needs_first_refresh


def _has_changed_person(session: Session, account: Account, since: datetime) -> bool:
    changes = AccountEvent.account_id == account.id, AccountEvent.kind == EventKind.PERSON_CHANGED
    return session.scalar(select(AccountEvent.id).where(*changes, AccountEvent.at > since).limit(1)) is not None
