"""Webhooks beside the rest of the service: a receiver that hangs, and a worker that is killed."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Semaphore

import pytest
from flask import Flask

from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.accounts.directory import get_account
from keap_connect.clock import utc_now
from keap_connect.database import write_transaction
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.models import Account
from keap_connect.notifications import sender
from keap_connect.notifications.channels import CHANNELS
from keap_connect.notifications.endpoints import add_endpoint
from keap_connect.notifications.sender import Sender
from keap_connect.refresh.worker import RefreshWorker
from tests.accounts.granted import store_account
from tests.api.fixtures import Program
from tests.conftest import MovedClock
from tests.keap.raw_server import Connection, RawServer, answering, http
from tests.notifications.conftest import deliveries, send_due
from tests.support.engines import on_sqlite
from tests.support.sandbox import Sandbox

MANY = 200  # sender.AT_ONCE are sent together


@pytest.fixture
def reached() -> Semaphore:
    """Count the requests that have reached the receiver."""
    return Semaphore(0)


@pytest.fixture
def hanging(reached: Semaphore) -> Iterator[RawServer]:
    """Give a receiver that reads each request and never answers, as webhook 1."""

    def hang(connection: Connection) -> None:
        connection.read_request()
        reached.release()
        connection.wait_until_client_leaves()

    with RawServer(hang) as server:
        add_endpoint(f"{server.url}/hook", None, None, "x")
        yield server


@pytest.mark.proves("R85", "F76")
def test_many_changes_to_a_receiver_that_hangs_hold_up_neither_refreshing_nor_the_token_api(
    app: Flask, sandbox: Sandbox, hanging: RawServer, reached: Semaphore
):
    ids = [store_account(sandbox, tenant_id=f"ab{number}") for number in range(3)]
    program = Program(app, issue_api_key("job", [Scope.TOKENS_READ], "x").text)
    with write_transaction() as session:
        for number in range(MANY):
            record(session, EventKind.RECOVERED, 100 + number, Actor.SYSTEM)
        for account_id in ids:
            session.get_one(Account, account_id).next_refresh_at = utc_now() - timedelta(minutes=1)
    generations = [get_account(account_id).generation for account_id in ids]

    with Sender(app, CHANNELS):
        for _ in range(sender.AT_ONCE):
            assert reached.acquire(timeout=30)
        RefreshWorker(app).run(until_idle=True)
        statuses = [program.get(f"/api/v1/accounts/{account_id}/token").status_code for account_id in ids]
        still_hanging = len(hanging.requests)
        hanging.close()

    assert [get_account(account_id).generation for account_id in ids] == [one + 1 for one in generations]
    assert statuses == [200] * 3
    assert still_hanging == sender.AT_ONCE
    assert len([one for one in deliveries() if one.status == "waiting"]) == MANY


@on_sqlite
@pytest.mark.proves("F74", "R85")
def test_a_worker_that_was_killed_while_it_sent_is_followed_by_one_that_sends_the_same_again(
    hanging: RawServer, reached: Semaphore, environ: dict[str, str], clock: MovedClock
):
    with write_transaction() as session:
        record(session, EventKind.RECOVERED, 7, Actor.SYSTEM)
    command = [sys.executable, "-m", "keap_connect", "worker"]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], env=environ, stderr=subprocess.DEVNULL) as worker:
        assert reached.acquire(timeout=60)
        worker.kill()
    hanging.script = answering(http(b""))
    send_due()
    assert len(hanging.requests) == 1  # the claim of the dead worker lasts for a while

    clock.advance(seconds=sender.CLAIM_SECONDS + 1)
    send_due()

    first, second = (dict(line.split(b": ", 1) for line in one.split(b"\r\n")[1:7]) for one in hanging.requests)
    assert first[b"webhook-id"] == second[b"webhook-id"]
    assert [(one.status, one.attempts) for one in deliveries()] == [("sent", 1)]
