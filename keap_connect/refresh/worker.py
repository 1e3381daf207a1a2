"""The worker: takes up what is due, refreshes it in a bounded pool, and stops cleanly.

Trouble with one account never makes another wait: each call has its own deadline, each failing account its own
back-off, and what is due is taken soonest expiry first.
"""

import gc
import logging
import os
import socket
import threading
from collections import deque
from datetime import timedelta

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from keap_connect.clock import seconds_since_boot, utc_now
from keap_connect.connect.callback import complete_interrupted
from keap_connect.connect.flows import forget_past
from keap_connect.connect.pending_files import forget_past_files
from keap_connect.errors import KeapConnectError
from keap_connect.models import Account
from keap_connect.refresh import alarms, recovery
from keap_connect.refresh.circuit_breaker import CircuitBreaker
from keap_connect.refresh.clone_guard import check_instance
from keap_connect.refresh.due import claim_due, lag_seconds, reschedule_future_dated, reserve_calls
from keap_connect.refresh.heartbeat import Beat, beat, retire
from keap_connect.refresh.lease import notice_clock_step
from keap_connect.refresh.refresher import Attempt
from keap_connect.refresh.storing import Outcome
from keap_connect.refresh.worker_pool import WorkerPool
from keap_connect.services import services
from keap_connect.signals import on_stop

log = logging.getLogger(__name__)
MOST_TAKEN_UP = 256  # at once; with a limit, what may go in a second
IDLE_SECONDS = 2.0
BEAT_SECONDS = 5.0
CHECK_CLOCK_SECONDS = 3600.0
FAILURES = {Outcome.FAILED, Outcome.REFUSED, Outcome.CLIENT_REFUSED, Outcome.PAUSED}


class RefreshWorker:
    """One worker process. Make one, then `run` it until it is told to stop."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.started_at = utc_now()
        self.circuit = CircuitBreaker()
        self.refreshed = self.failed = self.faults = 0
        self.pool = WorkerPool(app, self._must_pause, self._note, self._note_fault)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._beat_due = self._clock_due = 0.0
        self._probe = alarms.Probe()
        self._is_probing_client = self._is_braked = False
        self._trouble: str | None = None  # why nothing could be leased lately

    def stop(self) -> None:
        """Take up nothing more; what is under way is finished and stored."""
        self._stopping.set()

    def run(self, until_idle: bool = False) -> None:
        """Work until stopped; with until_idle, until nothing is due."""
        gc.freeze()  # what was loaded so far stays; looking through it again and again costs time
        with on_stop(lambda _sign: self.stop()), self.pool:
            while not self._stopping.is_set():
                try:
                    worked = self._sweep_once()
                except SQLAlchemyError as problem:
                    log.error("The database does not answer (%s); trying again.", type(problem).__name__)
                    worked = False
                except (KeapConnectError, OSError) as problem:
                    log.error("Nothing is refreshed: %s", problem)
                    self._trouble = str(problem)
                    worked = False
                if not worked and until_idle:
                    break
                if not worked:
                    self._stopping.wait(IDLE_SECONDS)
        try:
            retire(self.name)
        except SQLAlchemyError:
            log.warning("The worker ends without saying so: the database does not answer.")

    def _sweep_once(self) -> bool:
        """Take up one batch and submit it; return False when there was nothing to do."""
        self._do_maintenance()
        recovery.replay()
        notice_clock_step()
        most = self._allowed()
        accounts = claim_due(most) if most else []
        if not accounts:
            if most and self._is_probing_client:
                self._probe.give_back()  # nothing was due to probe with
            return False
        rate = services().settings.refresh_rate_per_minute
        starts_at = seconds_since_boot() + reserve_calls(len(accounts))
        turns = deque(
            (starts_at + (number * 60.0 / rate if rate else 0.0), account) for number, account in enumerate(accounts)
        )
        while turns:
            self._stopping.wait(max(turns[0][0] - seconds_since_boot(), 0.0))
            room = self.pool.wait_for_room(BEAT_SECONDS)
            if self._stopping.is_set() or self._must_pause():
                break  # what was taken up and not begun is due again in a minute
            now = seconds_since_boot()
            ready: list[Account] = []
            while turns and len(ready) < room and turns[0][0] <= now:
                ready.append(turns.popleft()[1])
            self.pool.submit(ready)
            self._trouble = None
            self._do_maintenance()
        return True

    def _note(self, attempt: Attempt) -> None:
        with self._lock:
            self.refreshed += attempt.outcome is Outcome.STORED
            self.failed += attempt.outcome in FAILURES
        self._is_braked = self._is_braked or attempt.outcome in {Outcome.CLIENT_REFUSED, Outcome.PAUSED}
        if attempt.outcome is Outcome.STORED:
            self.circuit.note_success()
            if self._is_probing_client:
                self._is_probing_client = False
                alarms.end_alarm(alarms.CLIENT_REFUSED)
        elif attempt.is_keap_trouble:
            self.circuit.note_failure(attempt.reason, attempt.retry_after_seconds)

    def _note_fault(self) -> None:
        with self._lock:
            self.faults += 1
            self.failed += 1

    def _must_pause(self) -> bool:
        return self._is_braked or self.circuit.paused_seconds() > 0

    def _allowed(self) -> int:
        """Return how many accounts may be taken up now."""
        if self._is_braked and self.pool.under_way:
            return 0  # what was leased before is still under way
        self._is_braked = False
        raised = {alarm.name for alarm in alarms.list_alarms()}
        if raised - {alarms.CLIENT_REFUSED} or self.circuit.paused_seconds() > 0:
            return 0
        if raised:
            if not self._probe.take():
                return 0
            self._is_probing_client = True
            return 1
        if self.circuit.is_probing:
            return 0 if self.pool.under_way else 1
        rate = services().settings.refresh_rate_per_minute
        return min(max(rate // 60, 1), MOST_TAKEN_UP) if rate else MOST_TAKEN_UP

    def _do_maintenance(self) -> None:
        """Say that this worker lives; look now and then at the clock, and whether this is the living installation."""
        now = seconds_since_boot()
        if now >= self._clock_due:
            reschedule_future_dated()
            self._clock_due = now + CHECK_CLOCK_SECONDS
        if now >= self._beat_due:
            self._beat_due = now + BEAT_SECONDS
            check_instance()
            pause = self.circuit.paused_seconds()
            if self._trouble and not pause:
                pause = BEAT_SECONDS
            paused_until = utc_now() + timedelta(seconds=pause) if pause else None
            counts = (self.refreshed, self.failed, lag_seconds())
            forget_past()
            forget_past_files()
            complete_interrupted()
            beat(Beat(self.name, self.started_at, *counts, paused_until, self.circuit.reason or self._trouble))
