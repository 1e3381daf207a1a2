"""What this process counted since its last report: the figures of /metrics that only grow.

Reports go into one table, so that figures outlive the processes that count, and need no name of a process.
"""

import threading
from collections import defaultdict

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0, 86_400.0)  # seconds
Counted = defaultdict[tuple[str, str], float]  # by name, and the labels' values with spaces between them

_lock = threading.Lock()
_counted: Counted = defaultdict(float)


def count(name: str, *labels: str) -> None:
    with _lock:
        _counted[name, " ".join(labels)] += 1


def observe(name: str, seconds: float, *labels: str) -> None:
    """Count one value of a histogram: in the smallest bucket that it fits, and in the sum."""
    bucket = next((str(most) for most in BUCKETS if seconds <= most), "+Inf")
    with _lock:
        _counted[name, " ".join([*labels, bucket])] += 1
        _counted[name, " ".join([*labels, "sum"])] += max(seconds, 0.0)


def take() -> Counted:
    """Return what was counted since the last call; `give_back` keeps it for the next one."""
    global _counted
    with _lock:
        taken, _counted = _counted, defaultdict(float)
    return taken


def give_back(counted: Counted) -> None:
    with _lock:
        for key, value in counted.items():
            _counted[key] += value
