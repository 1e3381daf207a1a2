"""The worker: takes what is due, spreads the load, pauses with Keap, stops cleanly, and holds when all are refused."""

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from flask import Flask
from sqlalchemy import Connection, event, select, text, update
from sqlalchemy.exc import OperationalError

from keap_connect.accounts.credentials import fingerprint, open_refresh_token
from keap_connect.accounts.schedule import next_refresh_at
from keap_connect.accounts.state import AccountState
from keap_connect.clock import seconds_since_boot, utc_now
from keap_connect.database import database_clock, db, read_session, write_transaction
from keap_connect.errors import TemporarilyUnavailable
from keap_connect.events.history import EventKind, record
from keap_connect.jobs.runner import JobRunner
from keap_connect.keap.answers import Classification
from keap_connect.models import Account, AccountEvent, RefreshBudget, Worker
from keap_connect.notifications.sender import Sender
from keap_connect.refresh import alarms, circuit_breaker, due, refresher, serving, worker_pool
from keap_connect.refresh import worker as refresh_worker
from keap_connect.refresh.circuit_breaker import OPENS_AFTER, CircuitBreaker
from keap_connect.refresh.clone_guard import check_instance
from keap_connect.refresh.due import CLAIMED_FOR, claim_due, lag_seconds, reserve_calls
from keap_connect.refresh.heartbeat import beat, list_living, list_workers
from keap_connect.refresh.refresher import Attempt
from keap_connect.refresh.serving import refresh_account, valid_token
from keap_connect.refresh.worker_pool import CALLS_AT_ONCE, QUESTIONS_AT_ONCE
from keap_connect.settings import KeapSettings
from tests.conftest import MovedClock
from tests.faults.conftest import REPOSITORY, Stage, program, until
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.sandbox import ANN

PACE = 60  # lease 1 s, doubt wait 2 s, confirm wait 1 s, deadline 0.5 s, first pause of the circuit 0.25 s


@pytest.fixture
def worker_program(stage: Stage) -> Iterator[subprocess.Popen[bytes]]:
    """Give `./keap-connect worker` as it runs in earnest."""
    with program(stage, "worker") as started:
        yield started


def _run(stage: Stage, command: list[str], *arguments: str, code: int = 0) -> str:
    command = [*command, *arguments]
    environ = {"PATH": "/usr/bin:/bin", **stage.environ}
    finished = subprocess.run(
        command, cwd=REPOSITORY, env=environ, check=False, timeout=120, capture_output=True, text=True
    )
    assert finished.returncode == code, finished.stderr
    return finished.stdout + finished.stderr


def _mark(stage: Stage, account_id: int) -> str:
    with stage.app.app_context():
        return fingerprint(open_refresh_token(stage.row(account_id)))


# Starting, stopping, being seen


@pytest.mark.proves("R42", "F30")
@on_sqlite
def test_a_signal_stops_jobs_while_a_message_is_still_under_way(app: Flask, monkeypatch: pytest.MonkeyPatch):
    jobs_have_ended, was_in_time = threading.Event(), []

    def do_jobs(jobs: JobRunner) -> None:
        jobs._stopping.wait()
        jobs_have_ended.set()

    def get_signal(_worker: refresh_worker.RefreshWorker) -> bool:
        signal.raise_signal(signal.SIGTERM)
        return True

    monkeypatch.setattr(JobRunner, "_run", do_jobs)
    monkeypatch.setattr(Sender, "_run", lambda _sender: was_in_time.append(jobs_have_ended.wait(5)))
    monkeypatch.setattr(refresh_worker.RefreshWorker, "_refresh_due", get_signal)

    assert app.test_cli_runner().invoke(args=["worker"]).exit_code == 0
    assert was_in_time == [True]


@on_postgresql
@pytest.mark.proves("R42", "F30")
def test_sigterm_lets_a_refresh_under_way_finish_and_be_stored(stage: Stage, worker_program: subprocess.Popen[bytes]):
    stage.sandbox.hold("refresh")
    (account_id,) = stage.add_accounts()
    stage.sandbox.wait_held(1)
    with stage.app.app_context():
        (seen,) = list_workers()
        assert seen.name.endswith(f":{worker_program.pid}")

    worker_program.send_signal(signal.SIGTERM)
    (late_id,) = stage.add_accounts(tenant_id="cd456")
    stage.sandbox.release()

    assert worker_program.wait(60) == 0
    assert stage.is_reconciled(account_id)
    assert stage.row(account_id).refreshed_at is not None
    assert stage.row(late_id).refreshed_at is None, "nothing more is taken up"
    with stage.app.app_context():
        assert list_workers() == []


@on_sqlite
@pytest.mark.proves("F83", "F30")
@pytest.mark.parametrize(
    ("command", "sign", "code"),
    [
        ("worker", signal.SIGHUP, 0),
        ("worker --once", signal.SIGINT, 0),
        ("accounts refresh 1", signal.SIGHUP, 128 + signal.SIGHUP),
        ("accounts refresh --all", signal.SIGHUP, 0),
        ("accounts token 1", signal.SIGTERM, 128 + signal.SIGTERM),
    ],
)
def test_a_signal_to_stop_lets_what_is_in_flight_be_stored(
    stage: Stage, ready_command: list[str], command: str, sign: signal.Signals, code: int
):
    stage.sandbox.hold("refresh", where="after")
    (account_id,) = stage.add_accounts()
    with program(stage, *command.split(), command=ready_command) as started:
        stage.sandbox.wait_held(1)
        started.send_signal(sign)
        stage.sandbox.release()

        assert started.wait(60) == code
    assert stage.is_reconciled(account_id)
    assert stage.row(account_id).refreshed_at is not None


@on_sqlite
@pytest.mark.proves("F83")
def test_a_worker_under_nohup_goes_on_when_its_terminal_ends(stage: Stage, ready_command: list[str]):
    stage.sandbox.hold("refresh")
    stage.add_accounts()
    with program(stage, "worker", command=["nohup", *ready_command]) as started:
        stage.sandbox.wait_held(1)
        started.send_signal(signal.SIGHUP)
        stage.sandbox.release()
        (later_id,) = stage.add_accounts(tenant_id="cd456")

        until(lambda: stage.row(later_id).refreshed_at)


def test_a_worker_tells_what_it_does_and_is_missed_when_it_falls_silent(stage: Stage, clock: MovedClock):
    stage.add_accounts(3)
    stage.sandbox.fault("html_503", "refresh", first=1)
    (process,) = stage.start(1)
    process.ask("work")

    def last_beat() -> Worker | None:
        with stage.app.app_context():
            return next((worker for worker in list_workers() if worker.refreshed == 2 and worker.failed), None)

    beating = until(last_beat)
    process.kill()
    clock.advance(seconds=61)

    assert (beating.failed, beating.paused_until) == (1, None)
    with stage.app.app_context():
        assert list_workers() == []
    clock.advance(days=1)
    stage.start(1)[0].ask("sweep")
    with stage.app.app_context(), read_session() as session:
        assert session.scalar(text("SELECT count(*) FROM worker")) <= 1


@on_sqlite
@pytest.mark.proves("R38", "R102")
def test_a_worker_that_died_before_the_clock_was_set_back_does_not_count_as_running(stage: Stage, clock: MovedClock):
    with stage.app.app_context():
        clock.advance(days=2)
        beat(Worker(name="dead", started_at=utc_now()))
        clock.advance(minutes=-10)
        assert ([one.name for one in list_workers()], list(list_living())) == (["dead"], ["dead"])
        clock.advance(days=-2)
        assert (list_workers(), list_living()) == ([], {})
        beat(Worker(name="new", started_at=utc_now()))
        clock.advance(days=2)
        assert (list_workers(), list_living()) == ([], {}), "it is forgotten"


@on_sqlite
@pytest.mark.proves("F86")
def test_a_worker_reports_a_passing_trouble_only_until_what_it_had_claimed_is_due_again(
    app: Flask, monkeypatch: pytest.MonkeyPatch
):
    def report_after(seconds: float) -> tuple[bool, str | None]:
        monkeypatch.setattr(refresh_worker, "seconds_since_boot", lambda: seconds_since_boot() + seconds)
        with app.app_context():
            worker._beat_due = 0.0
            worker._do_maintenance()
            (seen,) = list_workers()
        return seen.paused_until is not None, seen.pause_reason

    def fail() -> bool:
        raise TemporarilyUnavailable("The disk is full.")

    worker = refresh_worker.RefreshWorker(app)
    with monkeypatch.context() as patch, app.app_context():
        patch.setattr(worker, "_refresh_due", fail)
        worker.run(until_idle=True)

    assert report_after(0) == (True, "The disk is full.")
    assert report_after(CLAIMED_FOR.total_seconds()) == (True, "The disk is full.")
    assert report_after(refresh_worker.TROUBLE_SECONDS) == (False, None)


# One bad account, or many


@pytest.mark.proves("R36", "F39")
def test_a_token_that_does_not_open_delays_nobody(stage: Stage):
    poison, *good = stage.add_accounts(20)
    yesterday = utc_now() - timedelta(days=1)
    stage.change(poison, refresh_token_sealed=b"not sealed by anybody", access_token_expires_at=yesterday)
    (process,) = stage.start(1)

    done = process.ask("sweep")

    assert (done["refreshed"], done["failed"]) == (19, 1)
    assert stage.is_reconciled(*good)
    account = stage.row(poison)
    assert account.failures == 1
    assert account.next_refresh_at > utc_now()
    assert account.refresh_token_sealed == b"not sealed by anybody", "quarantined, not overwritten"


@on_sqlite
@pytest.mark.proves("F47", "R35")
def test_poison_accounts_follow_their_back_off_and_the_good_ones_are_on_time(stage: Stage):
    ids = stage.add_accounts(40)
    poison, good = ids[:4], ids[4:]
    stage.change(*poison, refresh_token_sealed=b"not sealed by anybody")
    (process,) = stage.start(1)

    process.ask("sweep")
    assert stage.is_reconciled(*good)
    tried_at: list[list[int]] = [[0] for _ in poison]
    for minute in (*range(1, 21), *range(25, 181, 5)):
        process.ask("clock", shift_seconds=60 * minute)
        process.ask("sweep")
        for moments, account_id in zip(tried_at, poison, strict=True):
            if stage.row(account_id).failures > len(moments):
                moments.append(minute)

    for moments in tried_at:
        assert 8 <= len(moments) <= 14  # 30 s, doubling up to 30 minutes, each 25 % more or less
        assert moments[-1] - moments[-2] >= 20
    assert len(stage.presentations()) == 36


@on_postgresql
@pytest.mark.proves("R33", "F08")
def test_a_refused_client_stops_the_sweep_and_touches_nobody(stage: Stage):
    ids = stage.add_accounts(30)
    stage.sandbox.fault("invalid_client_401", "refresh")
    first, second = stage.start(2, REFRESH_RATE_PER_MINUTE=0)

    first.ask("sweep")
    sent = len(stage.presentations())
    second.ask("sweep")  # nothing is due for a while, so the probe waits
    stage.change(*ids, next_refresh_at=utc_now())
    second.ask("sweep")  # its one probe finds that it is still so
    probed = len(stage.presentations()) - sent
    second.ask("sweep")
    assert len(stage.presentations()) == sent + 1, "the next probe is five minutes away"
    rows = stage.rows()
    raised = stage.alarms()
    stage.sandbox.clear_faults()
    stage.change(*ids, next_refresh_at=utc_now())
    (third,) = stage.start(1)
    third.ask("sweep")
    third.ask("sweep")

    assert sent <= CALLS_AT_ONCE + 1
    assert probed == 1
    assert raised == [alarms.CLIENT_REFUSED]
    assert all((row.refused_at, row.refusals, row.failures) == (None, 0, 0) for row in rows)
    assert stage.alarms() == [], "a probe that succeeds ends the alarm"
    assert stage.is_reconciled(*ids)
    assert all(row.refreshed_at for row in stage.rows())


@on_postgresql
@pytest.mark.proves("R34")
def test_a_mass_refusal_marks_nobody_and_pauses_again_when_others_are_refused_after_a_resume(stage: Stage):
    ids = stage.add_accounts(60)
    stage.sandbox.fault("refused_although_valid", "refresh")
    (process,) = stage.start(1, PACE=PACE, REFRESH_RATE_PER_MINUTE=0)

    process.ask("sweep")
    paused = stage.alarms()
    sent = len(stage.presentations())
    process.ask("sweep")
    assert len(stage.presentations()) == sent, "refreshing is paused"
    refused = [row.id for row in stage.rows() if row.refusals]
    stage.change(*refused, next_refresh_at=utc_now() + timedelta(days=1))
    stage.change(*set(ids) - set(refused), next_refresh_at=utc_now() - timedelta(days=1))
    stage.resume()
    process.ask("sweep")

    assert paused == stage.alarms() == [alarms.MASS_REFUSAL]
    assert 5 <= len(refused) <= 5 + 2 * CALLS_AT_ONCE, "each hand may have begun once more before the fifth was stored"
    assert len([row for row in stage.rows() if row.refusals]) >= len(refused) + 5
    assert all((row.refused_at, row.refusals in {0, 1}) == (None, True) for row in stage.rows())


@on_postgresql
@pytest.mark.proves("R34")
def test_second_refusals_of_many_accounts_mark_nobody_while_no_admin_resumed(stage: Stage):
    ids = stage.add_accounts(8)
    stage.change(*ids, refusals=1, failed_at=utc_now())
    stage.sandbox.fault("refused_although_valid", "refresh")
    (process,) = stage.start(1, PACE=PACE)

    process.ask("sweep")

    assert stage.alarms() == [alarms.MASS_REFUSAL]
    assert len([row for row in stage.rows() if row.refused_at]) < 5


@on_sqlite
@pytest.mark.proves("F91", "R34")
@pytest.mark.parametrize(
    ("fault", "event", "tried"),
    [
        ("refused_although_valid", "first_refresh_refused", 8),
        ("unauthorized_401_plain", "refresh_failed", 8),
        ("html_503", "refresh_failed", OPENS_AFTER),  # then the other imported pairs wait
    ],
)
def test_imported_pairs_that_are_refused_pause_nobody(
    stage: Stage, fault: str, event: str, tried: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(circuit_breaker, "FIRST_PAUSE_SECONDS", 3600.0)
    imported = stage.add_accounts(8)
    stage.change(*imported, needs_first_refresh=True)
    stage.sandbox.fault(fault, "refresh")
    worker = refresh_worker.RefreshWorker(stage.app)
    with stage.app.app_context():
        worker.run(until_idle=True)
    stage.sandbox.clear_faults()
    (other_id,) = stage.add_accounts(tenant_id="cd456")

    assert [stage.events(account_id) for account_id in imported] == [[event]] * tried + [[]] * (8 - tried)
    with stage.app.app_context():
        worker.run(until_idle=True)

    assert (stage.alarms(), stage.events(other_id)) == ([], ["refreshed"])


@on_sqlite
@pytest.mark.proves("F91", "R34")
def test_the_next_imported_pair_waits_until_the_failure_of_the_one_before_is_counted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    looked, claim, note = threading.Event(), refresh_worker.claim_due, refresh_worker.RefreshWorker._note

    def claim_and_say(*most: int, **which: bool) -> list[Account]:
        claimed = claim(*most, **which)
        looked.set()
        return claimed

    def note_late(worker: refresh_worker.RefreshWorker, attempt: Attempt) -> None:
        looked.clear()
        assert looked.wait(10), "the worker looks again, and the failure is stored already"
        note(worker, attempt)

    monkeypatch.setattr(refresh_worker, "claim_due", claim_and_say)
    monkeypatch.setattr(refresh_worker.RefreshWorker, "_note", note_late)
    monkeypatch.setattr(refresh_worker, "IDLE_SECONDS", 0.02)
    monkeypatch.setattr(circuit_breaker, "OPENS_AFTER", 1)
    stage.change(*stage.add_accounts(2), needs_first_refresh=True)
    stage.sandbox.fault("html_503", "refresh")

    with stage.app.app_context():
        refresh_worker.RefreshWorker(stage.app).run(until_idle=True)

    assert len(stage.presentations()) == 1


@on_sqlite
@pytest.mark.proves("F91", "R34")
def test_refusal_of_our_client_is_an_alarm_also_if_only_imported_pairs_are_refreshed(stage: Stage):
    ids = stage.add_accounts(3)
    stage.change(*ids, needs_first_refresh=True)
    stage.sandbox.fault("invalid_client_401", "refresh")

    with stage.app.app_context():
        refresh_worker.RefreshWorker(stage.app).run(until_idle=True)

    assert (stage.alarms(), len(stage.presentations())) == ([alarms.CLIENT_REFUSED], 2), "the second one is the probe"
    assert [row.failures for row in stage.rows()] == [1, 1, 0], "when the alarm ends, others come first"


@on_sqlite
@pytest.mark.proves("F91", "R34")
def test_first_refreshes_of_imported_pairs_hide_no_mass_refusal(stage: Stage):
    imported = stage.add_accounts(2, tenant_id="cd456")
    stage.change(*imported, needs_first_refresh=True)
    stage.sandbox.fault("html_503", "refresh", first=1)
    with stage.app.app_context():
        refresh_worker.RefreshWorker(stage.app).run(until_idle=True)
        with write_transaction() as session:
            events = session.scalars(select(AccountEvent).where(AccountEvent.account_id.in_(imported))).all()
            for event in 15 * list(events):  # as if it were a file of many
                record(session, EventKind(event.kind), event.account_id, event.actor, **event.details)
    assert {"refresh_failed", "refreshed"} <= {event.kind for event in events}
    stage.add_accounts(5)
    stage.sandbox.fault("refused_although_valid", "refresh")

    with stage.app.app_context():
        refresh_worker.RefreshWorker(stage.app).run(until_idle=True)

    assert stage.alarms() == [alarms.MASS_REFUSAL]


@pytest.mark.proves("F91")
def test_imported_pairs_are_refreshed_after_the_others_and_one_by_one(stage: Stage):
    imported = stage.add_accounts(3, expires_in_seconds=-600)
    stage.change(*imported, needs_first_refresh=True)
    (other_id,) = stage.add_accounts(tenant_id="cd456")

    def claim() -> list[int]:
        stage.change(*imported, next_refresh_at=utc_now() - timedelta(hours=1))
        return [account.id for account in claim_due(10)]

    with stage.app.app_context():
        assert claim() == [other_id, imported[0]]
        assert claim_due(10) == [], "another worker has claimed it"
        stage.change(imported[0], lease_owner="some", lease_ends=1e12)
        assert claim() == []
        assert lag_seconds() == 0, "they wait for each other, not for the worker"
        stage.change(imported[0], lease_owner=None, lease_ends=None, refused_at=utc_now())
        assert claim() == [imported[1]]


@on_postgresql
@pytest.mark.proves("F98", "R34")
def test_five_dead_accounts_pause_refreshing_once_and_are_marked_after_a_resume(stage: Stage):
    ids = stage.add_accounts(5)
    stage.sandbox.fault("refused_although_valid", "refresh")
    (process,) = stage.start(1, PACE=PACE)
    process.ask("sweep")
    paused = stage.alarms()
    until(lambda: not any(stage.is_held(account_id) for account_id in ids))

    stage.resume()
    stage.change(*ids, next_refresh_at=utc_now())
    process.ask("sweep")

    assert (paused, stage.alarms()) == ([alarms.MASS_REFUSAL], [])
    assert {stage.state(account_id) for account_id in ids} == {AccountState.RECONNECT_REQUIRED}
    stage.sandbox.clear_faults()
    (other_id,) = stage.add_accounts(tenant_id="cd456")
    assert process.ask("refresh", other_id)["ok"]


@pytest.mark.proves("F99", "R102")
@pytest.mark.parametrize("name", [alarms.MASS_REFUSAL, alarms.UNKNOWN_INSTANCE])
def test_a_caller_hears_at_once_that_refreshing_is_paused_and_why(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, name: str
):
    expired, valid = stage.add_accounts(), stage.add_accounts(expires_in_seconds=50, tenant_id="cd456")
    monkeypatch.setattr(serving, "_wait", lambda *_: pytest.fail("it waits"))
    with stage.app.app_context():
        with write_transaction() as session:
            alarms.raise_alarm(session, name, "Something happened to 7 accounts.")
        refusals = []
        for ask in (valid_token, refresh_account):
            with pytest.raises(TemporarilyUnavailable) as refusal:
                ask(expired[0], "test")
            refusals.append(refusal.value)
        warning = valid_token(valid[0], "test").warning or ""

    for said in (*map(str, refusals), warning):
        assert "Refreshing is paused" in said
        assert ("7 accounts" in said) is (name == alarms.UNKNOWN_INSTANCE), "keys for some accounts learn no counts"
    assert {refusal.retry_after_seconds for refusal in refusals} == {300}
    assert (_count_leased(stage), stage.presentations()) == (0, [])


@on_sqlite
@pytest.mark.proves("F99")
def test_a_caller_who_waits_already_hears_of_a_pause_that_begins(stage: Stage):
    (account_id,) = stage.add_accounts()
    holder, other = stage.start(2)
    stage.sandbox.hold("refresh")
    holder.tell("refresh", account_id)
    stage.sandbox.wait_held(1)
    other.tell("valid_token", account_id, patience_seconds=60)
    with stage.app.app_context(), write_transaction() as session:
        alarms.raise_alarm(session, alarms.MASS_REFUSAL, "Keap refused many.")

    assert "Refreshing is paused" in other.hear()[0]["message"]
    stage.sandbox.release()
    assert holder.hear()[0]["ok"]
    assert stage.is_reconciled(account_id), "what is in flight is stored"


@pytest.fixture
def slow_sweep(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[refresh_worker.RefreshWorker]:
    """Give a worker with one hand and room for three, which works on five accounts while Keap is slow to answer."""
    for name, value in {"CALLS_AT_ONCE": 1, "LEASED_AT_ONCE": 3, "LEASED_TOGETHER": 1}.items():
        monkeypatch.setattr(worker_pool, name, value)
    monkeypatch.setattr(refresh_worker, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(refresh_worker, "MOST_CLAIMED", 2)
    built = stage.app.extensions["keap_connect"]
    unlimited = replace(built, settings=replace(built.settings, refresh_rate_per_minute=0))
    monkeypatch.setitem(stage.app.extensions, "keap_connect", unlimited)
    stage.add_accounts(5)
    stage.sandbox.hold("refresh")
    worker = refresh_worker.RefreshWorker(stage.app)

    def sweep() -> None:
        with stage.app.app_context():
            worker.run(until_idle=True)

    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(sweep)
        stage.sandbox.wait_held(1)
        until(lambda: _count_leased(stage) == 3)
        yield worker
        stage.sandbox.release()
        work.result(60)


def _count_leased(stage: Stage) -> int:
    return sum(stage.is_leased(row.id) for row in stage.rows())


@on_postgresql
def test_a_worker_lives_on_the_dashboard_while_keap_keeps_it_waiting(
    stage: Stage, slow_sweep: refresh_worker.RefreshWorker
):
    first = _workers(stage)[0].beat_at

    until(lambda: _workers(stage)[0].beat_at > first, timeout=10)


@on_postgresql
def test_no_more_accounts_are_leased_than_soon_get_their_call(stage: Stage, slow_sweep: refresh_worker.RefreshWorker):
    refreshed = slow_sweep.refreshed
    heard_at = slow_sweep._beat_due
    until(lambda: slow_sweep._beat_due > heard_at)  # it keeps house while it waits for room

    assert (_count_leased(stage), refreshed) == (3, 0)
    stage.sandbox.release()
    until(lambda: all(row.refreshed_at for row in stage.rows()))
    assert stage.is_reconciled(*[row.id for row in stage.rows()])


@pytest.mark.proves("R42", "F30", "F83")
def test_a_worker_that_is_stopped_finishes_what_is_sent_and_sends_no_more(
    stage: Stage, slow_sweep: refresh_worker.RefreshWorker
):
    slow_sweep.stop()
    stage.sandbox.release()

    until(lambda: not _workers(stage))
    assert (slow_sweep.refreshed, len(stage.presentations())) == (1, 1)
    unsent = [row for row in stage.rows() if row.refreshed_at is None]
    assert [(row.lease_owner, row.attempted_at, row.failures, row.state) for row in unsent] == [
        (None, None, 0, AccountState.ACTIVE)
    ] * 4


@on_postgresql
@pytest.mark.proves("R33", "F08")
def test_what_is_leased_when_our_client_is_refused_is_let_go_although_the_worker_looks_for_more_meanwhile(
    stage: Stage, slow_sweep: refresh_worker.RefreshWorker, monkeypatch: pytest.MonkeyPatch
):
    looked_for_more = threading.Event()
    allowed, not_sent = slow_sweep._allowed, worker_pool.not_sent

    def note_that_it_looks() -> int:
        was_stopped = slow_sweep.circuit.stopped_at > 0
        most = allowed()
        if was_stopped or most == 0:  # a look between the alarm and the stop ends the sweep
            looked_for_more.set()
        return most

    def not_sent_late(reason: str) -> Classification:
        looked_for_more.wait(20)
        return not_sent(reason)

    monkeypatch.setattr(slow_sweep, "_allowed", note_that_it_looks)
    monkeypatch.setattr(worker_pool, "not_sent", not_sent_late)
    stage.sandbox.fault("invalid_client_401", "refresh")
    stage.sandbox.release()

    until(lambda: not _workers(stage))
    assert looked_for_more.is_set()
    assert len(stage.presentations()) == 1
    assert slow_sweep.faults == 0
    assert _count_leased(stage) == 0


def test_trouble_after_a_pair_is_stored_keeps_no_other_from_being_stored(stage: Stage):
    ids = stage.add_accounts(3)
    noted: list[Attempt] = []

    def note(attempt: Attempt) -> None:
        noted.append(attempt)
        raise OperationalError("DELETE", {}, Exception("the server closed the connection"))

    threads = worker_pool.WorkerPool(stage.app, CircuitBreaker(), note)
    with stage.app.app_context(), threads:
        for group in (ids[:1], ids[1:]):
            threads.submit([stage.row(account_id) for account_id in group])
            until(lambda: threads.under_way == 0)

    assert [attempt.outcome for attempt in noted] == ["stored"] * 3
    assert stage.is_reconciled(*ids)


def test_a_pending_account_learns_whose_it_is_once_it_is_refreshed(stage: Stage):
    pending_id = stage.add_pending_account()
    stage.change(pending_id, next_refresh_at=utc_now(), access_token_expires_at=utc_now())

    stage.start(1)[0].ask("sweep")

    assert stage.row(pending_id).keap_user_id == f"{ANN}"
    assert stage.events(pending_id) == ["refreshed", "details_filled_in"]


def _workers(stage: Stage) -> list[Worker]:
    with stage.app.app_context():
        return list_workers()


@on_sqlite
@pytest.mark.proves("R34", "F98")
def test_the_commands_say_why_refreshing_is_paused_and_let_it_go_on(stage: Stage, ready_command: list[str]):
    ids = stage.add_accounts(8)
    stage.sandbox.fault("refused_although_valid", "refresh")
    (process,) = stage.start(1, PACE=PACE)
    process.ask("sweep")
    assert stage.alarms() == [alarms.MASS_REFUSAL]
    refused = [row.id for row in stage.rows() if row.refusals]
    stage.sandbox.clear_faults()
    stage.change(*ids, next_refresh_at=utc_now(), blocked_until=None)
    sent = len(stage.presentations())

    said = _run(stage, ready_command, "worker", "--once", code=4)
    assert "Refreshing has been paused since" in said
    assert "Keap refused 5 accounts" in said
    assert len(stage.presentations()) == sent
    status = json.loads(_run(stage, ready_command, "refreshing", "status", "--json", code=4))
    assert "not paused" in _run(stage, ready_command, "refreshing", "resume")
    said = _run(stage, ready_command, "worker", "--once")

    (pause,) = status["pauses"]
    assert (status["is_paused"], pause["name"], pause["account_ids"]) == (True, alarms.MASS_REFUSAL, refused)
    assert datetime.fromisoformat(pause["since"]) <= utc_now()
    assert "refreshing resume" in pause["advice"]
    assert "paused" not in said
    assert stage.is_reconciled(*ids)
    assert all(row.refreshed_at for row in stage.rows())


# Spread, order, overlap


@pytest.mark.proves("R37")
def test_the_budget_spreads_the_calls_of_all_workers(stage: Stage):
    with stage.app.app_context():
        first = reserve_calls(60)
        second = reserve_calls(60)
        third = reserve_calls(1)

    assert first < 0.5
    assert second == pytest.approx(6.0, abs=0.5)  # 60 calls at 600 a minute
    assert third == pytest.approx(12.0, abs=0.5)


@pytest.mark.proves("R37", "F88")
def test_what_was_reserved_before_a_reboot_holds_up_no_call(stage: Stage):
    """Within the first hour after the start of the machine; SQLite's clock begins there."""
    with stage.app.app_context():
        reserve_calls(1)
        with write_transaction() as session:
            session.execute(update(RefreshBudget).values(next_call=database_clock() + 3000))
        first, second = reserve_calls(1), reserve_calls(1)

    assert first == 0
    assert second < 1


def test_with_a_low_rate_what_was_reserved_before_a_reboot_holds_up_calls_for_an_hour_at_most(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(due, "services", lambda: Mock(**{"settings.refresh_rate_per_minute": 1}))
    with stage.app.app_context():
        reserve_calls(1)
        with write_transaction() as session:
            session.execute(update(RefreshBudget).values(next_call=database_clock() + 3700))
        first, second = reserve_calls(1), reserve_calls(1)

    assert first == 0
    assert second == pytest.approx(60.0, abs=1)


def test_a_worker_that_waits_for_its_calls_reports_that_it_lives(app: Flask, monkeypatch: pytest.MonkeyPatch):
    worker = refresh_worker.RefreshWorker(app)
    beats: list[str] = []

    def beat() -> None:
        beats.append("a beat")
        if len(beats) == 3:
            worker.stop()

    monkeypatch.setattr(refresh_worker, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(worker, "_do_maintenance", beat)
    worker._wait_until(seconds_since_boot() + 3600)

    assert len(beats) == 3


@pytest.mark.proves("R37")
def test_the_first_workers_of_an_installation_may_reserve_together(stage: Stage):
    def reserve() -> float:
        with stage.app.app_context():
            return reserve_calls(1)

    with ThreadPoolExecutor(8) as pool:
        waits = [pool.submit(reserve) for _ in range(8)]

    assert max(each.result() for each in waits) == pytest.approx(0.7, abs=0.5)


@pytest.mark.proves("R37", "F46")
@on_postgresql
def test_hundreds_of_accounts_due_at_once_stay_under_the_limit(stage: Stage):
    stage.add_accounts(200)
    workers = stage.start(2, REFRESH_RATE_PER_MINUTE=600)

    for worker in workers:
        worker.ask("work")
    until(lambda: len(stage.presentations()) >= 100, every=0.5)
    for worker in workers:
        worker.tell("rest")
    for worker in workers:
        worker.hear()

    _check_rate(stage, per_second=10)
    assert stage.presented_twice() == []


@pytest.mark.long
@on_sqlite
@pytest.mark.proves("R37", "F46")
def test_ten_thousand_accounts_due_at_once_are_done_under_the_limit(stage: Stage):
    stage.add_accounts(10_000)
    workers = stage.start(2, REFRESH_RATE_PER_MINUTE=3000)

    for worker in workers:
        worker.ask("work")
    until(lambda: all(row.refreshed_at for row in stage.rows()), timeout=600)

    _check_rate(stage, per_second=50)
    assert stage.presented_twice() == []


def _check_rate(stage: Stage, per_second: int) -> None:
    """Check that in no stretch of five seconds more calls came than the rate allows, and a burst after a hiccup."""
    at = [datetime.fromisoformat(p["at"]) for p in stage.presentations()]
    for start in at:
        stretch = [moment for moment in at if start <= moment < start + timedelta(seconds=5)]
        assert len(stretch) <= 5 * per_second * 1.3 + 1


@on_postgresql
def test_a_fault_of_our_own_is_told_and_stops_only_its_own_account(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    unlucky, lucky = stage.add_accounts(2)

    with stage.app.app_context():
        unlucky_token = open_refresh_token(stage.row(unlucky))
    refresh = refresher.refresh

    def refresh_or_stumble(keap: KeapSettings, refresh_token: str, *limits: Any) -> Classification:
        if refresh_token == unlucky_token:
            raise KeyError("a fault")
        return refresh(keap, refresh_token, *limits)

    monkeypatch.setattr(refresher, "refresh", refresh_or_stumble)
    with ThreadPoolExecutor(1) as thread:  # a worker in the main thread would keep the signals
        ended = thread.submit(stage.app.test_cli_runner().invoke, args=["worker", "--once", "--json"]).result()

    assert ended.exit_code == 1
    assert json.loads(ended.stdout) == {"refreshed": 1, "failed": 1, "faults": 1, "paused_by": []}
    assert "Faults of this program stopped 1 refreshes" in ended.stderr
    assert stage.row(unlucky).attempt_fingerprint is not None, "who knows whether it was presented"
    assert stage.is_reconciled(lucky)
    assert stage.row(lucky).refreshed_at is not None
    (told,) = [each for each in caplog.records if each.exc_info]
    assert f"account {unlucky}" in told.getMessage()


@on_postgresql
@pytest.mark.proves("R35")
def test_what_the_last_look_holds_back_counts_neither_against_keap_nor_the_account(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    ids = stage.add_accounts(OPENS_AFTER + 1)
    monkeypatch.setattr(refresher, "is_still_held", lambda lease: False)
    worker = refresh_worker.RefreshWorker(stage.app)

    def sweep() -> None:
        with stage.app.app_context():
            worker.run(until_idle=True)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(sweep).result(60)

    assert (worker.circuit.reason, worker.failed, stage.presentations()) == (None, 0, [])
    assert [(row.failures, row.attempt_fingerprint) for row in stage.rows()] == [(0, None)] * len(ids)
    assert (_count_leased(stage), stage.events(ids[0])) == (0, [])


@pytest.mark.proves("R33", "R36", "F21")
@on_postgresql
def test_no_plan_of_postgresql_claims_more_than_a_worker_asked_for(stage: Stage):
    ids = stage.add_accounts(6)

    with stage.app.app_context():
        # PostgreSQL prefers such a plan itself while it takes the table for a tiny one.
        @event.listens_for(db.engine, "begin")
        def loop_over_accounts(connection: Connection) -> None:
            for way in ("hashjoin", "mergejoin", "hashagg", "sort", "material", "memoize"):
                connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")

        claimed = [len(claim_due(most)) for most in (1, 2, 10)]

    assert claimed == [1, 2, len(ids) - 3]


@pytest.mark.proves("R36")
def test_what_is_due_is_taken_up_once_and_soonest_expiry_first(stage: Stage, clock: MovedClock):
    ids = stage.add_accounts(6)
    for hours, account_id in enumerate(reversed(ids)):
        stage.change(account_id, access_token_expires_at=utc_now() + timedelta(hours=hours))

    with stage.app.app_context():
        waited = lag_seconds()
        first, second, nothing = claim_due(4), claim_due(4), claim_due(4)
        lag = lag_seconds()
        clock.advance(seconds=CLAIMED_FOR.total_seconds() + 1)
        again = claim_due(10)

    assert waited > 0
    assert [account.id for account in first + second] == list(reversed(ids))
    assert nothing == []
    assert lag == 0.0
    assert [account.id for account in again] == list(reversed(ids)), (
        "a worker that dies leaves what it took up to others"
    )


@on_postgresql
@pytest.mark.proves("F32", "F48")
def test_three_workers_whose_calls_outlast_the_interval_work_as_one_sweep(stage: Stage):
    """The workers look every 0.1 s, each call takes a second."""
    stage.sandbox.switch(token_delay_seconds=1.0, family_revocation=True)
    crew = stage.start(3)
    for worker in crew:
        worker.ask("work")
    until(lambda: len(_workers(stage)) == len(crew))  # else the first may have done all before the last starts

    ids = stage.add_accounts(60)
    until(lambda: all(row.refreshed_at for row in stage.rows()), every=0.3)
    refreshed = [worker.ask("rest")["refreshed"] for worker in crew]

    assert sum(refreshed) == 60
    assert len([number for number in refreshed if number]) > 1
    assert len(stage.presentations()) == 60
    assert stage.presented_twice() == []
    assert stage.is_reconciled(*ids)


# Keap as a whole answers badly


@on_sqlite
@pytest.mark.proves("R35", "F01")
def test_a_circuit_opens_when_keap_as_a_whole_answers_badly(stage: Stage):
    stage.add_accounts(60)
    stage.sandbox.fault("html_503", "refresh")
    (process,) = stage.start(1, REFRESH_RATE_PER_MINUTE=0)

    process.ask("sweep")

    assert 5 <= len(stage.presentations()) <= 5 + CALLS_AT_ONCE
    assert all(row.refused_at is None for row in stage.rows())
    spared = [row for row in stage.rows() if not row.failures]
    assert len(spared) == 60 - len(stage.presentations())
    assert all((row.lease_owner, row.blocked_until, row.attempt_fingerprint) == (None, None, None) for row in spared)


@on_sqlite
@pytest.mark.proves("F21")
def test_a_circuit_probes_with_one_call_at_a_time(stage: Stage):
    stage.add_accounts(60)
    stage.sandbox.fault("html_503", "refresh")
    (process,) = stage.start(1, PACE=10)  # deadline 3 s, first pause 1.5 s
    process.ask("work")
    until(lambda: process.ask("circuit")["is_open"] and not process.ask("circuit")["under_way"])

    stage.sandbox.hold("refresh")
    stage.sandbox.wait_held(1)

    with pytest.raises(TimeoutError):
        stage.sandbox.wait_held(2, timeout=1)


@on_sqlite
@pytest.mark.proves("F21", "F45")
def test_after_a_day_without_keap_all_recover_inside_the_limit_and_soonest_first(stage: Stage):
    ids = stage.add_accounts(40, expires_in_seconds=3600)
    for index, account_id in enumerate(ids):
        stage.change(account_id, access_token_expires_at=utc_now() + timedelta(hours=1, minutes=40 - index))
    marks = {_mark(stage, account_id): account_id for account_id in ids}
    stage.sandbox.fault("html_503", "refresh")
    (process,) = stage.start(1, PACE=PACE, REFRESH_RATE_PER_MINUTE=600)
    process.ask("work")
    until(lambda: any(worker.pause_reason for worker in _workers(stage)))  # the circuit is open and probes
    process.ask("clock", shift_seconds=26 * 3600)
    failed_first = until(lambda: [row.id for row in stage.rows() if row.failures])
    states = {stage.state(account_id) for account_id in ids}
    process.ask("clock", shift_seconds=27 * 3600)  # whatever back-off or pause of an account there was is over

    stage.sandbox.clear_faults()
    until(lambda: all(row.refreshed_at for row in stage.rows()))
    process.ask("rest")

    assert AccountState.RECONNECT_REQUIRED not in states
    assert stage.is_reconciled(*ids)
    presented = [(marks[p["fingerprint"]], p["outcome"]) for p in stage.presentations() if p["fingerprint"] in marks]
    failed = {account_id for account_id, outcome in presented if outcome != "granted"}
    assert failed >= set(failed_first)
    first_tries = [account_id for account_id, _ in presented if account_id not in failed]
    in_order = sorted(first_tries, reverse=True)  # the last account expires first
    out_of_place = [pair for pair in zip(first_tries, in_order, strict=True) if abs(pair[0] - pair[1]) > CALLS_AT_ONCE]
    assert out_of_place == []
    _check_rate(stage, per_second=10)


@on_sqlite
@pytest.mark.proves("R36")
def test_questions_that_keap_does_not_answer_hold_up_no_refresh(stage: Stage):
    ids = stage.add_accounts(3)
    answer = threading.Event()
    worker = refresh_worker.RefreshWorker(stage.app)

    with stage.app.app_context(), worker.pool:
        try:
            taken = [worker.pool.identify(lambda _number: answer.wait(60), number) for number in range(20)]
            worker.pool.submit(stage.rows())
            until(lambda: all(row.refreshed_at for row in stage.rows()), timeout=30)
        finally:
            answer.set()

    assert taken == [True] * QUESTIONS_AT_ONCE + [False] * (20 - QUESTIONS_AT_ONCE)
    assert stage.is_reconciled(*ids)


@on_sqlite
@pytest.mark.proves("R36")
def test_a_question_for_which_no_thread_is_free_is_asked_later(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    account_id = stage.add_pending_account()
    worker = refresh_worker.RefreshWorker(stage.app)
    with stage.app.app_context():
        monkeypatch.setattr(worker.pool, "identify", lambda *_: False)
        worker._identify_pending()
        asked: list[int] = []
        monkeypatch.setattr(worker.pool, "identify", lambda _ask, number: bool(asked.append(number)) or True)
        worker._identify_pending()
        worker._identify_pending()

    assert asked == [account_id]


# Whether this is the living installation


@on_sqlite
@pytest.mark.proves("R41", "F89")
def test_a_check_that_an_outage_cut_short_is_made_again_before_anything_is_claimed(
    app: Flask, monkeypatch: pytest.MonkeyPatch
):
    checks: list[str] = []

    def fail_once() -> bool:
        checks.append("a check")
        if len(checks) == 1:
            raise OperationalError("SELECT 1", {}, Exception("away"))
        return check_instance()

    monkeypatch.setattr(refresh_worker, "check_instance", fail_once)
    worker = refresh_worker.RefreshWorker(app)
    with app.app_context():
        worker.run(until_idle=True)
        worker.run(until_idle=True)

    assert len(checks) == 2


@pytest.mark.proves("R41")
def test_processes_that_start_together_take_the_database_for_no_backup(stage: Stage):
    stage.add_accounts()

    def check() -> bool:
        with stage.app.app_context():
            return check_instance()

    with ThreadPoolExecutor(8) as pool:
        allowed = [pool.submit(check) for _ in range(40)]

    assert all(each.result() for each in allowed)
    assert stage.alarms() == []


@on_sqlite
@pytest.mark.proves("R39")
def test_a_used_account_is_refreshed_ahead_of_expiry_and_an_idle_one_about_day_thirty(stage: Stage):
    idle, used = stage.add_accounts(2, expires_in_seconds=86_399)
    with stage.app.app_context(), write_transaction() as session:
        rows = {row.id: row for row in session.query(Account)}
        rows[idle].last_used_at = None
        idle_at = next_refresh_at(rows[idle], utc_now())
        used_at = next_refresh_at(rows[used], utc_now())

    assert timedelta(days=28) < idle_at - utc_now() < timedelta(days=31)
    assert timedelta(hours=15) - timedelta(minutes=1) < used_at - utc_now() < timedelta(hours=16)
