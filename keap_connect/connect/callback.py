"""The callback: from the authorization response to a stored account, and the decision that may follow.

No transaction is open during a call to Keap. What happens after a flow is claimed is stored as its ending, so a reload
shows the same result.
"""

import logging
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import datetime, timedelta

from flask import current_app
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from keap_connect.accounts.directory import lock_accounts
from keap_connect.clock import utc_now
from keap_connect.connect import flows, matching
from keap_connect.connect.endings import Ending
from keap_connect.connect.invitations import CONFIRM_WITHIN
from keap_connect.connect.invited import find_usable, must_wait, note_waiting
from keap_connect.connect.reconnect_links import revoke_open_links, still_works, use_up
from keap_connect.database import read_session, write_or_retry, write_transaction
from keap_connect.errors import KeapConnectError, SealBroken, TenantConflict
from keap_connect.keap.answers import Classification, Verdict
from keap_connect.keap.authorization import AuthorizationResponse
from keap_connect.keap.call_slots import keap_call_slot
from keap_connect.keap.token_endpoint import exchange_code
from keap_connect.keap.user_info import Identity, ask_identity
from keap_connect.models import Account, AuthorizationFlow
from keap_connect.services import services

log = logging.getLogger(__name__)
DECISION_TIME = timedelta(minutes=10)
ACCESS_TOKEN_LIFE = timedelta(days=1)  # for this long, Keap can be asked whose a grant is


def receive_callback(response: AuthorizationResponse, browser: str | None) -> str:
    """Act on a callback and return the `ref` of its flow, whose page shows the result.

    A second copy of a callback changes nothing and gets the same `ref`.

    Raises:
        FlowRefused: this browser has no open flow for the callback; nothing was sent to Keap.
        KeapBusy: too many requests wait for Keap. The flow is unchanged, so the same callback may come again.
    """
    if response.error and not response.state:
        raise flows.FlowRefused(_ending_of_error(response.error))
    flow = flows.find_flow_of_state(response.state, browser)
    if flow.consumed_at is not None:
        return flow.ref
    if flow.expires_at <= utc_now():
        if flows.claim_flow(flow):
            flows.fail_flow(flow, Ending.STATE_EXPIRED)
        return flow.ref
    if not response.error and not response.code:
        raise flows.FlowRefused(Ending.CODE_MISSING)
    with nullcontext() if response.error else keap_call_slot():
        if flows.claim_flow(flow):
            complete_callback(flow, response)
    return flow.ref


def find_result(ref: str, browser: str | None) -> AuthorizationFlow | None:
    """Return this browser's flow with this `ref` if its callback has come; complete it first if it was interrupted.

    Raises KeapBusy: too many requests wait for Keap.
    """
    flow = flows.find_flow(ref, browser)
    if flow is not None and flows.ending_of(flow) is Ending.INTERRUPTED:
        with keap_call_slot(), suppress(SealBroken):  # another process may open it
            identify_and_store(flow)
        flow = flows.find_flow(ref, browser)
    return flow if flow is not None and flow.consumed_at is not None else None


def connect_pending(flow: AuthorizationFlow) -> None:
    """Store a grant that waits for a decision in an account of its own; do nothing if it no longer waits.

    One that came by an invitation is not the customer's to decide about (connect/confirming.py).
    """
    if flows.ending_of(flow) is Ending.DECISION_PENDING:
        _store(flow)


def discard_pending(flow: AuthorizationFlow) -> None:
    with write_transaction() as session:
        stored = session.get(AuthorizationFlow, flow.id, with_for_update=True)
        if stored is not None and stored.ending == Ending.DECISION_PENDING:
            flows.end_flow(session, stored.id, Ending.DISCARDED, stored.account_id)
            flows.record_failure(session, stored, Ending.DISCARDED)


def open_pending(flow: AuthorizationFlow) -> matching.Grant | None:
    """Return the pending grant of a flow. Raises SealBroken."""
    if flow.pending_grant_sealed is None:
        return None
    came_at = (flow.ended_at if flow.pending_until else flow.consumed_at) or flow.started_at
    opened = services().cipher.open(flow.pending_grant_sealed, "flow", flow.ref, "held_grant")
    try:
        return matching.Grant.from_json(opened, came_at)
    except (ValueError, KeyError, TypeError):  # it is whole, since its seal opened
        raise SealBroken(f"Another version of this program wrote the grant of {flow.ref}.") from None


def complete_interrupted() -> None:
    """Complete one flow whose process died, or whose person Keap did not name in a day; one, since Keap may be slow.

    A grant that does not open here is left to the other processes for a day; one with a fault has its turn again later.
    """
    now, put_off = utc_now(), current_app.extensions.setdefault("keap_connect.grants_put_off", {})
    flow = flows.find_interrupted([flow_id for flow_id, until in put_off.items() if until > now])
    if flow is None:
        return
    if flow.pending_grant_sealed is None:
        flows.fail_flow(flow, Ending.INTERRUPTED)
        return
    try:
        open_pending(flow)
        log.warning("%s: the grant of a connection that was not completed is stored now.", flow.ref)
        identify_and_store(flow)
    except SealBroken as problem:
        until = (flow.pending_until or flow.consumed_at or now) + ACCESS_TOKEN_LIFE
        if until <= now:
            flows.fail_flow(flow, Ending.INTERRUPTED, str(problem))
            return
        put_off[flow.id] = until
        log.error("%s: its grant does not open: %s It is kept: another process may open it.", flow.ref, problem)
    except (SQLAlchemyError, KeapConnectError):
        # The database may refuse this one for good: others have their turn.
        put_off[flow.id] = now + flows.EXCHANGE_LIFE
        raise
    except Exception as fault:  # it must not end the worker, which has other accounts
        put_off[flow.id] = now + flows.STATE_LIFE
        log.error("%s: a fault of this program; its grant is kept.", flow.ref, exc_info=fault)


def complete_callback(flow: AuthorizationFlow, response: AuthorizationResponse) -> None:
    """Exchange the code from Keap and store the grant in its account, or store why that failed."""
    keap = services().keap
    if keap.issuer and response.issuer is not None and response.issuer != keap.issuer:
        sender = response.issuer or "a sender it did not name"
        flows.fail_flow(flow, Ending.WRONG_ISSUER, f"The answer came from {sender}.")
    elif response.error:
        flows.fail_flow(flow, _ending_of_error(response.error), response.error_description or response.error)
    elif response.code and not _link_still_works(flow):
        reason = "Its link had been used or revoked meanwhile, so Keap was not asked."
        flows.fail_flow(flow, Ending.LINK_GONE, reason=reason)
    elif response.code:
        classified = exchange_code(keap, response.code, flows.open_code_verifier(flow))
        if classified.token_response is None:
            flows.fail_flow(flow, _ending_of_failure(classified), classified.reason)
            return
        # Stored before the next call to Keap, during which the process may die.
        with write_transaction() as session:
            came_at = matching.date_of_new_grant(session)
            grant = matching.Grant(classified.token_response, Identity(), keap.registration, came_at)
            flow = keep_pending(session, flow, grant)
        identify_and_store(flow)


def identify_and_store(flow: AuthorizationFlow) -> None:
    """Ask Keap whose the pending grant of a flow is, and store it where it belongs; do nothing if none is pending.

    Keap is not asked if the access token has expired while the grant waited, or belongs to another client id or token
    URL than the settings name: it is sent nowhere else.

    Raises TenantConflict: Keap named two tenants for a grant that somebody decides about.
    """
    grant = open_pending(flow)
    if grant is None:
        return
    granted, identity = grant.token_response, grant.identity
    try:
        if grant.is_ours and not _has_waited_long_enough(flow):
            identity = ask_identity(services().keap, granted.access_token, granted.tenant_id)
    except TenantConflict as conflict:
        if flow.ending == Ending.CONFIRMATION_PENDING:
            raise
        flows.fail_flow(flow, Ending.TENANT_CONFLICT, str(conflict))
    else:
        _store(flow, identity)


def _store(flow: AuthorizationFlow, identity: Identity | None = None) -> None:
    """Store the pending grant of a flow, as it was read, where it belongs; without an identity, the person decided."""

    def store(session: Session) -> None:
        stored = session.get(AuthorizationFlow, flow.id, with_for_update=True)
        if stored is None or stored.pending_grant_sealed != flow.pending_grant_sealed:
            return  # somebody else has completed it meanwhile
        grant, is_nameless = open_pending(stored), _has_waited_long_enough(stored)
        waits_on = stored.pending_until is not None and identity is not None and not identity.is_complete
        if grant is None or (waits_on and not is_nameless):
            return
        if identity is not None:
            grant = replace(grant, identity=identity)
            if stored.invitation_id is not None:
                _store_invited(session, stored, grant)
                return
        # Two people may use one link at the same time: the second grant is stored as if there were no link.
        wanted = stored.reconnects_account_id if identity is not None and still_works(session, stored) else None
        is_open = not services().settings.is_by_invitation
        if is_nameless and wanted and not is_open:
            account = lock_accounts(session, Account.id == wanted).get(wanted)
            wanted = None if account is None or matching.has_moved_on(session, account, grant) else wanted
        adds = is_open or (is_nameless and wanted is not None)
        match = matching.match_grant(session, grant, wanted, adds=adds, agreed_at=None if identity else utc_now())
        used = match.is_stored and not is_nameless and (wanted is not None or identity is None)
        if used or (match.ending.is_success and match.account_id == wanted):
            use_up(session, stored)  # before the open links of the account are revoked
        end_with(session, stored, match)
        if match.ending is Ending.DECISION_PENDING:
            keep_pending(session, stored, grant, utc_now() + DECISION_TIME)
        elif match.ending is Ending.IDENTITY_PENDING:
            keep_pending(session, stored, grant, utc_now() + ACCESS_TOKEN_LIFE)
        elif match.ending in {Ending.LINK_GONE, Ending.DISCONNECTED}:
            flows.record_failure(session, stored, match.ending)

    write_or_retry(store)


def _store_invited(session: Session, flow: AuthorizationFlow, grant: matching.Grant) -> None:
    """Store the grant of somebody who came by an invitation, or let it wait until it is confirmed who that is.

    An account that is connected already gets the fresh grant at once: Keap may have ended the old one.
    """
    waited, until = flow.pending_until is not None, flow.pending_until or utc_now() + CONFIRM_WITHIN
    invitation = find_usable(session, flow)
    known = matching.find_by_identity(lock_accounts(session, matching.is_of(grant.identity)).values(), grant.identity)
    is_connected = known is not None and known.disconnected_at is None
    has_ended = known is not None and matching.was_disconnected(known, grant.came_at)
    waits = invitation is not None and (must_wait(invitation, grant.identity) or (waited and has_ended))
    if (invitation is None and not is_connected) or (has_ended and not waited):
        ending = Ending.DISCONNECTED if has_ended else Ending.LINK_GONE
        flows.end_flow(session, flow.id, ending, None)
        flows.record_failure(session, flow, ending)
        return
    if waits and not is_connected:
        flows.end_flow(session, flow.id, Ending.CONFIRMATION_PENDING, None)
        keep_pending(session, flow, grant, until)
    else:
        match = matching.match_grant(session, grant, invitation=None if waits else invitation)
        end_with(session, flow, replace(match, ending=Ending.CONFIRMATION_PENDING) if waits else match)
        if waits:
            flow.pending_until = until
    if waits and invitation is not None:
        note_waiting(session, invitation, grant.identity, known.id if known and is_connected else None, until)


def end_with(session: Session, flow: AuthorizationFlow, match: matching.Match) -> None:
    """End a flow as its grant was matched; the links of an account that got it no longer work."""
    flows.end_flow(session, flow.id, match.ending, match.account_id)
    if match.is_stored and match.account_id:
        revoke_open_links(session, match.account_id)
    elif match.ending.is_success:
        flow.person_signed_in_at = utc_now()  # another grant connected the account


def _has_waited_long_enough(flow: AuthorizationFlow) -> bool:
    """Whether a grant has waited to be named for as long as its access token lives."""
    is_over = flow.pending_until is not None and flow.pending_until <= utc_now()
    return is_over and flow.ending == Ending.IDENTITY_PENDING


def keep_pending(
    session: Session, flow: AuthorizationFlow, grant: matching.Grant, until: datetime | None = None
) -> AuthorizationFlow:
    stored = session.get_one(AuthorizationFlow, flow.id, populate_existing=True)
    stored.pending_grant_sealed = services().cipher.seal(grant.to_json(), "flow", flow.ref, "held_grant")
    stored.pending_until = until
    return stored


def _link_still_works(flow: AuthorizationFlow) -> bool:
    with read_session() as session:
        is_usable = flow.invitation_id is None or find_usable(session, flow) is not None
        return is_usable and still_works(session, flow)


def _ending_of_error(error: str) -> Ending:
    return Ending.DENIED if error == "access_denied" else Ending.KEAP_ERROR


def _ending_of_failure(classified: Classification) -> Ending:
    if classified.verdict is Verdict.REFUSED_FOR_GOOD:
        return Ending.CODE_REFUSED
    if classified.verdict is Verdict.CLIENT_MISCONFIGURED:
        return Ending.CLIENT_REFUSED
    if not classified.was_sent:
        return Ending.KEAP_UNREACHABLE
    return Ending.KEAP_BUSY if classified.is_throttled else Ending.KEAP_TROUBLE
