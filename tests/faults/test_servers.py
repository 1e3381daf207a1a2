"""The server that ships: ended by its supervisor in mid-exchange, and beset by clients that do not go on."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from select import POLLIN, poll

import pytest

from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.refresh.timing import MOST_AT_ONCE
from keap_connect.server.serve import FLUSH_SECONDS
from tests.faults.conftest import Process, Stage, until
from tests.support.engines import on_sqlite
from tests.support.real_server import RealServer, real_server
from tests.support.unfinished import UNFINISHED, unfinished

pytestmark = on_sqlite
PACE = 60  # lease 1 s, doubt wait 2 s, confirm wait 1 s
PATH = "/api/v1/accounts/1/token"
HELD_SECONDS = 60


@pytest.fixture
def server(stage: Stage, ready_command: list[str]) -> Iterator[RealServer]:
    """Give the running server."""
    with real_server(stage.environ, "serve", command=ready_command) as running:
        yield running
        stage.sandbox.release()


@pytest.fixture
def key(stage: Stage) -> str:
    """Give an API key for tokens."""
    with stage.app.app_context():
        return issue_api_key("jobs", [Scope.TOKENS_READ], "x").text


@pytest.mark.proves("F31", "F29", "R31")
def test_a_server_that_is_killed_for_taking_long_leaves_the_truth_behind(stage: Stage, key: str):
    stage.sandbox.switch(family_revocation=True)
    (account_id,) = stage.add_accounts()
    stage.sandbox.hold("refresh", where="after")
    with real_server(stage.environ) as server, ThreadPoolExecutor(1) as pool:
        asking = pool.submit(server.ask, PATH, key)
        stage.sandbox.wait_held(1)
        server.process.kill()
        assert isinstance(asking.exception(), (OSError, HTTPException))
    stage.sandbox.release()

    assert stage.row(account_id).attempt_fingerprint is not None
    (process,) = stage.start(1, PACE=PACE)
    assert process.ask("valid_token", account_id, patience_seconds=0)["error"] == "TemporarilyUnavailable"
    assert len(stage.presentations()) == 1, "nobody presents it again so soon"


@pytest.mark.proves("F31")
@pytest.mark.parametrize("step", ["after_lease", "after_answer"])
def test_a_process_without_memory_in_mid_exchange_leaves_the_truth_behind(stage: Stage, step: str):
    is_lost = step == "after_answer" and not stage.makes_good
    stage.sandbox.switch(family_revocation=True)
    (account_id,) = stage.add_accounts()
    starved, process = stage.start(1, PACE=PACE, NO_MEMORY_AT=step) + stage.start(1, PACE=PACE)

    assert starved.ask("refresh", account_id)["error"] == "MemoryError"

    answer = until(lambda: _settled(process, account_id))
    assert answer["ok"] is not is_lost
    assert stage.is_reconciled(account_id) is not is_lost
    assert stage.events(account_id)[-1] == ("answer_lost" if is_lost else "refreshed")


def _settled(process: Process, account_id: int) -> dict[str, object] | None:
    answer = process.ask("refresh", account_id)
    return answer if answer["ok"] or answer["error"] == "ReconnectRequired" else None


@pytest.mark.proves("F70", "F77", "F78", "R97")
def test_clients_that_do_not_go_on_keep_nobody_waiting(stage: Stage, server: RealServer, key: str):
    stage.add_accounts(expires_in_seconds=80_000)
    numbers = {"nothing_at_all": 1100, "headers": 200, "body": 40, "body_of_the_API": 40}
    with unfinished(server.port, server.host, **numbers, chunks=40, answer_not_read=40) as clients:
        assert [server.ask(PATH, key)[0] for _ in range(20)] == [200] * 20
        assert server.get("/healthz")[0] == 200
        waiting = poll()
        for client in clients[: sum(numbers.values())]:
            waiting.register(client, POLLIN)
        assert waiting.poll(0) == [], "the others were answered beside these, and not after these were sent away"


@pytest.mark.long
@pytest.mark.proves("F70", "F77", "F78", "R97")
def test_for_a_minute_too_and_with_five_thousand_silent_ones(stage: Stage, server: RealServer, key: str):
    """They begin anew as soon as they are sent away, and drip a byte a second."""
    stage.add_accounts(expires_in_seconds=80_000)
    ends = time.monotonic() + HELD_SECONDS
    with unfinished(server.port, server.host, nothing_at_all=5000, headers=200):
        while time.monotonic() < ends:
            with unfinished(server.port, server.host, body=40, body_of_the_API=40, answer_not_read=40) as clients:
                for _ in range(20):
                    assert server.ask(PATH, key)[0] == 200
                    for client in clients[:80]:
                        with suppress(OSError):  # it was sent away
                            client.sendall(b"a")
                    time.sleep(1)


@pytest.mark.long
@pytest.mark.proves("F78")
@pytest.mark.parametrize("kind", ["nothing_at_all", "headers"])
def test_a_client_that_sends_no_complete_headers_is_sent_away(server: RealServer, kind: str):
    with unfinished(server.port, server.host, **{kind: 1}) as (client,):
        client.settimeout(HELD_SECONDS)
        assert client.recv(1) == b""


@pytest.mark.proves("F83", "F30")
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda sign: sign.name)
def test_it_ends_with_what_is_in_flight_finished_whoever_else_is_connected(
    stage: Stage, server: RealServer, key: str, sign: signal.Signals
):
    (account_id,) = stage.add_accounts()
    stage.sandbox.hold("refresh", where="after")
    numbers = {kind.replace(" ", "_"): 3 for kind in UNFINISHED}
    with ThreadPoolExecutor(1) as pool, unfinished(server.port, server.host, **numbers):
        asking = pool.submit(server.ask, PATH, key)
        stage.sandbox.wait_held(1)
        server.process.send_signal(sign)
        until(lambda: not takes_connections(server))
        # Longer than the server waits for answers that are under way to clients.
        threading.Timer(FLUSH_SECONDS + 1 if sign == signal.SIGTERM else 0, stage.sandbox.release).start()

        assert asking.result()[0] == 200
        assert server.process.wait(60) == 0
    assert stage.is_reconciled(account_id)


def takes_connections(server: RealServer) -> bool:
    """Whether new ones get in."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.port)) == 0


@pytest.mark.proves("F28", "R99")
def test_refreshes_that_keap_answers_slowly_leave_threads_for_others(stage: Stage, server: RealServer, key: str):
    (holding,) = stage.add_accounts(expires_in_seconds=80_000)
    expired = [account for number in range(20) for account in stage.add_accounts(tenant_id=f"zz{100 + number}")]
    stage.sandbox.hold("refresh")
    with ThreadPoolExecutor(len(expired)) as pool:
        asking = [pool.submit(server.ask, f"/api/v1/accounts/{account}/token", key) for account in expired]
        stage.sandbox.wait_held(MOST_AT_ONCE)
        until(lambda: sum(one.done() for one in asking) == len(expired) - MOST_AT_ONCE)

        assert server.ask(f"/api/v1/accounts/{holding}/token", key)[0] == 200
        assert server.get("/healthz")[0] == 200
        stage.sandbox.release()
    statuses = [one.result()[0] for one in asking]

    assert sorted(statuses) == [200] * MOST_AT_ONCE + [503] * (len(expired) - MOST_AT_ONCE)
