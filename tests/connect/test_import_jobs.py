"""A file as a job: stored sealed at once, done line by line, stopped at any time, and each line with its result."""

import csv
import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from flask import Flask
from sqlalchemy import select

from keap_connect.accounts.changes import erase
from keap_connect.accounts.directory import lock_accounts
from keap_connect.clock import utc_now
from keap_connect.connect.identifying import UNUSED
from keap_connect.connect.importing import REFUSED, UNPROVEN
from keap_connect.database import read_session, write_transaction
from keap_connect.emergency_stop import stop_everything
from keap_connect.errors import JobNotFound
from keap_connect.events import deleting
from keap_connect.events.history import EventKind
from keap_connect.jobs import records, runner
from keap_connect.jobs.bulk import start_bulk
from keap_connect.jobs.imports import import_line, start_import
from keap_connect.jobs.records import (
    KEPT_FOR,
    ItemOutcome,
    JobView,
    forget_past_jobs,
    items_csv,
    list_items,
    stop_job,
    view_job,
)
from keap_connect.jobs.runner import AT_ONCE, HELD_FOR, MOST_TRIES, PAUSE, JobRunner
from keap_connect.models import Account, JobItem, JobKind
from keap_connect.refresh import worker
from keap_connect.refresh.worker import RefreshWorker
from tests.connect.test_matching import count_lock_waits
from tests.flows.stored import Stored, presented_twice
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.sandbox import Sandbox

ADMIN = "admin@example.com"
HEADER = "kind,access_token,refresh_token,external_id,label,replace\n"
BEN, CLEO = "ben.ortiz@example.com", "cleo.marsh@example.com"


def start(lines: str, only_checks: bool = False) -> int:
    return start_import((HEADER + lines).encode(), ADMIN, only_checks=only_checks)


def do(app: Flask, lines: str, only_checks: bool = False) -> JobView:
    """Make a job of these lines, and do it."""
    job_id = start(lines, only_checks)
    JobRunner(app).do_due()
    return view_job(job_id)


def problems(job: JobView) -> dict[int, tuple[str, str]]:
    """Return column and reason of the lines that were refused."""
    found = list_items(job.job.id, ItemOutcome.REFUSED, 100)
    return {item.number: (item.details["column"], item.details["problem"]) for item, _ in found}


def work_left() -> list[bytes]:
    with read_session() as session:
        return [item.work_sealed for item in session.query(JobItem) if item.work_sealed]


@pytest.fixture
def lines(sandbox: Sandbox) -> str:
    """Return lines of three kinds for three accounts."""
    access_token, refresh_token = sandbox.generate_token(CLEO, "ef789")
    return (
        f"oauth,{access_token},{refresh_token},customer:9,Cedar  Sons,\n"
        f"personal_access_token,{sandbox.make_key(person=BEN)},,,,\n"
        f"service_account_key,{sandbox.make_key('service_account_key', tenant='cd456')},,,,\n"
    )


@on_postgresql
def test_file_is_checked_without_storing_accounts_and_then_imported(
    app: Flask, stored: Stored, sandbox: Sandbox, lines: str
):
    known = stored.place("cd456")
    before = stored.rows()

    checked = do(app, lines, only_checks=True)

    assert stored.rows() == before
    assert (checked.done, checked.job.finished_at is not None) == (3, True)
    details = [item.details for item, _ in list_items(checked.job.id, None, 9)]
    assert [(one["tenant_id"], one["updates"]) for one in details] == [
        ("ef789", None),
        ("ab123", None),
        ("cd456", "Bright Dental"),
    ]
    assert (details[0]["label"], details[0]["external_id"]) == ("Cedar Sons", "customer:9")
    imported = do(app, lines)
    assert (imported.done, imported.refused, imported.waiting) == (3, 0, 0)
    accounts = [account for _, account in list_items(imported.job.id, ItemOutcome.DONE, 9)]
    assert [one.tenant_id for one in accounts if one] == ["ef789", "ab123", "cd456"]
    assert accounts[2]
    assert accounts[2].id == known
    assert accounts[0]
    assert (accounts[0].label, accounts[0].needs_first_refresh) == ("Cedar Sons", True)
    assert (stored.mixed_up(), work_left()) == ([], [])
    assert stored.history(known) == ["connected", "imported_again"]


@on_sqlite
def test_refused_lines_name_column_and_reason_and_the_others_are_imported(
    app: Flask, stored: Stored, sandbox: Sandbox, lines: str
):
    stored.place()
    stored.place("cd456", external_id="taken")
    works = sandbox.generate_token()
    key, twin = sandbox.make_key(), sandbox.make_key()
    more = (
        f"oauth,{works[0]},{works[1]},,,\n"
        f"service_account_key,KeapAK-unknown-to-keap,,,,\n"
        f"personal_access_token,{key},,taken,,\n"
        f"personal_access_token,{twin},,=1+1,,\n"
        f"personal_access_token,{twin},,,,\n"
        f"personal_access_token,{sandbox.make_key()},,,,\n"
    )

    job = do(app, lines + more)

    found = problems(job)
    assert (job.done, {number: column for number, (column, _) in found.items()}) == (
        4,
        {5: "replace", 6: "access_token", 7: "external_id", 8: "external_id", 10: "access_token"},
    )
    assert "works" in found[5][1]
    assert found[10][1] == "It has the same Keap account and person as line 9."
    rows = list(csv.DictReader(io.StringIO("".join(items_csv(job.job.id, ItemOutcome.REFUSED)))))
    assert [(row["number"], row["column"]) for row in rows] == [(str(n), found[n][0]) for n in (5, 6, 7, 8, 10)]
    whole = "".join(items_csv(job.job.id, None))
    assert len(whole.splitlines()) == 10
    assert not any(secret in whole for secret in (*works, key, twin, "KeapAK"))


@on_postgresql
def test_check_refuses_what_the_import_refuses_when_two_lines_are_of_one_new_person(app: Flask, sandbox: Sandbox):
    keys = sandbox.make_key(person=BEN), sandbox.make_key(person=BEN), sandbox.make_key()
    lines = "".join(f"personal_access_token,{key},,,,\n" for key in keys)

    checked, imported = do(app, lines, only_checks=True), do(app, lines)

    assert problems(checked) == problems(imported)
    assert problems(checked) == {3: ("access_token", "It has the same Keap account and person as line 2.")}
    assert "keap_user_id" not in "".join(items_csv(checked.job.id, None))


@pytest.mark.proves("F91")
def test_pair_whose_access_token_has_expired_is_stored_and_its_line_says_what_follows(
    app: Flask, stored: Stored, sandbox: Sandbox
):
    pairs = [sandbox.generate_token(person, "ef789") for person in (CLEO, CLEO)]
    sandbox.advance(25 * 3600)
    lines = "".join(f"oauth,{access},{refresh},c:{number},,\n" for number, (access, refresh) in enumerate(pairs))

    checked = do(app, lines, only_checks=True)
    assert stored.rows() == []
    imported = do(app, lines)

    notes = [[item.details["note"] for item, _ in list_items(job.job.id, None, 9)] for job in (checked, imported)]
    assert notes == [[UNPROVEN] * 2, [f"Stored. {UNPROVEN}"] * 2]
    assert [account.is_pending for account in stored.accounts()] == [True, True]
    links = start_bulk(JobKind.LINKS, ADMIN, 2, ids=[account.id for account in stored.accounts()])
    JobRunner(app).do_due()
    RefreshWorker(app).run(until_idle=True)
    (account,) = stored.accounts()
    assert [list(item.details) for item, _ in list_items(links, None, 9)] == [["key"]] * 2, "it is not of a file"
    found = [item for item, _ in list_items(imported.job.id, ItemOutcome.DONE, 9)]
    assert [(item.account_id, item.details["tenant_id"]) for item in found] == [(account.id, "ef789")] * 2
    assert [item.details["note"] for item in found] == ["", UNUSED[EventKind.IMPORT_DROPPED]]
    assert (stored.mixed_up(), presented_twice(sandbox)) == ([], [])
    assert do(app, lines).refused == 2, "their refresh tokens are used up"


@pytest.mark.proves("F91")
@on_sqlite
def test_line_of_a_pair_that_keap_refuses_later_says_so(app: Flask, stored: Stored, sandbox: Sandbox):
    access, refresh = sandbox.generate_token()
    sandbox.advance(46 * 86400)
    imported = do(app, f"oauth,{access},{refresh},c:1,,\n")
    account_id = stored.account().id

    for _ in range(2):
        stored.set(account_id, next_refresh_at=utc_now(), blocked_until=None)
        RefreshWorker(app).run(until_idle=True)

    assert stored.account().refused_at
    (row,) = csv.DictReader(io.StringIO("".join(items_csv(imported.job.id, None))))
    assert (row["outcome"], row["note"], row["account_id"]) == ("done", REFUSED, str(account_id))


@on_sqlite
def test_next_pair_is_refreshed_though_the_one_before_ended_just_after_the_look_for_what_is_due(
    app: Flask, stored: Stored, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    pairs = [sandbox.generate_token(tenant=tenant) for tenant in ("ab123", "cd456")]
    sandbox.advance(25 * 3600)
    do(app, "".join(f"oauth,{access},{refresh},,,\n" for access, refresh in pairs))
    refresher, claim = RefreshWorker(app), worker.claim_due

    def claim_late(most: int, *, takes_unproven: bool) -> list[Account]:
        found = claim(most, takes_unproven=takes_unproven)
        refresher.pool.wait_until_done(0 if found else 30)
        return found

    monkeypatch.setattr(worker, "claim_due", claim_late)
    refresher.run(until_idle=True)

    assert [account.needs_first_refresh for account in stored.accounts()] == [False, False]


@on_sqlite
def test_line_that_says_so_replaces_a_connection_that_works(app: Flask, stored: Stored, sandbox: Sandbox):
    account_id = stored.place()
    pair = sandbox.generate_token()

    assert do(app, f"oauth,{pair[0]},{pair[1]},,,no\n").refused == 1
    assert do(app, f"oauth,{pair[0]},{pair[1]},,,yes\n").done == 1
    assert stored.tokens(account_id) == pair


@on_sqlite
def test_lines_without_an_answer_of_keap_wait_and_are_refused_at_last(app: Flask, sandbox: Sandbox, clock):
    sandbox.fault("html_503", "api")
    job_id = start("".join(f"personal_access_token,KeapAK-some-key-{number},,,,\n" for number in range(AT_ONCE + 2)))

    views = list(JobRunner(app).do_job(job_id))

    assert len(sandbox.ledger()["presentations"]) == 2 * AT_ONCE
    assert (views[-1].waiting, "did not say whose" in (views[-1].job.trouble or "")) == (AT_ONCE + 2, True)
    JobRunner(app).do_due()
    assert len(sandbox.ledger()["presentations"]) == 2 * AT_ONCE, "it is not due yet"
    sandbox.clear_faults()
    clock.advance(seconds=PAUSE.total_seconds())
    JobRunner(app).do_due()
    assert (view_job(job_id).refused, view_job(job_id).job.trouble) == (AT_ONCE + 2, None)


@on_sqlite
def test_line_that_keap_never_answers_ends_after_some_tries(app: Flask, sandbox: Sandbox, clock):
    sandbox.fault("html_503", "api")
    job_id = start("personal_access_token,KeapAK-some-key,,,,\n")

    for _ in range(MOST_TRIES):
        assert view_job(job_id).waiting == 1
        JobRunner(app).do_due()
        clock.advance(seconds=PAUSE.total_seconds())

    assert "did not say whose" in problems(view_job(job_id))[2][1]


@pytest.fixture
def stops_meanwhile(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let somebody stop the job after Keap has answered."""

    def step(job, work):
        finish = import_line(job, work)
        stop_job(job.id, ADMIN)
        return finish

    monkeypatch.setitem(runner.STEPS, JobKind.IMPORT, step)


@on_postgresql
def test_stopped_job_stores_nothing_more_and_keeps_no_secret(
    app: Flask, stored: Stored, lines: str, stops_meanwhile: None
):
    job = do(app, lines)

    assert (job.stopped, job.waiting, job.job.finished_at is not None) == (3, 0, True)
    assert stored.rows() == work_left() == []
    assert [row[3] for row in stored.rows("account_event")] == ["file_imported", "job_stopped"]


@on_sqlite
def test_emergency_stop_stops_jobs(app: Flask, stored: Stored, lines: str):
    job_id = start(lines)

    stop_everything(ADMIN)
    JobRunner(app).do_due()

    assert view_job(job_id).stopped == 3
    assert stored.rows() == work_left() == []


def test_job_of_a_process_that_died_is_done_by_another_later(app: Flask, stored: Stored, lines: str, clock):
    job_id = start(lines)
    assert runner._claim() is not None  # and this process dies

    JobRunner(app).do_due()
    assert view_job(job_id).waiting == 3
    clock.advance(seconds=HELD_FOR.total_seconds())
    JobRunner(app).do_due()

    assert view_job(job_id).done == 3


@on_sqlite
@pytest.mark.proves("R38")
def test_job_does_not_wait_for_a_clock_that_was_set_back(app: Flask, lines: str, clock):
    clock.advance(days=2)
    job_id = start(lines)
    clock.advance(days=-2)

    JobRunner(app).do_due()

    assert view_job(job_id).done == 3


@on_sqlite
def test_process_that_was_too_slow_does_not_release_the_hold_of_another(app: Flask, lines: str, clock):
    job_id = start(lines)
    slow = runner._claim()
    clock.advance(seconds=HELD_FOR.total_seconds())
    assert slow
    assert runner._claim() is not None

    runner._go_on(slow, "It was slow.")

    assert (runner._claim(), view_job(job_id).job.trouble) == (None, None)


@on_postgresql
def test_end_of_an_item_locks_its_account_before_the_item_as_merging_does(app: Flask, stored: Stored):
    account_id = stored.place()
    job_id = start_bulk(JobKind.LINKS, ADMIN, 1, ids=[account_id])

    def do_due() -> None:
        with app.app_context():
            JobRunner(app).do_due()

    with ThreadPoolExecutor(1) as threads:
        with write_transaction() as session:
            lock_accounts(session, Account.id == account_id)
            done = threads.submit(do_due)
            deadline = time.monotonic() + 30
            while not count_lock_waits():
                assert time.monotonic() < deadline, "the job never came to the account"
            assert session.scalars(select(JobItem).with_for_update(nowait=True)).one()
        done.result()

    assert view_job(job_id).done == 1


@on_sqlite
def test_fault_of_this_program_ends_one_line(
    app: Flask, lines: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def step(job, work):
        if work["kind"] == "oauth":
            raise ZeroDivisionError
        return import_line(job, work)

    monkeypatch.setitem(runner.STEPS, JobKind.IMPORT, step)

    job = do(app, lines)

    assert (job.done, list(problems(job))) == (2, [2])
    assert "ZeroDivisionError" in caplog.text


@on_sqlite
def test_ten_thousand_lines_are_stored_at_once_and_sealed(app: Flask):
    job_id = start("".join(f"personal_access_token,KeapAK-canary-{number},,c:{number},,\n" for number in range(10_000)))

    assert (view_job(job_id).waiting, view_job(job_id).total) == (10_000, 10_000)
    assert len(work_left()) == 10_000
    assert not any(b"canary" in sealed for sealed in work_left())


@on_sqlite
def test_results_go_with_the_account_and_after_a_week(
    app: Flask, stored: Stored, lines: str, clock, monkeypatch: pytest.MonkeyPatch
):
    checked, imported = do(app, lines, only_checks=True), do(app, lines)
    account = next(account for _, account in list_items(imported.job.id, None, 9) if account)

    erase(account.id, ADMIN)

    assert account.tenant_id not in str(stored.rows("job_item"))
    clock.advance(seconds=KEPT_FOR.total_seconds() + 60)
    for module in (deleting, records):
        monkeypatch.setattr(module, "DELETED_AT_ONCE", 1)
    monkeypatch.setattr(records, "delete_in_batches", partial(deleting.delete_in_batches, most=2))
    forget_past_jobs()
    assert (len(stored.rows("job_item")), len(stored.rows("job"))) == (2, 1), "the rest follows an hour later"
    forget_past_jobs()
    assert stored.rows("job_item") == stored.rows("job") == []
    with pytest.raises(JobNotFound):
        view_job(checked.job.id)
