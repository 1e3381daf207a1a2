"""Killed at any step, frozen, cut off: afterwards the row is right, or says that an answer was lost (R31, F24, F25)."""

import contextlib
import random
import signal
import sqlite3
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from keap_connect.accounts.credentials import fingerprint
from keap_connect.accounts.directory import view_account
from keap_connect.accounts.state import AccountState
from keap_connect.events.search import Search, list_events
from keap_connect.services import services
from tests.faults.conftest import REPOSITORY, Process, SideBySide, Stage, start_elsewhere, until
from tests.support.engines import on_sqlite

PACE = 60  # lease 1 s, doubt wait 2 s, confirm wait 1 s, deadline 0.5 s
LONG_AGO = 1.0  # on the database's clock
RIGHT, LOST = "right", "answer lost"


def _ask_until_settled(process: Process, account_id: int) -> dict[str, object]:
    """Ask until a token comes, or the word that a person must authorize."""

    def settled() -> dict[str, object] | None:
        answer = process.ask("refresh", account_id)
        return answer if answer["ok"] or answer["error"] == "ReconnectRequired" else None

    return until(settled)


def _ending(stage: Stage, process: Process, account_id: int) -> str:
    """Return how an account ended, once a process has asked until that is clear."""
    answer = _ask_until_settled(process, account_id)
    account, events = stage.row(account_id), stage.events(account_id)
    if answer["ok"] and stage.is_reconciled(account_id) and account.outcome_unknown_since is None:
        return RIGHT
    if (
        account.refused_at
        and account.outcome_unknown_since
        and "answer_lost" in events
        and "refresh_refused" not in events
    ):
        return LOST
    return f"{answer}, refused at {account.refused_at}, lost at {account.outcome_unknown_since}, {events}"


@pytest.mark.proves("R31", "F25", "F29")
@pytest.mark.parametrize("command", ["refresh", "take_up"])
def test_a_process_killed_at_any_step_leaves_the_truth_behind(stage: Stage, command: str):
    lost = RIGHT if stage.makes_good else LOST
    expected = {
        "before_lease": RIGHT,
        "after_lease": RIGHT,
        "after_send": lost,
        "after_answer": lost,
        "before_commit": lost,
        "after_commit": RIGHT,
    }
    stage.sandbox.switch(family_revocation=True)
    ids = dict(zip(expected, stage.add_accounts(len(expected)), strict=True))
    for step, account_id in ids.items():
        (doomed,) = stage.start(1, PACE=PACE, CRASH_AT=step)
        assert doomed.ask(command, account_id) is None
        if step not in {"before_lease", "after_commit"}:
            assert stage.row(account_id).attempt_fingerprint is not None

    (process,) = stage.start(1, PACE=PACE)
    endings = {step: _ending(stage, process, account_id) for step, account_id in ids.items()}

    assert endings == expected


@pytest.mark.proves("R31", "F25", "F29")
def test_a_process_killed_while_keap_answers_is_outcome_unknown_and_then_told_honestly(stage: Stage):
    (account_id,) = stage.add_accounts()
    doomed, process = stage.start(2, PACE=PACE)
    stage.sandbox.hold("refresh", where="after")
    doomed.tell("refresh", account_id)
    stage.sandbox.wait_held(1)

    doomed.kill()
    stage.sandbox.release()

    assert stage.row(account_id).attempt_fingerprint is not None
    assert process.ask("refresh", account_id)["error"] == "TemporarilyUnavailable"
    assert _ending(stage, process, account_id) == (RIGHT if stage.makes_good else LOST)
    assert [p["outcome"] for p in stage.presentations()].count("granted") == 1 + stage.makes_good


@pytest.mark.proves("F24", "R26")
@pytest.mark.parametrize("step", ["after_lease", "before_look"])
@pytest.mark.parametrize(
    ("command", "told"), [("refresh", ("error", "TemporarilyUnavailable")), ("take_up", ("failed", 0))]
)
def test_a_process_frozen_between_claim_and_send_sends_nothing(
    stage: Stage, step: str, command: str, told: tuple[str, object]
):
    stage.sandbox.switch(family_revocation=True)
    (account_id,) = stage.add_accounts()
    (frozen,) = stage.start(1, PACE=PACE, FREEZE_AT=step)
    frozen.tell(command, account_id)
    until(frozen.is_stopped)
    assert stage.row(account_id).attempt_fingerprint is not None
    until(lambda: not stage.is_leased(account_id))

    frozen.thaw()
    answer = frozen.hear()[0]

    assert told in answer.items()
    assert stage.presentations() == []
    assert stage.row(account_id).failures == 0, "that is no fault of Keap or of the account"
    assert _ask_until_settled(stage.start(1, PACE=PACE)[0], account_id)["ok"]
    assert stage.is_reconciled(account_id)


@pytest.mark.proves("F24", "R26")
def test_a_process_sends_nothing_once_the_pair_of_a_frozen_one_is_stored_after_all(stage: Stage, tmp_path: Path):
    """The frozen one comes back just when another, after lease and doubt, has taken the lease but not sent yet."""
    stage.sandbox.switch(family_revocation=True)
    (account_id,) = stage.add_accounts()
    frozen = _freeze_with_an_answer(stage, account_id)
    stage.change(account_id, lease_ends=LONG_AGO)
    other = start_elsewhere(stage, tmp_path, FREEZE_AT="before_look", AGE_SECONDS=1000)
    other.tell("refresh", account_id)
    until(other.is_stopped)
    assert stage.is_leased(account_id)

    frozen.thaw()
    answer = frozen.hear()[0]
    assert answer["ok"], answer
    other.thaw()
    other.hear()

    assert len(stage.presentations()) == 1
    assert stage.is_reconciled(account_id)
    assert stage.state(account_id) is AccountState.ACTIVE


def _freeze_with_an_answer(stage: Stage, account_id: int, **settings: object) -> Process:
    """Freeze a process while Keap's answer lies unread in its hands, until its lease is over."""
    (frozen,) = stage.start(1, PACE=PACE, **settings)
    stage.sandbox.hold("refresh", where="after")
    frozen.tell("refresh", account_id)
    stage.sandbox.wait_held(1)
    frozen.freeze()
    stage.sandbox.release()
    until(stage.has_unread_answer)
    until(lambda: not stage.is_leased(account_id))
    return frozen


@pytest.mark.proves("F24", "R40")
def test_a_pair_that_comes_back_after_the_lease_is_kept_if_its_generation_still_fits(stage: Stage):
    (account_id,) = stage.add_accounts()
    frozen = _freeze_with_an_answer(stage, account_id)

    frozen.thaw()
    answer = frozen.hear()[0]

    assert answer["ok"], answer
    assert stage.is_reconciled(account_id)
    assert len(stage.presentations()) == 1


@on_sqlite
@pytest.mark.proves("F24", "R40", "R101")
def test_an_answer_that_came_in_a_short_pause_past_the_deadline_is_read(stage: Stage):
    """The process stands still after it found nothing to read, and before it looks at the clock."""
    (account_id,) = stage.add_accounts()
    (frozen,) = stage.start(1, PACE=PACE, FREEZE_AT="after_send")
    frozen.tell("refresh", account_id)
    until(frozen.is_stopped)
    until(stage.has_unread_answer)
    until(lambda: not stage.is_leased(account_id))

    frozen.thaw()
    answer = frozen.hear()[0]

    assert answer["ok"], answer
    assert stage.is_reconciled(account_id)


@pytest.mark.proves("F24", "R40")
def test_a_late_pair_is_kept_even_when_another_process_was_refused_meanwhile(stage: Stage, tmp_path: Path):
    (account_id,) = stage.add_accounts()
    frozen = _freeze_with_an_answer(stage, account_id)
    other = start_elsewhere(stage, tmp_path, PACE=PACE)
    until(lambda: other.ask("refresh", account_id)["ok"] or stage.row(account_id).refusals == 1)
    assert stage.row(account_id).refusals == (0 if stage.makes_good else 1)

    frozen.thaw()
    frozen.hear()

    assert stage.row(account_id).refusals == 0
    assert stage.is_reconciled(account_id)
    assert other.ask("valid_token", account_id)["ok"]
    assert stage.state(account_id) is AccountState.ACTIVE


@pytest.mark.proves("F24", "F85", "R40", "R102")
def test_a_late_pair_ends_what_two_refusals_of_the_older_token_said(stage: Stage, tmp_path: Path):
    (account_id,) = stage.add_accounts()
    frozen = _freeze_with_an_answer(stage, account_id)
    other = start_elsewhere(stage, tmp_path, PACE=PACE)
    assert _ask_until_settled(other, account_id)["ok"] is stage.makes_good
    settled = AccountState.ACTIVE if stage.makes_good else AccountState.RECONNECT_REQUIRED
    assert stage.state(account_id) is settled

    frozen.thaw()
    assert frozen.hear()[0]["ok"]

    account = stage.row(account_id)
    assert (account.refusals, account.refused_at, account.outcome_unknown_since, account.failure_reason) == (
        0,
        None,
        None,
        None,
    )
    assert account.next_refresh_at is not None
    assert stage.is_reconciled(account_id)
    assert other.ask("valid_token", account_id)["ok"]
    assert stage.state(account_id) is AccountState.ACTIVE
    refused = [] if stage.makes_good else ["refresh_refused_once", "refresh_refused_once", "answer_lost"]
    assert stage.events(account_id) == [*refused, "refreshed"]


@pytest.mark.proves("F24", "F85", "R40", "R102")
def test_a_late_refusal_is_recorded_and_a_refresh_with_the_newer_token_tells_whether_the_grant_lives(
    stage: Stage, tmp_path: Path
):
    (account_id,) = stage.add_accounts()
    stage.sandbox.fault("refused_although_valid", "refresh", calls=[1])
    frozen = _freeze_with_an_answer(stage, account_id)
    other = start_elsewhere(stage, tmp_path, PACE=PACE)
    assert _ask_until_settled(other, account_id)["ok"]
    before = stage.row(account_id)

    frozen.thaw()
    frozen.hear()

    account = stage.row(account_id)
    assert (account.refusals, account.refused_at, account.blocked_until) == (0, None, None)
    assert account.generation == before.generation
    assert stage.events(account_id) == ["refreshed", "refresh_refused_late"]
    assert stage.state(account_id) is AccountState.AT_RISK
    with stage.app.app_context():
        assert "Keap refused an earlier refresh token" in view_account(account_id).reasons[0]
        (_, said, _) = list_events(Search(account_id=account_id)).rows
        assert "refresh token number 1, but number 2 was stored by then" in said.sentence
    assert other.ask("sweep")["refreshed"] == 1
    assert stage.state(account_id) is AccountState.ACTIVE
    assert stage.is_reconciled(account_id)


@on_sqlite
@pytest.mark.proves("F85", "R102")
def test_a_grant_that_a_second_presentation_ended_needs_a_person_within_minutes(stage: Stage, tmp_path: Path):
    stage.sandbox.switch(family_revocation=True)
    (account_id,) = stage.add_accounts()
    (slow,) = stage.start(1, PACE=PACE, FREEZE_AT="after_answer")
    slow.tell("refresh", account_id)
    until(slow.is_stopped)  # it was granted a pair, and is stopped before it stores it
    (late,) = stage.start(1, PACE=PACE, AGE_SECONDS=1000)
    stage.change(account_id, lease_ends=LONG_AGO)
    stage.sandbox.hold("refresh", where="after")
    late.tell("refresh", account_id)
    stage.sandbox.wait_held(1)
    slow.thaw()
    assert slow.hear()[0]["ok"]
    assert stage.state(account_id) is AccountState.ACTIVE

    stage.sandbox.release()
    late.hear()
    if stage.makes_good:
        assert stage.is_reconciled(account_id)
        return
    assert stage.state(account_id) is AccountState.AT_RISK
    assert _ask_until_settled(late, account_id)["error"] == "ReconnectRequired"

    assert "answer_lost" in stage.events(account_id)


@on_sqlite
@pytest.mark.proves("F18")
@pytest.mark.parametrize("cure", ["until the new one is used", "for 300 seconds"])
def test_a_lost_answer_is_made_good_where_keap_takes_the_old_token_again(stage: Stage, cure: str):
    stage.sandbox.switch(old_refresh_token_works=cure, family_revocation=True)
    (account_id,) = stage.add_accounts()
    stage.sandbox.fault("lost_answer", "refresh", calls=[1])
    (process,) = stage.start(1, PACE=PACE)

    assert _ending(stage, process, account_id) == RIGHT


@pytest.mark.proves("F06", "R32")
def test_a_single_false_refusal_harms_nobody(stage: Stage):
    (account_id,) = stage.add_accounts()
    stage.sandbox.fault("refused_although_valid", "refresh", calls=[1])
    (process,) = stage.start(1, PACE=PACE)

    first = process.ask("refresh", account_id)
    refusals, state = stage.row(account_id).refusals, stage.state(account_id)
    again = process.ask("refresh", account_id)
    second = _ask_until_settled(process, account_id)

    assert first["error"] == again["error"] == "TemporarilyUnavailable"
    assert (refusals, state) == (1, AccountState.ACTIVE)  # it is tried again within ten minutes
    assert second["ok"]
    assert stage.row(account_id).refusals == 0
    assert len(stage.presentations()) == 2
    assert stage.is_reconciled(account_id)


@on_sqlite
@pytest.mark.proves("R32", "F07")
@pytest.mark.parametrize("wording", ["invalid_grant", "invalid_request"])
def test_a_withdrawn_grant_needs_two_refusals_and_then_a_person(stage: Stage, wording: str):
    (account_id,) = stage.add_accounts()
    stage.sandbox.switch(refresh_wording=wording)
    stage.sandbox.withdraw("ab123")
    (process,) = stage.start(1, PACE=PACE)

    answer = _ask_until_settled(process, account_id)

    assert answer["error"] == "ReconnectRequired"
    assert stage.events(account_id) == ["refresh_refused_once", "refresh_refused_once", "refresh_refused"]
    assert stage.state(account_id) is AccountState.RECONNECT_REQUIRED


@on_sqlite
@pytest.mark.parametrize("arguments", [["refresh", "--all"], ["refresh", "1"], ["token", "1"]])
def test_ctrl_c_while_a_command_refreshes_loses_no_pair(stage: Stage, ready_command: list[str], arguments: list[str]):
    account_id, _ = stage.add_accounts(2)
    stage.sandbox.hold("refresh", where="after")
    program = subprocess.Popen(
        [*ready_command, "accounts", *arguments],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", **stage.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    stage.sandbox.wait_held(1)

    program.send_signal(signal.SIGINT)
    stage.sandbox.release()
    program.communicate(timeout=60)

    assert program.returncode != 0
    assert stage.is_reconciled(account_id)
    assert stage.row(account_id).attempt_fingerprint is None


@on_sqlite
@pytest.mark.proves("F37", "R31")
def test_whatever_a_loss_of_power_leaves_of_the_file_opens_and_holds_whole_pairs(stage: Stage, tmp_path: Path):
    """The file is copied at random moments of a sweep, and of what was written last a random part is missing."""
    luck = random.Random(37)
    stage.sandbox.switch(family_revocation=True)
    ids = stage.add_accounts(60)
    (worker,) = stage.start(1)
    database = Path(stage.environ["DATABASE_URL"].removeprefix("sqlite:///"))
    worker.tell("work")
    worker.hear()
    copies = []
    for number in range(12):
        goal = len(stage.presentations()) + luck.randint(1, 4)
        until(lambda: len(stage.presentations()) >= goal)  # noqa: B023
        worker.freeze()
        copy = tmp_path / f"copy-{number}.db"
        copy.write_bytes(database.read_bytes())
        log = Path(f"{database}-wal").read_bytes()
        Path(f"{copy}-wal").write_bytes(log[: luck.randint(len(log) // 2, len(log))])
        copies.append(copy)
        worker.thaw()
    worker.ask("rest")

    issued = {t["fingerprint"]: (t["grant_id"], t["generation"]) for t in stage.sandbox.ledger()["tokens"]}
    for copy in copies:
        with contextlib.closing(sqlite3.connect(copy)) as opened:
            assert opened.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            rows = opened.execute("SELECT id, access_token_sealed, refresh_token_sealed FROM account").fetchall()
        assert [row[0] for row in rows] == ids
        with stage.app.app_context():
            for account_id, *pair in rows:
                tokens = [
                    services().cipher.open(sealed, "account", account_id, column)
                    for sealed, column in zip(pair, ("access_token", "refresh_token"), strict=True)
                ]
                assert len({issued[fingerprint(token)] for token in tokens}) == 1, "half of a pair"


def _kill_at_random(stage: Stage, seed: int, rounds: int) -> None:
    """Let three processes work on eight accounts, and kill one of them after a random number of presentations.

    Customers whose answer was lost authorize again, so that each kill may hit any of the accounts.
    """
    luck = random.Random(seed)
    stage.sandbox.switch(family_revocation=True)
    ids = stage.add_accounts(8)
    settings = {"PACE": PACE, "LEAST_REFUSED": 1000}
    crew = stage.start(3, **settings)
    for _ in range(rounds):
        stage.change(*ids, access_token_expires_at=stage.row(ids[0]).created_at, next_refresh_at=None)
        goal = len(stage.presentations()) + luck.randint(1, 4)
        started = time.monotonic()
        for process in crew:
            process.tell(luck.choice(["refresh", "valid_token"]), luck.choice(ids), callers=luck.randint(1, 4))
        until(lambda: len(stage.presentations()) >= goal or time.monotonic() > started + 0.5)  # noqa: B023
        victim = luck.randrange(3)
        crew[victim].kill()
        for process in crew:
            process.hear()
        crew[victim] = stage.start(1, **settings)[0]
        for account in stage.rows():
            if account.refused_at:
                assert _ending(stage, crew[0], account.id) == LOST
                stage.reconnect(account.id)
    endings = {account_id: _ending(stage, crew[0], account_id) for account_id in ids}

    assert set(endings.values()) <= {RIGHT, LOST}, endings
    events = [kind for account_id in ids for kind in stage.events(account_id)]
    assert "refresh_refused" not in events
    lost = events.count("answer_lost")
    assert lost <= rounds, "only what a killed process had in its hands may be lost"
    assert not any(p["overlapped"] for p in stage.presentations())
    granted = [p["fingerprint"] for p in stage.presentations() if p["outcome"] == "granted"]
    if stage.makes_good:
        assert lost == 0
        return
    assert len(granted) == len(set(granted))
    grants = {token["fingerprint"]: token["grant_id"] for token in stage.sandbox.ledger()["tokens"]}
    assert len({grants[mark] for mark in stage.presented_twice()}) == lost, "others were presented once"


@pytest.mark.proves("R31", "F25")
def test_after_six_random_kills_every_account_is_right_or_says_that_its_answer_was_lost(stage: Stage):
    _kill_at_random(stage, seed=6, rounds=6)


@pytest.mark.long
@pytest.mark.proves("R31", "F25")
def test_after_three_hundred_random_kills_every_account_is_right_or_says_that_its_answer_was_lost(
    side_by_side: SideBySide,
):
    side_by_side(6, partial(_kill_at_random, rounds=50))
