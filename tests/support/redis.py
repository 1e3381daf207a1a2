"""A real Redis for the tests, of this test run's own.

Its program is the system's; `python -m tests.support.redis` installs it where it is missing and that is allowed, and
`make test` runs it first. Else the tests that want it are skipped. It listens on loopback behind a password and keeps
nothing on disk. `stop` and `start` let a test take it away and give it back.
"""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.packages import install_by_apt
from tests.support.server import free_port

START_TIMEOUT_SECONDS = 30
PASSWORD = "only-for-tests"


class RedisServer:
    """One running Redis."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        command = ["redis-server", "--port", str(self._port), "--bind", "127.0.0.1", "--requirepass", PASSWORD]
        command += ["--save", "", "--dir", str(self._folder), "--logfile", str(self._folder / "log")]
        self._process = subprocess.Popen(command, executable=self._program)
        ends = time.monotonic() + START_TIMEOUT_SECONDS
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < ends, "Redis did not start"
            time.sleep(0.02)

    def stop(self) -> None:
        """End it; what it held is gone."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(START_TIMEOUT_SECONDS)

    def _answers(self) -> bool:
        with redis.Redis.from_url(self.url) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


def find_program() -> str | None:
    """Return the path of a program that is a Redis, or speaks like one."""
    # Debian's redis-tools have the server, too, which goes by the name that it is called by, and start no service.
    return shutil.which("redis-server") or shutil.which("valkey-server") or shutil.which("redis-check-rdb")


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """Give a running Redis that holds nothing."""
    program = find_program()
    if program is None:
        pytest.skip("there is no Redis here: install redis-server")
    with tempfile.TemporaryDirectory(prefix="redis-") as name:
        server = RedisServer(program, Path(name))
        try:
            server.start()
            yield server
        finally:
            server.stop()


if __name__ == "__main__" and find_program() is None:
    install_by_apt("redis-tools")
