"""The threads of a worker: some call Keap, and one stores new pairs, several in one transaction.

The caller of `submit` acquires the leases of several accounts at once, so no thread that calls Keap waits for the disk.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from keap_connect.connect.identifying import identify_pending
from keap_connect.errors import KeapConnectError, SealBroken
from keap_connect.events.history import Actor
from keap_connect.keap.answers import not_sent
from keap_connect.models import Account
from keap_connect.refresh import timing
from keap_connect.refresh.circuit_breaker import CircuitBreaker
from keap_connect.refresh.lease import Lease, build_lease
from keap_connect.refresh.refresher import Attempt, Presentation, prepare, present, settle
from keap_connect.refresh.storing import Outcome, note_unreadable

log = logging.getLogger(__name__)
CALLS_AT_ONCE = 16
QUESTIONS_AT_ONCE = 4  # whose an account is; in threads of their own, since refreshing must not wait for the answers
LEASED_TOGETHER = 2 * CALLS_AT_ONCE  # an account costs a third less in a transaction of 32 than in one of 16
# The next batch is leased while sixteen are called and as many wait, so no thread waits for leases. With more, many
# leases would end before their turn while Keap is slow.
LEASED_AT_ONCE = 2 * LEASED_TOGETHER
START_SECONDS = 30.0
STORE_PAUSE_SECONDS = 0.08  # after a transaction, so that several pairs gather; a lone pair does not wait


class WorkerPool:
    """Starts its threads when entered; leaving waits until all attempts have ended.

    Args:
        circuit: what was leased before its `stopped_at` is not sent.
        note: is called with how each attempt ended.
    """

    def __init__(self, app: Flask, circuit: CircuitBreaker, note: Callable[[Attempt], None]) -> None:
        self._app, self._circuit, self._note = app, circuit, note
        self.under_way = 0  # leased, and not settled yet
        self._leased = 0  # and Keap not called yet
        self._asking = 0
        self._changed = threading.Condition()
        self._granted: SimpleQueue[Presentation] = SimpleQueue()

    def __enter__(self) -> None:
        self._callers = ThreadPoolExecutor(CALLS_AT_ONCE, initializer=self._enter_app)
        self._askers = ThreadPoolExecutor(QUESTIONS_AT_ONCE, initializer=self._enter_app)
        self._writer = ThreadPoolExecutor(1, initializer=self._enter_app)
        # All threads start now: one that cannot be started later would leave leases that nobody ends.
        all_run = threading.Barrier(CALLS_AT_ONCE + QUESTIONS_AT_ONCE + 2)
        for pool in [*[self._callers] * CALLS_AT_ONCE, *[self._askers] * QUESTIONS_AT_ONCE, self._writer]:
            pool.submit(all_run.wait, START_SECONDS)
        all_run.wait(START_SECONDS)

    def _enter_app(self) -> None:
        self._app.app_context().push()  # until the thread ends

    def __exit__(self, *_exception: object) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.under_way == 0)
        for pool in (self._callers, self._writer, self._askers):  # the first two may still ask
            pool.shutdown()

    def wait_for_room(self, seconds: float) -> int:
        """Return how many accounts may be submitted; 0 if there was no room within the time."""
        most_left = LEASED_AT_ONCE - LEASED_TOGETHER
        with self._changed:
            has_room = self._changed.wait_for(lambda: self._leased <= most_left, seconds)
            return LEASED_AT_ONCE - self._leased if has_room else 0

    def wait_until_done(self, seconds: float) -> bool:
        """Return whether something was under way, and ended within the time."""
        with self._changed:
            return self.under_way > 0 and self._changed.wait_for(lambda: self.under_way == 0, seconds)

    def submit(self, accounts: Sequence[Account]) -> None:
        """Acquire leases in one transaction; the threads then present the tokens.

        Raises:
            SQLAlchemyError, RecoveryUnavailable: nothing was sent.
        """
        try:
            presentations = prepare([lease for each in accounts if (lease := self._build_lease(each))], Actor.SYSTEM)
        except (KeapConnectError, SQLAlchemyError):
            raise
        except Exception as fault:
            if len(accounts) > 1:  # it concerns one of them
                for account in accounts:
                    self.submit([account])
            else:
                self._report(accounts[0].id, Attempt(Outcome.FAILED, fault=fault))
            return
        with self._changed:
            self._leased += len(presentations)
            self.under_way += len(presentations)
        for presentation in presentations:
            self._callers.submit(self._present, presentation)

    def identify(self, ask: Callable[[int], object], number: int) -> bool:
        """Ask Keap in a thread whose a pending account is, or the grant of a flow; return False if none is free."""
        with self._changed:
            if self._asking == QUESTIONS_AT_ONCE:
                return False
            self._asking += 1
        self._askers.submit(self._identify, ask, number)
        return True

    def _build_lease(self, account: Account) -> Lease | None:
        try:
            return build_lease(account)
        except SealBroken as problem:
            note_unreadable(account.id, str(problem))
            self._note(Attempt(Outcome.FAILED, str(problem)))
            return None

    def _present(self, presentation: Presentation) -> None:
        if presentation.lease.must_end_by < self._circuit.stopped_at + timing.LEASE_SECONDS:
            presentation.answer = not_sent("Nothing was sent to Keap.")
        else:
            present(presentation)
        with self._changed:
            self._leased -= 1
            if self._leased == LEASED_AT_ONCE - LEASED_TOGETHER:
                self._changed.notify()
        if presentation.new_pair:
            self._granted.put(presentation)
            self._writer.submit(self._settle_granted)
        else:  # now, before this thread sends the next token: this may be the refusal that pauses refreshing
            self._settle([presentation])

    def _settle_granted(self) -> None:
        if presentations := [self._granted.get() for _ in range(self._granted.qsize())]:
            self._settle(presentations)
            time.sleep(STORE_PAUSE_SECONDS)

    def _settle(self, presentations: Sequence[Presentation]) -> None:
        with self._reported(presentations[0].lease.account.id):
            for presentation, attempt in zip(presentations, settle(presentations), strict=True):
                account = presentation.lease.account
                self._report(account.id, attempt)
                if attempt.outcome is Outcome.STORED and account.is_pending:
                    self.identify(identify_pending, account.id)  # if no thread is free, the worker asks later
        with self._changed:
            self.under_way -= len(presentations)
            if self.under_way == 0:
                self._changed.notify()

    def _identify(self, ask: Callable[[int], object], number: int) -> None:
        with self._reported(number if ask is identify_pending else f"of flow {number}", "identified"):
            ask(number)
        with self._changed:
            self._asking -= 1

    def _report(self, account_id: int, attempt: Attempt) -> None:
        with self._reported(account_id):
            self._note(attempt)
            if attempt.fault:
                raise attempt.fault

    @contextlib.contextmanager
    def _reported(self, account_id: int | str, what: str = "refreshed") -> Iterator[None]:
        """Log any error, which must not end the thread."""
        try:
            yield
        except (KeapConnectError, SQLAlchemyError) as problem:
            log.warning("Account %s was not %s: %s", account_id, what, type(problem).__name__)
        except Exception as fault:
            log.error("A fault of this program kept account %s from being %s.", account_id, what, exc_info=fault)
