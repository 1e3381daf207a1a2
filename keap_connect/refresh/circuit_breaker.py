"""A pause for all accounts when Keap as a whole answers badly: it opens, lets one probe through, closes on success."""

import threading

from keap_connect.clock import seconds_since_boot

OPENS_AFTER = 5
FIRST_PAUSE_SECONDS = 15.0
LONGEST_PAUSE_SECONDS = 300.0


class CircuitBreaker:
    """Counts failures in a row over all accounts of one worker. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._open_until = 0.0
        self.reason: str | None = None

    def paused_seconds(self) -> float:
        """Return for how long nothing should be sent."""
        return max(self._open_until - seconds_since_boot(), 0.0)

    @property
    def is_probing(self) -> bool:
        """Whether the pause is over but Keap has still to show that it is well: one call at a time."""
        return self.reason is not None and self.paused_seconds() == 0.0

    def note_success(self) -> None:
        """Close it."""
        with self._lock:
            self._failures, self._pause_seconds, self._open_until, self.reason = 0, FIRST_PAUSE_SECONDS, 0.0, None

    def note_failure(self, reason: str, retry_after_seconds: int | None = None) -> None:
        """Count a failure of Keap as a whole; a Retry-After pauses at once."""
        with self._lock:
            self._failures += 1
            if self._failures < OPENS_AFTER and retry_after_seconds is None and self.reason is None:
                return
            if self.paused_seconds() > 0:
                return  # calls that were under way when it opened do not lengthen the pause
            pause = max(self._pause_seconds, float(retry_after_seconds or 0))
            self._pause_seconds = min(self._pause_seconds * 2, LONGEST_PAUSE_SECONDS)
            self._open_until = seconds_since_boot() + pause
            self.reason = reason
