"""Authorization flows: started, claimed once, ended. State cannot be forged, replayed or used by another browser.

`state` and the browser's cookie are stored as hashes only. One conditional UPDATE claims a flow before anything is sent
to Keap, so ten copies of one callback lead to one exchange. Admins see who tried to connect, when, and how each ended.
"""

import hmac
import logging
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session

from keap_connect.accounts.directory import load_account
from keap_connect.accounts.stored_state import FAR_AHEAD
from keap_connect.clock import utc_now
from keap_connect.connect.endings import FAILURES, SUCCESSES, Ending
from keap_connect.crypto import hash_secret
from keap_connect.database import read_all, read_one, read_rows, write_one, write_or_retry, write_transaction
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.keap.authorization import new_authorization_request
from keap_connect.models import Account, AccountEvent, AuthorizationFlow, Invitation, InvitationState
from keap_connect.services import services

log = logging.getLogger(__name__)
STATE_LIFE = timedelta(minutes=10)
UNUSED_KEPT_FOR = SHOWN_FOR = timedelta(days=1)
EXCHANGE_LIFE = timedelta(seconds=90)
NO_BROWSER = ""  # in place of a hash
EXPIRES_AS = {
    Ending.DECISION_PENDING: Ending.DECISION_EXPIRED,
    Ending.CONFIRMATION_PENDING: Ending.CONFIRMATION_EXPIRED,
}
HAS_NO_GRANT = AuthorizationFlow.pending_until.is_(None) & AuthorizationFlow.pending_grant_sealed.is_(None)
MOST_UNUSED_PER_BROWSER = 50
MOST_UNUSED = 1_000
MOST_ENDED = 10_000
MOST_RECORDED_AN_HOUR = 100  # strangers can send made-up codes; the log has all failures
MOST_LISTED = 100
LATELY = timedelta(hours=1)


class FlowRefused(Exception):
    """There is no open flow for the callback; `ending` says why."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.value)
        self.ending = ending


def start_flow(
    browser: str,
    reconnects_account_id: int | None = None,
    reconnect_link_id: int | None = None,
    invitation_id: int | None = None,
) -> str:
    """Start a flow for this browser and return the authorization URL to send it to.

    Args:
        browser: the random value of the browser's own cookie.
        reconnects_account_id: the account that this flow is meant to reconnect.
        reconnect_link_id: the link that started the flow, if a link did.
        invitation_id: the invitation that started the flow, if one did.

    Raises AccountNotFound: the account was erased meanwhile.
    """
    request = new_authorization_request(services().keap)
    now = utc_now()
    flow = AuthorizationFlow(
        ref=secrets.token_urlsafe(12),
        state_hash=hash_secret(request.state),
        browser_hash=hash_secret(browser),
        reconnects_account_id=reconnects_account_id,
        reconnect_link_id=reconnect_link_id,
        invitation_id=invitation_id,
        started_at=now,
        expires_at=now + STATE_LIFE,
    )
    if request.code_verifier:
        flow.code_verifier_sealed = services().cipher.seal(request.code_verifier, "flow", flow.ref, "code_verifier")

    def add(session: Session) -> None:
        if reconnects_account_id is not None:
            load_account(session, reconnects_account_id)
        _prune(session, flow.browser_hash)
        session.add(flow)

    write_or_retry(add)
    return request.url


def find_flow_of_state(state: str | None, browser: str | None) -> AuthorizationFlow:
    """Return the flow that a callback's state belongs to.

    Raises FlowRefused: state missing, unknown, or started by another browser.
    """
    if state is None:
        raise FlowRefused(Ending.STATE_MISSING)
    flow = read_one(select(AuthorizationFlow).where(AuthorizationFlow.state_hash == hash_secret(state)))
    if flow is None or flow.expires_at <= utc_now() - SHOWN_FOR:  # its page is gone, and soon the flow
        raise FlowRefused(Ending.STATE_UNKNOWN)
    if not _is_browser_of(flow, browser):
        raise FlowRefused(Ending.STATE_FOREIGN)
    return flow


def claim_flow(flow: AuthorizationFlow) -> bool:
    """Mark the state of a flow as used, and return whether this callback is the one to act on it."""
    claim = (
        update(AuthorizationFlow)
        .where(AuthorizationFlow.id == flow.id, AuthorizationFlow.consumed_at.is_(None))
        .values(consumed_at=utc_now())
    )
    return write_one(claim) == 1


def find_flow(ref: str, browser: str | None) -> AuthorizationFlow | None:
    """Return this browser's flow with this `ref`, for a day."""
    is_shown = AuthorizationFlow.expires_at > utc_now() - SHOWN_FOR
    flow = read_one(select(AuthorizationFlow).where(AuthorizationFlow.ref == ref, is_shown))
    return flow if flow is not None and _is_browser_of(flow, browser) else None


def forget_results(browser: str | None) -> None:
    """After a sign-out this browser can no longer open its results; a decision that waits expires."""
    if browser is None:
        return
    theirs = AuthorizationFlow.browser_hash == hash_secret(browser), AuthorizationFlow.consumed_at.is_not(None)
    write_one(update(AuthorizationFlow).where(*theirs).values(browser_hash=NO_BROWSER))


def find_interrupted(but: Collection[int] = ()) -> AuthorizationFlow | None:
    """Return a flow whose process died during the exchange or with the grant, or whose person Keap has not named.

    Args:
        but: the ids of flows to leave out.
    """
    now = utc_now()
    is_nameless = (AuthorizationFlow.ending == Ending.IDENTITY_PENDING) & (AuthorizationFlow.pending_until <= now)
    has_grant = (AuthorizationFlow.ending == Ending.INTERRUPTED) & AuthorizationFlow.pending_grant_sealed.is_not(None)
    interrupted = select(AuthorizationFlow).where(
        ~AuthorizationFlow.consumed_at.between(now - EXCHANGE_LIFE, now + FAR_AHEAD),
        AuthorizationFlow.ending.is_(None) | has_grant | is_nameless,
        AuthorizationFlow.id.not_in(but),
    )
    return read_one(interrupted.order_by(AuthorizationFlow.id).limit(1))


def open_code_verifier(flow: AuthorizationFlow) -> str | None:
    sealed = flow.code_verifier_sealed
    return services().cipher.open(sealed, "flow", flow.ref, "code_verifier") if sealed else None


def end_flow(
    session: Session, flow_id: int, ending: Ending, account_id: int | None, keap_said: str | None = None
) -> None:
    """Store how a flow ended, and delete its secrets."""
    session.execute(
        update(AuthorizationFlow)
        .where(AuthorizationFlow.id == flow_id)
        .values(
            ending=ending,
            account_id=account_id,
            keap_said=keap_said,
            ended_at=utc_now(),
            code_verifier_sealed=None,
            pending_grant_sealed=None,
            pending_until=None,
        )
    )


def fail_flow(flow: AuthorizationFlow, ending: Ending, keap_said: str | None = None, reason: str = "") -> None:
    """Store, record and log why a flow stored no account; do nothing if it has ended or got a grant meanwhile.

    Args:
        keap_said: what the person sees of Keap's answer. reason: what else only the history says.
    """
    row = AuthorizationFlow
    unchanged = row.ending == flow.ending, row.pending_grant_sealed == flow.pending_grant_sealed
    still = select(row.id).where(row.id == flow.id, *unchanged).with_for_update()
    with write_transaction() as session:
        if session.scalar(still) is None:
            return
        end_flow(session, flow.id, ending, flow.reconnects_account_id, keap_said)
        record_failure(session, flow, ending, keap_said or reason)


def record_failure(session: Session, flow: AuthorizationFlow, ending: Ending, reason: str = "") -> None:
    """Record and log why a flow stored no account. The page of the flow shows its `ref` as the reference."""
    why = f"{ending.outcome}. {reason}".rstrip()
    log.warning("%s: a person could not connect: %s", flow.ref, why)
    account_id = flow.reconnects_account_id
    if account_id is None:
        is_recent = AccountEvent.kind == EventKind.CONNECTION_FAILED, AccountEvent.at > utc_now() - timedelta(hours=1)
        if (session.scalar(select(func.count()).where(*is_recent)) or 0) >= MOST_RECORDED_AN_HOUR:
            return
    kind = EventKind.RECONNECT_FAILED if account_id else EventKind.CONNECTION_FAILED
    details: dict[str, Any] = {"ending": ending, "reason": why[0].upper() + why[1:], "reference": flow.ref}
    if flow.invitation_id is not None:
        details["invitation"] = flow.invitation_id
    record(session, kind, account_id, Actor.CUSTOMER, **details)


def ending_of(flow: AuthorizationFlow) -> Ending | None:
    """Return how a flow ended; None while its exchange runs."""
    now = utc_now()
    if flow.ending in {*EXPIRES_AS, Ending.IDENTITY_PENDING} and flow.pending_until is None:
        return Ending.LINK_GONE  # its account was erased, and the grant that waited with it
    if flow.ending in EXPIRES_AS and flow.pending_until is not None and flow.pending_until <= now:
        return EXPIRES_AS[Ending(flow.ending)]
    if flow.ending is not None:
        return Ending(flow.ending)
    if flow.consumed_at is not None and not now - EXCHANGE_LIFE < flow.consumed_at <= now + FAR_AHEAD:
        return Ending.INTERRUPTED
    return None


def forget_past() -> None:
    """Delete flows that were not used for a day or ended long ago, and grants whose time to decide is over."""
    with write_transaction() as session:
        _forget_past(session)


def count_unfinished() -> int:
    """Count the flows of the last day whose callback never came."""
    now = utc_now()
    has_expired = AuthorizationFlow.expires_at.between(now - UNUSED_KEPT_FOR, now)
    unfinished = select(func.count()).where(AuthorizationFlow.consumed_at.is_(None), has_expired)
    return read_one(unfinished) or 0


def _forget_past(session: Session) -> None:
    now = utc_now()
    is_unused = AuthorizationFlow.consumed_at.is_(None)
    session.execute(delete(AuthorizationFlow).where(is_unused, AuthorizationFlow.expires_at <= now - UNUSED_KEPT_FOR))
    if days := services().settings.keep_journeys_days:
        is_past = AuthorizationFlow.expires_at <= now - timedelta(days=days)
        session.execute(delete(AuthorizationFlow).where(is_past, HAS_NO_GRANT))  # a grant may wait for a long outage
    # Those of invitations that wait end with their invitation (connect/invitations.py).
    waits = Invitation.id == AuthorizationFlow.invitation_id, Invitation.state == InvitationState.WAITING
    is_over = AuthorizationFlow.pending_until <= now, AuthorizationFlow.ending.in_(EXPIRES_AS)
    is_undecided = (*is_over, ~select(Invitation.id).where(*waits).exists())
    undecided = select(AuthorizationFlow).where(*is_undecided).order_by(AuthorizationFlow.id)
    for flow in session.scalars(undecided.with_for_update()):
        ending = EXPIRES_AS[Ending(flow.ending or Ending.DECISION_PENDING)]
        end_flow(session, flow.id, ending, flow.account_id)
        record_failure(session, flow, ending)


def _prune(session: Session, browser_hash: str) -> None:
    """Delete what has expired, and the oldest flows beyond each limit, except those that run or wait."""
    _forget_past(session)
    is_unused = AuthorizationFlow.consumed_at.is_(None)
    _forget_oldest(session, MOST_UNUSED_PER_BROWSER - 1, is_unused & (AuthorizationFlow.browser_hash == browser_hash))
    _forget_oldest(session, MOST_UNUSED - 1, is_unused)
    _forget_oldest(session, MOST_ENDED, AuthorizationFlow.ended_at.is_not(None) & HAS_NO_GRANT)


def _forget_oldest(session: Session, most: int, which: ColumnElement[bool]) -> None:
    oldest = select(AuthorizationFlow.id).where(which).order_by(AuthorizationFlow.id.desc()).offset(most)
    # PostgreSQL checks only the conditions of the DELETE again when it has waited for a flow that was claimed.
    session.execute(delete(AuthorizationFlow).where(AuthorizationFlow.id.in_(oldest.scalar_subquery()), which))


def _is_browser_of(flow: AuthorizationFlow, browser: str | None) -> bool:
    return browser is not None and hmac.compare_digest(flow.browser_hash, hash_secret(browser))


@dataclass(frozen=True)
class Journey:
    """One flow. The account is the one that was connected, or the one to reconnect; a stranger's is unknown."""

    flow: AuthorizationFlow
    account: Account | None
    outcome: str
    who: str | None  # the person of the account, else the address that a failure came from; None if unknown


@dataclass(frozen=True)
class Failures:
    """How many people could not connect in the last hour for one reason, and when the last of them tried."""

    ending: Ending
    people: int
    last_at: datetime

    @property
    def sentence(self) -> str:
        people = "1 person" if self.people == 1 else f"{self.people} people"
        return f"{people} could not connect in the last hour: {self.ending.outcome}."


def list_journeys(reference: str = "") -> list[Journey]:
    """Return the newest flows, the last one first; or the one with this reference, which its person saw."""
    account_id = func.coalesce(AuthorizationFlow.account_id, AuthorizationFlow.reconnects_account_id)
    query = select(AuthorizationFlow, Account).outerjoin(Account, Account.id == account_id)
    if reference:
        query = query.where(AuthorizationFlow.ref == reference)
    found = read_rows(query.order_by(AuthorizationFlow.id.desc()).limit(MOST_LISTED))
    oldest = min((flow.started_at for flow, _ in found), default=utc_now())
    failed = AccountEvent.kind == EventKind.CONNECTION_FAILED, AccountEvent.at >= oldest
    events = read_all(select(AccountEvent.details).where(*failed))
    addresses = {details.get("reference"): details.get("address") for details in events}
    journeys = []
    for flow, account in found:
        who = account and (account.person_email or account.person_name)
        journeys.append(Journey(flow, account, _outcome(flow), who or addresses.get(flow.ref)))
    return journeys


def list_failures() -> list[Failures]:
    """Return the failures of the last hour, the most frequent first.

    A person counts once, by the newest failure; who has connected since does not count.
    """
    flow, since = AuthorizationFlow, utc_now() - LATELY
    connected = select(flow.browser_hash).where(flow.ending.in_(SUCCESSES), flow.ended_at > since)
    failed = flow.ending.in_(FAILURES), flow.ended_at > since, flow.browser_hash.not_in(connected)
    newest = select(func.max(flow.id)).where(*failed).group_by(flow.browser_hash)
    people = func.count()
    counted = select(flow.ending, people, func.max(flow.ended_at)).where(flow.id.in_(newest)).group_by(flow.ending)
    found = read_rows(counted.order_by(people.desc(), flow.ending))
    return [Failures(Ending(ending), count, last_at) for ending, count, last_at in found if ending and last_at]


def _outcome(flow: AuthorizationFlow) -> str:
    if flow.consumed_at is None:
        return "did not come back from Keap" if flow.expires_at <= utc_now() else "under way"
    if flow.ending is not None and flow.ending not in set(Ending):
        return "ended as only another version of this app knows"
    ending = ending_of(flow)
    return "under way" if ending is None else ending.outcome or "connected"
