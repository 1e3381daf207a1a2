"""The sample for logrotate: the real program rotates both logs while they are written, and no line is lost."""

import getpass
import grp
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from keap_connect.events.hand_outs import LogFile
from tests.support.real_server import ROOT
from tests.support.tools import find_tool

SAMPLE = (ROOT / "deploy/logrotate/keap-connect").read_text(encoding="utf-8")


@pytest.fixture
def rotate(tmp_path: Path) -> Callable[[], None]:
    """Give the function that rotates what is in tmp_path, by the sample with only paths and user replaced."""
    program, settings = find_tool("logrotate"), tmp_path / "settings"
    user, group = getpass.getuser(), grp.getgrgid(os.getgid()).gr_name
    here = SAMPLE.replace("/var/lib/keap-connect", str(tmp_path)).replace(
        "/var/log/keap-connect", str(tmp_path / "log")
    )
    settings.write_text(here.replace("su keap-connect keap-connect", f"su {user} {group}"))
    settings.chmod(0o600)
    (tmp_path / "log").mkdir(mode=0o700)

    def rotate() -> None:
        command = [program, "--force", "--state", tmp_path / "state", settings]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")

    return rotate


def test_the_audit_log_goes_on_in_a_new_file_and_loses_no_line(
    rotate: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    now = 1000.0
    monkeypatch.setattr("keap_connect.events.hand_outs.seconds_since_boot", lambda: now)
    log = LogFile(tmp_path / "audit.log")
    log.add(b"1\n")

    rotate()
    log.add(b"2\n")  # it has not looked yet
    now += 2
    log.add(b"3\n")

    (renamed,) = tmp_path.glob("audit.log-*")
    assert renamed.read_bytes() == b"1\n2\n"
    assert (tmp_path / "audit.log").read_bytes() == b"3\n"
    assert (tmp_path / "audit.log").stat().st_mode & 0o777 == 0o600


def test_the_log_in_a_file_is_emptied_under_the_process_that_writes_it(rotate: Callable[[], None], tmp_path: Path):
    path = tmp_path / "log" / "worker.log"
    writer = (
        "import logging; from keap_connect.logs import start_logging; start_logging('INFO', 'JSON')\n"
        "while True: logging.getLogger('k').warning(input()); print('written', flush=True)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        path.open("ab") as appended,
        subprocess.Popen([sys.executable, "-c", writer], cwd=ROOT, stderr=appended, **pipes) as process,
    ):

        def write(line: str) -> None:
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "written\n"

        write("before")
        rotate()
        write("after")
        process.kill()

    (copied,) = path.parent.glob("worker.log-*")
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == ["after"]
    assert copied.name.endswith(".gz")
    assert b"before" in subprocess.run(["gzip", "-dc", copied], capture_output=True, check=True).stdout
