"""A new key takes over while the service runs; a run that was killed halfway is started again (R47, F40)."""

import asyncio
import base64
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import delete, select, update

from keap_connect import key_rotation
from keap_connect.access.admins import create_admin
from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.access.second_factor import prepare
from keap_connect.accounts.credentials import open_access_token, open_refresh_token
from keap_connect.accounts.directory import get_account
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.crypto import TokenCipher
from keap_connect.database import db, read_session, write_transaction
from keap_connect.durable_files import write_all
from keap_connect.keap.token_response import TokenResponse
from keap_connect.key_rotation import OTHERS_FIRST, drop_closed, reseal
from keap_connect.models import Account, Job, JobItem, Process, Worker
from keap_connect.refresh import recovery
from keap_connect.refresh.heartbeat import (
    SILENT_AFTER,
    beat,
    beat_as_server,
    list_without_first_key,
    process_name,
    retire,
)
from keap_connect.refresh.serving import refresh_account
from keap_connect.refresh.storing import NewPair
from keap_connect.server.serve import keep_reporting
from keap_connect.services import services
from keap_connect.settings import Settings
from tests.accounts.granted import store_account
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD, TOKEN_KEY, MovedClock
from tests.support.engines import on_postgresql
from tests.support.sandbox import Sandbox

NEW_KEY = base64.b64encode(bytes(range(32, 64))).decode()
ACCOUNTS = 7
Start = Callable[[str], Flask]


@pytest.fixture
def start(environ: dict[str, str], sandbox: Sandbox) -> Iterator[Start]:
    """Give the function that starts the app with some keys; seven accounts and a second factor are stored."""
    started = []

    def start(token_keys: str) -> Flask:
        app = create_app(Settings.from_env({**environ, "TOKEN_KEYS": token_keys}))
        started.append(app)
        return app

    with start(TOKEN_KEY).app_context():
        for number in range(ACCOUNTS):
            store_account(sandbox, person_id=None, label=str(number))
        admin = create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
        assert admin is not None
        prepare(admin)
    yield start
    for app in started:
        with app.app_context():
            db.engine.dispose()


@contextmanager
def hand_outs(app: Flask) -> Iterator[list[int]]:
    """Let a job ask for tokens, one after the other, and note each status."""
    statuses: list[int] = []
    is_over = threading.Event()
    with app.app_context():
        key = issue_api_key("jobs", [Scope.TOKENS_READ], "x").text
    headers = {"Authorization": f"Bearer {key}", "Host": app.config["SERVER_NAME"]}

    def ask() -> None:
        while not is_over.is_set():
            path = f"/api/v1/accounts/{len(statuses) % ACCOUNTS + 1}/token"
            statuses.append(app.test_client().get(path, headers=headers).status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    yield statuses
    is_over.set()
    thread.join()


@pytest.mark.proves("R47", "F40")
def test_a_run_killed_halfway_is_started_again_and_then_the_old_key_may_go(
    start: Start, monkeypatch: pytest.MonkeyPatch
):
    both = start(f"{NEW_KEY},{TOKEN_KEY}")
    monkeypatch.setattr(key_rotation, "BATCH", 2)
    batches = []

    def killed() -> None:
        batches.append(1)
        if len(batches) == 3:
            raise KeyboardInterrupt

    with hand_outs(both) as statuses, both.app_context():
        with monkeypatch.context() as patch:
            before_each_transaction(patch, killed)
            with pytest.raises(KeyboardInterrupt):
                reseal()
        assert _sealed_anew() == {1, 2, 3, 4}
        refresh_account(ACCOUNTS, "test")
        done = reseal()

    # Two columns of seven accounts, four of them done before and both of one by its refresh; the seed, the check.
    assert (done.resealed, done.reasons) == (2 * ACCOUNTS - 4 - 2 + 2, [])
    assert len(statuses) > 0
    assert set(statuses) == {200}
    with start(NEW_KEY).app_context():
        for account_id in range(1, ACCOUNTS + 1):
            assert open_access_token(get_account(account_id))
            assert open_refresh_token(get_account(account_id))
        assert reseal().resealed == 0


@pytest.mark.proves("R47")
def test_nothing_is_sealed_again_before_all_living_processes_have_the_new_key(start: Start, clock: MovedClock):
    """An older version's worker, a worker and a web process, one after the other."""
    old, both = start(TOKEN_KEY), start(f"{NEW_KEY},{TOKEN_KEY}")

    def report(app: Flask) -> None:
        with app.app_context():
            beat(Worker(name="host:1", started_at=utc_now()))
            beat_as_server()

    def refused() -> list[str]:
        with both.app_context():
            done = reseal()
            assert (done.resealed, _sealed_anew()) == (0, set())
            return done.reasons

    report(old)
    assert refused() == [OTHERS_FIRST.format(f"host:1, {process_name()}")]
    with both.app_context(), write_transaction() as session:
        session.execute(delete(Process))
    assert refused() == [OTHERS_FIRST.format("host:1")]
    with both.app_context():
        beat(Worker(name="host:1", started_at=utc_now()))
    with old.app_context():
        beat_as_server()
    assert refused() == [OTHERS_FIRST.format(process_name())]
    clock.advance(seconds=SILENT_AFTER.total_seconds() + 1)
    with both.app_context():
        beat_as_server()
        assert reseal().reasons == []
        retire(process_name())
        assert list_without_first_key() == []


@pytest.mark.proves("R47")
def test_the_old_key_must_stay_if_a_process_with_it_was_started_meanwhile(
    start: Start, monkeypatch: pytest.MonkeyPatch
):
    old, both = start(TOKEN_KEY), start(f"{NEW_KEY},{TOKEN_KEY}")

    def start_another() -> None:
        with old.app_context():
            beat_as_server()

    with both.app_context():
        with monkeypatch.context() as patch:
            before_each_transaction(patch, start_another)
            assert reseal().reasons == [OTHERS_FIRST.format(process_name())]
        retire(process_name())
        assert reseal().reasons == []


@pytest.mark.proves("R47")
def test_the_server_reports_its_key_while_it_runs(start: Start):
    app = start(TOKEN_KEY)

    def reported() -> list[str]:
        with app.app_context(), read_session() as session:
            return list(session.scalars(select(Process.sealing_key)))

    async def serve() -> None:
        reporting = asyncio.create_task(keep_reporting(app))
        while not reported():
            await asyncio.sleep(0.01)
        reporting.cancel()
        await reporting

    with ThreadPoolExecutor(1) as thread:  # the tests in a browser may have left a loop in this one
        thread.submit(lambda: asyncio.run(serve())).result()

    assert reported() == []


@pytest.mark.proves("R47")
def test_work_of_a_job_is_sealed_anew(start: Start):
    with start(f"{NEW_KEY},{TOKEN_KEY}").app_context():
        with write_transaction() as session:
            session.add(Job(id=1, kind="import", made_by="x", made_at=utc_now(), next_at=utc_now()))
            session.flush()
            work = TokenCipher((base64.b64decode(TOKEN_KEY),)).seal('{"kind": ""}', "job_item", "1:2", "work")
            session.add(JobItem(ref="1:2", job_id=1, number=2, work_sealed=work))
        reseal()
    with start(NEW_KEY).app_context(), read_session() as session:
        sealed = session.get_one(JobItem, "1:2").work_sealed
        assert services().cipher.open(sealed or b"", "job_item", "1:2", "work") == '{"kind": ""}'


@pytest.mark.proves("R47")
def test_a_pair_that_is_stored_meanwhile_wins(start: Start, monkeypatch: pytest.MonkeyPatch):
    both = start(f"{NEW_KEY},{TOKEN_KEY}")
    stored = []

    def refresh_meanwhile() -> None:
        if not stored:
            refresh_account(1, "test")
            stored.append(open_access_token(get_account(1)))

    with both.app_context():
        before_each_transaction(monkeypatch, refresh_meanwhile)
        reseal()

        assert [open_access_token(get_account(1))] == stored
        refresh_account(1, "test")


@on_postgresql
@pytest.mark.proves("R47")
def test_what_does_not_open_is_left_as_it_is_and_keeps_the_old_key(start: Start):
    both = start(f"{NEW_KEY},{TOKEN_KEY}")
    with both.app_context():
        with write_transaction() as session:
            session.get_one(Account, 3).refresh_token_sealed = b"not sealed by anybody"

        done = reseal()

        assert get_account(3).refresh_token_sealed == b"not sealed by anybody"
    assert done.reasons == ["1 values do not open with any key: account:3:refresh_token."]
    with start(TOKEN_KEY + "," + NEW_KEY).app_context():
        assert open_access_token(get_account(1))


@pytest.mark.proves("R47", "F40")
def test_no_refresh_token_that_opens_is_dropped(start: Start, monkeypatch: pytest.MonkeyPatch):
    with start(TOKEN_KEY).app_context():
        with write_transaction() as session:
            before = session.get_one(Account, 3).refresh_token_sealed
            for number in (3, 4):
                session.get_one(Account, number).refresh_token_sealed = b"not sealed by anybody"
            session.get_one(Account, 5).access_token_sealed = b"not sealed by anybody"

        def reconnect() -> None:
            with db.engine.begin() as connection:
                connection.execute(update(Account).where(Account.id == 3).values(refresh_token_sealed=before))

        before_each_transaction(monkeypatch, reconnect)  # after the list was made

        assert drop_closed(may_be_all=False) == 1
        assert open_refresh_token(get_account(3))
        assert get_account(4).refresh_token_sealed is None
        assert get_account(5).access_token_sealed is None
        refresh_account(5, "test")


@pytest.mark.proves("R30", "R47", "F40")
def test_a_pair_that_a_dead_process_kept_is_stored_before_what_does_not_open_is_dropped(start: Start):
    with start(TOKEN_KEY).app_context():
        with write_transaction() as session:
            session.get_one(Account, 3).refresh_token_sealed = b"not sealed by anybody"
        granted = TokenResponse("access", "refresh", utc_now() + timedelta(days=1), "full")
        (file,) = recovery.allocate(1)
        write_all(
            file.handle, recovery._sealed(services().cipher, NewPair(3, get_account(3).generation, granted, "test"))
        )
        file.abandon()

        assert drop_closed(may_be_all=False) == 0
        assert open_refresh_token(get_account(3)) == "refresh"


def before_each_transaction(patch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Let something happen just before the rotation writes."""
    write = key_rotation.write_transaction

    def act_and_write() -> object:
        act()
        return write()

    patch.setattr(key_rotation, "write_transaction", act_and_write)


def _sealed_anew() -> set[int]:
    cipher = key_rotation.services().cipher
    return {n for n in range(1, ACCOUNTS + 1) if cipher.is_newest(get_account(n).access_token_sealed or b"")}
