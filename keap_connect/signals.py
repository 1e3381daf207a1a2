"""Handles the signals that end a process, so that calls under way are finished first.

A signal that this process was started to ignore stays ignored: `nohup` does so with SIGHUP, a shell with SIGINT for
jobs in the background.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn


def stop_signals() -> list[signal.Signals]:
    signs = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return [sign for sign in signs if signal.getsignal(sign) is not signal.SIG_IGN]


@contextmanager
def on_stop(act: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call `act` on a signal that would end this process. Signals interrupt only the main thread."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for sign in stop_signals():
            before[sign] = signal.signal(sign, lambda number, _frame: act(signal.Signals(number)))
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler or signal.SIG_DFL)


@contextmanager
def stops_delayed() -> Iterator[None]:
    """Handle the signals at the end of the block."""
    waiting: list[signal.Signals] = []
    try:
        with on_stop(waiting.append):
            yield
    finally:
        for sign in waiting:
            signal.raise_signal(sign)


def end_in_order(sign: signal.Signals) -> NoReturn:
    """End this process as Python would, so that blocks under way and exit handlers run."""
    if sign is signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + sign)  # as a shell reports the signal
