"""The web server as it runs in production: ended by its supervisor in mid-exchange, and beset by slow clients."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from http.client import HTTPException

import psutil
import pytest

from keap_connect.access.api_keys import Scope, issue_api_key
from tests.api.serving import ask
from tests.faults.conftest import REPOSITORY, Process, Stage, until
from tests.support.server import free_port

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
PACE = 60  # lease 1 s, doubt wait 2 s, confirm wait 1 s
PATH = "/api/v1/accounts/1/token"


class Server:
    """Granian with one worker process."""

    def __init__(self, stage: Stage, *options: str) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "granian", "--interface", "wsgi", "--no-ws", "--log-level", "error"]
        command += ["--blocking-threads", "16", "--port", str(self.port), *options, "app:app"]
        environ = {"PATH": os.environ["PATH"], "FLASK_SKIP_DOTENV": "1", **stage.environ, "LOG_LEVEL": "WARNING"}
        self.program = subprocess.Popen(command, cwd=REPOSITORY, env=environ)

    def is_listening(self) -> bool:
        """Whether it takes connections."""
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def workers(self) -> list[psutil.Process]:
        """Return the processes that it has work for it."""
        return psutil.Process(self.program.pid).children()


@pytest.fixture
def serve(stage: Stage) -> Iterator[Callable[..., Server]]:
    """Give the function that starts a server."""
    started: list[Server] = []

    def start(*options: str) -> Server:
        started.append(Server(stage, *options))
        until(started[-1].is_listening)
        return started[-1]

    yield start
    stage.sandbox.release()
    for server in started:
        server.program.terminate()
        server.program.wait(60)


@pytest.fixture
def key(stage: Stage) -> str:
    """Give an API key for tokens."""
    with stage.app.app_context():
        return issue_api_key("jobs", [Scope.TOKENS_READ], "x").text


@pytest.mark.proves("F31", "F29", "R31")
def test_a_server_that_is_killed_for_taking_long_leaves_the_truth_behind(
    stage: Stage, serve: Callable[..., Server], key: str
):
    """Its patience with a worker that is to end, one second, is shorter than Keap takes to answer."""
    stage.sandbox.switch(family_revocation=True)
    (account_id,) = stage.add_accounts()
    server = serve("--workers-kill-timeout", "1")
    stage.sandbox.hold("refresh", where="after")
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask, server.port, stage.environ, key, PATH)
        stage.sandbox.wait_held(1)
        (worker,) = server.workers()

        server.program.send_signal(signal.SIGHUP)  # a new worker takes the place of the old one
        until(lambda: not worker.is_running())
        assert isinstance(asking.exception(), (OSError, HTTPException))
    stage.sandbox.release()

    assert stage.row(account_id).attempt_fingerprint is not None
    (process,) = stage.start(1, PACE=PACE)
    assert process.ask("valid_token", account_id, patience_seconds=0)["error"] == "TemporarilyUnavailable"
    assert len(stage.presentations()) == 1, "nobody presents it again so soon"


@pytest.mark.proves("F31")
@pytest.mark.parametrize(("step", "ending"), [("after_lease", None), ("after_answer", "lost")])
def test_a_process_without_memory_in_mid_exchange_leaves_the_truth_behind(stage: Stage, step: str, ending: str | None):
    stage.sandbox.switch(family_revocation=True)
    (account_id,) = stage.add_accounts()
    starved, process = stage.start(1, PACE=PACE, NO_MEMORY_AT=step) + stage.start(1, PACE=PACE)

    assert starved.ask("refresh", account_id)["error"] == "MemoryError"

    answer = until(lambda: _settled(process, account_id))
    assert answer["ok"] is (ending is None)
    assert stage.is_reconciled(account_id) is (ending is None)
    assert stage.events(account_id)[-1] == ("answer_lost" if ending else "refreshed")


def _settled(process: Process, account_id: int) -> dict[str, object] | None:
    answer = process.ask("refresh", account_id)
    return answer if answer["ok"] or answer["error"] == "ReconnectRequired" else None


SLOW_REQUESTS = {
    "no end of the headers": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    "no end of the body": (
        b"POST /signin HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: 60000\r\n\r\nemail="
    ),
    "no end of the chunks": (
        b"POST /signin HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n6\r\nemail=\r\n1\r\n"
    ),
    "nothing at all": b"",
}


@pytest.mark.proves("F70")
@pytest.mark.parametrize("begun", SLOW_REQUESTS.values(), ids=SLOW_REQUESTS)
def test_two_hundred_slow_clients_keep_nobody_waiting(
    stage: Stage, serve: Callable[..., Server], key: str, begun: bytes
):
    stage.add_accounts(expires_in_seconds=80_000)
    server = serve()
    host = stage.environ["PUBLIC_URL"].removeprefix("http://").encode()
    with ExitStack() as slow:
        clients = [slow.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(200)]
        for client in clients:
            client.sendall(begun.replace(b"Host: localhost", b"Host: " + host))

        started = time.monotonic()
        answers = []
        for _ in range(20):
            answers.append(ask(server.port, stage.environ, key, PATH)[0])
            for client in clients[:10]:
                with suppress(OSError):  # it was sent away
                    client.sendall(b"a" if begun else b"")  # it drips on
        seconds = time.monotonic() - started

    assert answers == [200] * 20
    assert seconds < 10
