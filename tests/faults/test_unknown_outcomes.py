"""When a token is presented again whose last attempt had no answer: finished, dead, or unknown (design: item 6)."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from flask import Flask

from keap_connect import database
from keap_connect.accounts.credentials import fingerprint, open_access_token, open_refresh_token
from keap_connect.clock import utc_now
from keap_connect.database import write_transaction
from keap_connect.errors import TemporarilyUnavailable
from keap_connect.keap.token_response import TokenResponse
from keap_connect.refresh import lease, recovery, timing
from keap_connect.refresh.lease import AHEAD, CLOSED, build_lease, note_dead, notice_clock_step, restart_waits
from keap_connect.refresh.refresher import Presentation, prepare
from keap_connect.refresh.serving import refresh_account, report_rejected, valid_token
from keap_connect.refresh.storing import NewPair
from keap_connect.refresh.worker import RefreshWorker
from keap_connect.services import services
from tests.faults.conftest import Stage, until
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.plans import listening, plans_of

FIVE_HOURS, TEN_MINUTES = 18_000, 600
PACE = 60  # lease 1 s, doubt wait 2 s, wait while the recovery file is locked 15 s, unasked wait 24 min


@pytest.fixture(autouse=True)
def inside_the_app(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    monkeypatch.setattr(database.Trouble, "last_at", -1e9)
    with stage.app.app_context():
        notice_clock_step()
        monkeypatch.setattr(lease._clock(), "known_since", -1e9)
        yield stage.app


def attempt_of_unknown_outcome(stage: Stage, account_id: int, seconds_ago: float, holder: str) -> Presentation:
    """Lease an account, and never say how that ended."""
    wanted = build_lease(stage.row(account_id))
    assert wanted
    (presentation,) = prepare([wanted], "holder")
    if holder == "on another host":
        presentation.file.path.unlink()
    ends = stage.row(account_id).lease_ends
    assert ends
    stage.change(account_id, lease_ends=ends - seconds_ago, blocked_until=ends + timing.LEASE_SECONDS - seconds_ago)
    return presentation


@on_postgresql
@pytest.mark.proves("F79", "F80", "R26")
@pytest.mark.parametrize(
    ("holder", "token_lasts_seconds", "seconds_ago", "is_presented"),
    [
        ("on another host", -60, 110, False),
        ("on another host", -60, 130, True),
        ("on another host", TEN_MINUTES, 130, True),
        ("on another host", FIVE_HOURS, 80_000, False),
        ("on another host", FIVE_HOURS, 90_000, True),
        ("in this folder", -60, 890, False),
        ("in this folder", -60, 910, True),
        ("in this folder", FIVE_HOURS, 910, False),
    ],
)
def test_a_caller_tries_again_once_the_token_is_needed_and_its_holder_had_its_time(
    stage: Stage, holder: str, token_lasts_seconds: int, seconds_ago: int, is_presented: bool
):
    (account_id,) = stage.add_accounts(expires_in_seconds=token_lasts_seconds)
    attempt_of_unknown_outcome(stage, account_id, seconds_ago, holder)

    if is_presented:
        refresh_account(account_id, "job")
    else:
        with pytest.raises(TemporarilyUnavailable, match="Nobody knows yet how the last refresh ended"):
            refresh_account(account_id, "job")

    assert len(stage.presentations()) == is_presented


@on_sqlite
@pytest.mark.proves("F80")
@pytest.mark.parametrize("why", ["it asks for a longer life", "it reports the token as refused"])
def test_a_token_runs_short_by_what_the_caller_needs(stage: Stage, why: str):
    (account_id,) = stage.add_accounts(expires_in_seconds=3000)
    attempt_of_unknown_outcome(stage, account_id, 130, "on another host")

    if why == "it asks for a longer life":
        valid_token(account_id, "job", min_validity_seconds=3600)
    else:
        report_rejected(account_id, fingerprint(open_access_token(stage.row(account_id)) or ""), "job")
        valid_token(account_id, "job")

    assert len(stage.presentations()) == 1


@on_postgresql
@pytest.mark.proves("F79", "F80", "R26")
@pytest.mark.parametrize(("hours_ago", "refreshed"), [(23, 0), (25, 1)])
def test_the_worker_leaves_a_token_of_unknown_outcome_alone_for_a_day(stage: Stage, hours_ago: int, refreshed: int):
    (account_id,) = stage.add_accounts()
    attempt_of_unknown_outcome(stage, account_id, hours_ago * 3600, "on another host")

    worker = RefreshWorker(stage.app)
    worker.run(until_idle=True)

    assert worker.refreshed == refreshed


@pytest.mark.proves("F24", "R31")
def test_who_finds_the_recovery_file_of_a_dead_process_says_so_and_the_token_rests_from_then(stage: Stage):
    (account_id,) = stage.add_accounts()
    gone = attempt_of_unknown_outcome(stage, account_id, TEN_MINUTES, "in this folder")
    gone.file.abandon()  # as the end of its process does

    with pytest.raises(TemporarilyUnavailable, match="No usable answer came") as refusal:
        refresh_account(account_id, "job")

    row = stage.row(account_id)
    assert refusal.value.retry_after_seconds > timing.UNKNOWN_OUTCOME_WAIT_SECONDS - 10
    assert (row.lease_owner, row.lease_ends) == (None, None)
    assert row.attempt_fingerprint is not None
    assert row.outcome_unknown_since == row.attempted_at
    assert not gone.file.path.exists()
    stage.change(account_id, blocked_until=1.0)
    refresh_account(account_id, "job")
    assert len(stage.presentations()) == 1


@pytest.mark.proves("R30", "F24")
def test_a_caller_stores_what_a_dead_process_left_before_it_tries_again(stage: Stage):
    """However long this process has been running: else it would present a token that was spent."""
    (account_id, other_id) = stage.add_accounts(2)
    refresh_account(other_id, "job")  # this process has looked for files of dead ones already
    gone = attempt_of_unknown_outcome(stage, account_id, TEN_MINUTES, "in this folder")
    granted = TokenResponse("access-new", "refresh-new", utc_now() + timedelta(days=1))
    recovery.write_all(gone.file.handle, recovery._sealed(services().cipher, NewPair(account_id, 1, granted, "holder")))
    gone.file.abandon()

    served = valid_token(account_id, "job")

    assert served.access_token == "access-new"
    assert open_refresh_token(stage.row(account_id)) == "refresh-new"
    assert len(stage.presentations()) == 1


@pytest.mark.proves("F80", "R26")
def test_nobody_presents_the_token_of_a_stopped_process_that_shares_the_recovery_folder(stage: Stage):
    stage.sandbox.switch(family_revocation=True)
    (account_id,) = stage.add_accounts()
    stopped, other = stage.start(2, PACE=PACE, AGE_SECONDS=1000)
    stage.sandbox.hold("refresh", where="after")
    stopped.tell("refresh", account_id)
    stage.sandbox.wait_held(1)
    stopped.freeze()
    stage.sandbox.release()
    until(lambda: not stage.is_held(account_id))  # the wait that was enough before

    swept = other.ask("sweep")
    asked = other.ask("valid_token", account_id)
    stopped.thaw()

    assert swept["refreshed"] == 0
    assert "Nobody knows yet" in asked["message"]
    assert stopped.hear()[0]["ok"]
    assert other.ask("valid_token", account_id)["ok"]
    assert len(stage.presentations()) == 1
    assert stage.is_reconciled(account_id)


@pytest.mark.proves("R35")
def test_a_process_that_has_just_started_tries_again_what_ended_without_an_answer(stage: Stage):
    """As each command from a shell does: one that waited from its own start would wait for ever."""
    (account_id,) = stage.add_accounts()
    stage.change(account_id, attempt_fingerprint="0" * 16, attempted_at=utc_now() - timedelta(minutes=10))
    (fresh,) = stage.start(1)

    assert fresh.ask("refresh", account_id)["ok"]


@pytest.mark.parametrize("end", [CLOSED, AHEAD])
def test_a_jump_of_the_clock_ends_a_lease_and_no_hold(stage: Stage, end: str):
    """Else somebody presents the used token while the new pair still waits in the recovery file."""
    held, leased = stage.add_accounts(2)
    stage.change(held, lease_owner=f"0123456789abcdef{end}", lease_ends=1.0, blocked_until=2.0)
    stage.change(leased, lease_owner="fedcba9876543210:01234567", lease_ends=1.0)

    restart_waits()
    with pytest.raises(TemporarilyUnavailable, match="recovery file that is not stored"):
        refresh_account(held, "test")

    account = stage.row(held)
    assert (account.lease_owner, account.blocked_until) == (f"0123456789abcdef{end}", None)
    assert (stage.row(leased).lease_owner, stage.is_held(leased)) == (None, True)


@pytest.mark.proves("F24", "F88")
def test_who_looks_for_leases_and_waits_reads_their_index_not_the_whole_table(
    stage: Stage, inside_the_app: Flask, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lease._clock(), "ahead_seconds", None)  # as at the first look
    stage.add_accounts()
    with listening() as said:
        notice_clock_step()
        restart_waits()
        with write_transaction() as session:
            note_dead(session, ["a file's name"])

    plans = plans_of(one for one in said if "FROM account" in one[0] or "UPDATE account " in one[0])
    assert ["ix_account_waits" in plan for plan in plans] == [True] * 3, plans
