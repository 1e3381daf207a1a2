"""The only place in the app that asks for the time."""

import time
from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the aware UTC time of this machine's clock."""
    return datetime.now(UTC)


def minute(moment: datetime) -> str:
    """Return a moment in UTC as people read it."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def seconds_since_boot() -> float:
    """Return a clock that only goes forward and also counts the time this machine was suspended."""
    boot_clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(boot_clock)
