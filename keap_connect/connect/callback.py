"""The callback, from what the browser brings to a stored account, and the decisions that may follow.

Each step that waits for Keap stands outside any transaction. Whatever happens after the flow was claimed is
written down as its ending, so a reload shows the same result.
"""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from keap_connect.clock import utc_now
from keap_connect.connect.endings import Ending
from keap_connect.connect.flows import (
    FlowRefused,
    claim_flow,
    end_flow,
    find_flow_of_state,
    find_interrupted,
    open_code_verifier,
)
from keap_connect.connect.matching import Grant, match_grant
from keap_connect.connect.reconnect_links import still_works, use_up
from keap_connect.database import read_session, write_transaction
from keap_connect.errors import SealBroken, TenantConflict
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.keap.answers import Classification, Verdict
from keap_connect.keap.authorization import AuthorizationResponse
from keap_connect.keap.call_slots import keap_call_slot
from keap_connect.keap.token_endpoint import exchange_code
from keap_connect.keap.token_response import TokenResponse
from keap_connect.keap.user_info import Identity, ask_identity
from keap_connect.models import AuthorizationFlow
from keap_connect.services import services

log = logging.getLogger(__name__)
HELD_FOR = timedelta(minutes=10)


def receive_callback(response: AuthorizationResponse, browser: str | None) -> str:
    """Act on a callback and return the `ref` of its flow, under which the result can be seen.

    A second copy of a callback changes nothing and gets the same `ref`.

    Raises:
        FlowRefused: the callback belongs to no flow of this browser that may go on; nothing was sent to Keap.
        KeapBusy: too many others wait for Keap. The flow is as it was: the same callback may come again.
    """
    if response.error and not response.state:
        raise FlowRefused(_ending_of_error(response.error))
    flow = find_flow_of_state(response.state, browser)
    if flow.consumed_at is not None:
        return flow.ref
    if not response.error and not response.code:
        raise FlowRefused(Ending.CODE_MISSING)
    with nullcontext() if response.error else keap_call_slot():
        if claim_flow(flow):
            identify_and_store(flow, response)
    return flow.ref


def connect_pending(flow: AuthorizationFlow) -> None:
    """Store a grant that was held, as an account of its own; does nothing once it is gone."""
    if flow.pending_until is not None and flow.pending_until > utc_now():
        _place_kept(flow)


def discard_pending(flow: AuthorizationFlow) -> None:
    """Forget a grant that was held."""
    with write_transaction() as session:
        held = session.scalar(select(AuthorizationFlow).where(AuthorizationFlow.id == flow.id).with_for_update())
        if held is not None and held.pending_grant_sealed is not None:
            end_flow(session, held.id, Ending.DISCARDED, held.account_id)


def open_pending(flow: AuthorizationFlow) -> Grant | None:
    """Return the grant that waits in a flow, to show whose it is."""
    sealed = flow.pending_grant_sealed
    return Grant.from_json(services().cipher.open(sealed, pending_context(flow.ref))) if sealed else None


def identify_and_store(flow: AuthorizationFlow, response: AuthorizationResponse) -> None:
    keap = services().keap
    if keap.issuer and response.issuer is not None and response.issuer != keap.issuer:
        _fail(flow, Ending.WRONG_ISSUER, f"The answer came from {response.issuer or 'a sender it did not name'}.")
    elif response.error:
        _fail(flow, _ending_of_error(response.error), response.error_description or response.error)
    elif response.code and not _link_still_works(flow):
        _fail(flow, Ending.LINK_GONE, None, "Its link had been used or revoked meanwhile, so Keap was not asked.")
    elif response.code:
        classified = exchange_code(keap, response.code, open_code_verifier(flow))
        if classified.token_response is None:
            _fail(flow, _ending_of_failure(classified), classified.reason)
        else:
            complete_callback(_keep(flow, classified.token_response))


def complete_callback(flow: AuthorizationFlow) -> None:
    """Ask Keap whose the kept grant of a flow is, and let it go where it belongs; does nothing once it is gone."""
    kept = open_pending(flow)
    if kept is None:
        return
    granted = kept.token_response
    try:
        identity = ask_identity(services().keap, granted.access_token, granted.tenant_id)
    except TenantConflict as conflict:
        _fail(flow, Ending.TENANT_CONFLICT, str(conflict))
    else:
        _place_kept(flow, identity)


def complete_interrupted() -> None:
    """Finish flows whose process died between Keap's grant and its account: one, since Keap may be slow."""
    flow = find_interrupted()
    if flow is None:
        return
    log.warning("The grant of an interrupted journey is taken up again.")
    try:
        complete_callback(flow)
    except SealBroken as problem:
        _fail(flow, Ending.INTERRUPTED, str(problem))


def _keep(flow: AuthorizationFlow, granted: TokenResponse) -> AuthorizationFlow:
    """Store the fresh grant before anything else is done with it: the process may die while Keap tells whose it is."""
    with write_transaction() as session:
        kept = session.get_one(AuthorizationFlow, flow.id)
        kept.pending_grant_sealed = services().cipher.seal(
            Grant(granted, Identity()).to_json(), pending_context(flow.ref)
        )
    return kept


def _place_kept(flow: AuthorizationFlow, identity: Identity | None = None) -> None:
    """Let a kept grant go where it belongs; without an identity, as an account of its own, which the person decided."""

    def place(session: Session) -> None:
        kept = session.scalar(select(AuthorizationFlow).where(AuthorizationFlow.id == flow.id).with_for_update())
        grant = open_pending(kept) if kept is not None else None
        if grant is None:
            return
        wanted = None
        if identity is not None:
            grant = replace(grant, identity=identity)
            # Two people with one link may have come this far: the second is stored as a visit without a link.
            wanted = flow.reconnects_account_id if still_works(session, flow) else None
        placement = match_grant(session, grant, wanted)
        end_flow(session, flow.id, placement.ending, placement.account_id)
        if placement.ending is Ending.HELD:
            _hold(session, flow, grant)
        elif identity is None or wanted is not None:
            use_up(session, flow)

    _with_second_try(place)


def _hold(session: Session, flow: AuthorizationFlow, grant: Grant) -> None:
    held = session.get_one(AuthorizationFlow, flow.id, populate_existing=True)
    held.pending_grant_sealed = services().cipher.seal(grant.to_json(), pending_context(flow.ref))
    held.pending_until = utc_now() + HELD_FOR


def _link_still_works(flow: AuthorizationFlow) -> bool:
    with read_session() as session:
        return still_works(session, flow)


def _fail(flow: AuthorizationFlow, ending: Ending, keap_said: str | None, reason: str = "") -> None:
    with write_transaction() as session:
        end_flow(session, flow.id, ending, flow.reconnects_account_id, keap_said)
        if flow.reconnects_account_id is not None:
            account_id = flow.reconnects_account_id
            record(session, EventKind.RECONNECT_FAILED, account_id, Actor.CUSTOMER, reason=keap_said or reason)


def _with_second_try(place: Callable[[Session], None]) -> None:
    """Run in a transaction; when another process stored the same (tenant, person) meanwhile, find it and go on."""
    try:
        with write_transaction() as session:
            place(session)
    except IntegrityError:
        with write_transaction() as session:
            place(session)


def pending_context(ref: str) -> str:
    """Name the place that a held grant is sealed for."""
    return f"flow:{ref}:held_grant"


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
