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
from keap_connect.errors import KeapConnectError
from keap_connect.models import Account
from keap_connect.onboarding.flows import forget_past
from keap_connect.onboarding.held_files import forget_past_files
from keap_connect.onboarding.journey import finish_interrupted
from keap_connect.refreshing import brakes, recovery
from keap_connect.refreshing.clone_guard import check_instance
from keap_connect.refreshing.lease import notice_clock_step
from keap_connect.refreshing.spender import Attempt
from keap_connect.refreshing.storing import Outcome
from keap_connect.runtime import runtime
from keap_connect.signals import on_stop
from keap_connect.worker.circuit import Circuit
from keap_connect.worker.crew import Crew
from keap_connect.worker.due import hurry_pairs_of_the_future, lag_seconds, reserve_calls, take_up_due
from keap_connect.worker.heartbeat import Beat, beat, retire

log = logging.getLogger(__name__)
MOST_TAKEN_UP = 256  # at once; with a limit, what may go in a second
IDLE_SECONDS = 2.0
BEAT_SECONDS = 5.0
CHECK_CLOCK_SECONDS = 3600.0
FAILURES = {Outcome.FAILED, Outcome.REFUSED, Outcome.CLIENT_REFUSED, Outcome.BRAKED}


class SweepWorker:
    """One worker process. Make one, then `run` it until it is told to stop."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.started_at = utc_now()
        self.circuit = Circuit()
        self.refreshed = self.failed = self.faults = 0
        self.crew = Crew(app, self._must_pause, self._note, self._note_fault)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._beat_due = self._clock_due = 0.0
        self._probe = brakes.Probe()
        self._is_probing_client = self._is_braked = False
        self._trouble: str | None = None  # why nothing could be leased lately

    def stop(self) -> None:
        """Take up nothing more; what is under way is finished and stored."""
        self._stopping.set()

    def run(self, until_idle: bool = False) -> None:
        """Work until stopped; with until_idle, until nothing is due."""
        gc.freeze()  # what was loaded so far stays; looking through it again and again costs time
        with on_stop(lambda _sign: self.stop()), self.crew:
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
        """Take up one batch and send the crew out; return False when there was nothing to do."""
        self._keep_house()
        recovery.replay()
        notice_clock_step()
        most = self._allowed()
        accounts = take_up_due(most) if most else []
        if not accounts:
            if most and self._is_probing_client:
                self._probe.give_back()  # nothing was due to probe with
            return False
        rate = runtime().settings.refresh_rate_per_minute
        starts_at = seconds_since_boot() + reserve_calls(len(accounts))
        turns = deque(
            (starts_at + (number * 60.0 / rate if rate else 0.0), account) for number, account in enumerate(accounts)
        )
        while turns:
            self._stopping.wait(max(turns[0][0] - seconds_since_boot(), 0.0))
            room = self.crew.wait_for_room(BEAT_SECONDS)
            if self._stopping.is_set() or self._must_pause():
                break  # what was taken up and not begun is due again in a minute
            now = seconds_since_boot()
            ready: list[Account] = []
            while turns and len(ready) < room and turns[0][0] <= now:
                ready.append(turns.popleft()[1])
            self.crew.send_out(ready)
            self._trouble = None
            self._keep_house()
        return True

    def _note(self, attempt: Attempt) -> None:
        with self._lock:
            self.refreshed += attempt.outcome is Outcome.STORED
            self.failed += attempt.outcome in FAILURES
        self._is_braked = self._is_braked or attempt.outcome in {Outcome.CLIENT_REFUSED, Outcome.BRAKED}
        if attempt.outcome is Outcome.STORED:
            self.circuit.note_success()
            if self._is_probing_client:
                self._is_probing_client = False
                brakes.end_alarm(brakes.CLIENT_REFUSED)
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
        if self._is_braked and self.crew.under_way:
            return 0  # what was leased before has still to be let go
        self._is_braked = False
        alarms = {alarm.name for alarm in brakes.list_alarms()}
        if alarms - {brakes.CLIENT_REFUSED} or self.circuit.paused_seconds() > 0:
            return 0
        if alarms:
            if not self._probe.take():
                return 0
            self._is_probing_client = True
            return 1
        if self.circuit.is_probing:
            return 0 if self.crew.under_way else 1
        rate = runtime().settings.refresh_rate_per_minute
        return min(max(rate // 60, 1), MOST_TAKEN_UP) if rate else MOST_TAKEN_UP

    def _keep_house(self) -> None:
        """Say that this worker lives; look now and then at the clock, and whether this is the living installation."""
        now = seconds_since_boot()
        if now >= self._clock_due:
            hurry_pairs_of_the_future()
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
            finish_interrupted()
            beat(Beat(self.name, self.started_at, *counts, paused_until, self.circuit.reason or self._trouble))
