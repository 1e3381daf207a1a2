"""The worker: claims what is due, refreshes it in a bounded pool, and stops cleanly.

No account waits for another that fails: each call has its own deadline, each failing account its own back-off, and
accounts are claimed in the order of expiry.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from math import inf

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from keap_connect.background import Background
from keap_connect.clock import seconds_since_boot, utc_now
from keap_connect.connect.callback import complete_interrupted
from keap_connect.connect.confirming import identify_waiting, list_waiting
from keap_connect.connect.flows import forget_past
from keap_connect.connect.identifying import identify_pending, list_unidentified
from keap_connect.connect.invitations import expire_past
from keap_connect.errors import KeapConnectError
from keap_connect.models import CLIENT_REFUSED, Worker
from keap_connect.refresh import alarms, replaying
from keap_connect.refresh.circuit_breaker import CircuitBreaker
from keap_connect.refresh.clone_guard import check_instance
from keap_connect.refresh.due import CLAIMED_FOR, claim_due, reserve_calls
from keap_connect.refresh.heartbeat import beat, process_name, retire
from keap_connect.refresh.lease import notice_clock_step
from keap_connect.refresh.refresher import Attempt
from keap_connect.refresh.retention import delete_past
from keap_connect.refresh.storing import Outcome
from keap_connect.refresh.worker_pool import WorkerPool
from keap_connect.services import services
from keap_connect.signals import on_stop
from keap_connect.supervisor import ALIVE, ENDING, READY, report

log = logging.getLogger(__name__)
MOST_CLAIMED = 256  # at once; with a limit, what may be sent in a second
MOST_IDENTIFIED = 5  # with each beat: Keap allows 25 calls a second, and each takes up to four
IDLE_SECONDS = 2.0
BEAT_SECONDS = 5.0
# What was claimed when nothing could be leased is due again within this time, and meets a trouble that lasts.
TROUBLE_SECONDS = CLAIMED_FOR.total_seconds() + 2 * BEAT_SECONDS
ASK_AGAIN_SECONDS = 600.0
DELETE_PAST_SECONDS = 3600.0
# What asks, the id of the account or of the flow, and the generation of the account's pair.
Question = tuple[Callable[[int], object], int, int]


class RefreshWorker:
    def __init__(self, app: Flask, beside: Sequence[Background] = ()) -> None:
        """`beside` is stopped with it, so that nothing begins while this waits for the end of what is under way."""
        self.app = app
        self._beside = beside
        self.name = process_name()
        self.started_at = utc_now()
        self.circuit = CircuitBreaker()
        self.unproven_circuit = CircuitBreaker()  # of imported pairs, whose failures do not pause the others
        self.refreshed = self.failed = self.faults = 0
        self.pool = WorkerPool(app, self.circuit, self._note)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._beat_due = self._replay_due = self._deletion_due = self._nameless_due = 0.0
        self._nameless: set[tuple[int, int]] = set()  # pending accounts with a tenant, as they were listed last
        self._probe = alarms.Probe()
        self._asked: dict[Question, float] = {}  # when; -inf: never
        self._trouble: str | None = None  # why nothing could be leased lately
        self._trouble_ends = 0.0

    def stop(self) -> None:
        """Claim and send nothing more; what was sent is finished and stored, before a supervisor loses patience."""
        self._stopping.set()
        self.circuit.stopped_at = seconds_since_boot()
        for one in self._beside:
            one.stop()

    def run(self, until_idle: bool = False) -> None:
        """Work until stopped; with until_idle, until nothing is due."""
        with on_stop(lambda _sign: self.stop()), self.pool:
            report(READY)
            while not self._stopping.is_set():
                try:
                    if self._refresh_due():
                        continue
                except SQLAlchemyError as problem:
                    log.error("The database does not answer (%s); trying again.", type(problem).__name__)
                except (KeapConnectError, OSError) as problem:
                    log.error("Nothing is refreshed: %s", problem)
                    self._trouble, self._trouble_ends = str(problem), seconds_since_boot() + TROUBLE_SECONDS
                if until_idle:
                    break
                self._stopping.wait(IDLE_SECONDS)
            report(ENDING)
        try:
            retire(self.name)
        except SQLAlchemyError:
            log.warning("The worker ends, but stays listed for a minute: the database does not answer.")

    def _refresh_due(self) -> bool:
        """Claim and submit one batch; return False if nothing was due or under way."""
        self._do_maintenance()
        notice_clock_step()
        looked_at = seconds_since_boot()
        most = self._allowed()
        was_busy = self.pool.under_way > 0
        # A failure of the pair before may be stored, and not be counted yet.
        takes_unproven = not was_busy and self.unproven_circuit.paused_seconds() == 0
        accounts = claim_due(most, takes_unproven=takes_unproven) if most else []
        if not accounts:
            if not most:
                return False
            self._probe.give_back()  # nothing was due
            # The next imported pair waits for the one before, which may have ended since this looked.
            return self.pool.wait_until_done(IDLE_SECONDS) or was_busy
        rate = services().settings.refresh_rate_per_minute
        starts_at = seconds_since_boot() + reserve_calls(len(accounts))
        interval = 60.0 / rate if rate else 0.0
        submitted = 0
        while submitted < len(accounts):
            self._wait_until(starts_at + submitted * interval)
            room = self.pool.wait_for_room(BEAT_SECONDS)
            if self._stopping.is_set() or self.circuit.stopped_at > looked_at:
                break  # what was claimed and not leased is due again in a minute
            if interval:
                room = min(room, int((seconds_since_boot() - starts_at) / interval) + 1 - submitted)
            self.pool.submit(accounts[submitted : submitted + room])
            submitted += room
            self._trouble = None
            self._do_maintenance()
        return True

    def _wait_until(self, moment: float) -> None:
        """Wait for a moment on the boot clock, or for the end of this worker; report meanwhile that it lives."""
        while (seconds := moment - seconds_since_boot()) > 0 and not self._stopping.wait(min(seconds, BEAT_SECONDS)):
            self._do_maintenance()

    def _note(self, attempt: Attempt) -> None:
        with self._lock:
            self.refreshed += attempt.outcome is Outcome.STORED
            self.failed += attempt.outcome.is_failure or attempt.fault is not None
            self.faults += attempt.fault is not None
        if not attempt.is_of_pair:
            self.circuit.note(attempt)
        if attempt.is_of_pair or attempt.outcome is Outcome.STORED:
            self.unproven_circuit.note(attempt)

    def _allowed(self) -> int:
        raised = {alarm.name for alarm in alarms.list_alarms()}
        if raised - {CLIENT_REFUSED} or self.circuit.paused_seconds() > 0:
            return 0
        if raised:
            return int(self.pool.under_way == 0 and self._probe.take())
        if self.circuit.is_probing:
            return 0 if self.pool.under_way else 1
        rate = services().settings.refresh_rate_per_minute
        return min(max(rate // 60, 1), MOST_CLAIMED) if rate else MOST_CLAIMED

    def _identify_pending(self) -> None:
        """Ask Keap who owns each pending account and each waiting grant; ask again after a while."""
        now = seconds_since_boot()
        if now >= self._nameless_due:
            self._nameless_due, self._nameless = now + ASK_AGAIN_SECONDS, list_unidentified(has_tenant=True)
        found: list[Question] = [(identify_waiting, flow_id, 0) for flow_id in list_waiting()]
        found += [(identify_pending, *one) for one in sorted(list_unidentified() | self._nameless)]
        self._asked = {one: self._asked.get(one, -inf) for one in found}
        due = [one for one in found if self._asked[one] <= now - ASK_AGAIN_SECONDS]
        # However many there are, each has its turn: first those that were never asked about, grants that wait first.
        for one in sorted(due, key=self._asked.__getitem__)[:MOST_IDENTIFIED]:
            if not self.pool.identify(*one[:2]):
                break
            self._asked[one] = now

    def _do_maintenance(self) -> None:
        """Write that this worker lives; at intervals, check the installation, store kept pairs, delete what is old."""
        now = seconds_since_boot()
        if now >= self._trouble_ends:
            self._trouble = None
        if now >= self._beat_due:
            report(ALIVE)  # also while the database does not answer: a restart would not help
            is_allowed = check_instance()  # after an outage, before anything is claimed
            self._beat_due = now + BEAT_SECONDS
            if is_allowed and now >= self._deletion_due:  # a copy is recognized by its events
                self._deletion_due = now + DELETE_PAST_SECONDS
                delete_past()
            pause = self.circuit.paused_seconds() or (BEAT_SECONDS if self._trouble else 0.0)
            paused_until = utc_now() + timedelta(seconds=pause) if pause else None
            beat(
                Worker(
                    name=self.name,
                    started_at=self.started_at,
                    refreshed=self.refreshed,
                    failed=self.failed,
                    paused_until=paused_until,
                    pause_reason=self.circuit.reason or self._trouble,
                )
            )
            forget_past()
            expire_past()
            complete_interrupted()
            self._identify_pending()
        if now >= self._replay_due:
            replaying.replay()  # until it succeeds, nothing is claimed
            self._replay_due = now + BEAT_SECONDS
