"""The counts in the memory of one process."""

import threading
from datetime import timedelta

import pytest
from limits import RateLimitItemPerMinute
from limits.strategies import FixedWindowRateLimiter

from keap_connect.access import rate_limits
from keap_connect.access.rate_limits import CountsInMemory
from keap_connect.clock import utc_now


def test_counts_in_memory_are_forgotten_after_a_minute_without_a_thread(monkeypatch: pytest.MonkeyPatch):
    counts, limit = CountsInMemory(), RateLimitItemPerMinute(2)
    strategy, begins = FixedWindowRateLimiter(counts), utc_now()
    counts.timer.join()  # the library starts one as it is made
    threads = threading.active_count()

    def hits(seconds: float, caller: str) -> list[bool]:
        monkeypatch.setattr(rate_limits, "utc_now", lambda: begins + timedelta(seconds=seconds))
        return [strategy.hit(limit, caller) for _ in range(3)]

    assert hits(0, "first") == hits(30, "second") == [True, True, False]
    assert hits(59, "first") == [False] * 3
    assert hits(61, "third") == [True, True, False]
    assert len(counts.storage) == len(counts.expirations) == 2  # not the first
    assert hits(89, "second") == [False] * 3
    assert hits(91, "second") == [True, True, False]
    assert threading.active_count() == threads
    assert hits(-86_400, "second") == hits(-86_400, "fourth") == [True, True, False], "the clock was set back"
    assert len(counts.storage) == len(counts.expirations) == 2
