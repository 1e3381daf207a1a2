"""When an account is refreshed ahead of time: kept alive, not churned.

An account that jobs have asked for lately is refreshed before its access token expires; an idle one about day 30 of
the 45 that Keap lets an unused refresh token live. Jitter spreads accounts that were connected together.
"""

import random
from datetime import datetime, timedelta

from keap_connect.models import Account

USE_NOTED_EVERY = timedelta(hours=1)  # how often it is noted that jobs ask
USED_LATELY = timedelta(days=7)
# A token whose fate is unknown can then nearly always rest until its holder is back or known to be dead.
AHEAD_OF_EXPIRY = timedelta(hours=8)
IDLE_REFRESH = timedelta(days=30)
# Whatever life Keap gives a token: the worker does not run in circles over it.
SOONEST_REFRESH = timedelta(minutes=1)
BACK_OFF_SECONDS = 30.0
MOST_BACK_OFF_SECONDS = 1800.0


def is_use_noted(last_used_at: datetime | None, now: datetime) -> bool:
    """Whether it was noted lately enough that jobs use an account or an API key."""
    return last_used_at is not None and last_used_at > now - USE_NOTED_EVERY


def next_refresh_at(account: Account, now: datetime) -> datetime | None:
    """Return when the worker should refresh a pair that was just stored; None without a refresh token."""
    if account.refresh_token_sealed is None or account.refresh_token_issued_at is None:
        return None
    idle_at = account.refresh_token_issued_at + IDLE_REFRESH - _jitter(timedelta(days=1))
    expires_at = account.access_token_expires_at
    if account.last_used_at is None or account.last_used_at <= now - USED_LATELY or expires_at is None:
        return idle_at
    # A token that lives less than twice our lead is refreshed when half of its life is over.
    lead = min(AHEAD_OF_EXPIRY + _jitter(timedelta(hours=1)), (expires_at - now) / 2)
    return max(min(expires_at - lead, idle_at), now + SOONEST_REFRESH)


def back_off_seconds(failures: int, retry_after_seconds: int | None = None) -> float:
    """Return how long to leave an account alone after so many failures in a row: doubling, capped, jittered."""
    seconds = min(BACK_OFF_SECONDS * float(2 ** min(failures - 1, 10)), MOST_BACK_OFF_SECONDS)
    return max(seconds * random.uniform(0.75, 1.25), retry_after_seconds or 0)  # noqa: S311


def _jitter(most: timedelta) -> timedelta:
    return most * random.random()  # noqa: S311
