"""Limits of guesses: attempts are counted per subject, in a table that all processes share.

A browser that an admin has signed in with before has its own limit, so that strangers who guess the password do not
lock the admin out. It is known for 180 days, and until the password changes.

Source: OWASP, "Slow Down Online Guessing Attacks with Device Cookies".
"""

import hmac
import math
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from keap_connect.clock import utc_now
from keap_connect.crypto import hash_secret
from keap_connect.database import take_turns, write_transaction
from keap_connect.errors import TooManyAttempts
from keap_connect.models import Admin, SignInAttempt
from keap_connect.services import keyed_hash

WINDOW = timedelta(minutes=15)
KNOWN_FOR_SECONDS = 180 * 86400


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
        session.execute(delete(SignInAttempt).where(SignInAttempt.at <= now - WINDOW))
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
    since = utc_now() - WINDOW
    count, oldest = session.execute(
        select(func.count(SignInAttempt.id), func.min(SignInAttempt.at)).where(
            SignInAttempt.subject == subject, SignInAttempt.at > since
        )
    ).one()
    if count < most:
        return 0
    ends: datetime = oldest + WINDOW
    return max(math.ceil((ends - utc_now()).total_seconds()), 1)


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
