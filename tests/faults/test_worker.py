"""The worker: takes what is due, spreads the load, pauses with Keap, stops cleanly, and holds when all are refused."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from keap_connect.clock import utc_now
from keap_connect.database import read_session, write_transaction
from keap_connect.models import Account, Deployment
from keap_connect.refreshing import brakes
from keap_connect.worker.due import lag_seconds, reserve_calls, take_up_due
from keap_connect.worker.heartbeat import list_workers
from tests.faults.conftest import REPOSITORY, Stage, until

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def worker_program(stage: Stage) -> Iterator[subprocess.Popen[bytes]]:
    """Give `flask --app app worker` as it runs in earnest."""
    command = [sys.executable, "-m", "flask", "--app", "app", "worker"]
    program = subprocess.Popen(command, cwd=REPOSITORY, env={"PATH": "/usr/bin:/bin", **stage.environ})
    yield program
    program.kill()
    program.wait()


@pytest.mark.proves("R42", "F30")
def test_sigterm_lets_a_refresh_under_way_finish_and_be_stored(stage: Stage, worker_program: subprocess.Popen[bytes]):
    stage.sandbox.hold("refresh")
    (account_id,) = stage.add_accounts()
    stage.sandbox.wait_held(1, timeout=30)

    worker_program.send_signal(signal.SIGTERM)
    stage.sandbox.release()

    assert worker_program.wait(40) == 0
    assert stage.is_reconciled(account_id)
    assert stage.row(account_id).refreshed_at is not None
    with stage.app.app_context():
        assert list_workers() == []


@pytest.mark.proves("R36")
def test_a_token_that_does_not_open_delays_nobody(stage: Stage):
    poison, *good = stage.add_accounts(20)
    stage.change(
        poison, refresh_token_sealed=b"not sealed by anybody", access_token_expires_at=utc_now() - timedelta(1)
    )
    (process,) = stage.start(1)

    done = process.ask("sweep")

    assert done["refreshed"] == 19
    assert stage.is_reconciled(*good)
    account = stage.row(poison)
    assert account.failures == 1
    assert account.next_refresh_at > utc_now()


@pytest.mark.proves("R33", "F08")
def test_a_refused_client_stops_the_sweep_and_touches_nobody(stage: Stage):
    ids = stage.add_accounts(30)
    stage.sandbox.fault("invalid_client_401", "refresh")
    (process,) = stage.start(1)

    process.ask("sweep")
    sent = len(stage.presentations())
    rows = [stage.row(account_id) for account_id in ids]
    with stage.app.app_context():
        alarms = [alarm.name for alarm in brakes.list_alarms()]
    stage.sandbox.clear_faults()
    with stage.app.app_context():
        brakes.end_alarm(brakes.CLIENT_REFUSED)
    for account_id in ids:
        stage.change(account_id, next_refresh_at=utc_now())
    process.ask("sweep")

    assert sent <= 20
    assert alarms == [brakes.CLIENT_REFUSED]
    assert all((row.refused_at, row.refusals) == (None, 0) for row in rows)
    assert stage.is_reconciled(*ids)


@pytest.mark.proves("R34")
def test_a_mass_refusal_marks_nobody_and_calls_the_admin(stage: Stage):
    ids = stage.add_accounts(30)
    stage.sandbox.fault("refused_although_valid", "refresh")
    (process,) = stage.start(1, PACE=60)

    for _ in range(4):
        process.ask("sweep")
        for account_id in ids:
            stage.change(account_id, next_refresh_at=utc_now())
    with stage.app.app_context():
        alarms = [alarm.name for alarm in brakes.list_alarms()]

    assert alarms == [brakes.MASS_REFUSAL]
    assert [stage.row(account_id).refused_at for account_id in ids] == [None] * 30


@pytest.mark.proves("R37")
def test_the_budget_spreads_the_calls_of_all_workers(stage: Stage):
    with stage.app.app_context():
        first = reserve_calls(60)
        second = reserve_calls(60)
        third = reserve_calls(1)

    assert first < 0.5
    assert second == pytest.approx(6.0, abs=0.5)  # 60 calls at 600 a minute
    assert third == pytest.approx(12.0, abs=0.5)


@pytest.mark.proves("R36")
def test_what_is_due_is_taken_up_once_and_soonest_expiry_first(stage: Stage):
    ids = stage.add_accounts(6)
    for hours, account_id in enumerate(reversed(ids)):
        stage.change(account_id, access_token_expires_at=utc_now() + timedelta(hours=hours))

    with stage.app.app_context():
        first, second, nothing = take_up_due(4), take_up_due(4), take_up_due(4)
        lag = lag_seconds()

    assert first + second == list(reversed(ids))
    assert nothing == []
    assert lag == 0.0


@pytest.mark.proves("R35", "F01")
def test_a_circuit_opens_when_keap_as_a_whole_answers_badly(stage: Stage):
    ids = stage.add_accounts(60)
    stage.sandbox.fault("html_503", "refresh")
    (process,) = stage.start(1)

    process.ask("sweep")

    assert len(stage.presentations()) < 40
    assert all(stage.row(account_id).refused_at is None for account_id in ids)


@SQLITE
@pytest.mark.proves("R41", "F41")
def test_a_restored_backup_and_a_clone_refresh_nothing_until_confirmed(stage: Stage, tmp_path: Path):
    (account_id,) = stage.add_accounts()
    stage.start(1)
    with stage.app.app_context(), write_transaction() as session:
        marker = session.get(Deployment, "instance")
        older = marker.value.decode().rpartition(":")[0] + ":0"
        marker.value = older.encode()

    (later,) = stage.start(1)
    later.ask("sweep")
    held = later.ask("valid_token", account_id)
    with stage.app.app_context():
        alarms = [alarm.name for alarm in brakes.list_alarms()]

    assert alarms == [brakes.UNKNOWN_INSTANCE]
    assert not held["ok"]
    assert stage.presentations() == []
    command = [sys.executable, "-m", "flask", "--app", "app", "worker", "--once", "--confirm-only-one"]
    subprocess.run(command, cwd=REPOSITORY, env={"PATH": "/usr/bin:/bin", **stage.environ}, check=True, timeout=60)
    assert stage.is_reconciled(account_id)
    assert len(stage.presentations()) == 1


@pytest.mark.proves("R39")
def test_an_idle_account_is_refreshed_about_day_thirty_and_a_used_one_ahead_of_expiry(stage: Stage):
    idle, used = stage.add_accounts(2, expires_in_seconds=86_399)
    with stage.app.app_context(), write_transaction() as session:
        from keap_connect.accounts.schedule import next_refresh_at

        rows = {row.id: row for row in session.query(Account)}
        rows[idle].asked_at = None
        idle_at = next_refresh_at(rows[idle], utc_now())
        used_at = next_refresh_at(rows[used], utc_now())

    assert timedelta(days=28) < idle_at - utc_now() < timedelta(days=31)
    assert timedelta(hours=20) < used_at - utc_now() < timedelta(hours=22.1)


def test_a_worker_says_that_it_lives(stage: Stage, worker_program: subprocess.Popen[bytes]):
    def workers() -> list[str]:
        with stage.app.app_context():
            return [worker.name for worker in list_workers()]

    found = until(workers)

    assert str(worker_program.pid) in found[0]
    with stage.app.app_context(), read_session() as session:
        assert session.scalar(text("SELECT count(*) FROM worker")) == 1
