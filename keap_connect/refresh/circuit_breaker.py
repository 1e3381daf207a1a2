"""A pause for all accounts when Keap as a whole fails: it opens, lets one probe through, and closes on success."""

import threading

from keap_connect.clock import seconds_since_boot
from keap_connect.refresh.refresher import Attempt
from keap_connect.refresh.storing import Outcome

OPENS_AFTER = 5
FIRST_PAUSE_SECONDS = 15.0
LONGEST_PAUSE_SECONDS = 300.0
ALARMS = {Outcome.CLIENT_REFUSED, Outcome.PAUSED}


class CircuitBreaker:
    """Counts failures in a row over all accounts of one worker. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._open_until = 0.0
        self.stopped_at = 0.0  # on the boot clock; what was leased before is no longer sent
        self.reason: str | None = None

    def paused_seconds(self) -> float:
        """Return for how long nothing should be sent."""
        return max(self._open_until - seconds_since_boot(), 0.0)

    @property
    def is_probing(self) -> bool:
        """Whether the pause has ended but no call has succeeded since: one call at a time."""
        return self.reason is not None and self.paused_seconds() == 0.0

    def note(self, attempt: Attempt) -> None:
        """Close on success; open after several failures of Keap as a whole, or at once by a Retry-After.

        An alarm does not open it, since the database says how long refreshing is paused.
        """
        with self._lock:
            if attempt.outcome is Outcome.STORED:
                self._failures, self._pause_seconds, self._open_until, self.reason = 0, FIRST_PAUSE_SECONDS, 0.0, None
            elif attempt.outcome in ALARMS:
                self.stopped_at = seconds_since_boot()
            elif attempt.is_keap_trouble:
                self._failures += 1
                opens = attempt.retry_after_seconds is not None or self.reason or self._failures >= OPENS_AFTER
                if opens and self.paused_seconds() == 0:  # calls that were under way do not lengthen the pause
                    self._open(attempt.reason, attempt.retry_after_seconds or 0)

    def _open(self, reason: str, retry_after_seconds: int) -> None:
        self.stopped_at = seconds_since_boot()
        self._open_until = self.stopped_at + max(self._pause_seconds, retry_after_seconds)
        self._pause_seconds = min(self._pause_seconds * 2, LONGEST_PAUSE_SECONDS)
        self.reason = reason
