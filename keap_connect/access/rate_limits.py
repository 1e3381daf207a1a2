"""Limits per minute for programs and clients, to protect the service; and limits of guesses.

Of the first, each process counts for itself, unless RATE_LIMIT_STORAGE names a Redis that they share. When that fails,
requests pass. Guesses are counted per subject, in a table that all processes share. A browser that an admin has signed
in with before has its own limit, so that strangers who guess the password do not lock the admin out. It is known for
180 days, and until the password changes.

Source: OWASP, "Slow Down Online Guessing Attacks with Device Cookies".
"""

import hmac
import logging
import math
import secrets
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import datetime, timedelta
from ipaddress import IPv6Network

from flask import current_app
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import FixedWindowRateLimiter
from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from keap_connect.clock import utc_now
from keap_connect.crypto import hash_secret
from keap_connect.database import take_turns, write_transaction
from keap_connect.errors import KeapBusy, TooManyAttempts, TooManyRequests
from keap_connect.models import Admin, SignInAttempt
from keap_connect.services import keyed_hash
from keap_connect.settings import Settings

PREFIX_LENGTH = 64  # what a provider gives to one customer, who can use any address in it
log = logging.getLogger(__name__)
WRONG_KEYS_PER_MINUTE = RateLimitItemPerMinute(30, namespace="wrong keys")
# A job that reports every token as rejected would have all its accounts refreshed again and again.
REJECTIONS_PER_MINUTE = RateLimitItemPerMinute(6, namespace="rejections")
REFUSED_FORMS_PER_MINUTE = RateLimitItemPerMinute(30, namespace="refused forms")
STARTED_FLOWS_PER_MINUTE = RateLimitItemPerMinute(20, namespace="started flows")
CALLBACKS_PER_MINUTE = RateLimitItemPerMinute(10, namespace="callbacks")
ALL_CALLBACKS_PER_MINUTE = RateLimitItemPerMinute(300, namespace="all callbacks")
WINDOW = timedelta(minutes=15)
KNOWN_FOR_SECONDS = 180 * 86400


def network_of(address: str | None) -> str:
    """Return the name under which a client address is counted: an IPv6 address by its /64, any other as it is.

    The address is in its usual form, as web/network.py writes it.
    """
    if not address or ":" not in address:
        return address or "unknown"
    return str(IPv6Network((address, PREFIX_LENGTH), strict=False))


class CountsInMemory(MemoryStorage):
    """Counters in memory. The library's class starts up to a hundred threads a second to forget expired ones."""

    STORAGE_SCHEME = ["memory"]  # noqa: RUF012  (instead of the library's)
    _forget_at = 0.0

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        now = utc_now().timestamp()

        def is_over(ends: float) -> bool:
            return not now < ends <= now + expiry  # what ends later began before the clock was set back

        if is_over(self._forget_at):
            for over in [each for each, ends in self.expirations.items() if is_over(ends)]:
                self.clear(over)
            self._forget_at = now + expiry
        if is_over(self.expirations.get(key, 0.0)):
            self.storage[key], self.expirations[key] = 0, now + expiry
        self.storage[key] += amount
        return self.storage[key]


class RateLimits:
    """Counters per minute.

    Each method raises TooManyRequests beyond its limit, or KeapBusy where the request would lead to a call to Keap.
    """

    def __init__(self, settings: Settings) -> None:
        storage = storage_from_string(settings.rate_limit_storage, wrap_exceptions=True)
        self.strategy = FixedWindowRateLimiter(storage)
        # Two threads that count at once in memory would count one.
        self._turn = threading.Lock() if settings.rate_limit_storage == "memory://" else nullcontext()
        most = settings.api_rate_per_minute
        self.per_key = RateLimitItemPerMinute(most, namespace="key") if most else None
        self.per_address = RateLimitItemPerMinute(most, namespace="address") if most else None

    def is_alive(self) -> bool:
        return self.strategy.storage.check()

    def count_request(self, key_id: int, address: str | None) -> None:
        """Count a request with an API key, for the key and for the address it comes from."""
        if self.per_key and self.per_address:
            self._count(self.per_key, str(key_id))
            self._count(self.per_address, network_of(address))

    def count_wrong_key(self, address: str | None) -> None:
        """Count a refused API key, or a refused link to choose a password."""
        self._count(WRONG_KEYS_PER_MINUTE, network_of(address))

    def count_rejection(self, account_id: int) -> None:
        self._count(REJECTIONS_PER_MINUTE, str(account_id))

    def count_refused_form(self, address: str | None) -> None:
        self._count(REFUSED_FORMS_PER_MINUTE, network_of(address))

    def count_started_flow(self, address: str | None) -> None:
        self._count(STARTED_FLOWS_PER_MINUTE, network_of(address), KeapBusy)

    def count_callback(self, address: str | None) -> None:
        # In this order: what one address sends beyond its share must not use up what all may send.
        self._count(CALLBACKS_PER_MINUTE, network_of(address), KeapBusy)
        self._count(ALL_CALLBACKS_PER_MINUTE, "", KeapBusy)

    def _count(
        self, limit: RateLimitItem, of: str, refusal: type[TooManyRequests | KeapBusy] = TooManyRequests
    ) -> None:
        try:
            with self._turn:
                if self.strategy.hit(limit, of):
                    return
            resets_at = self.strategy.get_window_stats(limit, of).reset_time
        except StorageError as problem:
            log.error("The rate limit storage fails (%s); requests pass.", problem)
            return
        raise refusal(max(math.ceil(resets_at - utc_now().timestamp()), 1))


def rate_limits() -> RateLimits:
    found: RateLimits = current_app.extensions["keap_connect_rate_limits"]
    return found


def count_attempt(limits: Mapping[str, int], refusal: type[TooManyAttempts] = TooManyAttempts) -> list[int]:
    """Count one attempt for each subject before it is checked, so that parallel guesses count.

    Returns the ids that `forgive` takes when the attempt was right.

    Raises the `refusal`: one of the subjects has reached its limit within the window; nothing was counted.
    """
    now = utc_now()
    with write_transaction() as session:
        waits = [_seconds_to_wait(session, subject, most) for subject, most in limits.items()]
        if any(waits):
            raise refusal(max(waits))
        attempts = [SignInAttempt(subject=subject, at=now) for subject in limits]
        session.add_all(attempts)
        session.execute(delete(SignInAttempt).where(~_counts(now)))
    return [attempt.id for attempt in attempts]


def forgive(session: Session, attempt_ids: list[int]) -> None:
    """Delete an attempt that was right."""
    session.execute(delete(SignInAttempt).where(SignInAttempt.id.in_(attempt_ids)))


def hashed(value: str) -> str:
    """Return the name of a subject that must not be stored as it is."""
    return hash_secret(value)[:32]


def _seconds_to_wait(session: Session, subject: str, most: int) -> int:
    """Return 0 when another attempt is allowed now. Attempts of one subject are counted one after the other."""
    take_turns(session, subject)
    now = utc_now()
    query = select(func.count(SignInAttempt.id), func.min(SignInAttempt.at))
    count, oldest = session.execute(query.where(SignInAttempt.subject == subject, _counts(now))).one()
    if count < most:
        return 0
    ends: datetime = oldest + WINDOW
    return max(math.ceil((ends - now).total_seconds()), 1)


def _counts(now: datetime) -> ColumnElement[bool]:
    # What is further ahead than clocks differ was written before the clock was set back, and would count until then.
    return (SignInAttempt.at > now - WINDOW) & (SignInAttempt.at < now + WINDOW)


def remember_browser(admin: Admin) -> str:
    """Return the value of the cookie for a browser that this admin has signed in with."""
    given = f"{secrets.token_urlsafe(16)}.{int(utc_now().timestamp())}"
    return f"{given}.{_signature(admin, given)}"


def is_known_browser_of(admin: Admin, cookie: str | None) -> bool:
    given, _, signature = (cookie or "").rpartition(".")
    if not hmac.compare_digest(signature.encode(), _signature(admin, given).encode()):
        return False
    return utc_now().timestamp() - int(given.rpartition(".")[2]) < KNOWN_FOR_SECONDS


def _signature(admin: Admin, given: str) -> str:
    return keyed_hash("device", str(admin.id), admin.email, admin.password_hash, given)
