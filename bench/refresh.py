"""Measures a sweep of due accounts by the real worker, in turns with a bare loop that sends the same requests.

Environment: N=10000 accounts, ROUNDS=1 (medians are shown), PROCESSES=1,2 workers. Everything it loads it starts
itself and ends by its process id: a token endpoint that answers after 50 ms, PostgreSQL with its waits for the disk,
the workers.
"""

import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

from bench.accounts import count_refreshed, environ, fill
from keap_connect.refresh.worker_pool import CALLS_AT_ONCE
from keap_connect.settings import Settings
from tests.support import postgres

REPOSITORY = Path(__file__).parent.parent
DELAY_SECONDS = "0.05"
FEWER = 10  # memory and processor time are compared with a sweep of a tenth of the accounts
ENGINES = ("SQLite", "PostgreSQL")


@dataclass(frozen=True)
class Sweep:
    """What one sweep showed. `seconds` runs from the first request to the last answer; the figures of the machine
    are sums over the processes."""

    accounts: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    presented_twice: int
    missed: int

    @property
    def per_second(self) -> float:
        """Accounts refreshed per second."""
        return self.accounts / self.seconds


class Bench:
    """The servers of one run, and what is measured with them."""

    def __init__(self, folder: Path, endpoint: str, new_postgres: Callable[[], str]) -> None:
        self.folder = folder
        self.endpoint = endpoint
        self.new_postgres = new_postgres
        self.sweeps = 0

    def bare(self, processes: int, accounts: int) -> Sweep:
        """Let the bare loop send the requests of a sweep."""
        tokens = self._issue(accounts)
        command = [sys.executable, "-m", "bench.bare_loop", f"{self.endpoint}/token", str(CALLS_AT_ONCE)]
        started = []
        for number in range(processes):
            part = self.folder / f"tokens-{number}"
            part.write_text("\n".join(tokens[number::processes]), encoding="ascii")
            with part.open() as source:
                started.append(psutil.Popen(command, cwd=REPOSITORY, stdin=source))
        return self._watch(started, accounts)

    def worker(self, engine: str, processes: int, accounts: int) -> Sweep:
        """Let real workers sweep a new database."""
        self.sweeps += 1
        place = self.folder / f"sweep-{self.sweeps}"
        url = self.new_postgres() if engine == "PostgreSQL" else f"sqlite:///{place}.db"
        settings = environ(url, self.endpoint, place)
        fill(Settings.from_env(settings), self._issue(accounts))
        command = [sys.executable, "-m", "keap_connect", "worker", "--once"]
        started = [
            psutil.Popen(command, cwd=REPOSITORY, env={"PATH": os.environ["PATH"], **settings})
            for _ in range(processes)
        ]
        return self._watch(started, accounts, lambda: count_refreshed(Settings.from_env(settings)))

    def _issue(self, number: int) -> list[str]:
        tokens: list[str] = requests.post(f"{self.endpoint}/tokens", str(number), timeout=60).json()
        return tokens

    def _watch(
        self, started: list[psutil.Popen], accounts: int, count_stored: Callable[[], int] | None = None
    ) -> Sweep:
        """Wait for the end of the processes, looking at their memory on the way."""
        peak, before = 0, _cpu_seconds_of_ended()
        while any(process.poll() is None for process in started):
            memory = 0
            for process in (each for parent in started for each in _family(parent)):
                try:
                    memory += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak = max(peak, memory)
            time.sleep(0.25)  # looking costs, too
        if any(process.returncode for process in started):
            raise SystemExit("A process of the measurement failed; see above.")
        seen = requests.get(f"{self.endpoint}/figures", timeout=60).json()
        missed = accounts - min(seen["granted"], count_stored() if count_stored else accounts)
        twice = seen["presented_twice"] + seen["unknown"]
        return Sweep(accounts, seen["seconds"], _cpu_seconds_of_ended() - before, peak, twice, missed)


def main() -> None:
    """Measure, and print the table."""
    accounts, rounds = int(os.environ.get("N", "10000")), int(os.environ.get("ROUNDS", "1"))
    crowds = [int(number) for number in os.environ.get("PROCESSES", "1,2").split(",")]
    found: dict[tuple[str, int, int], list[Sweep]] = defaultdict(list)
    with bench() as ours:
        for number in range(1, rounds + 1):
            for processes in crowds:
                for some in (accounts, accounts // FEWER):
                    found["bare loop", processes, some].append(ours.bare(processes, some))
                    for engine in ENGINES:
                        found[engine, processes, some].append(ours.worker(engine, processes, some))
            print(f"Round {number} of {rounds} is over.", file=sys.stderr, flush=True)
    print("\n".join(_table(found, crowds, accounts, rounds)))


@contextmanager
def bench() -> Iterator[Bench]:
    """Start the servers, and end them."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "postgres").mkdir(mode=0o700)
        folder.chmod(0o711)  # PostgreSQL may run as another user
        # The tests let PostgreSQL skip its waits for the disk; a measurement must not.
        postgres.OPTIONS.update(fsync="on", full_page_writes="on")
        server = postgres.PostgresServer(folder / "postgres")
        command = [sys.executable, "-m", "bench.token_endpoint", DELAY_SECONDS]
        endpoint = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)  # noqa: S603  (no word from outside)
        try:
            assert endpoint.stdout  # noqa: S101
            server.create()
            server.start()
            yield Bench(folder, endpoint.stdout.readline().decode().strip(), server.new_database)
        finally:
            server.stop()
            endpoint.terminate()
            endpoint.wait()


def _cpu_seconds_of_ended() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _table(
    found: dict[tuple[str, int, int], list[Sweep]], crowds: list[int], accounts: int, rounds: int
) -> Iterator[str]:
    yield (
        f"{accounts:,} due accounts, token endpoint {float(DELAY_SECONDS) * 1000:.0f} ms, {CALLS_AT_ONCE} calls at "
        f"once in each process, median of {rounds}; {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    yield ""
    columns = ["processes", "", "accounts/s", "of the bare loop", "CPU ms/further account", "peak MB"]
    yield f"| {' | '.join([*columns, f'against {accounts // FEWER:,}', 'presented twice'])} |"
    yield "|---|---|---|---|---|---|---|---|"
    for processes in crowds:
        bare = _median(found["bare loop", processes, accounts], "per_second")
        for name in ("bare loop", *ENGINES):
            sweeps = found[name, processes, accounts]
            rate, memory = _median(sweeps, "per_second"), _median(sweeps, "peak_bytes")
            fewer = found[name, processes, accounts // FEWER]
            growth = memory / _median(fewer, "peak_bytes")
            # The start of a process takes as long as hundreds of accounts.
            seconds = _median(sweeps, "cpu_seconds") - _median(fewer, "cpu_seconds")
            cost = seconds * 1000 / (accounts - accounts // FEWER)
            twice = sum(sweep.presented_twice for sweep in [*sweeps, *fewer])
            yield (
                f"| {processes} | {name} | {rate:.0f} | {rate / bare:.2f} | {cost:.2f} | {memory / 1e6:.0f} "
                f"| {growth:.2f} | {twice} |"
            )
    missed = sum(sweep.missed for sweeps in found.values() for sweep in sweeps)
    yield ""
    yield f"Accounts that were not refreshed and stored: {missed}"


def _median(sweeps: list[Sweep], figure: str) -> float:
    return statistics.median(getattr(sweep, figure) for sweep in sweeps)


if __name__ == "__main__":
    main()
