"""The folder of this host is full or damaged: worker and web go on, say so, and no marker is misunderstood."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from keap_connect import durable_files
from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.clock import utc_now
from keap_connect.database import read_session, write_transaction
from keap_connect.events.history import EventKind
from keap_connect.models import AccountEvent
from keap_connect.refresh import clone_guard
from keap_connect.refresh.heartbeat import list_workers
from tests.faults.conftest import Stage, program, until
from tests.support.engines import on_sqlite
from tests.support.real_server import real_server

pytestmark = on_sqlite


def _marker(stage: Stage) -> Path:
    return Path(stage.environ["INSTANCE_PATH"]) / clone_guard.MARK


def _stored(stage: Stage) -> str:
    with stage.app.app_context(), read_session() as session:
        return str(clone_guard._newest(session))


def _check(stage: Stage) -> bool:
    with stage.app.app_context():
        return clone_guard.check_instance()


@pytest.fixture
def full_disk(stage: Stage, tmp_path: Path) -> Iterator[Path]:
    """Give a file that fills the small disk of the instance folder."""
    folder = Path(stage.environ["INSTANCE_PATH"])
    kept = shutil.copytree(folder, tmp_path / "kept")
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", folder], capture_output=True, check=False
    )
    if mounting.returncode:
        pytest.skip("mounting a small disk is not allowed here; another test lets writing fail instead")
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield filler
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.proves("F86", "R29")
def test_worker_and_web_start_with_a_full_disk_say_so_and_work_again_when_there_is_room(
    stage: Stage, full_disk: Path, ready_command: list[str]
):
    first, second = *stage.add_accounts(), *stage.add_accounts(tenant_id="cd456")
    with stage.app.app_context():
        key = issue_api_key("jobs", [Scope.TOKENS_READ], "x").text

    def worker_says() -> str:
        with stage.app.app_context():
            return "".join(worker.pause_reason or "" for worker in list_workers())

    with (
        program(stage, "worker", command=ready_command) as worker,
        real_server(stage.environ, "serve", command=ready_command) as server,
    ):
        until(lambda: "disk for the recovery file is full" in worker_says())
        answer = server.ask(f"/api/v1/accounts/{first}/token", key)
        assert (answer[0], stage.presentations(), stage.alarms()) == (503, [], [])
        assert b"disk for the recovery file is full" in answer[1]
        full_disk.unlink()
        stage.change(second, next_refresh_at=utc_now())

        until(lambda: stage.row(second).refreshed_at)
        assert server.ask(f"/api/v1/accounts/{first}/token", key)[0] == 200
        until(lambda: worker_says() == "")
        assert worker.poll() is None
    assert stage.is_reconciled(first, second)


@pytest.mark.proves("F86")
def test_a_marker_that_cannot_be_written_moves_nothing_on_and_pauses_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    stage.add_accounts()
    before = _stored(stage)
    _marker(stage).unlink()

    with monkeypatch.context() as patch:
        patch.setattr(durable_files, "write_all", _is_full)
        goes_on = _check(stage)
        confirmed = stage.app.test_cli_runner().invoke(args=["refreshing", "confirm-only-one"])

    assert (goes_on, _stored(stage), stage.alarms()) == (True, before, [])
    assert "cannot be written (No space left on device)" in caplog.text
    assert (confirmed.exit_code, "Nothing is confirmed" in confirmed.stderr) == (4, True)
    assert list(_marker(stage).parent.glob("*.new")) == []
    assert _check(stage)
    assert _marker(stage).read_text() == _stored(stage) == before


def _is_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.proves("F87", "R41")
@pytest.mark.parametrize("kept", [0, 8, 16, 18, 30])
def test_a_marker_that_a_crash_cut_short_is_understood(stage: Stage, kept: int, caplog: pytest.LogCaptureFixture):
    (account_id,) = stage.add_accounts()
    facts = {"account_id": account_id, "kind": EventKind.REFRESHED, "actor": "test", "details": {}}
    with stage.app.app_context(), write_transaction() as session:
        session.add(AccountEvent(at=utc_now(), pair_mark="0123456789abcdef", **facts))
    whole = _stored(stage)
    assert [len(part) for part in whole.split()] == [16, 1, 16]
    _marker(stage).write_text(whole[:kept] or "\0" * 18)

    assert _check(stage)

    assert stage.alarms() == []
    assert ("was cut short by a crash" in caplog.text) == (kept > 0)
    assert _marker(stage).read_text() == whole


@pytest.mark.proves("F87", "R41")
@pytest.mark.parametrize("content", ["another 5 x\n", "another 0\n"])
def test_a_marker_of_something_else_pauses_refreshing_and_says_so(stage: Stage, content: str):
    stage.add_accounts()
    _marker(stage).write_text(content)

    assert not _check(stage)

    assert stage.alarms() == ["unknown_instance"]


@pytest.mark.proves("F87")
def test_a_marker_is_durable_before_it_takes_its_place_and_its_folder_after(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    _marker(stage).unlink()
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: (done.append(os.readlink(f"/proc/self/fd/{handle}")), fsync(handle))
    )
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("in place"), replace(*paths)))

    assert _check(stage)

    written, in_place, folder = done
    assert (written.endswith(".new"), in_place, folder) == (True, "in place", str(_marker(stage).parent))
