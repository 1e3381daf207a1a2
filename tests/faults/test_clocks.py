"""Clocks that are off or jump: no storm, no early death, no lease that is not respected (R38, F43, F45)."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import select

from keap_connect import database
from keap_connect.accounts.state import AccountState
from keap_connect.accounts.stored_state import derive_anew
from keap_connect.application import create_app
from keap_connect.clock import seconds_since_boot, utc_now
from keap_connect.database import database_clock, db, read_session, write_transaction
from keap_connect.errors import TemporarilyUnavailable
from keap_connect.models import Account
from keap_connect.refresh.due import claim_due, lag_seconds
from keap_connect.refresh.heartbeat import beat_as_server
from keap_connect.refresh.serving import valid_token
from keap_connect.settings import Settings
from tests.faults.conftest import Stage, open_nursery, start_elsewhere, until
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.faketime import shifted_clock

FIVE_MINUTES = 300
DAY = 86_400
PACE = 60  # lease 1 s, doubt wait 2 s


@pytest.mark.proves("F43", "R26")
@pytest.mark.parametrize("shift_seconds", [-FIVE_MINUTES, FIVE_MINUTES])
def test_the_lease_of_a_host_is_respected_by_one_whose_clock_is_five_minutes_off(stage: Stage, shift_seconds: int):
    stage.sandbox.switch(family_revocation=True)
    (account_id,) = stage.add_accounts(expires_in_seconds=-600)
    here, there = stage.start(1) + stage.start(1, CLOCK_SHIFT_SECONDS=shift_seconds)
    stage.sandbox.hold("refresh")
    here.tell("valid_token", account_id)
    stage.sandbox.wait_held(1)

    there.tell("valid_token", account_id, callers=10, patience_seconds=1)
    waited = {answer["error"] for answer in there.hear()}
    swept = there.ask("sweep")
    stage.sandbox.release()
    here.hear()

    assert waited == {"TemporarilyUnavailable"}
    assert swept["refreshed"] == 0
    assert len(stage.presentations()) == 1
    assert there.ask("valid_token", account_id)["ok"]
    assert stage.is_reconciled(account_id)


@on_postgresql
@pytest.mark.proves("F43", "R26")
@pytest.mark.parametrize("shift_seconds", [-FIVE_MINUTES, FIVE_MINUTES])
def test_a_whole_host_whose_clock_is_off_respects_the_lease_of_another(stage: Stage, shift_seconds: int):
    """Here the system's clock is off, not only the app's."""
    (account_id,) = stage.add_accounts(expires_in_seconds=-600)
    with open_nursery(**shifted_clock(shift_seconds)) as elsewhere:
        (here,), (there,) = stage.start(), stage.start(nursery=elsewhere, AGE_SECONDS=1000)
        stage.sandbox.hold("refresh")
        here.tell("refresh", account_id)
        stage.sandbox.wait_held(1)
        stage.change(account_id, next_refresh_at=utc_now() - timedelta(seconds=600))  # due by every clock

        swept = there.ask("sweep")
        waited = there.ask("valid_token", account_id, patience_seconds=0)
        stage.sandbox.release()

        assert (swept["refreshed"], swept["failed"]) == (0, 0)
        assert waited["error"] == "TemporarilyUnavailable"
        assert here.hear()[0]["ok"]
        assert there.ask("valid_token", account_id)["ok"]
    assert len(stage.presentations()) == 1
    assert stage.is_reconciled(account_id)


@pytest.mark.proves("F43")
@pytest.mark.parametrize("shift_seconds", [-FIVE_MINUTES, FIVE_MINUTES])
def test_doubt_lasts_as_long_on_a_host_whose_clock_is_off(stage: Stage, shift_seconds: int):
    (account_id,) = stage.add_accounts(expires_in_seconds=-600)
    doomed, there = stage.start(1, PACE=PACE, CRASH_AT="after_lease") + stage.start(
        1, PACE=PACE, CLOCK_SHIFT_SECONDS=shift_seconds
    )
    doomed.ask("refresh", account_id)
    assert stage.is_held(account_id)

    answer = there.ask("refresh", account_id)
    was_held = stage.is_held(account_id)
    until(lambda: there.ask("refresh", account_id)["ok"])

    assert answer["error"] == "TemporarilyUnavailable"
    assert was_held, "the machine is too slow for this test to tell"
    assert len(stage.presentations()) == 1


@pytest.mark.proves("R38", "F43")
@pytest.mark.parametrize("shift_seconds", [-FIVE_MINUTES, FIVE_MINUTES, 45 * DAY, -45 * DAY])
def test_a_clock_that_jumps_while_the_worker_runs_kills_nobody_and_starts_no_storm(stage: Stage, shift_seconds: int):
    ids = stage.add_accounts(12, expires_in_seconds=80_000)
    stage.change(*ids, next_refresh_at=utc_now() + timedelta(hours=20))
    stage.sandbox.switch(family_revocation=True)
    (worker,) = stage.start(1, REFRESH_RATE_PER_MINUTE=300)
    worker.ask("sweep")
    assert stage.presentations() == []

    worker.ask("clock", shift_seconds=shift_seconds)
    worker.ask("sweep")
    worker.ask("sweep")
    after_jump = len(stage.presentations())
    worker.ask("clock", shift_seconds=0)
    worker.ask("sweep")
    worker.ask("sweep")
    after_return = len(stage.presentations())

    assert after_jump == (12 if shift_seconds > DAY else 0), "at most one refresh each"
    assert after_return <= 24
    assert stage.sandbox.ledger()["totals"]["peak_token_calls_per_second"] <= 300 / 60 + 1
    assert stage.presented_twice() == []
    assert stage.is_reconciled(*ids)
    assert [stage.state(account_id) for account_id in ids] == [AccountState.ACTIVE] * 12
    assert all((row.failures, row.refusals, row.refused_at) == (0, 0, None) for row in stage.rows())
    served = worker.ask("valid_token", ids[0], min_validity_seconds=600)
    assert served["ok"]


@pytest.fixture
def clock_shim(stage: Stage) -> Iterator[Callable[[float], None]]:
    # How processes that start from now on see the clock of PostgreSQL.
    engine = sqlalchemy.create_engine(stage.environ["DATABASE_URL"], isolation_level="AUTOCOMMIT")

    def run(statement: str) -> None:
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)

    run("CREATE SCHEMA shim")
    run("CREATE TABLE shim.step AS SELECT 0::float8 AS seconds")
    run(
        "CREATE FUNCTION shim.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS "
        "'SELECT pg_catalog.clock_timestamp() + (SELECT seconds FROM shim.step) * interval ''1s'' '"
    )
    stage.environ["DATABASE_URL"] += "&options=-csearch_path%3Dshim,public,pg_catalog"
    yield lambda seconds: run(f"UPDATE shim.step SET seconds = {seconds}")
    for process in stage.processes:
        process.kill()
    run("DROP SCHEMA shim CASCADE")
    engine.dispose()


@on_postgresql
@pytest.mark.proves("F82", "R26")
@pytest.mark.parametrize("step_seconds", [-7200, -3600, -125, 125, 3600, 7200])
def test_nothing_is_presented_twice_when_the_clock_of_the_database_jumps_during_an_attempt(
    stage: Stage, clock_shim: Callable[[float], None], tmp_path: Path, step_seconds: int
):
    stage.sandbox.switch(family_revocation=True)
    account_id, another_id = stage.add_accounts(2)
    (stopped,) = stage.start(1)
    other = start_elsewhere(stage, tmp_path, AGE_SECONDS=1000)
    assert other.ask("refresh", another_id)["ok"]  # it has seen the clock before
    stage.sandbox.hold("refresh", where="after")
    stopped.tell("refresh", account_id)
    stage.sandbox.wait_held(1)
    stopped.freeze()
    stage.sandbox.release()

    clock_shim(step_seconds)
    asked = other.ask("valid_token", account_id, patience_seconds=0)
    swept = other.ask("sweep")
    stopped.thaw()

    assert asked["error"] == "TemporarilyUnavailable"
    assert (swept["refreshed"], swept["failed"]) == (0, 0)
    assert stopped.hear()[0]["ok"]
    assert len(stage.presentations()) == 2
    assert other.ask("valid_token", account_id)["ok"]
    assert stage.is_reconciled(account_id)


@on_postgresql
@pytest.mark.proves("F82", "R26")
def test_nothing_is_sent_under_a_lease_that_the_clock_of_the_database_has_ended(
    stage: Stage, clock_shim: Callable[[float], None]
):
    """Nobody else has noticed the jump; by that clock the next one may present the token while this call lasts."""
    (account_id,) = stage.add_accounts()
    (stopped,) = stage.start(1, FREEZE_AT="before_look")
    stopped.tell("refresh", account_id)
    until(stopped.is_stopped)

    clock_shim(125)
    stopped.thaw()

    assert "Nothing was sent" in stopped.hear()[0]["message"]
    assert stage.presentations() == []


@on_postgresql
@pytest.mark.proves("F82", "R26")
def test_a_process_that_never_looked_at_the_clock_takes_no_lease_that_seems_to_have_ended(
    stage: Stage, clock_shim: Callable[[float], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It may have handed out stored tokens for days."""
    monkeypatch.setattr(database.Trouble, "last_at", -1e9)
    (account_id,) = stage.add_accounts()
    (stopped,) = stage.start(1)
    here = create_app(Settings.from_env({**stage.environ, "INSTANCE_PATH": str(tmp_path / "another host")}))
    stage.sandbox.hold("refresh", where="after")
    stopped.tell("refresh", account_id)
    stage.sandbox.wait_held(1)
    stopped.freeze()
    stage.sandbox.release()

    clock_shim(3600)
    with here.app_context():
        with pytest.raises(TemporarilyUnavailable, match="rests before it is tried again"):
            valid_token(account_id, "job", patience_seconds=0)
        db.engine.dispose()
    stopped.thaw()

    assert stopped.hear()[0]["ok"]
    assert len(stage.presentations()) == 1
    assert stage.is_reconciled(account_id)


@on_postgresql
@pytest.mark.proves("F82")
def test_a_server_looks_at_the_clock_of_the_database_also_if_it_refreshes_nothing(
    stage: Stage, clock_shim: Callable[[float], None]
):
    (account_id,) = stage.add_accounts()
    here = create_app(Settings.from_env(stage.environ))
    with here.app_context():
        beat_as_server()
        with read_session() as session:
            ends = session.execute(select(database_clock())).scalar_one() + 60
        stage.change(account_id, lease_owner="another", lease_ends=ends)
        clock_shim(3600)
        beat_as_server()
        db.engine.dispose()

    assert stage.row(account_id).lease_owner is None
    assert stage.is_held(account_id)


@on_sqlite
@pytest.mark.proves("F88")
@pytest.mark.parametrize("first", ["a caller", "the worker"])
def test_a_lease_from_before_a_reboot_is_free_after_two_minutes(stage: Stage, first: str):
    asked, swept = stage.add_accounts(2)
    before_reboot = seconds_since_boot() + 1800
    stage.change(
        asked,
        swept,
        lease_owner="gone",
        lease_ends=before_reboot,
        blocked_until=before_reboot + 60,
        attempt_fingerprint="0123456789abcdef",
        attempted_at=utc_now(),
    )
    (process,) = stage.start(1, AGE_SECONDS=1000)

    if first == "a caller":
        assert "rests before it is tried again" in process.ask("valid_token", asked)["message"]
    else:
        assert process.ask("sweep")["refreshed"] == 0

    for row in stage.rows():
        assert row.lease_owner is None
        assert row.blocked_until < seconds_since_boot() + 121
    stage.change(asked, swept, blocked_until=1.0, next_refresh_at=utc_now())
    assert process.ask("sweep")["refreshed"] == 2


@on_sqlite
@pytest.mark.proves("R38")
def test_pairs_stored_while_the_clock_was_ahead_are_refreshed_before_keap_lets_them_die(stage: Stage):
    """Else their times, which lie a month ahead of the truth, would let the worker come too late."""
    ids = stage.add_accounts(3, expires_in_seconds=80_000)
    (ahead,) = stage.start(1, CLOCK_SHIFT_SECONDS=45 * DAY)
    ahead.ask("sweep")
    assert len(stage.presentations()) == 3
    with stage.app.app_context():
        derive_anew(0, len(ids))  # as a worker does at its start, and when the clock is set back
    (worker,) = stage.start(1)

    worker.ask("sweep")
    worker.ask("sweep")

    assert len(stage.presentations()) == 6
    rows = [stage.row(account_id) for account_id in ids]
    assert all(row.access_token_expires_at < utc_now() + timedelta(days=2) for row in rows)
    assert all(row.refresh_token_issued_at <= utc_now() for row in rows)
    assert stage.is_reconciled(*ids)


@on_sqlite
@pytest.mark.proves("R38", "F43")
@pytest.mark.parametrize("fault", ["html_503", "refused_although_valid"])
def test_a_failure_noted_while_the_clock_was_ahead_delays_no_refresh(stage: Stage, fault: str):
    (account_id,) = stage.add_accounts()
    stage.sandbox.fault(fault, "refresh", first=1)
    (ahead,) = stage.start(1, CLOCK_SHIFT_SECONDS=DAY, PACE=PACE)
    ahead.ask("sweep")
    stage.change(account_id, claimed_until=utc_now() + timedelta(days=1))
    until(lambda: not stage.is_held(account_id))
    with stage.app.app_context():
        derive_anew(0, 1)  # as a worker does at its start, and when the clock is set back

    stage.start(1)[0].ask("sweep")

    assert len(stage.presentations()) == 2
    assert stage.is_reconciled(account_id)


@pytest.mark.proves("R38", "F43")
def test_failures_of_accounts_that_nobody_refreshes_are_dated_right_and_make_nothing_due(stage: Stage):
    (account_id,) = stage.add_accounts()
    tomorrow = utc_now() + timedelta(days=1)
    stage.change(account_id, refused_at=utc_now(), failed_at=tomorrow, next_refresh_at=None)

    with stage.app.app_context():
        derive_anew(0, 1)

    row = stage.row(account_id)
    assert row.failed_at <= utc_now()
    assert row.next_refresh_at is None


@pytest.mark.proves("R38", "F43")
def test_a_claim_from_before_the_clock_was_set_back_hides_no_account(stage: Stage):
    usual, imported, later = stage.add_accounts(3)
    stage.change(usual, imported, later, next_refresh_at=utc_now() - timedelta(seconds=100))
    stage.change(imported, later, needs_first_refresh=True)
    stage.change(usual, imported, later, claimed_until=utc_now() + timedelta(days=1))

    with stage.app.app_context():
        lag = lag_seconds()
        claimed = [account.id for account in claim_due(10)]
        again = claim_due(10)

    assert lag >= 100
    assert claimed == [usual, imported]
    assert again == []


@on_sqlite
@pytest.mark.proves("R39")
def test_an_account_nobody_asks_for_is_alive_after_sixty_days_and_was_refreshed_about_twice(stage: Stage):
    stage.sandbox.switch(family_revocation=True)
    (account_id,) = stage.add_accounts(expires_in_seconds=DAY)
    with stage.app.app_context(), write_transaction() as session:
        from keap_connect.accounts.schedule import next_refresh_at

        account = session.get_one(Account, account_id)
        account.last_used_at = None
        account.next_refresh_at = next_refresh_at(account, utc_now())
    (worker,) = stage.start(1)
    refreshed_on = []

    for day in range(1, 61):
        stage.sandbox.advance(DAY)
        worker.ask("clock", shift_seconds=day * DAY)
        before = len(stage.presentations())
        worker.ask("sweep")
        refreshed_on += [day] * (len(stage.presentations()) - before)

    assert len(refreshed_on) in {1, 2}, refreshed_on
    assert 28 <= refreshed_on[0] <= 31
    served = worker.ask("valid_token", account_id)
    assert served["ok"], served
    assert served["warning"] is None
    assert stage.is_reconciled(account_id)


@on_sqlite
@pytest.mark.proves("R39")
def test_a_sweep_that_was_off_for_forty_days_is_seen_before_day_forty_five_and_catches_up(stage: Stage):
    ids = stage.add_accounts(3, expires_in_seconds=DAY)
    long_ago = utc_now() - timedelta(days=40)
    stage.change(*ids, refresh_token_issued_at=long_ago, access_token_expires_at=long_ago)

    assert {stage.state(account_id) for account_id in ids} == {AccountState.AT_RISK}
    stage.start(1)[0].ask("sweep")

    assert {stage.state(account_id) for account_id in ids} == {AccountState.ACTIVE}
    assert stage.is_reconciled(*ids)
