"""Keeps the stored states of accounts right where time, and not a transaction, changes them: a thread of the worker.

Every few seconds it derives the accounts whose moment has come. At its start, after a step of the wall clock, and then
within each day, it derives all accounts anew.
"""

import logging
import math
from collections.abc import Callable
from datetime import timedelta

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from keap_connect.accounts import stored_state
from keap_connect.background import Background
from keap_connect.clock import seconds_since_boot, utc_now
from keap_connect.models import UNDERIVED
from keap_connect.refresh.figures import add_to_days

log = logging.getLogger(__name__)
AT_ONCE = 200
IDLE_SECONDS = 2.0
NOTE_SECONDS = 60.0
HASTE_SECONDS = 0.05  # between parts of the first pass, so that refreshing has its turn
LOOKS_PER_DAY = 86_400 / IDLE_SECONDS
CLOCK_STEP = timedelta(seconds=60)


class StateKeeper(Background):
    """Runs in a thread while it is entered; `derive_due` does in the caller's what is due now."""

    def __init__(self, app: Flask) -> None:
        super().__init__(app)
        self._has_registered, self._note_due = False, 0.0
        self._cursor, self._is_in_haste = 0, True
        self._wall_ahead = _wall_ahead()

    def derive_due(self) -> None:
        """Derive the accounts whose moment has come; all, if the client id or the token URL has changed."""
        self._is_in_haste = stored_state.store_registration()
        stored_state.note_work()
        self._settle_due()
        while self._is_in_haste and not self._stopping.is_set():
            self._derive_more()
        stored_state.add_up_counts()
        add_to_days()

    def _run(self) -> None:
        with self._app.app_context():
            while not self._stopping.is_set():
                is_note_due = seconds_since_boot() >= self._note_due
                self._try("state", self._keep_states)
                if is_note_due:  # last, since it may fail, or wait for another process
                    self._try("day of the page Health", add_to_days)
                self._stopping.wait(HASTE_SECONDS if self._is_in_haste else IDLE_SECONDS)

    def _try(self, what: str, store: Callable[[], None]) -> None:
        try:
            store()
        except SQLAlchemyError as problem:
            log.error("No %s is stored: the database does not answer (%s).", what, type(problem).__name__)
            self._stopping.wait(IDLE_SECONDS)
        except Exception as fault:  # the thread has to go on
            log.error("No %s is stored: this program has a fault.", what, exc_info=fault)
            self._stopping.wait(IDLE_SECONDS)

    def _keep_states(self) -> None:
        if not self._has_registered:
            stored_state.store_registration()
            self._has_registered = True
        if seconds_since_boot() >= self._note_due:
            stored_state.note_work()
            self._note_due = seconds_since_boot() + NOTE_SECONDS
        self._settle_due()
        self._derive_more()
        stored_state.add_up_counts()

    def _settle_due(self) -> None:
        while stored_state.settle_due(AT_ONCE) and not self._stopping.is_set():
            pass

    def _derive_more(self) -> None:
        """Derive the next part of all accounts."""
        if abs(_wall_ahead() - self._wall_ahead) > CLOCK_STEP:
            self._wall_ahead, self._cursor, self._is_in_haste = _wall_ahead(), 0, True
        most = AT_ONCE if self._is_in_haste else math.ceil(sum(stored_state.count_states().values()) / LOOKS_PER_DAY)
        last = stored_state.derive_anew(self._cursor, max(most, 1))
        self._cursor = last or 0
        if last is None:
            self._is_in_haste = False
            stored_state.recount()


def _wall_ahead() -> timedelta:
    """Return how far the wall clock is ahead of the time since boot; the start of 1970 is its zero."""
    return utc_now() - UNDERIVED - timedelta(seconds=seconds_since_boot())
