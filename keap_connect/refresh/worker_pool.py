"""The threads of a worker: hands that call Keap, and one that stores in one transaction what they brought meanwhile.

Leases are taken by whoever sends the crew out, for several accounts at once; so no hand waits for the disk.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from queue import SimpleQueue

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from keap_connect.clock import seconds_since_boot
from keap_connect.connect.identifying import identify_pending
from keap_connect.errors import KeapConnectError, SealBroken
from keap_connect.events.history import Actor
from keap_connect.models import Account
from keap_connect.refresh.lease import Lease, build_lease
from keap_connect.refresh.refresher import (
    Attempt,
    Presentation,
    prepare,
    present,
    release_files,
    settle,
    store,
    withdraw,
)
from keap_connect.refresh.storing import Outcome, set_aside

log = logging.getLogger(__name__)
CALLS_AT_ONCE = 16
LEASED_AT_ONCE = 2 * CALLS_AT_ONCE  # with more, leases would run out before their turn while Keap is slow
LEASED_TOGETHER = CALLS_AT_ONCE
STORE_PAUSE_SECONDS = 0.04  # under load, between two transactions; a lone pair meets no such wait


class WorkerPool:
    """The threads live from entering to leaving, and it is left once all that was sent out is over.

    Args:
        must_pause: whether what is leased but not presented yet must not be.
        note: is told how each attempt ended.
        note_fault: is told that a fault of this program ended one.
    """

    def __init__(
        self,
        app: Flask,
        must_pause: Callable[[], bool],
        note: Callable[[Attempt], None],
        note_fault: Callable[[], None],
    ) -> None:
        self._app = app
        self._must_pause, self._note, self._note_fault = must_pause, note, note_fault
        self.under_way = 0
        self._leased = 0
        self._changed = threading.Condition()
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._granted: SimpleQueue[Presentation | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> None:
        self._threads = [threading.Thread(target=self._call_keap) for _ in range(CALLS_AT_ONCE)]
        self._threads.append(threading.Thread(target=self._store_what_comes))
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_exception: object) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.under_way == 0)
        self._granted.put(None)
        for _ in range(CALLS_AT_ONCE):
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def wait_for_room(self, seconds: float) -> int:
        """Return how many accounts may be sent out; 0 when no room came within the time."""
        most_left = LEASED_AT_ONCE - LEASED_TOGETHER
        with self._changed:
            has_room = self._changed.wait_for(lambda: self._leased <= most_left, seconds)
            return LEASED_AT_ONCE - self._leased if has_room else 0

    def submit(self, accounts: Sequence[Account]) -> None:
        """Lease accounts in one transaction, and let the hands present their tokens.

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
                self._tell_fault(accounts[0].id, fault)
            return
        with self._changed:
            self._leased += len(presentations)
            self.under_way += len(presentations)
        for presentation in presentations:
            self._tasks.put(partial(self._present, presentation))

    def _build_lease(self, account: Account) -> Lease | None:
        try:
            return build_lease(account)
        except SealBroken as problem:
            set_aside(account.id, str(problem))
            self._note(Attempt(Outcome.FAILED, str(problem)))
            return None

    def _call_keap(self) -> None:
        with self._app.app_context():
            while task := self._tasks.get():
                task()

    def _present(self, presentation: Presentation) -> None:
        account_id = presentation.lease.account.id
        with self._for(account_id):
            if self._must_pause():
                withdraw(presentation)
            else:
                present(presentation)
        with self._changed:
            self._leased -= 1
            if self._leased == LEASED_AT_ONCE - LEASED_TOGETHER:
                self._changed.notify()
        if presentation.new_pair:
            self._granted.put(presentation)
            return
        with self._for(account_id):
            if presentation.is_over:
                self._note(settle(presentation))
        self._release([presentation])

    def _store_what_comes(self) -> None:
        next_at = 0.0
        with self._app.app_context():
            while first := self._granted.get():
                time.sleep(max(next_at - seconds_since_boot(), 0.0))
                others = [self._granted.get() for _ in range(self._granted.qsize())]
                self._store([first, *filter(None, others)])
                next_at = seconds_since_boot() + STORE_PAUSE_SECONDS

    def _store(self, presentations: list[Presentation]) -> None:
        accounts = [each.lease.account for each in presentations]
        with self._for(accounts[0].id):
            for account, attempt in zip(accounts, store(presentations), strict=True):
                with self._for(account.id):
                    self._note(attempt)
                    if attempt.fault:
                        raise attempt.fault
                if attempt.outcome is Outcome.STORED and account.is_pending:
                    self._tasks.put(partial(self._complete, account.id))
        self._release(presentations)

    def _complete(self, account_id: int) -> None:
        with self._for(account_id):
            identify_pending(account_id)

    def _release(self, presentations: Sequence[Presentation]) -> None:
        release_files(presentations)
        with self._changed:
            self.under_way -= len(presentations)
            if self.under_way == 0:
                self._changed.notify()

    @contextlib.contextmanager
    def _for(self, account_id: int) -> Iterator[None]:
        """Keep trouble with an account from ending the thread, or what is done for others."""
        try:
            yield
        except (KeapConnectError, SQLAlchemyError) as problem:
            log.warning("Account %s was not refreshed: %s", account_id, type(problem).__name__)
        except Exception as fault:
            self._tell_fault(account_id, fault)

    def _tell_fault(self, account_id: int, fault: Exception) -> None:
        log.error("A fault of this program kept account %s from being refreshed.", account_id, exc_info=fault)
        self._note_fault()
