"""Presents a refresh token once, and writes down what the answer means.

Order is everything: a recovery file is allocated, the lease is committed, the connection is opened, database and clock
are asked once more, then the token is sent; the new pair is stored before anything else is done with it.
"""

import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from keap_connect.clock import utc_now
from keap_connect.database import write_transaction
from keap_connect.events.history import EventKind, record
from keap_connect.keap.answers import Classification, Verdict, no_answer, not_sent
from keap_connect.keap.token_endpoint import refresh
from keap_connect.models import Account
from keap_connect.refresh import alarms, recovery, timing
from keap_connect.refresh.clone_guard import check_before_first_lease
from keap_connect.refresh.lease import (
    Lease,
    LeaseUncertain,
    acquire_leases,
    build_lease,
    is_still_held,
    note_dead,
    release,
)
from keap_connect.refresh.storing import OTHER_TENANT, NewPair, Outcome, note_failure, rest, store_granted
from keap_connect.services import services
from keap_connect.signals import stops_delayed

log = logging.getLogger(__name__)
NOT_YET = no_answer("Nothing was sent to Keap.", was_sent=False)
REFUSED_LATE = "Keap refused an earlier refresh token after the new tokens were stored; they may have ended with it."
KEPT_ASIDE = "The new tokens are safe and will be stored once the database answers."


@dataclass
class Presentation:
    """A refresh token that may be presented now, where its new pair would be kept, and Keap's answer once it came."""

    lease: Lease
    slot: recovery.RecoveryFile
    actor: str
    classified: Classification = NOT_YET
    is_written: bool = False  # how the attempt ended

    @property
    def is_over(self) -> bool:
        """Whether Keap's answer, or its absence, was judged."""
        return self.classified is not NOT_YET

    @property
    def new_pair(self) -> NewPair | None:
        """What Keap granted."""
        account, granted = self.lease.account, self.classified.token_response
        return NewPair(account.id, account.generation, granted, self.actor) if granted else None


@dataclass(frozen=True)
class Attempt:
    """How a presentation ended, and Keap's answer in a sentence."""

    outcome: Outcome
    reason: str = ""
    retry_after_seconds: int | None = None
    is_keap_trouble: bool = False  # Keap as a whole answered badly, or not at all
    fault: Exception | None = None  # of this program; the new pair is kept in the recovery file all the same


def spend(account: Account, actor: str, unknown_wait_seconds: float | None = None) -> Attempt:
    """Take the lease, present the refresh token, store what comes back.

    Args:
        account: as it was read; if it has another pair by now, nothing is sent.
        unknown_wait_seconds: as `build_lease` takes it.

    Raises:
        SealBroken: the stored refresh token does not open; nothing was sent.
        SQLAlchemyError: the lease could not be written; nothing was sent.
        RecoveryUnavailable: no recovery file could be allocated; nothing was sent.
    """
    lease = build_lease(account, unknown_wait_seconds)
    with stops_delayed():  # between sending and storing, the end of this process would lose the pair
        for presentation in prepare([lease] if lease else [], actor):
            try:
                present(presentation)
                attempt = settle(presentation)
            finally:
                release_files([presentation])
            if attempt.fault:
                raise attempt.fault
            return attempt
    return Attempt(Outcome.NOT_TAKEN)


def prepare(leases: Sequence[Lease], actor: str) -> list[Presentation]:
    """Allocate a recovery file for each, take the leases, and return those presentations that may go on.

    Whoever ends a presentation puts it away.

    Raises:
        SQLAlchemyError: the leases could not be written.
        RecoveryUnavailable: no recovery file could be allocated.
    """
    if not leases:
        return []
    check_before_first_lease()
    slots = {f"{slot.path.stem}:{secrets.token_hex(4)}": slot for slot in recovery.allocate(len(leases))}
    try:
        owned = [replace(lease, owner=owner) for lease, owner in zip(leases, slots, strict=True)]
        return [Presentation(lease, slots.pop(lease.owner), actor) for lease in acquire_leases(owned)]
    except LeaseUncertain:
        if not _end_leases(slots.values()):
            while slots:
                slots.popitem()[1].abandon()
        raise
    finally:
        recovery.give_back(slots.values())


def _end_leases(slots: Iterable[recovery.RecoveryFile]) -> bool:
    try:
        with write_transaction() as session:
            note_dead(session, [slot.path.stem for slot in slots])
    except SQLAlchemyError:
        return False
    return True


def release_files(presentations: Sequence[Presentation]) -> None:
    """Give the recovery files back; of an attempt whose end could not be written down, whoever finds its file does."""
    for each in presentations:
        if not each.is_written and not each.slot.is_kept:
            each.slot.abandon()
    recovery.give_back([each.slot for each in presentations if each.is_written])


def present(presentation: Presentation) -> None:
    """Present the refresh token, unless the last look says no, and note how Keap's answer is judged."""
    lease = presentation.lease
    held = partial(is_still_held, lease)
    presentation.classified = refresh(services().keap, lease.refresh_token, lease.must_end_by, held)
    if pair := presentation.new_pair:
        presentation.slot.guard(pair)


def settle(presentation: Presentation) -> Attempt:
    """Write down what Keap's answer means."""
    if presentation.new_pair:
        return store([presentation])[0]
    classified = presentation.classified
    try:
        with write_transaction() as session:
            attempt = _settle(session, presentation, classified)
    except SQLAlchemyError as problem:
        _tell_not_stored(presentation, problem)
        return Attempt(Outcome.FAILED, "The database did not answer.")
    presentation.is_written = True
    return attempt


def _settle(session: Session, presentation: Presentation, classified: Classification) -> Attempt:
    lease = presentation.lease
    account = session.get(Account, lease.account.id, with_for_update=True)
    if account is None or account.generation != lease.account.generation or account.lease_owner != lease.owner:
        if account and classified.verdict is Verdict.REFUSED_FOR_GOOD:
            _note_late_refusal(session, account, presentation)
        return Attempt(Outcome.LATE, classified.reason)
    if classified.was_not_sent:
        log.info("Account %s was not refreshed. %s", account.id, classified.reason)
        release(session, account, clear_marker=True, block_seconds=0)
        return Attempt(Outcome.NOT_SENT, classified.reason, retry_after_seconds=1)
    outcome = _note_refusal_or_failure(session, account, classified, presentation.actor)
    is_trouble = classified.verdict is Verdict.TRY_LATER
    return Attempt(outcome, classified.reason, classified.retry_after_seconds, is_trouble)


def store(presentations: Sequence[Presentation]) -> list[Attempt]:
    """Store the new pairs of several presentations in one transaction; what cannot be stored is kept in their slots."""
    pairs = [pair for each in presentations if (pair := each.new_pair)]
    try:
        outcomes = store_granted(pairs)
    except Exception as problem:  # whatever it was, no new pair must be lost
        is_outage = isinstance(problem, SQLAlchemyError)
        if len(pairs) > 1 and not is_outage:  # a fault concerns one of them
            return [attempt for each in presentations for attempt in store([each])]
        for each, pair in zip(presentations, pairs, strict=True):
            _tell_not_stored(each, problem)
            each.slot.keep(pair)
        return [Attempt(Outcome.KEPT_ASIDE, KEPT_ASIDE, fault=None if is_outage else problem)] * len(pairs)
    for each in presentations:
        each.slot.note_stored()
        each.is_written = True
    return [
        Attempt(outcome, OTHER_TENANT if outcome is Outcome.FAILED else each.classified.reason)
        for each, outcome in zip(presentations, outcomes, strict=True)
    ]


def withdraw(presentation: Presentation) -> None:
    """Let a token be that is not presented after all; settling ends its lease."""
    presentation.classified = not_sent("Nothing was sent to Keap.")


def _note_late_refusal(session: Session, account: Account, presentation: Presentation) -> None:
    """Record a refusal that concerns an older pair.

    If the newer one is of the same grant, Keap may have ended that grant; a refresh with the newer token tells.
    """
    before = presentation.lease.account
    if account.generation == before.generation:
        return  # somebody else has the lease of this pair now and finds out
    generations = {"sent": before.generation, "stored": account.generation}
    reason = presentation.classified.reason
    record(session, EventKind.REFRESH_REFUSED_LATE, account.id, presentation.actor, **generations, reason=reason)
    is_same_grant = account.connected_at == before.connected_at and account.disconnected_at is None
    if is_same_grant and account.refused_at is None:
        account.outcome_unknown_since = account.failed_at = account.next_refresh_at = utc_now()
        account.failure_reason = REFUSED_LATE


def _tell_not_stored(presentation: Presentation, problem: Exception) -> None:
    name = type(problem).__name__
    log.error("The answer for account %s could not be stored (%s).", presentation.lease.account.id, name)


def _note_refusal_or_failure(session: Session, account: Account, classified: Classification, actor: str) -> Outcome:
    if classified.verdict is Verdict.REFUSED_FOR_GOOD:
        return _note_refusal(session, account, classified.reason, actor)
    if classified.verdict is Verdict.CLIENT_MISCONFIGURED:
        alarms.raise_alarm(session, alarms.CLIENT_REFUSED, classified.reason)
        rest(session, account, is_outcome_unknown=classified.may_have_rotated)
        return Outcome.CLIENT_REFUSED
    record(session, EventKind.REFRESH_FAILED, account.id, actor, reason=classified.reason)
    note_failure(session, account, classified.reason, classified.may_have_rotated, classified.retry_after_seconds)
    return Outcome.FAILED


def _note_refusal(session: Session, account: Account, reason: str, actor: str) -> Outcome:
    """Count a refusal; the second one, a while after the first, is for good, unless Keap refuses everybody."""
    account.refusals += 1
    account.failure_reason = reason
    account.failed_at = utc_now()
    account.next_refresh_at = utc_now() + timedelta(seconds=timing.CONFIRM_WAIT_SECONDS)
    release(session, account, clear_marker=True, block_seconds=timing.CONFIRM_WAIT_SECONDS)
    record(session, EventKind.REFRESH_REFUSED_ONCE, account.id, actor, reason=reason)
    session.flush()
    if alarms.too_many_refusals(session):
        account.refusals = 1
        return Outcome.PAUSED
    if account.refusals < 2:
        return Outcome.FAILED
    account.refused_at = utc_now()
    account.blocked_until = account.next_refresh_at = None
    kind = EventKind.ANSWER_LOST if account.outcome_unknown_since else EventKind.REFRESH_REFUSED
    when = f"{account.outcome_unknown_since:%H:%M} UTC" if account.outcome_unknown_since else ""
    record(session, kind, account.id, actor, reason=reason, when=when)
    return Outcome.REFUSED
