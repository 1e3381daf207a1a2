"""Many callers in several server processes want one expired account: its refresh token is presented once."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import update

from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.database import db, write_transaction
from keap_connect.models import Account
from keap_connect.settings import Settings
from tests.accounts.granted import store_account
from tests.support.engines import on_sqlite
from tests.support.real_server import RealServer, real_servers
from tests.support.sandbox import Sandbox

PATH = "/api/v1/accounts/1/token"


@pytest.fixture
def key(settings: Settings, sandbox: Sandbox) -> Iterator[str]:
    """Give a key for an app with one account, whose access token has expired."""
    built = create_app(settings)
    with built.app_context():
        store_account(sandbox)
        with write_transaction() as session:
            session.execute(update(Account).values(access_token_expires_at=utc_now() - timedelta(hours=1)))
        yield issue_api_key("race", [Scope.TOKENS_READ], "x").text
        db.engine.dispose()


def race(sandbox: Sandbox, running: AbstractContextManager[list[RealServer]], key: str, callers: int) -> None:
    """Let all callers ask at once, then once more when the refresh is over."""
    with running as servers, ThreadPoolExecutor(callers) as pool:
        servers_of_callers = [servers[number % len(servers)] for number in range(callers)]
        first = list(pool.map(lambda server: server.ask(PATH, key), servers_of_callers))
        again = [server.ask(PATH, key) for server in servers]

    tokens = {json.loads(body)["access_token"] for status, body in [*first, *again] if status == 200}
    assert [status for status, _ in first] == [200] * callers
    assert [status for status, _ in again] == [200] * len(again)
    assert len(tokens) == 1
    presented = [call for call in sandbox.ledger()["presentations"] if call["path"] == "/token"]
    assert len(presented) == 1


@pytest.mark.proves("R26", "F22", "F23")
@on_sqlite
def test_callers_of_two_processes_present_once_and_all_get_the_token(
    sandbox: Sandbox, environ: dict[str, str], ready_command: list[str], key: str
):
    sandbox.fault("slow", seconds=0.2)

    race(sandbox, real_servers(2, environ, [*ready_command, "serve"]), key, callers=24)


@pytest.mark.proves("R97")
@on_sqlite
def test_callers_who_wait_for_a_refresh_keep_no_other_waiting(
    sandbox: Sandbox, environ: dict[str, str], ready_command: list[str], key: str
):
    """Many more than there are threads, or places for those that refresh."""
    sandbox.hold("refresh", where="before")

    with real_servers(1, environ, [*ready_command, "serve"]) as (server,), ThreadPoolExecutor(60) as pool:
        callers = [pool.submit(server.get, PATH, Authorization=f"Bearer {key}", Prefer="wait=25") for _ in range(60)]
        sandbox.wait_held(1)
        healthy, page = server.get("/healthz"), server.get("/signin")
        is_answered = any(caller.done() for caller in callers)
        sandbox.release()
        answers = [caller.result() for caller in callers]

    assert (healthy[0], page[0], is_answered) == (200, 200, False)
    assert [status for status, _ in answers] == [200] * 60


@pytest.mark.long
@pytest.mark.proves("R26", "F22", "F23", "F28")
@pytest.mark.parametrize("seconds", [0.2, 8])
def test_two_hundred_callers_of_four_processes_present_once_and_all_get_the_token(
    sandbox: Sandbox, environ: dict[str, str], key: str, seconds: float
):
    sandbox.fault("slow", seconds=seconds)

    race(sandbox, real_servers(4, environ), key, callers=200)


@on_sqlite
def test_one_thread_at_a_time_counts_in_memory(app: Flask, monkeypatch: pytest.MonkeyPatch):
    """Seen under load: a 500, since two threads had started the store's timer."""
    both, limits = threading.Barrier(2), app.extensions["keap_connect_rate_limits"]

    def hit(*_: object) -> bool:
        with pytest.raises(threading.BrokenBarrierError):
            both.wait(0.2)  # for another thread
        return True

    monkeypatch.setattr(limits.strategy, "hit", hit)
    with ThreadPoolExecutor(2) as pool:
        counted = [pool.submit(limits.count_wrong_key, "127.0.0.1") for _ in range(2)]
        assert [each.result() for each in counted] == [None, None]
