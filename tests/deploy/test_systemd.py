"""The units for systemd: right in its eyes, and their commands say when they are ready, alive and ending."""

import asyncio
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import suppress
from pathlib import Path

import pytest
import requests
from flask import Flask

from keap_connect.refresh import recovery, worker
from keap_connect.server.serve import keep_supervisor_informed
from keap_connect.supervisor import ALIVE, ENDING, READY
from tests.support.engines import on_sqlite
from tests.support.real_server import ROOT
from tests.support.server import free_port

UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))
HOME, USER = "/opt/keap-connect", "keap-connect"
NOBODY = 65534  # may run the program and read its files, as the user of the units
PATIENCE_SECONDS = 60
SEVEREST = 30  # of 100, in `systemd-analyze security`


class Supervisor:
    """Receives what a process says, as systemd does."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(PATIENCE_SECONDS)

    def wait_for(self, state: str) -> list[str]:
        """Return what came, up to this state."""
        heard = [""]
        while heard[-1] != state:
            heard.append(self._socket.recv(1000).decode())
        return heard[1:]

    def hear_all(self, seconds: float) -> int:
        """Count what has come and what comes within so many seconds after the last one."""
        self._socket.settimeout(seconds)
        count = 0
        with suppress(TimeoutError):
            while self._socket.recv(1000):
                count += 1
        self._socket.settimeout(PATIENCE_SECONDS)
        return count

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder of nobody's, in one that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="systemd-") as name:
        if os.geteuid() == 0:
            os.chown(name, NOBODY, NOBODY)
        yield Path(name)


@pytest.fixture
def supervisor(folder: Path) -> Iterator[Supervisor]:
    made = Supervisor(folder)
    made.path.chmod(0o666)
    yield made
    made.close()


def service_of(unit: Path) -> dict[str, str]:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit.read_text(encoding="utf-8"))
    return dict(parser["Service"])


def as_user(service: dict[str, str]) -> list[str]:
    """Return the command that starts another one with the user and the limits of a unit; without root, as ourselves."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # only a privileged process can raise it
    limits = ["prlimit", f"--nofile={min(int(service['LimitNOFILE']), most)}"]
    if os.geteuid() != 0:
        return limits
    ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
    may_read = subprocess.run(["setpriv", *ids, sys.executable, "-c", "import flask"], cwd=ROOT, check=False)
    if may_read.returncode:
        pytest.skip("another user may not read this folder")
    return [*limits, "setpriv", *ids]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze here")
@pytest.mark.proves("R93")
def test_systemd_takes_the_units_and_finds_them_hardened(tmp_path: Path):
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8").replace(HOME, str(ROOT)).replace(f"={USER}\n", "=root\n")
        (tmp_path / unit.name).write_text(text.replace(f"{ROOT}/.venv/bin/python", sys.executable))
    named = [str(tmp_path / unit.name.replace("@", "@5000")) for unit in UNITS]

    verified = subprocess.run(["systemd-analyze", "verify", *named], capture_output=True, text=True, check=False)
    judge = ["systemd-analyze", "security", "--offline=true", f"--threshold={SEVEREST}"]
    judged = [subprocess.run([*judge, unit], capture_output=True, text=True, check=False) for unit in UNITS]

    assert (verified.returncode, verified.stderr) == (0, "")
    assert [one.returncode for one in judged] == [0, 0], judged


@pytest.mark.skipif(not shutil.which("prlimit"), reason="there is no prlimit here")
@pytest.mark.proves("F83", "R93")
@on_sqlite
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_command_of_a_unit_says_how_it_is(
    unit: Path, folder: Path, supervisor: Supervisor, environ: dict[str, str], empty_sqlite: Path
):
    service, port = service_of(unit), free_port()
    database = shutil.copy(empty_sqlite, folder / "app.db")
    if os.geteuid() == 0:
        os.chown(database, NOBODY, NOBODY)
    places = {"DATABASE_URL": f"sqlite:///{database}", "INSTANCE_PATH": str(folder), "AUDIT_LOG": "", "PORT": str(port)}
    said = {"NOTIFY_SOCKET": str(supervisor.path), "WATCHDOG_USEC": "2000000", "PATH": os.environ["PATH"]}
    command = service["ExecStart"].replace(f"{HOME}/.venv/bin/python", sys.executable).split()
    inside = environ | places | said | {"PYTHONDONTWRITEBYTECODE": "1"}

    process = subprocess.Popen([*as_user(service), *command], cwd=ROOT, env=inside, umask=int(service["UMask"], 8))
    try:
        supervisor.wait_for(READY)
        if "web" in unit.name:
            assert requests.get(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE_SECONDS).text == "ok\n"
        supervisor.wait_for(ALIVE)
        process.send_signal(signal.SIGTERM)
        supervisor.wait_for(ENDING)
        assert process.wait(int(service["TimeoutStopSec"])) == 0
    finally:
        process.kill()
        process.wait()


def test_a_process_imports_from_the_version_that_it_began_with(tmp_path: Path):
    (tmp_path / "keap-connect").symlink_to(ROOT)  # an upgrade points it to another folder
    (tmp_path / "venv").symlink_to(sys.prefix)
    code = "import keap_connect.__main__ as main, sys; print(*sys.path, main.click.__file__)"
    command = [tmp_path / "venv/bin/python", "-c", code]

    said = subprocess.run(command, cwd=tmp_path / "keap-connect", capture_output=True, text=True, check=True).stdout

    assert os.path.realpath(sys.prefix) in said
    assert str(tmp_path) not in said


def test_an_end_that_waits_for_a_place_for_new_tokens_asks_for_more_time(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
):
    class FullDisk:
        tries = 0

        def write_down(self) -> None:
            self.tries += 1
            if self.tries == 3:
                recovery._unstored.clear()

    monkeypatch.setenv("NOTIFY_SOCKET", str(supervisor.path))
    monkeypatch.setattr(recovery, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(recovery, "_unstored", {FullDisk()})

    recovery.wait_for_pairs_in_memory()

    assert supervisor.hear_all(0.01) == 2


def test_an_event_loop_that_hangs_is_not_said_to_be_alive(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(supervisor.path))
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    hangs, goes_on = threading.Event(), threading.Event()

    async def serve_and_hang(port: int) -> None:
        informing = asyncio.create_task(keep_supervisor_informed("127.0.0.1", port))
        await asyncio.to_thread(supervisor.wait_for, ALIVE)
        hangs.set()
        goes_on.wait(PATIENCE_SECONDS)
        informing.cancel()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=lambda: asyncio.run(serve_and_hang(listening.getsockname()[1])))
        thread.start()
        hangs.wait(PATIENCE_SECONDS)
        supervisor.hear_all(0.01)  # what came before
        later = supervisor.hear_all(0.2)
        goes_on.set()
        thread.join()

    assert later == 0


@on_sqlite
def test_a_worker_that_hangs_is_not_said_to_be_alive(
    app: Flask, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("NOTIFY_SOCKET", str(supervisor.path))
    monkeypatch.setattr(worker, "BEAT_SECONDS", 0.0)
    monkeypatch.setattr(worker, "IDLE_SECONDS", 0.0)
    hangs, goes_on, first_look = threading.Event(), threading.Event(), [True]

    def claim_and_hang(*_: object, **__: object) -> list[int]:
        if not first_look:
            hangs.set()
            goes_on.wait(PATIENCE_SECONDS)
        first_look.clear()
        return []

    monkeypatch.setattr(worker, "claim_due", claim_and_hang)
    running = worker.RefreshWorker(app)

    def work() -> None:
        with app.app_context():
            running.run()

    thread = threading.Thread(target=work)
    thread.start()
    assert supervisor.wait_for(ALIVE) == [READY, ALIVE]
    hangs.wait(PATIENCE_SECONDS)
    supervisor.hear_all(0.01)
    later = supervisor.hear_all(0.2)
    running.stop()
    goes_on.set()
    thread.join()

    assert later == 0
    assert supervisor.wait_for(ENDING)
