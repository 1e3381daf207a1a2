"""Limits of guesses: attempts are counted per subject, in a table that all processes share."""

import hashlib
import math
from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from keap_connect.clock import utc_now
from keap_connect.database import take_turns, write_transaction
from keap_connect.errors import TooManyAttempts
from keap_connect.models import SignInAttempt

WINDOW = timedelta(minutes=15)


def count_attempt(limits: Mapping[str, int]) -> list[int]:
    """Count one attempt for each subject before it is checked, so that parallel guesses count.

    Returns the ids that `forgive` takes when the attempt was right.

    Raises:
        TooManyAttempts: one of the subjects has reached its limit within the window; nothing was counted.
    """
    now = utc_now()
    with write_transaction() as session:
        waits = [_seconds_to_wait(session, subject, most) for subject, most in limits.items()]
        if any(waits):
            raise TooManyAttempts(max(waits))
        attempts = [SignInAttempt(subject=subject, at=now) for subject in limits]
        session.add_all(attempts)
        session.execute(delete(SignInAttempt).where(SignInAttempt.at <= now - WINDOW))
    return [attempt.id for attempt in attempts]


def forgive(session: Session, attempt_ids: list[int]) -> None:
    """Delete an attempt that was right."""
    session.execute(delete(SignInAttempt).where(SignInAttempt.id.in_(attempt_ids)))


def hashed(value: str) -> str:
    """Return the name of a subject that must not be stored as it is."""
    return hashlib.sha256(value.encode()).hexdigest()[:32]


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
