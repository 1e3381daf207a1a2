"""What this process counted since its last report: the figures of /metrics that only grow, by the hour.

Reports go into tables, so that figures outlive the processes that count, and need no name of a process.
"""

import threading
from collections import defaultdict
from datetime import datetime

from keap_connect.clock import utc_now

# The limits of the buckets, in seconds.
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0, 86_400.0)
LIMITS = {"refresh_lead_seconds": (0.0, 600.0, 3600.0, 14_400.0, 28_800.0, 86_400.0, 864_000.0)}
LARGEST = "max"  # the label of the largest value of a histogram
# By hour, name, and the labels' values with spaces between them.
Counted = defaultdict[tuple[datetime, str, str], float]

_lock = threading.Lock()
_counted: Counted = defaultdict(float)


def count(name: str, *labels: str) -> None:
    hour = hour_of(utc_now())
    with _lock:
        _counted[hour, name, " ".join(labels)] += 1


def observe(name: str, seconds: float, *labels: str) -> None:
    """Count one value of a histogram: in the smallest bucket that it fits, in the sum, and as the largest so far."""
    hour = hour_of(utc_now())
    observed = {bucket_of(seconds, LIMITS.get(name, BUCKETS)): 1.0, "sum": max(seconds, 0.0), LARGEST: seconds}
    with _lock:
        for last, value in observed.items():
            key = hour, name, " ".join([*labels, last])
            _counted[key] = together(key[2], _counted[key], value)


def bucket_of(seconds: float, limits: tuple[float, ...]) -> str:
    return next((str(most) for most in limits if seconds <= most), "+Inf")


def together(labels: str, one: float, other: float) -> float:
    """Return the sum of two values of a figure, or the larger one where the labels are those of a largest value."""
    return max(one, other) if labels.endswith(LARGEST) else one + other


def hour_of(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def has_counted() -> bool:
    return bool(_counted)


def take() -> Counted:
    """Return what was counted since the last call; `give_back` keeps it for the next one."""
    global _counted
    with _lock:
        taken, _counted = _counted, defaultdict(float)
    return taken


def give_back(counted: Counted) -> None:
    with _lock:
        for key, value in counted.items():
            _counted[key] = together(key[2], _counted[key], value)
