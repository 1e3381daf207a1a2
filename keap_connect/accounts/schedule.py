"""When the worker refreshes an account.

An account that jobs used in the last week is refreshed before its access token expires; an idle one after 30 of the 45
days that an unused refresh token lives. Jitter spreads accounts that were connected at the same time.
"""

import random
from datetime import datetime, timedelta

from keap_connect.accounts.state import refresh_token_ends_at
from keap_connect.models import Account

USE_NOTED_EVERY = timedelta(hours=1)  # how often `last_used_at` is written
USED_LATELY = timedelta(days=7)
# If the outcome of a refresh is unknown, the old access token then nearly always works until it is known.
AHEAD_OF_EXPIRY = timedelta(hours=8)
MOST_JITTER = timedelta(hours=1)  # of an account that jobs use
IDLE_REFRESH = timedelta(days=30)
SOONEST_REFRESH = timedelta(minutes=1)  # tokens with a short life are not refreshed all the time
BACK_OFF_SECONDS = 30.0
MOST_BACK_OFF_SECONDS = 1800.0


def is_use_noted(last_used_at: datetime | None, now: datetime) -> bool:
    """Whether `last_used_at` of an account or an API key is new enough not to be written again."""
    return last_used_at is not None and last_used_at > now - USE_NOTED_EVERY


def next_refresh_at(account: Account, now: datetime) -> datetime | None:
    """Return when the worker refreshes a pair that was just stored; None without a refresh token."""
    if account.refresh_token_sealed is None or account.refresh_token_issued_at is None:
        return None
    idle_at = min(account.refresh_token_issued_at, now) + IDLE_REFRESH - _jitter(timedelta(days=1))
    expires_at = account.access_token_expires_at
    if account.last_used_at is None or account.last_used_at <= now - USED_LATELY or expires_at is None:
        return idle_at
    # A token that lives less than twice as long as the lead is refreshed after half of its life.
    lead = min(AHEAD_OF_EXPIRY + _jitter(MOST_JITTER), (expires_at - now) / 2)
    return max(min(expires_at - lead, idle_at), now + SOONEST_REFRESH)


def deadline_of(account: Account, now: datetime) -> datetime | None:
    """Return the deadline of a refresh: the end of an access token that jobs use, else of the refresh token."""
    if account.needs_first_refresh:
        return None  # nobody knows how old an imported refresh token is
    if account.last_used_at is None or account.last_used_at <= now - USED_LATELY:
        return refresh_token_ends_at(account)
    return account.access_token_expires_at


def back_off_seconds(failures: int, retry_after_seconds: int | None = None) -> float:
    """Return how many seconds to wait after this many failures in a row: doubled each time, capped, with jitter."""
    seconds = min(BACK_OFF_SECONDS * float(2 ** min(failures - 1, 10)), MOST_BACK_OFF_SECONDS)
    return max(seconds * random.uniform(0.75, 1.25), retry_after_seconds or 0)  # noqa: S311


def _jitter(most: timedelta) -> timedelta:
    return most * random.random()  # noqa: S311
