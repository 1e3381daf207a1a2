"""A process of the app that does what a test tells it: one line of JSON in, one line out.

Run as `python -m tests.support.spending_process` with the app's environment. `PACE` divides the waits of the spender,
so that a test need not wait for minutes; `CRASH_AT` kills the
process at a named step of a refresh, `FREEZE_AT` stops it there.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from keap_connect import database
from keap_connect.application import create_app
from keap_connect.errors import KeapConnectError
from keap_connect.keap import transport
from keap_connect.refreshing import spender, timing
from keap_connect.refreshing.serving import refresh_account, valid_token
from keap_connect.worker.loop import SweepWorker


def main() -> None:
    """Answer commands until standard input ends."""
    _set_pace(float(os.environ.get("PACE", "1")))
    app = create_app()
    _at(os.environ.get("CRASH_AT", ""), signal.SIGKILL)
    _at(os.environ.get("FREEZE_AT", ""), signal.SIGSTOP)
    worker = SweepWorker(app)

    def call(what: str, account_id: int, **options: Any) -> dict[str, object]:
        started = time.monotonic()
        with app.app_context():
            try:
                if what == "refresh":
                    refresh_account(account_id, "test")
                    answer: dict[str, object] = {"ok": True}
                else:
                    served = valid_token(account_id, "test", **options)
                    answer = {"ok": True, "token": served.access_token, "warning": served.warning}
            except KeapConnectError as problem:
                answer = {"ok": False, "error": type(problem).__name__, "message": str(problem)}
            except Exception as problem:  # the test decides what may be raised
                answer = {"ok": False, "error": type(problem).__name__, "message": str(problem)[:200]}
        return {**answer, "seconds": time.monotonic() - started}

    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        callers = command.pop("callers", 1)
        if command["what"] == "sweep":
            with app.app_context():
                worker.run(until_idle=True)
            answers: list[dict[str, object]] = [{"refreshed": worker.refreshed, "failed": worker.failed}]
        else:
            with ThreadPoolExecutor(callers) as pool:
                answers = [one.result() for one in [pool.submit(call, **command) for _ in range(callers)]]
        print(json.dumps(answers), flush=True)


def _set_pace(pace: float) -> None:
    database.PRAGMAS += (f"busy_timeout={os.environ.get('BUSY_TIMEOUT_MS', '10000')}",)
    for name in ("LEASE_SECONDS", "DOUBT_WAIT_SECONDS", "CONFIRM_WAIT_SECONDS"):
        setattr(timing, name, getattr(timing, name) / pace)
    transport.DEADLINE_SECONDS /= pace


def _at(step: str, sign: signal.Signals) -> None:
    """Send ourselves a signal at a step of the first refresh; no part of the program knows of this."""
    if step == "after_lease":
        spender.take_lease = _then(spender.take_lease, sign)
    elif step == "after_answer":
        spender.refresh = _then(spender.refresh, sign)
    elif step == "before_commit":
        spender.store_granted = _then(spender.store_granted, sign)
    elif step == "after_commit":
        spender._settle = _then(spender._settle, sign)


def _then(step: Callable[..., Any], sign: signal.Signals) -> Callable[..., Any]:
    def run_and_signal(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        os.kill(os.getpid(), sign)
        return result

    return run_and_signal


if __name__ == "__main__":
    main()
