"""Refreshes accounts, one or many, in three steps: lease, send, store. There is no other way to refresh.

The order prevents every loss: a recovery file is allocated, the lease is committed, the connection is opened, database
and clock are asked again, then the token is sent; the new pair is stored before anything else is done with it.
"""

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from keap_connect import counters
from keap_connect.accounts.directory import lock_accounts
from keap_connect.accounts.schedule import deadline_of
from keap_connect.clock import utc_now
from keap_connect.database import write_transaction
from keap_connect.keap.answers import Classification, Verdict, no_answer
from keap_connect.keap.token_endpoint import refresh
from keap_connect.models import Account
from keap_connect.refresh import alarms, recovery, timing
from keap_connect.refresh.clone_guard import check_before_lease
from keap_connect.refresh.lease import Lease, acquire_leases, build_lease, is_still_held
from keap_connect.refresh.replaying import keep, write_later
from keap_connect.refresh.storing import (
    OTHER_TENANT,
    NewPair,
    Outcome,
    note_late_refusal,
    store_granted,
    write_no_grant,
)
from keap_connect.services import services
from keap_connect.signals import stops_delayed

log = logging.getLogger(__name__)
FAULT = no_answer("A fault of this program ended the refresh, and nobody knows whether Keap answered.", was_sent=True)
KEPT_ASIDE = "The new tokens are safe and will be stored once the database answers."
TO_CONFIRM = " It is tried again in a minute, before it counts."


@dataclass
class Presentation:
    """A leased refresh token, the file for its new pair, and Keap's answer."""

    lease: Lease
    file: recovery.RecoveryFile
    actor: str
    answer: Classification = FAULT
    fault: Exception | None = None
    is_for_replay = False  # `replaying.replay` decides what becomes of the new pair

    @property
    def new_pair(self) -> NewPair | None:
        account, granted = self.lease.account, self.answer.token_response
        return NewPair(account.id, account.generation, granted, self.actor) if granted else None


@dataclass(frozen=True)
class Attempt:
    """How a presentation ended."""

    outcome: Outcome
    reason: str = ""  # Keap's answer in a sentence
    retry_after_seconds: int | None = None
    is_keap_trouble: bool = False  # Keap as a whole answered badly, or not at all
    is_of_pair: bool = False  # or what is wrong is an imported pair that was never refreshed
    fault: Exception | None = None  # of this program; a new pair is kept all the same


def refresh_once(
    account: Account, actor: str, unknown_wait_seconds: float | None = None, patient_until: float = inf
) -> Attempt:
    """Refresh one account.

    Args:
        account: as it was read; if it has another pair by now, nothing is sent.
        unknown_wait_seconds: as in `build_lease`.
        patient_until: as in `check_before_lease`.

    Raises:
        SealBroken: the stored refresh token does not open; nothing was sent.
        SQLAlchemyError: the lease could not be written; nothing was sent.
        RecoveryUnavailable: no recovery file could be allocated; nothing was sent.
    """
    lease = build_lease(account, unknown_wait_seconds)
    with stops_delayed():  # a process that ends between sending and storing loses the pair
        presentations = prepare([lease] if lease else [], actor, patient_until)
        for presentation in presentations:
            present(presentation)
        attempts = settle(presentations)
    attempt = attempts[0] if attempts else Attempt(Outcome.NOT_TAKEN)
    if attempt.fault:
        raise attempt.fault
    return attempt


def prepare(leases: Sequence[Lease], actor: str, patient_until: float = inf) -> list[Presentation]:
    """Allocate recovery files, acquire the leases that are free, and return what may be presented and then settled.

    Raises:
        SQLAlchemyError: the leases could not be written.
        TemporarilyUnavailable: the database does not answer, or no recovery file could be allocated.
    """
    if not leases or not check_before_lease(patient_until):
        return []
    files = {f"{file.path.stem}:{secrets.token_hex(4)}": file for file in recovery.allocate(len(leases))}
    try:
        acquired = acquire_leases([replace(lease, owner=owner) for lease, owner in zip(leases, files, strict=True)])
        check_before_lease()  # these may have gone to another database; an alarm forbids at the last check to send
    except Exception:
        # The database may have failed at the commit and have the leases: a process that finds the files ends them.
        for file in files.values():
            file.abandon()
        raise
    presentations = [Presentation(lease, files.pop(lease.owner), actor) for lease in acquired]
    recovery.give_back(files.values())
    return presentations


def present(presentation: Presentation) -> None:
    """Send the refresh token unless the last check forbids it, and keep Keap's answer."""
    lease = presentation.lease
    try:
        may_send = partial(is_still_held, lease)
        presentation.answer = refresh(services().keap, lease.refresh_token, lease.must_end_by, may_send)
        if pair := presentation.new_pair:
            presentation.file.guard(pair)
    except Exception as fault:  # the lease has to be ended, and the others presented
        presentation.fault = fault


def settle(presentations: Sequence[Presentation]) -> list[Attempt]:
    """Write in one transaction how attempts ended; a pair that cannot be stored is kept in its recovery file."""
    if not presentations:
        return []
    try:
        attempts = _write(presentations)
    except Exception as problem:  # whatever it was, no new pair must be lost
        if len(presentations) > 1 and not isinstance(problem, SQLAlchemyError):  # a fault concerns one of them
            return [attempt for each in presentations for attempt in settle([each])]
        return [_keep(each, problem) for each in presentations]
    recovery.give_back([each.file for each in presentations if not each.is_for_replay])
    for each in presentations:
        if each.is_for_replay and each.file.write_down():
            each.file.abandon()
    return attempts


def _keep(presentation: Presentation, problem: Exception) -> Attempt:
    name, account_id = type(problem).__name__, presentation.lease.account.id
    log.error("The answer for account %s could not be stored (%s).", account_id, name)
    fault = presentation.fault or (None if isinstance(problem, SQLAlchemyError) else problem)
    if pair := presentation.new_pair:
        counters.count("refreshes", Outcome.KEPT_ASIDE)
        keep(presentation.file, pair)
        return Attempt(Outcome.KEPT_ASIDE, KEPT_ASIDE, fault=fault)
    if isinstance(problem, SQLAlchemyError):
        write_later(presentation.file, partial(_write, [presentation]))
    else:
        counters.count("refreshes", Outcome.FAILED)
        presentation.file.abandon()
    return Attempt(Outcome.FAILED, "The database did not answer.", fault=fault)


def _write(presentations: Sequence[Presentation]) -> list[Attempt]:
    with write_transaction() as session:
        attempts = _settle_all(session, presentations)
    now = utc_now()
    for presentation, attempt in zip(presentations, attempts, strict=True):
        counters.count("refreshes", attempt.outcome)
        deadline = deadline_of(presentation.lease.account, now) if attempt.outcome is Outcome.STORED else None
        if deadline:
            counters.observe("refresh_lead_seconds", (deadline - now).total_seconds())
    return attempts


def _settle_all(session: Session, presentations: Sequence[Presentation]) -> list[Attempt]:
    accounts = lock_accounts(session, Account.id.in_([each.lease.account.id for each in presentations]))
    attempts = [_settle(session, accounts.get(each.lease.account.id), each) for each in presentations]
    outcomes = {attempt.outcome for attempt in attempts}
    if Outcome.STORED in outcomes and Outcome.CLIENT_REFUSED not in outcomes:
        alarms.end_client_refused(session)  # Keap knows our client, whatever it said before
    return attempts


def _settle(session: Session, account: Account | None, presentation: Presentation) -> Attempt:
    lease, answer, actor = presentation.lease, presentation.answer, presentation.actor
    if pair := presentation.new_pair:
        outcome = store_granted(session, account, pair)
        # The row was put back or is gone, as after a failover that lost commits: this may be the only living pair.
        presentation.is_for_replay = account is None or outcome is Outcome.AHEAD
        reason = OTHER_TENANT if outcome is Outcome.FAILED else answer.reason
        return Attempt(outcome, reason, fault=presentation.fault)
    if account is None or (account.generation, account.lease_owner) != (lease.account.generation, lease.owner):
        # With the same generation somebody else has the lease of this pair now, and gets Keap's answer.
        is_older = account is not None and account.generation != lease.account.generation
        if account and is_older and answer.verdict is Verdict.REFUSED_FOR_GOOD:
            note_late_refusal(session, lease.account, account, answer.reason, actor)
        return Attempt(Outcome.LATE, answer.reason, fault=presentation.fault)
    outcome = write_no_grant(session, account, answer, actor)
    if outcome is Outcome.NOT_SENT:
        log.info("Account %s was not refreshed. %s", account.id, answer.reason)
        return Attempt(outcome, answer.reason, retry_after_seconds=1)
    if outcome is Outcome.FAILED and answer.verdict is Verdict.REFUSED_FOR_GOOD:
        return Attempt(outcome, answer.reason + TO_CONFIRM, int(timing.CONFIRM_WAIT_SECONDS), fault=presentation.fault)
    is_trouble = answer.verdict is Verdict.TRY_LATER and presentation.fault is None
    asks_all = answer.is_throttled or answer.retry_after_seconds is not None
    is_of_pair = account.needs_first_refresh and is_trouble and not asks_all
    return Attempt(outcome, answer.reason, answer.retry_after_seconds, is_trouble, is_of_pair, presentation.fault)
