"""The worker: takes up what is due, refreshes it in a bounded pool, and stops cleanly.

Trouble with one account never makes another wait: each call has its own deadline, each failing account its own
back-off, and what is due is taken soonest expiry first.
"""

import gc
import logging
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from queue import SimpleQueue
from types import FrameType

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from keap_connect.accounts.history import Actor
from keap_connect.clock import seconds_since_boot, utc_now
from keap_connect.errors import KeapConnectError, SealBroken
from keap_connect.models import Account
from keap_connect.onboarding.completing import complete_account
from keap_connect.onboarding.flows import forget_past
from keap_connect.onboarding.held_files import forget_past_files
from keap_connect.onboarding.journey import finish_interrupted
from keap_connect.refreshing import brakes, recovery
from keap_connect.refreshing.spender import Attempt, Places, spend
from keap_connect.refreshing.storing import Outcome, set_aside
from keap_connect.runtime import runtime
from keap_connect.worker.circuit import Circuit
from keap_connect.worker.due import hurry_pairs_of_the_future, lag_seconds, reserve_calls, take_up_due
from keap_connect.worker.heartbeat import Beat, beat, retire
from keap_connect.worker.instance import check_instance

log = logging.getLogger(__name__)
CALLS_AT_ONCE = 16
LEASED_AT_ONCE = CALLS_AT_ONCE + 16  # or leases would run out before their turn, when Keap is slow
HANDS = LEASED_AT_ONCE + 16  # the others store pairs meanwhile
MOST_TAKEN_UP = 256  # at once; with a limit, what may go in a second
IDLE_SECONDS = 2.0
BEAT_SECONDS = 5.0
CHECK_INSTANCE_SECONDS = 3600.0
FAILURES = {Outcome.FAILED, Outcome.REFUSED, Outcome.CLIENT_REFUSED, Outcome.BRAKED}


class _Gate:
    """Lets so many in at once: a semaphore without the price of Python's own."""

    def __init__(self, places: int) -> None:
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(places):
            self._free.put(None)

    def __enter__(self) -> None:
        self._free.get()

    def __exit__(self, *_: object) -> None:
        self._free.put(None)


class SweepWorker:
    """One worker process. Make one, then `run` it until it is told to stop."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.started_at = utc_now()
        self.circuit = Circuit()
        self.refreshed = self.failed = self.faults = 0
        self._stopping = threading.Event()
        self._places = Places(_Gate(LEASED_AT_ONCE), _Gate(CALLS_AT_ONCE))
        self._lock = threading.Lock()
        self._fewer = threading.Condition(self._lock)
        self._under_way = 0
        self._beat_due = self._instance_due = 0.0
        self._probe = brakes.Probe()
        self._is_probing_client = self._is_braked = False

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Take up nothing more; what is under way is finished and stored."""
        self._stopping.set()

    def run(self, until_idle: bool = False) -> None:
        """Work until stopped; with until_idle, until nothing is due."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.stop)
            signal.signal(signal.SIGINT, self.stop)
        gc.freeze()  # what was loaded so far stays; looking through it again and again costs time
        with ThreadPoolExecutor(HANDS, thread_name_prefix="refresh") as pool:
            while not self._stopping.is_set():
                try:
                    worked = self._sweep_once(pool)
                except SQLAlchemyError as problem:
                    log.error("The database does not answer (%s); trying again.", type(problem).__name__)
                    worked = False
                if not worked and until_idle:
                    break
                if not worked:
                    self._stopping.wait(IDLE_SECONDS)
        try:
            retire(self.name)
        except SQLAlchemyError:
            log.warning("The worker ends without saying so: the database does not answer.")

    def _sweep_once(self, pool: ThreadPoolExecutor) -> bool:
        """Take up one batch; return False when there was nothing to do."""
        recovery.replay()
        self._keep_house()
        self._is_braked = False
        most = self._allowed()
        accounts = take_up_due(most) if most else []
        if not accounts:
            if most and self._is_probing_client:
                self._probe.give_back()  # nothing was due to probe with
            return False
        rate = runtime().settings.refresh_rate_per_minute
        starts_at = seconds_since_boot() + reserve_calls(len(accounts))
        for number, account in enumerate(accounts):
            due_at = starts_at + (number * 60.0 / rate if rate else 0.0)
            self._stopping.wait(max(due_at - seconds_since_boot(), 0.0))
            with self._lock:
                self._under_way += 1
            pool.submit(self._refresh, account)
        while not self._wait_for_hands():
            self._keep_house()  # while Keap is slow
        return True

    def _wait_for_hands(self) -> bool:
        """Wait until all that was taken up is under way or done; return False when a beat is due before that."""
        with self._lock:
            return self._fewer.wait_for(lambda: self._under_way <= HANDS, BEAT_SECONDS)

    def _refresh(self, account: Account) -> None:
        try:
            if self._stopping.is_set() or self._must_pause():
                return  # what was taken up and not begun is due again in a minute
            with self.app.app_context():
                try:
                    attempt = spend(account, Actor.SYSTEM, self._places)
                except SealBroken as problem:
                    set_aside(account.id, str(problem))
                    attempt = Attempt(Outcome.FAILED, str(problem))
                self._note(attempt)
                if attempt.outcome is Outcome.STORED and account.is_pending:
                    complete_account(account.id)
        except (KeapConnectError, SQLAlchemyError) as problem:
            log.warning("Account %s was not refreshed: %s", account.id, type(problem).__name__)
        except Exception:  # it would vanish in the pool
            log.exception("A fault of this program kept account %s from being refreshed.", account.id)
            with self._lock:
                self.faults += 1
                self.failed += 1
        finally:
            with self._lock:
                self._under_way -= 1
                if self._under_way == HANDS:
                    self._fewer.notify()

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

    def _must_pause(self) -> bool:
        return self._is_braked or self.circuit.paused_seconds() > 0

    def _allowed(self) -> int:
        """Return how many accounts may be taken up now."""
        alarms = {alarm.name for alarm in brakes.list_alarms()}
        if alarms - {brakes.CLIENT_REFUSED} or self.circuit.paused_seconds() > 0:
            return 0
        if alarms:
            if not self._probe.take():
                return 0
            self._is_probing_client = True
            return 1
        if self.circuit.is_probing:
            return 0 if self._under_way else 1
        rate = runtime().settings.refresh_rate_per_minute
        return min(max(rate // 60, 1), MOST_TAKEN_UP) if rate else MOST_TAKEN_UP

    def _keep_house(self) -> None:
        """Say that this worker lives; look now and then at the clock, and whether this is the living installation."""
        now = seconds_since_boot()
        if now >= self._instance_due:
            check_instance()
            hurry_pairs_of_the_future()
            self._instance_due = now + CHECK_INSTANCE_SECONDS
        if now >= self._beat_due:
            self._beat_due = now + BEAT_SECONDS
            pause = self.circuit.paused_seconds()
            paused_until = utc_now() + timedelta(seconds=pause) if pause else None
            counts = (self.refreshed, self.failed, lag_seconds())
            forget_past()
            forget_past_files()
            finish_interrupted()
            beat(Beat(self.name, self.started_at, *counts, paused_until, self.circuit.reason))
