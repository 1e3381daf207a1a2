"""Processes of the app that do what a test tells them: one line of JSON in, one line out.

Run as `python -m tests.support.refreshing_process HANDLE`, it is a nursery: it has imported the app, which takes a
second, and compiled its routes and statements, and forks one process for each request that comes over the socket
HANDLE. Each has its own environment:

PACE                  divides the waits of the refresher, so that a test need not wait for minutes
CRASH_AT, FREEZE_AT   a step of a refresh at which the process kills or stops itself, such as `after_lease`
NO_MEMORY_AT          a step of a refresh at which it runs out of memory, once
CLOCK_SHIFT_SECONDS   how far its clock is off; the command `clock` moves it while it runs
AGE_SECONDS           for how long it has known the database to answer, and its clock
BUSY_TIMEOUT_MS       how long SQLite waits for another writer
STATEMENT_SECONDS     how long PostgreSQL lets a statement, or a silence in a transaction, last
LEAST_REFUSED         from how many refused accounts on refreshing is paused
"""

import gc
import json
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from flask import Flask

from keap_connect import clock, counters, database, engine
from keap_connect.accounts.credentials import new_account, replace_credential
from keap_connect.application import create_app
from keap_connect.keap import transport
from keap_connect.keap.token_response import TokenResponse
from keap_connect.refresh import alarms, circuit_breaker, lease, refresher, timing
from keap_connect.refresh import worker as refresh_worker
from keap_connect.refresh.lease import look
from keap_connect.refresh.serving import refresh_account, report_rejected, valid_token
from keap_connect.refresh.worker import RefreshWorker
from tests.support.quick_apps import make_apps_quickly

LONGEST_ENVIRON_BYTES = 65536


def nurse(handle: int) -> None:
    """Fork a process for each request until the other end of the socket closes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead need no mourning
    with socket.socket(fileno=handle) as requests, tempfile.TemporaryDirectory(prefix="nursery-") as folder:
        make_apps_quickly(Path(folder))
        while True:
            content, handles, _, _ = socket.recv_fds(requests, LONGEST_ENVIRON_BYTES, 3)
            if not content:
                return
            if not handles:
                _rehearse(json.loads(content))
                requests.send(b"rehearsed")
            elif os.fork() == 0:
                requests.detach()
                os.close(handle)
                _be_born(json.loads(content), handles)
            for each in handles:
                os.close(each)


def _rehearse(environ: dict[str, str]) -> None:
    """Do what most processes do, on a database of no test, so that they find it compiled."""
    before = dict(os.environ)
    os.environ.update(environ)
    app = create_app()
    with app.app_context():
        with database.write_transaction() as session:
            account = new_account(session, "ab123", "1")
            replace_credential(account, TokenResponse("an-access-token", "a-refresh-token", clock.utc_now()))
        life = Life(app)
        for command in ({"what": "refresh", "account_id": account.id}, {"what": "sweep"}):
            life.obey(command)
        database.db.engine.dispose()
    os.environ.clear()
    os.environ.update(before)
    counters.take()
    assert threading.active_count() == 1, "what is forked would have no other thread"
    gc.collect()
    gc.freeze()


class ShiftedDatetime(datetime):
    """A clock that is off."""

    shift = timedelta()

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        """Return the time as this process believes it to be."""
        return datetime.now(tz) + cls.shift


class Life:
    """One process of the app, and what it can be told."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.worker = RefreshWorker(app)
        self.working: threading.Thread | None = None

    def obey(self, command: dict[str, Any]) -> list[dict[str, object]]:
        """Do one thing, by as many callers at once as were asked for."""
        act = getattr(self, command.pop("what"))
        callers = command.pop("callers", 1)
        with ThreadPoolExecutor(callers) as pool:
            return [done.result() for done in [pool.submit(self._call, act, command) for _ in range(callers)]]

    def _call(self, act: Callable[..., dict[str, object]], options: dict[str, Any]) -> dict[str, object]:
        with self.app.app_context():
            try:
                return {"ok": True, **act(**options)}
            except Exception as problem:  # the test decides what may be raised
                return {"ok": False, "error": type(problem).__name__, "message": str(problem)[:200]}

    def refresh(self, account_id: int, **options: Any) -> dict[str, object]:
        """Refresh now."""
        refresh_account(account_id, "test", **options)
        return {}

    def valid_token(self, account_id: int, **options: Any) -> dict[str, object]:
        """Hand out a token."""
        served = valid_token(account_id, "test", **options)
        return {"token": served.access_token, "warning": served.warning}

    def report(self, account_id: int, fingerprint: str) -> dict[str, object]:
        """Report an access token as refused by Keap, and ask for a better one."""
        is_news = report_rejected(account_id, fingerprint, "test")
        return {"is_news": is_news, "token": valid_token(account_id, "test").access_token}

    def sweep(self) -> dict[str, object]:
        """Refresh what is due."""
        self.worker.run(until_idle=True)
        return {"refreshed": self.worker.refreshed, "failed": self.worker.failed}

    def take_up(self, account_id: int) -> dict[str, object]:
        """Let the worker refresh one account, as when it has just taken it up."""
        with self.worker.pool:
            self.worker.pool.submit([look(account_id).account])
        return {"failed": self.worker.failed}

    def work(self) -> dict[str, object]:
        """Start the worker, for good."""

        def run() -> None:
            with self.app.app_context():
                self.worker.run()

        self.working = threading.Thread(target=run)
        self.working.start()
        return {}

    def rest(self) -> dict[str, object]:
        """Stop the worker, as SIGTERM does."""
        self.worker.stop()
        if self.working:
            self.working.join()
        return {"refreshed": self.worker.refreshed, "failed": self.worker.failed}

    def circuit(self) -> dict[str, object]:
        """Tell whether the worker pauses, and how many calls are under way."""
        return {"is_open": self.worker.circuit.reason is not None, "under_way": self.worker.pool.under_way}

    def clock(self, shift_seconds: float) -> dict[str, object]:
        """Move this process's clock."""
        ShiftedDatetime.shift = timedelta(seconds=shift_seconds)
        return {}

    def limit_files(self, most_bytes: int) -> dict[str, object]:
        """Let no file grow beyond so many bytes, as a full disk does."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
        return {}


def _be_born(environ: dict[str, str], handles: list[int]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environ)
    for number, each in enumerate(handles):
        os.dup2(each, number)
        os.close(each)
    code = 1
    try:
        _live()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _live() -> None:
    born_at = clock.seconds_since_boot() - float(os.environ.get("AGE_SECONDS", "0"))
    database.Trouble.last_at = born_at
    set_pace(float(os.environ.get("PACE", "1")))
    clock.datetime = ShiftedDatetime  # type: ignore[misc]
    ShiftedDatetime.shift = timedelta(seconds=float(os.environ.get("CLOCK_SHIFT_SECONDS", "0")))
    alarms.LEAST_REFUSED = int(os.environ.get("LEAST_REFUSED", alarms.LEAST_REFUSED))
    life = Life(create_app())
    with life.app.app_context():
        lease._clock().known_since = born_at
    with os.fdopen(0) as commands, os.fdopen(1, "w") as answers:
        _at(os.environ.get("CRASH_AT", ""), partial(_send_ourselves, signal.SIGKILL))
        _at(os.environ.get("FREEZE_AT", ""), partial(_send_ourselves, signal.SIGSTOP))
        _at(os.environ.get("NO_MEMORY_AT", ""), _run_out_of_memory)
        print(json.dumps({"ready": os.getpid()}), file=answers, flush=True)
        for line in commands:
            print(json.dumps(life.obey(json.loads(line))), file=answers, flush=True)
        life.rest()


def set_pace(pace: float) -> None:
    """Divide the waits of this process."""
    engine.PRAGMAS += (f"busy_timeout={os.environ.get('BUSY_TIMEOUT_MS', '10000')}",)
    engine.STATEMENT_SECONDS = int(os.environ.get("STATEMENT_SECONDS", engine.STATEMENT_SECONDS))
    for name in [name for name in vars(timing) if name.endswith(("LEASE_SECONDS", "WAIT_SECONDS"))]:
        setattr(timing, name, getattr(timing, name) / pace)
    transport.DEADLINE_SECONDS /= pace
    refresh_worker.IDLE_SECONDS = 0.1
    refresh_worker.BEAT_SECONDS = 0.2
    circuit_breaker.FIRST_PAUSE_SECONDS /= pace
    circuit_breaker.LONGEST_PAUSE_SECONDS /= pace


def _at(step: str, trouble: Callable[[], None]) -> None:
    """Make trouble at a step of the first refresh; no part of the program knows of this."""
    if step == "before_lease":
        refresher.acquire_leases = _first(refresher.acquire_leases, trouble)
    elif step == "after_lease":
        refresher.acquire_leases = _then(refresher.acquire_leases, trouble)
    elif step == "before_look":
        transport.Call.last_check = _first(transport.Call.last_check, trouble)  # type: ignore[method-assign]
    elif step == "after_send":
        transport.Call.go_on = _once_sent(transport.Call.go_on, trouble)  # type: ignore[method-assign]
    elif step == "after_answer":
        refresher.refresh = _then(refresher.refresh, trouble)
    elif step == "before_commit":
        refresher._settle_all = _then(refresher._settle_all, trouble)
    elif step == "after_commit":
        refresher._write = _then(refresher._write, trouble)


def _first(step: Callable[..., Any], trouble: Callable[[], None]) -> Callable[..., Any]:
    def have_trouble_and_run(*args: Any, **kwargs: Any) -> Any:
        trouble()
        return step(*args, **kwargs)

    return have_trouble_and_run


def _then(step: Callable[..., Any], trouble: Callable[[], None]) -> Callable[..., Any]:
    def run_and_have_trouble(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        trouble()
        return result

    return run_and_have_trouble


def _once_sent(step: Callable[..., Any], trouble: Callable[[], None]) -> Callable[..., Any]:
    troubles = [trouble]

    def have_trouble_and_run(call: Any, *progress: int) -> Any:
        if progress[-1] and troubles:  # bytes of the request that were written
            troubles.pop()()
        return step(call, *progress)

    return have_trouble_and_run


def _send_ourselves(sign: signal.Signals) -> None:
    """Another thread would get the signal first, and this one would run on for a moment."""
    signal.pthread_kill(threading.get_ident(), sign)


def _run_out_of_memory() -> None:
    raise MemoryError


if __name__ == "__main__":
    nurse(int(sys.argv[1]))
