"""Returns a valid access token: the stored one, or the one of its own refresh or of somebody else's.

A token that has not expired is served even if refreshing fails or the grant is dead, with a warning. Only an explicit
`min_validity_seconds` that cannot be met is refused.
"""

import contextlib
import hmac
import logging
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from flask import current_app
from sqlalchemy.exc import SQLAlchemyError

from keap_connect.accounts.credentials import fingerprint, is_ours, open_access_token
from keap_connect.accounts.directory import load_account
from keap_connect.accounts.schedule import MOST_JITTER, is_use_noted, next_refresh_at
from keap_connect.accounts.state import KEYS, AccountState, Ours, state_of
from keap_connect.clock import seconds_since_boot, utc_now
from keap_connect.database import write_transaction
from keap_connect.errors import (
    AccountDisconnected,
    ClientMisconfigured,
    KeapConnectError,
    NotRefreshable,
    ReconnectRequired,
    SealBroken,
    TemporarilyUnavailable,
)
from keap_connect.events.history import EventKind, record
from keap_connect.models import Account, CredentialKind
from keap_connect.refresh import recovery, replaying, timing
from keap_connect.refresh.alarms import Probe
from keap_connect.refresh.lease import AHEAD, CLOSED, Situation, look
from keap_connect.refresh.refresher import Attempt, refresh_once
from keap_connect.refresh.storing import Outcome
from keap_connect.services import services

log = logging.getLogger(__name__)
DISCONNECTED = "This account was disconnected; its tokens are deleted."
MAY_END_EARLIER = "This token cannot be refreshed, and may expire before the time given here: Keap did not say when."
ON_HOLD = "Its new tokens are in a recovery file that is not stored yet: ./keap-connect doctor on its host says why."
# However slow Keap is, the other threads of a web process stay free for tokens that need no refresh, and for people.
_places = threading.BoundedSemaphore(timing.MOST_AT_ONCE)
_probe = Probe()
ENDING = "keap_connect.ending"  # an extension of the app once too little time is left to wait for Keap's answer


class RefreshUnderWay(Exception):
    """The caller has to wait, and can do so without a thread: until `is_over`, or `until` on the boot clock."""

    def __init__(self, account_id: int, until: float) -> None:
        super().__init__()
        self.account_id, self.until = account_id, until

    def is_over(self) -> bool:
        try:
            return _is_wait_over(look(self.account_id))
        except (SQLAlchemyError, KeapConnectError):
            return True  # the next call raises it where it can be answered


@contextlib.contextmanager
def _outages_are_temporary() -> Iterator[None]:
    """Raise TemporarilyUnavailable if the database fails in the block."""
    try:
        yield
    except SQLAlchemyError as problem:
        log.warning("A token could not be served or refreshed: the database fails (%s).", type(problem).__name__)
        raise TemporarilyUnavailable("The database fails right now. Nothing is lost; try again.", 5) from problem


@dataclass(frozen=True)
class ServedToken:
    """A token that has not expired. `warning` says why it could not be made to last longer."""

    access_token: str = field(repr=False)
    fingerprint: str
    account: Account = field(repr=False)
    state: AccountState
    warning: str | None

    def as_answer(self) -> dict[str, object]:
        """Return the body of the answer, the same for the API and the command line."""
        expires_at = self.account.access_token_expires_at
        return {
            "state": self.state,
            "access_token": self.access_token,
            "token_type": "bearer",
            "expires_in": max(int((expires_at - utc_now()).total_seconds()), 0) if expires_at else None,
            "expires_at": expires_at,
            "tenant_id": self.account.tenant_id,
            "fingerprint": self.fingerprint,
            **({"warning": self.warning} if self.warning else {}),
        }


@dataclass(frozen=True)
class _Caller:
    """Who needs another pair, and how long they wait for it."""

    actor: str
    patient_until: float  # on the boot clock
    wanted_seconds: float = 0  # that the access token has to last
    replaced_generation: int | None = None  # an explicit refresh ends with another pair than this
    can_wait_elsewhere: bool = False  # the server repeats the call, so no thread has to wait

    def has_enough(self, account: Account) -> bool:
        if self.replaced_generation is not None:
            return account.generation != self.replaced_generation
        return _lasts(account, self.wanted_seconds)

    def send_elsewhere(self, account_id: int) -> None:
        """Raise RefreshUnderWay if the caller can and wants to wait elsewhere."""
        if self.can_wait_elsewhere and seconds_since_boot() < self.patient_until:
            raise RefreshUnderWay(account_id, self.patient_until)


@_outages_are_temporary()
def valid_token(
    account_id: int,
    actor: str,
    min_validity_seconds: int | None = None,
    patience_seconds: float = timing.PATIENCE_SECONDS,
    asked_at: float | None = None,
) -> ServedToken:
    """Return an access token that is valid now, and for `min_validity_seconds` if given.

    Args:
        asked_at: when a caller that can wait elsewhere first asked, on the boot clock.

    Raises:
        RefreshUnderWay: the caller has to wait, and can do so elsewhere.
        AccountNotFound.
        AccountDisconnected: its tokens were deleted.
        ReconnectRequired: the grant is dead, and no stored token lasts long enough.
        TemporarilyUnavailable: no token lasts long enough within the patience, or the database does not answer;
            nothing is lost.
        ClientMisconfigured: the same, because Keap refuses our client.
        SealBroken: the stored tokens do not open.
    """
    situation = look(account_id)
    served = stored_token(situation.account, min_validity_seconds)
    if served:
        return served
    caller = _Caller(
        actor,
        patient_until=(seconds_since_boot() if asked_at is None else asked_at) + patience_seconds,
        wanted_seconds=_wanted_seconds(min_validity_seconds),
        can_wait_elsewhere=asked_at is not None,
    )
    try:
        with _outages_are_temporary():
            account = _refreshed(situation, caller)
    except (ReconnectRequired, TemporarilyUnavailable, ClientMisconfigured, SealBroken) as refusal:
        with contextlib.suppress(SQLAlchemyError):
            situation = look(account_id)
        if min_validity_seconds is None and _lasts(situation.account, 0):
            return _serve(situation.account, str(refusal))
        raise
    if not _lasts(account, min_validity_seconds or 0):
        raise TemporarilyUnavailable("Keap grants no token that lasts as long as was asked for.", 60)
    return _serve(account)


def stored_token(account: Account, min_validity_seconds: int | None = None) -> ServedToken | None:
    """Return the stored access token, or None if it has to be refreshed first. Raises SealBroken."""
    if not _lasts(account, _wanted_seconds(min_validity_seconds)):
        return None
    return _serve(account, MAY_END_EARLIER if account.kind == CredentialKind.ACCESS_TOKEN_ONLY else None)


@_outages_are_temporary()
def refresh_account(account_id: int, actor: str, patience_seconds: float = timing.PATIENCE_SECONDS) -> None:
    """Refresh now, whatever the age of the current token.

    Raises:
        NotRefreshable: it is a key, which does not expire.
        KeapConnectError: as `valid_token`; the tokens are kept.
    """
    situation = look(account_id)
    if situation.account.kind in KEYS and situation.account.disconnected_at is None:
        raise NotRefreshable("Keys are not refreshed: they do not expire.")
    patient_until = seconds_since_boot() + patience_seconds
    _refreshed(situation, _Caller(actor, patient_until, replaced_generation=situation.account.generation))


@_outages_are_temporary()
def report_rejected(account_id: int, reported_fingerprint: str, actor: str) -> bool:
    """Note that a job saw Keap refuse an access token: it is not served again, and is refreshed if possible.

    Args:
        reported_fingerprint: the first 16 hex digits of the refused token's SHA-256.

    Returns:
        False for a stale report, which changes nothing: the token is not the current one.

    Raises:
        AccountNotFound, SealBroken, TemporarilyUnavailable.
    """
    with write_transaction() as session:
        account = load_account(session, account_id, lock=True)
        token = open_access_token(account)
        if token is None or not hmac.compare_digest(fingerprint(token), reported_fingerprint):
            return False
        now = utc_now()
        if account.access_token_expires_at is None or account.access_token_expires_at > now:
            account.access_token_expires_at = now
            if account.refresh_token_sealed is None:
                record(session, EventKind.CREDENTIAL_REJECTED, account.id, actor)
            else:
                account.next_refresh_at = now
                record(session, EventKind.TOKEN_REJECTED, account.id, actor)
    return True


def _refreshed(situation: Situation, caller: _Caller) -> Account:
    """Refresh, or wait until somebody else has; return the account once the caller has enough."""
    account_id = situation.account.id
    while not _is_done(situation, caller):
        if situation.pause_reason:
            words = f"Refreshing is paused. {situation.pause_reason}"
            raise TemporarilyUnavailable(words, timing.COME_BACK_WHEN_PAUSED_SECONDS)
        if situation.unknown_seconds is not None:
            replaying.replay()  # its process may be dead and have left the new pair
            situation = look(account_id)
            if _is_done(situation, caller):
                break
        if not situation.is_leased and _refresh(situation, caller):
            before, situation = situation, look(account_id)
            _check(situation)  # a disconnect that came while Keap answered has the last word
            if situation.account.generation != before.account.generation:
                break
            continue  # somebody else got the lease of this pair meanwhile, and is refreshing it
        caller.send_elsewhere(account_id)
        with _place(account_id, caller):
            situation = _wait(account_id, caller.patient_until)
    return situation.account


def _is_done(situation: Situation, caller: _Caller) -> bool:
    _check(situation)
    return caller.has_enough(situation.account)


def _refresh(situation: Situation, caller: _Caller) -> bool:
    """Present the refresh token; return False if somebody else has the lease."""
    if ENDING in current_app.extensions:
        raise TemporarilyUnavailable("This process is ending, so no refresh begins. Try again.", 5)
    unknown_wait = _unknown_wait(situation, caller)
    _check_block(situation, caller, unknown_wait)
    is_probe = situation.client_refusal is not None and caller.replaced_generation is None
    with _place(situation.account.id, caller):
        if is_probe and not _probe.take():
            raise ClientMisconfigured(situation.client_refusal)
        outcome = Outcome.NOT_SENT
        try:
            attempt = refresh_once(situation.account, caller.actor, unknown_wait, caller.patient_until)
            outcome = attempt.outcome
        finally:
            if is_probe and outcome in {Outcome.NOT_TAKEN, Outcome.NOT_SENT}:
                _probe.give_back()
    if attempt.outcome not in {Outcome.STORED, Outcome.LATE, Outcome.NOT_TAKEN}:
        raise _refusal(attempt)
    return attempt.outcome is not Outcome.NOT_TAKEN


@contextlib.contextmanager
def _place(account_id: int, caller: _Caller) -> Iterator[None]:
    """Hold until the end of the block one of the few places for callers that keep a thread."""
    if not _places.acquire(blocking=False):
        caller.send_elsewhere(account_id)
        raise TemporarilyUnavailable("Many callers wait for refreshes already.", 5)
    try:
        yield
    finally:
        _places.release()


def _check(situation: Situation) -> None:
    account = situation.account
    if account.disconnected_at is not None:
        raise AccountDisconnected(DISCONNECTED)
    if account.refresh_token_sealed is None:
        raise ReconnectRequired("There is no refresh token for this account; a person must authorize again.")
    if state_of(account, utc_now(), Ours(*services().keap.registration)) is AccountState.RECONNECT_REQUIRED:
        raise ReconnectRequired("A person must authorize again: Keap refused the grant, or it aged out.")
    if not is_ours(account):
        raise ReconnectRequired(
            "This grant belongs to another client id or token URL than the settings name, and is never sent elsewhere: "
            "put the old settings back, or reconnect it."
        )


def _unknown_wait(situation: Situation, caller: _Caller) -> float:
    """Return how long the token must wait after an attempt whose outcome nobody knows."""
    account = situation.account
    if _is_on_hold(account) or _lasts(account, max(caller.wanted_seconds, timing.RUNS_SHORT_SECONDS)):
        return timing.UNASKED_WAIT_SECONDS
    if account.lease_owner and recovery.is_locked(account.lease_owner):
        return timing.LOCKED_WAIT_SECONDS
    return timing.UNKNOWN_OUTCOME_WAIT_SECONDS


def _is_on_hold(account: Account) -> bool:
    return account.lease_owner is not None and account.lease_owner.endswith((CLOSED, AHEAD))


def _check_block(situation: Situation, caller: _Caller, unknown_wait: float) -> None:
    """Raise what keeps the token from being presented now, with the seconds that this will last."""
    account = situation.account
    if situation.unknown_seconds is not None and situation.unknown_seconds < unknown_wait:
        if _is_on_hold(account):
            raise TemporarilyUnavailable(ON_HOLD, timing.COME_BACK_WHEN_PAUSED_SECONDS)
        words = "Nobody knows yet how the last refresh ended, so the refresh token rests before it is tried again."
        raise TemporarilyUnavailable(words, int(unknown_wait - situation.unknown_seconds) + 1)
    if situation.blocked_seconds > 0:
        why = "Keap refused the last refresh" if account.refusals else "No usable answer came to the last refresh"
        blocked = int(situation.blocked_seconds) + 1
        words = f"{why}, so the refresh token rests before it is tried again in {blocked} s."
        raise TemporarilyUnavailable(words, blocked)
    if caller.replaced_generation is not None:
        return  # an explicit refresh is tried in spite of failures
    if situation.client_refusal and not _probe.is_due:
        raise ClientMisconfigured(situation.client_refusal)
    if account.failures and account.next_refresh_at is not None:
        seconds = (account.next_refresh_at - utc_now()).total_seconds()
        if seconds > 0:
            raise TemporarilyUnavailable(account.failure_reason or "The last refresh failed.", int(seconds) + 1)


def _wait(account_id: int, patient_until: float) -> Situation:
    """Wait until somebody else's lease has ended, or refreshing is paused, and look again."""
    while True:
        remaining = patient_until - seconds_since_boot()
        if remaining <= 0:
            raise TemporarilyUnavailable("A refresh is under way and takes longer than you wanted to wait.", 5)
        time.sleep(min(timing.LOOK_EVERY_SECONDS * random.uniform(0.7, 1.3), remaining))  # noqa: S311
        situation = look(account_id)
        if _is_wait_over(situation):
            return situation


def _is_wait_over(situation: Situation) -> bool:
    return not situation.is_leased or situation.pause_reason is not None


def _refusal(attempt: Attempt) -> KeapConnectError:
    if attempt.outcome is Outcome.REFUSED:
        return ReconnectRequired(attempt.reason)
    if attempt.outcome is Outcome.CLIENT_REFUSED:
        return ClientMisconfigured(attempt.reason)
    return TemporarilyUnavailable(attempt.reason, attempt.retry_after_seconds or 30)


def _wanted_seconds(min_validity_seconds: int | None) -> float:
    return timing.REFRESH_WHEN_LEFT_SECONDS if min_validity_seconds is None else min_validity_seconds


def _lasts(account: Account, seconds: float) -> bool:
    if account.access_token_sealed is None:
        return False
    expires_at = account.access_token_expires_at
    return expires_at is None or expires_at > utc_now() + timedelta(seconds=seconds)


def _serve(account: Account, warning: str | None = None) -> ServedToken:
    access_token = open_access_token(account)
    if access_token is None:
        raise AccountDisconnected(DISCONNECTED)
    _note_used(account)
    state = state_of(account, utc_now(), Ours(*services().keap.registration))
    if warning is None and state is AccountState.RECONNECT_REQUIRED:
        warning = "This token can no longer be refreshed: a person must authorize again before it expires."
    return ServedToken(access_token, fingerprint(access_token), account, state, warning)


def _note_used(account: Account) -> None:
    """Note, at most once an hour, that programs use this account: the worker then refreshes it before expiry."""
    now = utc_now()
    if account.disconnected_at is not None or is_use_noted(account.last_used_at, now):
        return
    try:
        with write_transaction() as session:
            current = session.get(Account, account.id, with_for_update=True)
            if current is not None:
                current.last_used_at = now
                if current.failures == 0 and current.refusals == 0:
                    due_at, was_due_at = next_refresh_at(current, now), current.next_refresh_at
                    # It may be due at once for another reason, such as a late refusal. And were the jitter drawn anew
                    # with each use, the earliest time would stay, which is nearly the same for all accounts.
                    if due_at is None or was_due_at is None or was_due_at > due_at + MOST_JITTER:
                        current.next_refresh_at = due_at
    except SQLAlchemyError:
        log.warning("The use of account %s could not be noted; its token is served all the same.", account.id)
