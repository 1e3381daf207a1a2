"""The sandbox's time: the computer's clock plus an offset that people and tests can move."""

import time
from datetime import UTC, datetime

from keap_connect.sandbox.store import Store

CENTURY_SECONDS = 100 * 365 * 86400


class Clock:
    """Tells the time in seconds since 1970; every lifetime in the sandbox is measured with it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.offset_seconds = 0.0
        self.reload()

    def now(self) -> float:
        return time.time() + self.offset_seconds

    def move_to(self, offset_seconds: float) -> None:
        """Set the distance from the computer's clock; negative values lie in the past.

        Raises:
            ValueError: more than a century away, or no number at all.
        """
        if not abs(offset_seconds) <= CENTURY_SECONDS:
            raise ValueError("The clock moves by a century at most.")
        self.offset_seconds = offset_seconds
        self._store.save_setting("clock_offset_seconds", offset_seconds)

    def reload(self) -> None:
        """Take the offset from the store again, zero if there is none."""
        offset = self._store.setting("clock_offset_seconds", 0.0)
        self.offset_seconds = float(offset) if isinstance(offset, int | float) else 0.0


def iso(seconds: float) -> str:
    """Write a time as `2026-11-23T14:05:06.123Z`."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def apart(seconds: float) -> str:
    """Say how far a clock is from the real one: "1 day 2 h ahead of"."""
    days, rest = divmod(round(abs(seconds)), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    amounts = ((days, "day" if days == 1 else "days"), (hours, "h"), (minutes, "min"), (rest, "s"))
    words = " ".join(f"{amount} {unit}" for amount, unit in amounts if amount) or "less than a second"
    return f"{words} {'ahead of' if seconds > 0 else 'behind'}"
