"""Writes what an answer of Keap means to the account's row.

A pair is stored only if the account still has the pair that it came from.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from sqlalchemy.orm import Session

from keap_connect.accounts.credentials import store_pair
from keap_connect.accounts.schedule import back_off_seconds
from keap_connect.clock import utc_now
from keap_connect.connect.importing import PROVEN, REFUSED, note_in_jobs
from keap_connect.database import write_transaction
from keap_connect.events.history import EventKind, record
from keap_connect.keap.answers import Classification, Verdict
from keap_connect.keap.token_response import TokenResponse
from keap_connect.models import CLIENT_REFUSED, Account
from keap_connect.refresh import alarms, timing
from keap_connect.refresh.lease import release

UNREADABLE = "Its refresh token does not open."
OTHER_TENANT = "Keap answered with a token of another account; it was not stored."
REFUSED_LATE = "Keap refused an earlier refresh token after the new tokens were stored; they may have ended with it."


class Outcome(StrEnum):
    """How one attempt ended."""

    STORED = "stored"
    NOT_TAKEN = "not_taken"  # the lease was not free: nothing was sent
    NOT_SENT = "not_sent"  # the last check, or a pause of the worker, forbade it: nothing was sent
    AHEAD = "ahead"  # it came from a pair that a restored backup does not have: its file keeps it
    LATE = "late"  # the account has another pair or lease by now: the answer changed nothing
    REFUSED = "refused"
    CLIENT_REFUSED = "client_refused"
    FAILED = "failed"
    PAUSED = "paused"  # refused together with many others, so the account is hardly at fault
    KEPT_ASIDE = "kept_aside"  # the database refused the new pair: it waits in the recovery file

    @property
    def is_failure(self) -> bool:
        return self in {Outcome.REFUSED, Outcome.CLIENT_REFUSED, Outcome.FAILED, Outcome.PAUSED}


@dataclass(frozen=True)
class NewPair:
    """A granted pair, and the account and the generation of its pair that it came from."""

    account_id: int
    generation: int
    granted: TokenResponse = field(repr=False)
    actor: str


def store_granted(session: Session, account: Account | None, pair: NewPair, is_confirmed: bool = False) -> Outcome:
    """Store a pair if the account still has the one that it came from.

    Args:
        is_confirmed: whether the operator confirmed that this is the living database; then a pair that is ahead of
            its row is stored, too.
    """
    granted = pair.granted
    if account is None or account.disconnected_at is not None:
        return Outcome.LATE
    expires_at = account.access_token_expires_at
    # Had somebody reconnected since a backup was restored, the stored access token would end later.
    if account.generation < pair.generation and (expires_at is None or expires_at < granted.expires_at):
        if not is_confirmed:
            return Outcome.AHEAD
        account.generation = pair.generation
    if account.generation != pair.generation:
        return Outcome.LATE
    if granted.tenant_id and account.tenant_id and granted.tenant_id != account.tenant_id:
        record(session, EventKind.OTHER_TENANT_ANSWERED, account.id, pair.actor, tenant_id=granted.tenant_id)
        _note_failure(session, account, OTHER_TENANT, is_outcome_unknown=True)
        return Outcome.FAILED
    if not granted.has_full_scope and granted.scope != account.scope:
        record(session, EventKind.SCOPE_CHANGED, account.id, pair.actor, scope=granted.scope)
    first = alarms.mark_first(account)
    store_pair(account, granted)
    account.refreshed_at = utc_now()
    record(session, EventKind.REFRESHED, account.id, pair.actor, **first)
    if first and account.is_pending:
        note_in_jobs(session, account.id, {"note": PROVEN})
    return Outcome.STORED


def write_no_grant(session: Session, account: Account, answer: Classification, actor: str) -> Outcome:
    """Write an answer without a pair to the account, and end its lease."""
    if answer.was_cancelled:
        release(session, account, clear_marker=True, block_seconds=0)
        return Outcome.NOT_SENT
    if answer.verdict is Verdict.REFUSED_FOR_GOOD:
        return _note_refusal(session, account, answer.reason, actor)
    first = alarms.mark_first(account)
    # A 401 that is no OAuth error says less: in answer to an imported pair, it may be about that pair.
    is_client_refused = answer.verdict is Verdict.CLIENT_MISCONFIGURED and not (first and answer.may_have_rotated)
    if is_client_refused:
        alarms.raise_alarm(session, CLIENT_REFUSED, answer.reason)
    if is_client_refused and not first:
        _end_lease(session, account, is_outcome_unknown=answer.may_have_rotated)
    else:
        record(session, EventKind.REFRESH_FAILED, account.id, actor, reason=answer.reason, **first)
        _note_failure(session, account, answer.reason, answer.may_have_rotated, answer.retry_after_seconds)
    return Outcome.CLIENT_REFUSED if is_client_refused else Outcome.FAILED


def note_late_refusal(session: Session, before: Account, account: Account, reason: str, actor: str) -> None:
    """Record a refusal of an older pair.

    If the newer pair is of the same grant, Keap may have ended that grant; a refresh with the newer token shows it.

    Args:
        before: the account as it was when its older token was sent.
    """
    generations = {"sent": before.generation, "stored": account.generation}
    record(session, EventKind.REFRESH_REFUSED_LATE, account.id, actor, **generations, reason=reason)
    is_same_grant = account.connected_at == before.connected_at and account.disconnected_at is None
    if is_same_grant and account.refused_at is None:
        account.outcome_unknown_since = account.failed_at = account.next_refresh_at = utc_now()
        account.failure_reason = REFUSED_LATE


def _note_refusal(session: Session, account: Account, reason: str, actor: str) -> Outcome:
    """Count a refusal; the second one, a while after the first, is for good, unless Keap refuses everybody."""
    account.refusals += 1
    account.failure_reason = reason
    account.failed_at = utc_now()
    account.next_refresh_at, account.claimed_until = utc_now() + timedelta(seconds=timing.CONFIRM_WAIT_SECONDS), None
    release(session, account, clear_marker=True, block_seconds=timing.CONFIRM_WAIT_SECONDS)
    again = {} if account.refusals == 1 else {"again": " again"}
    if not account.needs_first_refresh:
        record(session, EventKind.REFRESH_REFUSED_ONCE, account.id, actor, reason=reason, **again)
        session.flush()
    is_paused = alarms.too_many_refusals(session)
    if is_paused or account.refusals < 2:
        if account.needs_first_refresh:  # many of a file may be used up, so no alarm counts this kind
            record(session, EventKind.FIRST_REFRESH_REFUSED, account.id, actor, reason=reason, **again)
        account.refusals = 1
        return Outcome.PAUSED if is_paused else Outcome.FAILED
    account.refused_at = utc_now()
    account.blocked_until = account.next_refresh_at = None
    kind = EventKind.ANSWER_LOST if account.outcome_unknown_since else EventKind.REFRESH_REFUSED
    when = f"{account.outcome_unknown_since:%Y-%m-%d %H:%M:%S} UTC" if account.outcome_unknown_since else ""
    record(session, kind, account.id, actor, reason=reason, when=when)
    if account.needs_first_refresh:
        note_in_jobs(session, account.id, {"note": REFUSED})
    return Outcome.REFUSED


def note_unreadable(account_id: int, reason: str) -> None:
    """Back off from an account whose token does not open. A process that has a newer key may hold its lease."""
    with write_transaction() as session:
        account = session.get(Account, account_id, with_for_update=True)
        if account is not None:
            _back_off(account, f"{UNREADABLE} {reason}")


def _note_failure(
    session: Session, account: Account, reason: str, is_outcome_unknown: bool, retry_after_seconds: int | None = None
) -> None:
    wait = int(timing.UNKNOWN_OUTCOME_WAIT_SECONDS) if is_outcome_unknown else 0
    _back_off(account, reason, max(retry_after_seconds or 0, wait))
    _end_lease(session, account, is_outcome_unknown=is_outcome_unknown)


def _end_lease(session: Session, account: Account, *, is_outcome_unknown: bool) -> None:
    """End the lease; if Keap may have rotated, keep the attempt marker and let nobody present the token for a while."""
    if is_outcome_unknown:
        account.outcome_unknown_since = account.outcome_unknown_since or account.attempted_at
    wait = timing.UNKNOWN_OUTCOME_WAIT_SECONDS if is_outcome_unknown else 0
    release(session, account, clear_marker=not is_outcome_unknown, block_seconds=wait)


def _back_off(account: Account, reason: str, retry_after_seconds: int | None = None) -> None:
    now = utc_now()
    account.failures += 1
    account.failed_at, account.failure_reason = now, reason
    account.next_refresh_at = now + timedelta(seconds=back_off_seconds(account.failures, retry_after_seconds))
    account.claimed_until = None
