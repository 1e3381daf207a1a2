"""Hands out a valid access token: at once when it can, refreshing when it must, waiting for somebody else's refresh.

A token that is still valid is served even when refreshing fails or the grant is dead, with a warning; only an explicit
`min_validity_seconds` that cannot be met is refused.
"""

import contextlib
import hmac
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from keap_connect.accounts.credentials import fingerprint, is_ours, open_access_token
from keap_connect.accounts.schedule import USE_NOTED_EVERY, next_refresh_at
from keap_connect.accounts.state import KEYS, AccountState, state_of
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
from keap_connect.refresh import recovery, timing
from keap_connect.refresh.alarms import Probe
from keap_connect.refresh.lease import Situation, look
from keap_connect.refresh.refresher import Attempt, refresh_once
from keap_connect.refresh.storing import Outcome

log = logging.getLogger(__name__)
MAY_END_EARLIER = "This token cannot be refreshed, and it may end before its date, which is the latest there can be."
# A slow Keap leaves the other threads of a web process free, for tokens that hold and for people.
_places = threading.BoundedSemaphore(timing.MOST_AT_ONCE)
_probe = Probe()


class RefreshUnderWay(Exception):
    """The caller has to wait, and wants to do so elsewhere, until `is_over` or `until` on the boot clock."""

    def __init__(self, account_id: int, until: float) -> None:
        super().__init__()
        self.account_id, self.until = account_id, until

    def is_over(self) -> bool:
        """Whether asking again is of use."""
        try:
            return _is_wait_over(look(self.account_id))
        except (SQLAlchemyError, KeapConnectError):
            return True  # the caller asks again and hears what is wrong


@contextlib.contextmanager
def _outages_are_temporary() -> Iterator[None]:
    """Whoever asks for a token hears of a database that does not answer as of anything else that passes."""
    try:
        yield
    except SQLAlchemyError as problem:
        log.warning("A token could not be served or refreshed: the database fails (%s).", type(problem).__name__)
        raise TemporarilyUnavailable("The database fails right now. Nothing is lost; try again.", 5) from problem


@dataclass(frozen=True)
class ServedToken:
    """A token that has not expired. `warning` says why it could not be made to last longer."""

    access_token: str = field(repr=False)
    expires_at: datetime | None
    account: Account = field(repr=False)
    warning: str | None = None

    def as_answer(self) -> dict[str, object]:
        """Return what a program is told, by the API and by the command line alike."""
        now = utc_now()
        seconds_left = max(int((self.expires_at - now).total_seconds()), 0) if self.expires_at else None
        return {
            "state": state_of(self.account, now),
            "access_token": self.access_token,
            "token_type": "bearer",
            "expires_in": seconds_left,
            "expires_at": self.expires_at,
            "tenant_id": self.account.tenant_id,
            "fingerprint": fingerprint(self.access_token),
            **({"warning": self.warning} if self.warning else {}),
        }


@_outages_are_temporary()
def valid_token(
    account_id: int,
    actor: str,
    min_validity_seconds: int | None = None,
    patience_seconds: float | None = None,
    asked_at: float | None = None,
) -> ServedToken:
    """Return an access token that is valid now, and for `min_validity_seconds` when given.

    Args:
        asked_at: on the boot clock, when a caller that waits elsewhere first asked.

    Raises:
        RefreshUnderWay: the caller waits elsewhere, and should.
        AccountNotFound: there is none.
        AccountDisconnected: its tokens were forgotten.
        ReconnectRequired: the grant is dead, and no token is left that would do.
        TemporarilyUnavailable: no token that would do can be had within the patience, or the database does not
            answer; nothing is lost.
        ClientMisconfigured: the same, because Keap refuses our client.
        SealBroken: the stored tokens do not open.
    """
    patience = timing.PATIENCE_SECONDS if patience_seconds is None else patience_seconds
    patient_until = (seconds_since_boot() if asked_at is None else asked_at) + patience
    wanted = timing.REFRESH_WHEN_LEFT_SECONDS if min_validity_seconds is None else min_validity_seconds
    situation = look(account_id)
    if _lasts(situation.account, wanted):
        is_bare = situation.account.kind == CredentialKind.ACCESS_TOKEN_ONLY
        return _serve(situation.account, MAY_END_EARLIER if is_bare else None)
    try:
        with _outages_are_temporary():
            account = _refreshed(
                situation,
                actor,
                patient_until,
                lambda now: _lasts(now, wanted),
                wanted_seconds=wanted,
                waits_here=asked_at is None,
            )
    except (ReconnectRequired, TemporarilyUnavailable, ClientMisconfigured, SealBroken) as refusal:
        with contextlib.suppress(SQLAlchemyError):
            situation = look(account_id)
        if min_validity_seconds is None and _lasts(situation.account, 0):
            return _serve(situation.account, str(refusal))
        raise
    if not _lasts(account, min_validity_seconds or 0):
        raise TemporarilyUnavailable("Keap grants no token that lasts as long as was asked for.", 60)
    return _serve(account)


@_outages_are_temporary()
def refresh_account(account_id: int, actor: str, patience_seconds: float = timing.PATIENCE_SECONDS) -> None:
    """Refresh now, whatever the current token's age.

    Raises:
        NotRefreshable: it is a key; nothing needs to be done.
        KeapConnectError: the same errors as `valid_token`; the tokens are kept.
    """
    situation = look(account_id)
    if situation.account.kind in KEYS and situation.account.disconnected_at is None:
        raise NotRefreshable("Keys are not refreshed: they do not expire.")
    patient_until = seconds_since_boot() + patience_seconds
    before = situation.account.generation
    _refreshed(situation, actor, patient_until, lambda now: now.generation != before, ignores_back_off=True)


@_outages_are_temporary()
def report_rejected(account_id: int, reported_fingerprint: str, actor: str) -> bool:
    """Take a job's word that Keap refused an access token: it is not handed out again, and is refreshed if it can be.

    Args:
        reported_fingerprint: the first 16 hex digits of the refused token's SHA-256.

    Returns:
        False for a stale report, which changes nothing: the token is not the current one.

    Raises:
        AccountNotFound, SealBroken, TemporarilyUnavailable.
    """
    look(account_id)  # raises when there is none
    with write_transaction() as session:
        account = session.get_one(Account, account_id, with_for_update=True)
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


@contextlib.contextmanager
def _place(when_full: Exception) -> Iterator[None]:
    """Hold one of the few places until the end of the block."""
    if not _places.acquire(blocking=False):
        raise when_full
    try:
        yield
    finally:
        _places.release()


def _refreshed(
    situation: Situation,
    actor: str,
    patient_until: float,
    is_enough: Callable[[Account], bool],
    *,
    wanted_seconds: float = 0,
    ignores_back_off: bool = False,
    waits_here: bool = True,
) -> Account:
    """Refresh, or wait until somebody else has; return the account once it has a new pair."""
    account_id = situation.account.id
    is_patient = seconds_since_boot() < patient_until
    elsewhere = RefreshUnderWay(account_id, patient_until) if is_patient and not waits_here else None
    when_full = elsewhere or TemporarilyUnavailable("Many callers wait for refreshes already.", 5)
    while True:
        _check(situation)
        if situation.pause_reason:
            words = f"Refreshing is paused. {situation.pause_reason}"
            raise TemporarilyUnavailable(words, timing.COME_BACK_WHEN_PAUSED_SECONDS)
        if situation.unknown_seconds is not None:
            recovery.replay()  # its process may be dead and have left the new pair
            situation = look(account_id)
            _check(situation)
            if is_enough(situation.account):
                return situation.account
        if not situation.is_leased:
            unknown_wait = _unknown_wait(situation, wanted_seconds)
            _check_block(situation, unknown_wait, ignores_back_off)
            with _place(when_full):
                attempt = refresh_once(situation.account, actor, unknown_wait)
            if attempt.outcome in {Outcome.STORED, Outcome.LATE}:
                situation = look(account_id)
                _check(situation)  # a disconnect that came while Keap answered has the last word
                return situation.account
            if attempt.outcome is not Outcome.NOT_TAKEN:
                raise _refusal(attempt)
        if elsewhere:
            raise elsewhere
        with _place(when_full):
            situation = _wait(account_id, patient_until)
        _check(situation)
        if is_enough(situation.account):
            return situation.account


def _check(situation: Situation) -> None:
    account = situation.account
    if account.disconnected_at is not None:
        raise AccountDisconnected("This account was disconnected; its tokens are forgotten.")
    if account.refresh_token_sealed is None:
        raise ReconnectRequired("There is no refresh token for this account; a person must authorize again.")
    if account.refused_at is not None or state_of(account, utc_now()) is AccountState.RECONNECT_REQUIRED:
        raise ReconnectRequired("A person must authorize again: Keap refused the grant, or it aged out.")
    if not is_ours(account):
        raise TemporarilyUnavailable(
            "This grant belongs to another client id or token URL than the settings name; it is never sent elsewhere.",
            3600,
        )


def _unknown_wait(situation: Situation, wanted_seconds: float) -> float:
    """Return how long after an attempt of which nobody knows how it ended the token may be presented again."""
    account = situation.account
    if _lasts(account, max(wanted_seconds, timing.RUNS_SHORT_SECONDS)):
        return timing.UNASKED_WAIT_SECONDS
    if account.lease_owner and recovery.is_locked(account.lease_owner):
        return timing.LOCKED_WAIT_SECONDS
    return timing.UNKNOWN_OUTCOME_WAIT_SECONDS


def _check_block(situation: Situation, unknown_wait: float, ignores_back_off: bool) -> None:
    account = situation.account
    if situation.unknown_seconds is not None and situation.unknown_seconds < unknown_wait:
        words = "Nobody knows yet how the last refresh ended, so the refresh token rests before it is tried again."
        raise TemporarilyUnavailable(words, int(unknown_wait - situation.unknown_seconds) + 1)
    if situation.is_held:
        why = "Keap refused the last refresh" if account.refusals else "No usable answer came to the last refresh"
        words = f"{why}, so the refresh token rests before it is tried again."
        raise TemporarilyUnavailable(words, int(situation.blocked_seconds) + 1)
    if situation.client_refusal and not ignores_back_off and not _probe.take():
        raise ClientMisconfigured(situation.client_refusal)
    if ignores_back_off or account.failures == 0 or account.next_refresh_at is None:
        return
    seconds = (account.next_refresh_at - utc_now()).total_seconds()
    if seconds > 0:
        raise TemporarilyUnavailable(account.failure_reason or "The last refresh failed.", int(seconds) + 1)


def _wait(account_id: int, patient_until: float) -> Situation:
    """Wait until the lease of somebody else has ended, or refreshing is paused; return how things stand then."""
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


def _lasts(account: Account, seconds: float) -> bool:
    if account.access_token_sealed is None:
        return False
    expires_at = account.access_token_expires_at
    return expires_at is None or expires_at > utc_now() + timedelta(seconds=seconds)


def _serve(account: Account, warning: str | None = None) -> ServedToken:
    access_token = open_access_token(account)
    if access_token is None:
        raise AccountDisconnected("This account was disconnected; its tokens are forgotten.")
    _note_used(account)
    if warning is None and state_of(account, utc_now()) is AccountState.RECONNECT_REQUIRED:
        warning = "This token cannot be refreshed any more: a person must authorize again before it expires."
    return ServedToken(access_token, account.access_token_expires_at, account, warning)


def _note_used(account: Account) -> None:
    """Remember, at most once an hour, that jobs use this account: it is then refreshed ahead of expiry."""
    now = utc_now()
    if account.disconnected_at is not None or (account.last_used_at and account.last_used_at > now - USE_NOTED_EVERY):
        return
    try:
        with write_transaction() as session:
            current = session.get(Account, account.id, with_for_update=True)
            if current is not None:
                current.last_used_at = now
                if current.failures == 0 and current.refusals == 0:
                    current.next_refresh_at = next_refresh_at(current, now)
    except SQLAlchemyError:
        log.warning("It could not be noted that account %s is in use; the token is served all the same.", account.id)
