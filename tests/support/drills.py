"""What a drill needs: the commands of a document to the letter, and a shell for them beside a real installation."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy

from tests.support.postgres import client_program
from tests.support.ready_commands import DIES_AT
from tests.support.sandbox import Sandbox

ROOT = Path(__file__).parent.parent.parent
PATIENCE_SECONDS = 300
Finished = subprocess.CompletedProcess[str]


def documented_lines(document: str, words: str) -> str:
    """Return the one code block of a document that has these words."""
    chapter = (ROOT / "docs" / document).read_text(encoding="utf-8")
    (found,) = (block for block in re.findall(r"```sh\n(.*?)```", chapter, re.DOTALL) if words in block)
    return found


class Shell:
    """A shell in a folder that has `./keap-connect`, with the settings of the tests."""

    def __init__(self, environ: dict[str, str], folder: Path, command: list[str]) -> None:
        self.folder, self.command = folder, command
        self.backups = folder / "backups"
        self.backups.mkdir()
        script = folder / "keap-connect"
        script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        script.chmod(0o755)
        self.environ = {
            "PATH": f"{client_program('pg_dump').parent}:{os.environ['PATH']}",
            "FLASK_SKIP_DOTENV": "1",
            **environ,
            "LOG_LEVEL": "INFO",
        }

    def run(self, lines: str, **changes: str) -> Finished:
        """Run the document's lines with another folder for the backups; they never end in a traceback."""
        text = lines.replace("/backups/", f"{self.backups}/")
        environ = {**self.environ, **changes}
        done = subprocess.run(
            ["sh", "-c", text],
            cwd=self.folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr
        return done

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command that runs until it is ended."""
        command = [sys.executable, "-m", "keap_connect", *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=self.environ)

    def kill_at(self, module: str, function: str, when: str, *arguments: str) -> None:
        """Run a command that is killed as by kill -9 "before" or "after" a function of a module."""
        environ = {**self.environ, DIES_AT: f"{module} {function} {when}"}
        command = [*self.command, *arguments]
        done = subprocess.run(command, env=environ, timeout=PATIENCE_SECONDS, check=False)
        assert done.returncode == -signal.SIGKILL


@pytest.fixture
def shell(environ: dict[str, str], tmp_path: Path, ready_command: list[str]) -> Shell:
    return Shell(environ, tmp_path, ready_command)


def refreshes(sandbox: Sandbox) -> int:
    """Return how many refresh tokens were presented."""
    return len([one for one in sandbox.ledger()["presentations"] if one["kind"] == "refresh_token"])


def make_due(database_url: str) -> None:
    """Let every account be refreshed now."""
    engine = sqlalchemy.create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE account SET next_refresh_at = '2020-01-01 00:00:00+00'"))
    engine.dispose()


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait for a condition."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.05)
