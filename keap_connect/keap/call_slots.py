"""Limits the calls to Keap that wait in web requests of one process, so that a slow Keap leaves threads for others.

Web requests take a slot before they wait for Keap: callbacks, imports, checks and the button that refreshes. The
worker, commands and token calls take none.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from keap_connect.errors import KeapBusy

MOST_AT_ONCE = 6  # of the 16 threads that serve requests (docs/operating.md)
# The copies of one callback need a slot each until one of them has claimed the flow, which takes milliseconds.
PATIENCE_SECONDS = 0.2
RETRY_AFTER_SECONDS = 10
_slots = threading.BoundedSemaphore(MOST_AT_ONCE)


@contextmanager
def keap_call_slot() -> Iterator[None]:
    """Hold one slot until the end of the block. Raises KeapBusy."""
    if not _slots.acquire(timeout=PATIENCE_SECONDS):
        raise KeapBusy(RETRY_AFTER_SECONDS)
    try:
        yield
    finally:
        _slots.release()
