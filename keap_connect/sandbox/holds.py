"""A barrier for tests: matching calls wait inside the sandbox until they are released."""

import threading
from collections import Counter
from dataclasses import dataclass, field

from keap_connect.sandbox.endpoints import matches


@dataclass
class Holds:
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _holds: set[tuple[str, str]] = field(default_factory=set)
    _waiting: Counter[str] = field(default_factory=Counter)
    _releases: int = 0

    def hold(self, endpoint: str, where: str) -> None:
        """Let calls to `endpoint` wait "before" or "after" the sandbox acts on them."""
        with self._changed:
            self._holds.add((endpoint, where))

    def release(self) -> None:
        """Let all waiting calls go on, and hold no further ones."""
        with self._changed:
            self._holds.clear()
            self._releases += 1
            self._changed.notify_all()

    def pass_through(self, endpoint: str, where: str) -> None:
        """Wait here while there is a hold for this call."""
        with self._changed:
            if not any(matches(held, endpoint) and where == place for held, place in self._holds):
                return
            release_before = self._releases
            self._waiting[endpoint] += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._releases > release_before)
            self._waiting[endpoint] -= 1
            self._changed.notify_all()

    def waiting(self, at_least: int, timeout_seconds: float) -> dict[str, int]:
        """Count the waiting calls by endpoint, once there are `at_least` so many or the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting.total() >= at_least, timeout_seconds)
            return {endpoint: number for endpoint, number in self._waiting.items() if number}
