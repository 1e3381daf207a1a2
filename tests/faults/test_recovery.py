"""The database or the disk fails: what was granted waits in the recovery file, and without a lease nothing is sent."""

import contextlib
import fcntl
import os
import stat
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import sqlalchemy
from sqlalchemy import update

from keap_connect.accounts.changes import erase
from keap_connect.accounts.credentials import open_refresh_token
from keap_connect.accounts.directory import get_account
from keap_connect.accounts.state import AccountState
from keap_connect.clock import utc_now
from keap_connect.crypto import TokenCipher
from keap_connect.database import database_clock, read_session, write_transaction
from keap_connect.errors import TemporarilyUnavailable
from keap_connect.health.files import check_recovery
from keap_connect.keap import token_endpoint
from keap_connect.keap.token_response import TokenResponse
from keap_connect.models import RefreshBudget
from keap_connect.refresh import alarms, recovery, refresher, replaying
from keap_connect.refresh.due import reserve_calls
from keap_connect.refresh.lease import CLOSED
from keap_connect.refresh.serving import refresh_account
from keap_connect.refresh.storing import NewPair, Outcome
from keap_connect.services import services
from tests.conftest import TOKEN_KEY
from tests.faults.conftest import REPOSITORY, Outage, Process, Stage, until
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.real_server import real_server

PACE = 60  # lease 1 s, doubt wait 2 s, confirm wait 1 s, deadline 0.5 s
OTHER_KEY = b64encode(bytes(range(32, 64))).decode()


def _refresh_while_the_database_is_away(stage: Stage, outage: Outage, account_id: int, **settings: object) -> Process:
    """Take the database away between Keap's answer and the commit."""
    (holder,) = stage.start(1, BUSY_TIMEOUT_MS=200, **settings)
    stage.sandbox.hold("refresh", where="after")
    holder.tell("refresh", account_id)
    stage.sandbox.wait_held(1)
    outage.begin()
    stage.sandbox.release()
    return holder


@pytest.mark.proves("R30", "F86")
@pytest.mark.parametrize("fault", [KeyError("a fault"), sqlalchemy.exc.IntegrityError("", {}, Exception())])
def test_a_fault_of_our_own_between_answer_and_commit_loses_no_pair(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, fault: Exception
):
    """While the fault lasts in a living process, nobody presents the used token; then the pair is stored."""
    (account_id,) = stage.add_accounts()
    with stage.app.app_context():

        def is_on_hold() -> bool:
            replaying.replay()
            return str(stage.row(account_id).lease_owner).endswith(CLOSED)

        with monkeypatch.context() as patch:
            for module in (refresher, replaying):
                patch.setattr(module, "store_granted", Mock(side_effect=fault))
            with pytest.raises((KeyError, TemporarilyUnavailable)):
                refresh_account(account_id, "test")
            until(is_on_hold)
            with pytest.raises(TemporarilyUnavailable, match="recovery file that is not stored"):
                refresh_account(account_id, "test")
        recovery.wait_for_pairs_in_memory()  # there is none, so it ends
        replaying.replay()

    assert (stage.is_reconciled(account_id), stage.kept_files()) == (True, [])
    assert len(stage.presentations()) == 1


def _stumble(*_: object) -> None:
    raise KeyError("a fault")


@pytest.mark.proves("R28", "R30", "F34")
def test_a_pair_the_database_refused_is_stored_once_it_is_back(stage: Stage, outage: Outage):
    (account_id,) = stage.add_accounts()
    holder = _refresh_while_the_database_is_away(stage, outage, account_id)

    answer = holder.hear()[0]
    (file,) = until(stage.kept_files)
    content = file.read_bytes()
    outage.end()

    assert answer["error"] == "TemporarilyUnavailable"
    assert "token" not in answer
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    until(lambda: stage.is_reconciled(account_id))
    until(lambda: not stage.kept_files())
    token = holder.ask("valid_token", account_id)["token"]
    assert token.encode() not in content
    assert token not in stage.logs()
    assert len(stage.presentations()) == 1


@pytest.mark.long
@pytest.mark.proves("R28", "R30", "F34")
def test_a_pair_waits_for_a_minute_and_is_stored_then(stage: Stage, outage: Outage):
    """So long that its lease is over; meanwhile others ask."""
    stage.sandbox.switch(family_revocation=True)
    (account_id,) = stage.add_accounts()
    (other,) = stage.start(1, BUSY_TIMEOUT_MS=200)
    holder = _refresh_while_the_database_is_away(stage, outage, account_id)
    holder.hear()
    ends = time.monotonic() + 65
    while time.monotonic() < ends:
        assert other.ask("valid_token", account_id, patience_seconds=1)["error"] == "TemporarilyUnavailable"
    outage.end()

    until(lambda: stage.is_reconciled(account_id))
    until(lambda: other.ask("valid_token", account_id)["ok"])
    assert len(stage.presentations()) == 1


@pytest.mark.proves("R75", "F33", "F34")
def test_a_token_that_holds_is_served_while_the_database_is_away(stage: Stage, outage: Outage):
    (account_id,) = stage.add_accounts(expires_in_seconds=45)  # so short that a refresh is tried first
    (process,) = stage.start(1, BUSY_TIMEOUT_MS=200)
    stage.sandbox.hold("refresh", where="after")
    process.tell("valid_token", account_id)
    stage.sandbox.wait_held(1)
    outage.begin()
    stage.sandbox.release()

    (answer,) = process.hear()
    outage.end()

    assert answer["token"]
    assert "safe" in answer["warning"]
    until(lambda: stage.is_reconciled(account_id))


@pytest.mark.proves("R30", "F34")
def test_a_pair_survives_the_death_of_its_process_and_a_restart(stage: Stage, outage: Outage):
    (account_id,) = stage.add_accounts()
    holder = _refresh_while_the_database_is_away(stage, outage, account_id)
    holder.hear()
    until(stage.kept_files)
    holder.kill()
    outage.end()

    (fresh,) = stage.start(1)
    fresh.ask("sweep")

    assert stage.is_reconciled(account_id)
    assert len(stage.presentations()) == 1
    assert not stage.kept_files()


# `./keap-connect`, with a database that refuses the pair, and a disk or memory that is full while a file is there.
FULL_DISK = """
import errno, sys
from pathlib import Path
from keap_connect.__main__ import main
from keap_connect.refresh import recovery, refresher, replaying

def refuse(*_):
    raise KeyError("a fault")

def write(handle, content, write_all=recovery.write_all):
    if content.strip(b"\\0") and Path(full).exists():
        raise problem
    write_all(handle, content)

full, what = sys.argv.pop(1), sys.argv.pop(1)
problem = MemoryError() if what == "memory" else OSError(errno.ENOSPC, "No space left on device")
refresher.store_granted = replaying.store_granted = refuse
recovery.write_all = write
main()
"""


@on_sqlite
@pytest.mark.proves("F83", "F86", "R30")
@pytest.mark.parametrize("what", ["disk", "memory"])
def test_a_command_that_is_told_to_stop_writes_the_pair_in_its_memory_first(stage: Stage, tmp_path: Path, what: str):
    (account_id,) = stage.add_accounts()
    full, log = tmp_path / "full", tmp_path / "log"
    full.touch()
    command = [sys.executable, "-c", FULL_DISK, str(full), what, "accounts", "refresh", str(account_id)]
    environ = {"PATH": "/usr/bin:/bin", **stage.environ}
    with log.open("w") as errors, subprocess.Popen(command, cwd=REPOSITORY, env=environ, stderr=errors) as process:
        until(lambda: "in memory only" in log.read_text())
        process.terminate()
        said = log.read_text().count("in memory only")
        until(lambda: log.read_text().count("in memory only") > said + 1)
        assert process.poll() is None
        full.unlink()
        assert process.wait(60) != 0
    assert stage.kept_files()

    (fresh,) = stage.start(1)
    fresh.ask("sweep")
    assert stage.is_reconciled(account_id)
    assert len(stage.presentations()) == 1


@on_sqlite
@pytest.mark.proves("R30")
def test_a_pair_that_a_dead_process_kept_is_stored_before_the_first_lease_is_taken(stage: Stage, outage: Outage):
    stage.sandbox.switch(family_revocation=True)
    (account_id,) = stage.add_accounts()
    holder = _refresh_while_the_database_is_away(stage, outage, account_id, PACE=PACE)
    holder.hear()
    holder.kill()
    outage.end()
    (fresh,) = stage.start(1, PACE=PACE)
    until(lambda: not stage.is_held(account_id))

    until(lambda: fresh.ask("valid_token", account_id)["ok"])

    assert stage.is_reconciled(account_id)
    assert len(stage.presentations()) == 1


@pytest.mark.proves("R30")
def test_nobody_presents_the_old_token_while_its_holder_waits_for_the_database(stage: Stage, outage: Outage):
    (account_id,) = stage.add_accounts()
    stage.sandbox.switch(family_revocation=True)
    (other,) = stage.start(1, PACE=15, BUSY_TIMEOUT_MS=200)  # lease 4 s, doubt wait 8 s
    holder = _refresh_while_the_database_is_away(stage, outage, account_id, PACE=15)
    holder.hear()
    holder.freeze()  # it cannot store the pair yet, although the database is back
    other.ask("sweep")  # the database fails this process too
    outage.end()

    until(lambda: not stage.is_leased(account_id))  # an outage longer than the lease
    rests = until(lambda: "rests" in (said := other.ask("valid_token", account_id)["message"]) and said)
    holder.thaw()

    assert "Nobody knows yet" in rests
    until(lambda: stage.is_reconciled(account_id))
    assert len(stage.presentations()) == 1


@on_sqlite
@pytest.mark.proves("R40")
@pytest.mark.parametrize("meanwhile", ["reconnected", "disconnected"])
def test_a_kept_pair_obeys_the_fence(stage: Stage, outage: Outage, meanwhile: str):
    (account_id,) = stage.add_accounts()
    holder = _refresh_while_the_database_is_away(stage, outage, account_id)
    holder.hear()
    until(stage.kept_files)
    holder.kill()
    outage.end()
    if meanwhile == "reconnected":
        stage.reconnect(account_id)
    else:
        stage.disconnect(account_id)
    before = stage.row(account_id).refresh_token_sealed

    (fresh,) = stage.start(1)
    fresh.ask("sweep")

    assert stage.row(account_id).refresh_token_sealed == before
    assert not stage.kept_files()
    assert len(stage.presentations()) == 1


@on_sqlite
@pytest.mark.proves("R30")
@pytest.mark.parametrize("damage", ["cut short", "edited", "nonsense"])
def test_a_recovery_file_that_does_not_open_is_put_aside_and_said_loudly(stage: Stage, damage: str):
    account_id, other = stage.add_accounts(2)
    kept = _keep_a_pair(stage, account_id)
    content = kept.read_bytes()
    damaged = {"cut short": content[:-9], "edited": content.replace(b'"generation": 1', b'"generation": 2')}
    kept.write_bytes(damaged.get(damage, b"[]"))
    (process,) = stage.start(1)

    assert process.ask("refresh", other)["ok"]

    assert kept.with_suffix(".broken").exists()
    assert "CRITICAL" in stage.logs()
    assert "does not open" in stage.logs()


def _keep_a_pair(
    stage: Stage, account_id: int, key: str = TOKEN_KEY, version: type[TokenResponse] = TokenResponse
) -> Path:
    """Refresh behind the app's back, as a process does that keeps the new pair and dies; return its file."""
    with stage.app.app_context():
        account = get_account(account_id)
        answer = token_endpoint.refresh(services().keap, open_refresh_token(account) or "")
    pair = NewPair(account_id, account.generation, version(**vars(answer.token_response)), "test")
    kept = stage.recovery_folder / "0123456789abcdef.pair"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(recovery._sealed(TokenCipher((b64decode(key),)), pair))
    stage.change(account_id, lease_owner="0123456789abcdef:01234567", lease_ends=1.0, attempted_at=utc_now())
    return kept


@on_sqlite
@pytest.mark.proves("R30", "R47", "F40")
def test_a_kept_pair_waits_for_its_key_and_the_used_token_is_not_presented(stage: Stage):
    stage.sandbox.switch(family_revocation=True)
    account_id, other = stage.add_accounts(2)
    kept = _keep_a_pair(stage, account_id, OTHER_KEY)
    (process,) = stage.start(1, PACE=PACE)

    assert process.ask("sweep")["refreshed"] == 1
    for patience in (0, 3):  # longer than a used token rests when nobody knows about it
        refused = process.ask("valid_token", account_id, patience_seconds=patience)
        assert "recovery file that is not stored" in refused["message"]

    assert stage.is_reconciled(other)
    assert len(stage.presentations()) == 2
    assert stage.state(account_id) is AccountState.AT_RISK
    assert stage.logs().count("TOKEN_KEYS lacks the key") == 1
    with stage.app.app_context():
        assert stage.kept_files() == [kept]
        assert ["TOKEN_KEYS lacks the key" in one.sentence for one in check_recovery()] == [True]

    (knowing,) = stage.start(1, TOKEN_KEYS=f"{TOKEN_KEY},{OTHER_KEY}")
    knowing.ask("sweep")

    assert (stage.is_reconciled(account_id), stage.kept_files()) == (True, [])
    assert stage.state(account_id) is AccountState.ACTIVE
    assert len(stage.presentations()) == 2


@dataclass(frozen=True)
class _NewerResponse(TokenResponse):
    """What a later version reads of an answer."""

    device: str | None = None


@on_sqlite
@pytest.mark.proves("R30")
def test_a_kept_pair_of_another_version_waits_for_it_and_the_worker_goes_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    account_id, other = stage.add_accounts(2)
    kept = _keep_a_pair(stage, account_id, version=_NewerResponse)
    (process,) = stage.start(1)

    assert process.ask("sweep")["refreshed"] == 1
    assert process.ask("refresh", account_id)["error"] == "TemporarilyUnavailable"

    assert (stage.is_reconciled(other), stage.kept_files()) == (True, [kept])
    assert "another version of this program wrote them" in stage.logs()
    monkeypatch.setattr(recovery, "TokenResponse", _NewerResponse)
    with stage.app.app_context():
        replaying.replay()
    assert (stage.is_reconciled(account_id), stage.kept_files()) == (True, [])
    assert len(stage.presentations()) == 2


@on_sqlite
@pytest.mark.proves("R30", "F86")
@pytest.mark.parametrize(
    "fault",
    [
        KeyError("a fault"),
        sqlalchemy.exc.DataError("", {}, Exception()),
        sqlalchemy.exc.StatementError("", "", {}, None),
    ],
)
def test_a_fault_with_one_kept_pair_keeps_only_its_account_waiting(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, fault: Exception
):
    faulty, other = stage.add_accounts(2)
    kept = _keep_a_pair(stage, faulty)
    with stage.app.app_context():
        with monkeypatch.context() as patch:
            patch.setattr(replaying, "store_granted", Mock(side_effect=fault))
            replaying.replay()
            with pytest.raises(TemporarilyUnavailable, match="recovery file that is not stored"):
                refresh_account(faulty, "test")
            refresh_account(other, "test")
        assert stage.kept_files() == [kept]
        replaying.replay()

    assert (stage.is_reconciled(faulty, other), stage.kept_files()) == (True, [])
    assert len(stage.presentations()) == 2


@on_sqlite
@pytest.mark.proves("R30", "F86")
def test_a_fault_before_or_after_the_question_about_a_pair_that_is_ahead_ends_no_worker(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    faulty, other = stage.add_accounts(2)
    kept = _keep_a_pair(stage, faulty)
    stage.change(faulty, generation=stage.row(faulty).generation - 1)
    with stage.app.app_context():
        for faulty_part in (alarms, "raise_alarm"), (replaying, "hold"):
            with monkeypatch.context() as patch:
                patch.setattr(*faulty_part, _stumble)
                replaying.replay()
                refresh_account(other, "test")
        replaying.replay()
        assert stage.alarms() == [alarms.UNKNOWN_INSTANCE]
        alarms.resume([alarms.UNKNOWN_INSTANCE], "test")  # the operator confirms on another host
        with monkeypatch.context() as patch:
            patch.setattr(replaying, "store_granted", Mock(side_effect=[Outcome.AHEAD, KeyError("a fault")]))
            replaying.replay()
        assert (stage.kept_files(), stage.alarms()) == ([kept], [])
        replaying.replay()

    assert (stage.is_reconciled(faulty, other), stage.kept_files(), stage.alarms()) == (True, [], [])
    assert len(stage.presentations()) == 3


@on_sqlite
def test_a_pair_that_is_ahead_is_deleted_if_its_account_is_erased_before_the_question(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    def erase_first(*question: Any) -> bool:
        erase(account_id, "test")
        return is_confirmed(*question)

    (account_id,) = stage.add_accounts()
    _keep_a_pair(stage, account_id)
    stage.change(account_id, generation=stage.row(account_id).generation - 1)
    is_confirmed = replaying._is_confirmed
    monkeypatch.setattr(replaying, "_is_confirmed", erase_first)
    with stage.app.app_context():
        replaying.replay()

    assert (stage.kept_files(), stage.alarms()) == ([], [])


@on_sqlite
def test_a_failing_database_is_no_fault_with_one_kept_pair(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    (account_id,) = stage.add_accounts()
    _keep_a_pair(stage, account_id)
    away = sqlalchemy.exc.OperationalError("", {}, Exception())
    monkeypatch.setattr(replaying, "store_granted", Mock(side_effect=away))
    with stage.app.app_context(), pytest.raises(sqlalchemy.exc.OperationalError):
        replaying.replay()


@on_sqlite
@pytest.mark.proves("R30")
def test_a_worker_that_waits_for_its_calls_stores_what_a_dead_process_left(stage: Stage):
    claimed, other = stage.add_accounts(2)
    stage.change(other, next_refresh_at=None)
    with stage.app.app_context():
        reserve_calls(1)
        with write_transaction() as session:
            session.execute(update(RefreshBudget).values(next_call=database_clock() + 300))
    (worker,) = stage.start(1, REFRESH_RATE_PER_MINUTE=60)
    worker.ask("work")
    until(lambda: stage.row(claimed).claimed_until)

    _keep_a_pair(stage, other)

    until(lambda: stage.is_reconciled(other))
    until(lambda: not stage.kept_files())
    assert len(stage.presentations()) == 1


@on_sqlite
@pytest.mark.proves("R30")
def test_a_web_process_stores_what_a_dead_process_left_before_anybody_asks(stage: Stage, ready_command: list[str]):
    (account_id,) = stage.add_accounts()
    _keep_a_pair(stage, account_id)

    with real_server(stage.environ, "serve", command=ready_command):
        until(lambda: not stage.kept_files())

    assert stage.is_reconciled(account_id)


@on_sqlite
@pytest.mark.parametrize("meanwhile", ["reconnected", "reconnected after a restore", "disconnected"])
def test_a_kept_pair_that_cannot_be_opened_is_deleted_once_its_account_needs_it_no_more(stage: Stage, meanwhile: str):
    (account_id,) = stage.add_accounts()
    kept = _keep_a_pair(stage, account_id, OTHER_KEY)
    with stage.app.app_context():
        replaying.replay()
        assert kept.exists()
        if "restore" in meanwhile:
            older = {"generation": stage.row(account_id).generation - 1, "outcome_unknown_since": None}
            stage.change(account_id, attempted_at=None, lease_owner=None, lease_ends=None, **older)
        if "reconnected" in meanwhile:
            stage.reconnect(account_id)
        else:
            stage.disconnect(account_id)
        replaying.replay()

    assert not list(kept.parent.glob(f"{kept.stem}.*"))


@on_sqlite
def test_a_file_being_allocated_is_not_taken_for_one_of_a_dead_process(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    lock = fcntl.flock

    def replay_by_another_process_first(handle: int, how: int) -> None:
        monkeypatch.setattr("keap_connect.refresh.recovery.fcntl.flock", lock)
        replaying.replay()
        lock(handle, how)

    monkeypatch.setattr("keap_connect.refresh.recovery.fcntl.flock", replay_by_another_process_first)
    with stage.app.app_context():
        (slot,) = recovery.allocate(1)

    assert os.fstat(slot.handle).st_nlink == 1
    assert slot.path.stat().st_ino == os.fstat(slot.handle).st_ino


@on_sqlite
def test_new_files_of_processes_that_ended_are_deleted_and_no_others(stage: Stage):
    folder = stage.recovery_folder
    folder.mkdir(parents=True, exist_ok=True)
    abandoned, locked, young = (folder / f"{name}.new" for name in ("abandoned", "locked", "young"))
    for path in (abandoned, locked, young):
        path.touch()
    for path in (abandoned, locked):
        os.utime(path, (time.time() - 120, time.time() - 120))

    with locked.open() as file, stage.app.app_context():
        fcntl.flock(file, fcntl.LOCK_EX)
        replaying.replay()

    assert set(folder.iterdir()) == {locked, young}


@on_sqlite
@pytest.mark.proves("F86")
def test_a_recovery_file_that_cannot_be_read_is_said_and_stops_nobody(stage: Stage):
    (account_id,) = stage.add_accounts()
    (stage.recovery_folder / "0.pair").mkdir(parents=True)
    (process,) = stage.start(1)

    assert process.ask("sweep") == {"ok": True, "refreshed": 1, "failed": 0}

    assert stage.is_reconciled(account_id)
    assert "0.pair cannot be read or deleted" in stage.logs()


# Nothing is written, so nothing is sent


@pytest.mark.proves("R29", "F33", "F36", "F38")
def test_nothing_is_sent_when_the_lease_cannot_be_written(stage: Stage, outage: Outage):
    (account_id,) = stage.add_accounts()
    (process,) = stage.start(1, BUSY_TIMEOUT_MS=200)
    outage.begin()

    answer = process.ask("refresh", account_id)
    outage.end()

    assert answer["error"] == "TemporarilyUnavailable"
    assert stage.presentations() == []
    until(lambda: process.ask("refresh", account_id)["ok"])
    assert len(stage.presentations()) == 1


@on_sqlite
@pytest.mark.proves("F36")
def test_a_writer_of_ten_seconds_delays_an_answer_and_loses_no_pair(stage: Stage, outage: Outage):
    """The writer is there for ten busy times out of one second each, as ten seconds are for the usual one of ten."""
    ids = stage.add_accounts(3)
    stage.sandbox.switch(family_revocation=True)
    (process,) = stage.start(1, BUSY_TIMEOUT_MS=1000)
    stage.sandbox.hold("refresh", where="after")
    process.tell("sweep")
    stage.sandbox.wait_held(3)
    outage.begin()
    stage.sandbox.release()

    until(lambda: len(stage.kept_files()) == 3)
    outage.end()

    until(lambda: stage.is_reconciled(*ids))
    assert len(stage.presentations()) == 3
    assert process.hear()[0]["ok"]


@on_postgresql
@pytest.mark.proves("F33", "F34", "F38")
def test_postgresql_stopped_at_once_under_load_loses_nothing(stage: Stage, outage: Outage):
    stage.sandbox.switch(family_revocation=True, token_delay_seconds=0.05)
    ids = stage.add_accounts(60)
    worker, jobs, more_jobs = stage.start(3, PACE=15)  # lease 4 s, doubt wait 8 s
    worker.ask("work")
    for round_ in range(2):
        goal = len(stage.presentations()) + 8
        jobs.tell("valid_token", ids[-1 - round_], callers=12)
        more_jobs.tell("valid_token", ids[-1 - round_], callers=12)
        until(lambda: len(stage.presentations()) >= goal)  # noqa: B023
        outage.begin()
        jobs.hear()
        more_jobs.hear()
        outage.end()

    def is_all_well() -> bool:
        stage.change(*ids, last_used_at=None)
        waiting = [row.id for row in stage.rows() if row.refreshed_at is None]
        stage.change(*waiting, next_refresh_at=stage.row(ids[0]).created_at)
        return not waiting and not stage.kept_files()

    until(is_all_well)
    worker.ask("rest")

    assert stage.presented_twice() == []
    assert stage.is_reconciled(*ids)
    assert [row.outcome_unknown_since for row in stage.rows()] == [None] * 60


# A disk that is full


@pytest.fixture
def tiny_disk(stage: Stage) -> Iterator[Path]:
    """Give a recovery folder on a disk that is full."""
    folder = stage.recovery_folder
    folder.mkdir(parents=True, exist_ok=True)
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "none", folder], capture_output=True, check=False
    )
    if mounting.returncode:
        pytest.skip("mounting a small disk is not allowed here; another test limits the size of files instead")
    yield folder
    for process in stage.processes:
        process.kill()
    subprocess.run(["umount", folder], check=True)


def _open_files(process: Process) -> int:
    return len(os.listdir(f"/proc/{process.pid}/fd"))


@on_sqlite
@pytest.mark.proves("R29", "F35")
def test_nothing_is_sent_when_the_disk_of_the_recovery_file_is_full(stage: Stage, tiny_disk: Path):
    (account_id,) = stage.add_accounts()
    (process,) = stage.start(1)

    answer = process.ask("refresh", account_id)
    before = _open_files(process)
    again = process.ask("refresh", account_id)

    assert answer["error"] == again["error"] == "RecoveryUnavailable"
    assert stage.presentations() == []
    assert "CRITICAL" in stage.logs()
    assert "nothing is refreshed" in stage.logs()
    assert stage.row(account_id).attempt_fingerprint is None
    assert list(tiny_disk.iterdir()) == []
    assert _open_files(process) == before


@pytest.mark.proves("R29", "F35")
def test_nothing_is_sent_when_no_file_may_grow(stage: Stage):
    (account_id,) = stage.add_accounts()
    (process,) = stage.start(1)
    process.ask("limit_files", most_bytes=4096)

    answer = process.ask("refresh", account_id)

    assert answer["error"] == "RecoveryUnavailable"
    assert stage.presentations() == []
    assert "CRITICAL" in stage.logs()


@on_sqlite
@pytest.mark.proves("R29", "F35")
def test_nothing_is_sent_when_the_disk_of_the_database_is_full(stage: Stage):
    first, second = stage.add_accounts(2)
    (process,) = stage.start(1)
    assert process.ask("refresh", first)["ok"]  # its recovery file is allocated now
    process.ask("limit_files", most_bytes=4096)

    answer = process.ask("refresh", second)

    assert answer["error"] == "TemporarilyUnavailable"
    assert len(stage.presentations()) == 1
    assert process.ask("valid_token", first)["ok"]  # other reads work


def test_errors_of_the_database_are_seen_as_trouble(stage: Stage, outage: Outage):
    from keap_connect.database import Trouble

    Trouble.last_at = -1e9
    outage.begin()
    with stage.app.app_context(), contextlib.suppress(sqlalchemy.exc.DBAPIError), read_session() as session:
        session.execute(sqlalchemy.text("SELECT nothing FROM nowhere"))
    outage.end()

    assert Trouble.last_at > 0
