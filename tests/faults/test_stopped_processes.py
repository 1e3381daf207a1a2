"""Processes that stop for longer than lease and waits, and go on: nothing is presented twice, nothing is lost.

The long tests run in real time, ten installations side by side; a scaled one of each kind runs every time.
"""

import contextlib
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

import pytest
from sqlalchemy.exc import OperationalError

from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.accounts.state import AccountState
from keap_connect.clock import utc_now
from keap_connect.refresh.heartbeat import list_workers
from tests.faults.conftest import SideBySide, Stage, program, until
from tests.support.real_server import RealServer, real_server

RUNS = 10
IN_FLIGHT, BY_EACH_SERVER = 16, 4
EXPIRED, HOLDS = -60, 3000
PACE = 20  # lease 3 s, deadline 1.5 s, doubt wait 6 s, wait while the recovery file is locked 45 s


def _add_accounts(stage: Stage) -> list[int]:
    """Half of the tokens still hold, half have expired."""
    stage.sandbox.switch(family_revocation=True)
    return stage.add_accounts(IN_FLIGHT // 2, EXPIRED) + stage.add_accounts(IN_FLIGHT // 2, HOLDS, tenant_id="cd456")


def _check(stage: Stage, ids: list[int]) -> None:
    """Nothing was presented twice, and nothing is lost."""
    assert stage.presented_twice() == []
    assert len(stage.presentations()) == len(ids)
    assert stage.is_reconciled(*ids)
    assert {stage.state(account_id) for account_id in ids} == {AccountState.ACTIVE}


def _wait_held(stage: Stage, number: int) -> None:
    until(lambda: stage.sandbox.control("GET", "/held", wait_for=number, timeout=5)["waiting"] >= number)


def _ask_for_all(server: RealServer, ids: list[int], key: str, until_all: threading.Event) -> None:
    """Ask again and again for tokens that last an hour, until each came."""
    missing = set(ids)
    while missing and not until_all.is_set():
        for account_id in list(missing):
            with contextlib.suppress(OSError, HTTPException):
                if server.ask(f"/api/v1/accounts/{account_id}/token?min_validity=3600", key)[0] == 200:
                    missing.discard(account_id)
        until_all.wait(1)
    assert not missing


@pytest.mark.long
@pytest.mark.proves("F79", "R26", "R31")
@pytest.mark.parametrize("stopped_seconds", [65, 130, 400])
def test_all_processes_of_a_host_are_stopped_and_go_on_in_any_order(side_by_side: SideBySide, stopped_seconds: int):
    together = threading.Barrier(RUNS)

    def run(stage: Stage, number: int) -> None:
        luck = random.Random(number)
        ids = _add_accounts(stage)
        luck.shuffle(ids)
        stage.change(*ids, next_refresh_at=None)
        with stage.app.app_context():
            key = issue_api_key("jobs", [Scope.TOKENS_READ], "x").text
        is_over = threading.Event()
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(len(ids) + 2))
            servers = [stack.enter_context(real_server(stage.environ)) for _ in range(2)]
            worker = stack.enter_context(program(stage, "worker"))
            pids = [worker.pid, *(server.process.pid for server in servers)]
            stack.callback(_send_all, pids, signal.SIGCONT)
            stack.callback(is_over.set)
            until(lambda: _beats(stage), timeout=120)
            together.wait(300)
            stage.sandbox.hold("refresh", where=("before", "after")[number % 2])
            for index, account_id in enumerate(ids[: 2 * BY_EACH_SERVER]):
                path = f"/api/v1/accounts/{account_id}/token?min_validity=3600"
                pool.submit(servers[index % 2].ask, path, key)
            _wait_held(stage, 2 * BY_EACH_SERVER)
            stage.change(*ids[2 * BY_EACH_SERVER :], next_refresh_at=utc_now())
            _wait_held(stage, IN_FLIGHT)
            _send_all(pids, signal.SIGSTOP)
            stage.sandbox.release()

            is_over.wait(stopped_seconds)
            asking = [pool.submit(_ask_for_all, server, ids, key, is_over) for server in servers]
            luck.shuffle(pids)
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
                is_over.wait(luck.uniform(0, 10))  # so long the others have to themselves
            for one in asking:
                one.result(120)
            until(lambda: stage.is_reconciled(*ids))
            _check(stage, ids)

    side_by_side(RUNS, run)


def _send_all(pids: list[int], sign: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)


def _beats(stage: Stage) -> bool:
    with stage.app.app_context():
        return bool(list_workers())


@pytest.mark.long
@pytest.mark.proves("F80", "R26", "R31")
def test_one_of_four_processes_is_stopped_while_the_others_work(side_by_side: SideBySide):
    """For 20 to 400 seconds."""

    def run(stage: Stage, number: int) -> None:
        ids = _add_accounts(stage)
        stopped, worker, *callers = stage.start(4)
        stage.sandbox.hold("refresh", where=("before", "after")[number % 2])
        stopped.tell("sweep")
        _wait_held(stage, IN_FLIGHT)
        stopped.freeze()
        stage.sandbox.release()
        worker.ask("work")

        ends = time.monotonic() + 20 + number * 380 / (RUNS - 1)
        while time.monotonic() < ends:
            with contextlib.suppress(OperationalError):  # it may have been stopped with SQLite's write lock
                stage.change(*ids, next_refresh_at=utc_now())
            for account_id in ids:
                for process, what in zip(callers, ("valid_token", "refresh"), strict=True):
                    process.tell(what, account_id, patience_seconds=0)
                for process in callers:
                    process.hear()
            time.sleep(2)
        stopped.thaw()
        assert stopped.hear()[0]["refreshed"] == IN_FLIGHT
        worker.ask("rest")
        _check(stage, ids)

    side_by_side(RUNS, run)


@pytest.mark.proves("F79", "R26", "R31")
@pytest.mark.parametrize("first", [0, 1])
def test_a_stopped_host_goes_on_in_either_order(stage: Stage, first: int):
    stage.sandbox.switch(family_revocation=True)
    ids = stage.add_accounts(2, EXPIRED) + stage.add_accounts(2, HOLDS, tenant_id="cd456")
    both = worker, _ = stage.start(2, PACE=PACE, AGE_SECONDS=1000)
    stage.sandbox.hold("refresh", where="after")
    worker.tell("sweep")
    _wait_held(stage, len(ids))
    for process in both:
        process.freeze()
    stage.sandbox.release()
    until(lambda: not any(stage.is_leased(account_id) or stage.is_held(account_id) for account_id in ids))

    both[first].thaw()
    for account_id in ids:
        both[1].tell("valid_token", account_id, min_validity_seconds=3600, patience_seconds=0)
    both[1 - first].thaw()

    assert worker.hear()[0]["refreshed"] == len(ids)
    for _ in ids:
        both[1].hear()
    _check(stage, ids)
