"""Presents a refresh token once, and writes down what the answer means.

Order is everything: a recovery file is allocated, the lease is committed, the connection is opened, database and clock
are asked once more, then the token is sent; the new pair is stored before anything else is done with it.
"""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from keap_connect.accounts.history import EventKind, record
from keap_connect.clock import utc_now
from keap_connect.database import write_transaction
from keap_connect.keap.judgement import Judgement, Verdict
from keap_connect.keap.token_endpoint import refresh
from keap_connect.models import Account
from keap_connect.refreshing import brakes, recovery, timing
from keap_connect.refreshing.lease import Lease, is_still_held, release, take_lease
from keap_connect.refreshing.storing import OTHER_TENANT, NewPair, Outcome, note_failure, rest, store_granted
from keap_connect.runtime import runtime

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Places:
    """How many attempts may be where at once; each is entered in turn, like a semaphore.

    Without the first, those that wait for their call would let their leases run out while Keap is slow.
    """

    leased: AbstractContextManager[object]  # from the lease to the end of the call
    calling: AbstractContextManager[object]


NO_LIMIT = Places(contextlib.nullcontext(), contextlib.nullcontext())


@dataclass(frozen=True)
class Attempt:
    """One attempt: how it ended, and Keap's answer in a sentence."""

    outcome: Outcome
    reason: str = ""
    retry_after_seconds: int | None = None
    is_keap_trouble: bool = False  # Keap as a whole answered badly, or not at all


def spend(account: Account, actor: str, places: Places = NO_LIMIT) -> Attempt:
    """Take the lease, present the refresh token, store what comes back.

    Args:
        account: as it was read; if it has another pair by now, nothing is sent.
        places: limits how many attempts may go on at once.

    Raises:
        SealBroken: the stored refresh token does not open; nothing was sent.
        SQLAlchemyError: the lease could not be written; nothing was sent.
        RecoveryUnavailable: no recovery file could be allocated; nothing was sent.
    """
    recovery.replay_first()
    with recovery.slot() as slot, _uninterrupted():
        with places.leased:
            lease = take_lease(account)
            if lease is None:
                return Attempt(Outcome.NOT_TAKEN)
            held = partial(is_still_held, lease)
            with places.calling:
                judgement = refresh(runtime().keap, lease.refresh_token, lease.must_end_by, held)
        try:
            return _settle(lease, judgement, actor)
        except Exception as problem:  # whatever it was, the new pair must not be lost
            log.error("The answer for account %s could not be stored (%s).", lease.account.id, type(problem).__name__)
            granted = judgement.token_response
            if granted is not None:
                slot.keep(NewPair(lease.account.id, lease.account.generation, granted, actor))
            if not isinstance(problem, SQLAlchemyError):
                raise
            if granted is None:
                return Attempt(Outcome.FAILED, "The database did not answer.")
            return Attempt(Outcome.KEPT_ASIDE, "The new tokens are safe and will be stored once the database answers.")


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of the attempt: between sending and storing they would lose the pair."""
    waiting: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():  # no other thread is interrupted by signals
        for sign in (signal.SIGINT, signal.SIGTERM):
            before[sign] = signal.signal(sign, lambda number, _frame: waiting.append(number))
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler or signal.SIG_DFL)
        for number in waiting:
            signal.raise_signal(number)


def _settle(lease: Lease, judgement: Judgement, actor: str) -> Attempt:
    granted = judgement.token_response
    if granted is not None:
        outcome = store_granted(NewPair(lease.account.id, lease.account.generation, granted, actor))
        return Attempt(outcome, OTHER_TENANT if outcome is Outcome.FAILED else judgement.reason)
    with write_transaction() as session:
        account = session.get(Account, lease.account.id, with_for_update=True)
        # A late refusal marks nothing: not when the pair is a newer one, and not when the lease went to somebody else.
        if account is None or account.generation != lease.account.generation or account.lease_owner != lease.owner:
            return Attempt(Outcome.LATE, judgement.reason)
        outcome = _note_refusal_or_failure(session, account, judgement, actor)
    is_trouble = judgement.verdict is Verdict.TRY_LATER
    return Attempt(outcome, judgement.reason, judgement.retry_after_seconds, is_trouble)


def _note_refusal_or_failure(session: Session, account: Account, judgement: Judgement, actor: str) -> Outcome:
    if judgement.verdict is Verdict.REFUSED_FOR_GOOD:
        return _note_refusal(session, account, judgement.reason, actor)
    if judgement.verdict is Verdict.CLIENT_MISCONFIGURED:
        brakes.raise_alarm(session, brakes.CLIENT_REFUSED, judgement.reason)
        rest(session, account, in_doubt=judgement.may_have_rotated)
        return Outcome.CLIENT_REFUSED
    record(session, EventKind.REFRESH_FAILED, account.id, actor, reason=judgement.reason)
    note_failure(session, account, judgement.reason, judgement.may_have_rotated, judgement.retry_after_seconds)
    return Outcome.FAILED


def _note_refusal(session: Session, account: Account, reason: str, actor: str) -> Outcome:
    """Count a refusal; the second one, a while after the first, is for good, unless Keap refuses everybody."""
    account.refusals += 1
    account.failure_reason = reason
    account.failed_at = utc_now()
    account.next_refresh_at = utc_now() + timedelta(seconds=timing.CONFIRM_WAIT_SECONDS)
    release(session, account, clear_marker=True, hold_seconds=timing.CONFIRM_WAIT_SECONDS)
    record(session, EventKind.REFRESH_REFUSED_ONCE, account.id, actor, reason=reason)
    session.flush()
    if brakes.too_many_refusals(session):
        account.refusals = 1
        return Outcome.BRAKED
    if account.refusals < 2:
        return Outcome.FAILED
    account.refused_at = utc_now()
    account.hold_until = account.next_refresh_at = None
    kind = EventKind.ANSWER_LOST if account.lost_at else EventKind.REFRESH_REFUSED
    when = f"{account.lost_at:%H:%M} UTC" if account.lost_at else ""
    record(session, kind, account.id, actor, reason=reason, when=when)
    return Outcome.REFUSED
