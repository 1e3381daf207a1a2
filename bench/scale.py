"""Measures what docs/sizing.md says: disk and memory for so many accounts, and what more processes give.

Disk: the database with so many accounts, then with the events of a month in which each is refreshed every 16 hours.
Tokens: so many web processes on one PostgreSQL, each with callers of its own; and the memory of each. Refreshes:
so many workers. Environment: ACCOUNTS=1000,10000,100000, PROCESSES=1,2,4, N=2000 refreshes, and those of bench.token.
"""

import os
import platform
import sqlite3
import statistics
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg

from bench import refresh, token
from bench.accounts import environ, start_postgres
from bench.dashboard import fill_database
from keap_connect.settings import Settings
from tests.support import postgres
from tests.support.real_server import SHIPPED
from tests.support.server import free_port

ACCOUNTS = [int(number) for number in os.environ.get("ACCOUNTS", "1000,10000,100000").split(",")]
PROCESSES = [int(number) for number in os.environ.get("PROCESSES", "1,2,4").split(",")]
REFRESHES = int(os.environ.get("N", "2000"))
# Of accounts that jobs use: each has one refresh already, and gets 45 more.
MONTH = """
WITH RECURSIVE repeated(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM repeated WHERE number < 45)
INSERT INTO account_event (at, account_id, kind, actor, details)
SELECT at, account_id, kind, actor, details FROM account_event, repeated WHERE kind = 'refreshed'
"""
MB = 1_000_000


def main() -> None:
    """Measure, and print the tables."""
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder = Path(name)
        database = start_postgres(folder, stack)
        print("\n".join(_disk(database, folder)), flush=True)
        print("\n".join(_tokens(database, folder)), flush=True)
    with refresh.bench() as ours:
        print("\n".join(_refreshes(ours)))


def _disk(database: postgres.PostgresServer, folder: Path) -> Iterator[str]:
    yield "| accounts | SQLite, MB | and each month | PostgreSQL, MB | and each month |"
    yield "|---|---|---|---|---|"
    for accounts in ACCOUNTS:
        cells = [f"{accounts:,}"]
        for url in (f"sqlite:///{folder}/{accounts}.db", database.new_database()):
            fill_database(Settings.from_env(environ(url, "http://127.0.0.1:1", folder / "instance")), accounts)
            before = _bytes(url)
            _add_month(url)
            cells += [f"{before / MB:.1f}", f"{(_bytes(url) - before) / MB:.1f}"]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _bytes(url: str) -> int:
    if url.startswith("sqlite"):
        return Path(url.removeprefix("sqlite:///")).stat().st_size
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        ((size,),) = connection.execute("SELECT pg_database_size(current_database())").fetchall()
    return int(size)


def _add_month(url: str) -> None:
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as file:
            file.execute(MONTH)
        return
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute(MONTH)


def _tokens(database: postgres.PostgresServer, folder: Path) -> Iterator[str]:
    yield "| web processes | tokens per second | memory of each, MB |"
    yield "|---|---|---|"
    url = database.new_database()
    with token.ours(url, token.FEW, folder / "web") as first:
        for processes in PROCESSES:
            with ExitStack() as stack:
                servers = [first]
                for _ in range(processes - 1):
                    port = free_port()
                    values = environ(url, "http://127.0.0.1:1", folder / "web") | {"API_RATE_PER_MINUTE": "10000000"}
                    values |= {"PORT": str(port), "PUBLIC_URL": f"http://{first.host}"}
                    stack.enter_context(token.served(SHIPPED, port, values))
                    servers.append(replace(first, port=port))
                with ThreadPoolExecutor(processes) as pool:
                    seen = list(pool.map(lambda server: server.load()["rate"], servers))
                yield f"| {processes} | {sum(seen):.0f} | {_memory_of_servers():.0f} |"
    yield ""


def _memory_of_servers() -> float:
    """Return the median of the resident memory of the servers that this process has started."""
    children = psutil.Process().children(recursive=True)
    return statistics.median(one.memory_info().rss for one in children if "serve" in one.cmdline()) / MB


def _refreshes(ours: refresh.Bench) -> Iterator[str]:
    yield "| workers | refreshes per second | processor time of each refresh, ms |"
    yield "|---|---|---|"
    for processes in PROCESSES:
        sweep = ours.worker("PostgreSQL", processes, REFRESHES)
        yield f"| {processes} | {sweep.per_second:.0f} | {sweep.cpu_seconds / sweep.accounts * 1000:.1f} |"


if __name__ == "__main__":
    main()
