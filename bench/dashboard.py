"""Measures what admins and programs see of 1,000 and of 1,000,000 accounts, on both databases, in one run.

Each address is asked in turns at the small and the large installation, served by `./keap-connect serve`; medians. So
are the start and one look of the worker for what is due. Then memory, after both files were downloaded. Environment:
MANY=1000000, FEW=1000, ROUNDS=15, DATABASES="sqlite postgresql". Everything it starts it ends by its process id.
"""

import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import requests
from flask import Flask
from sqlalchemy import Connection, update

from bench.accounts import environ, start_postgres
from keap_connect.access.admins import create_admin
from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.accounts.state import Ours, standing_of
from keap_connect.accounts.stored_state import recount, settle_due
from keap_connect.accounts.words import title_key_of, words_of
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.database import db, write_transaction
from keap_connect.deployment import upgrade
from keap_connect.models import Account
from keap_connect.refresh.due import claim_due, lag_seconds
from keap_connect.server.checks import prepare_to_serve
from keap_connect.services import services
from keap_connect.settings import Settings
from tests.support.server import free_port
from tests.support.visitor import Visitor

Result = TypeVar("Result")
REPOSITORY = Path(__file__).parent.parent
MANY, FEW = int(os.environ.get("MANY", "1000000")), int(os.environ.get("FEW", "1000"))
ROUNDS = int(os.environ.get("ROUNDS", "15"))
DATABASES = os.environ.get("DATABASES", "sqlite postgresql").split()
EMAIL, PASSWORD = "admin@example.com", "a long password for the bench"
DAY = timedelta(days=1)
DUE, CLAIMED = 800, 256  # of the accounts with these ids most are due, and so many are claimed
FIRST = ("Ann", "Bob", "Carla", "Dan", "Eve", "Farid", "Grace", "Hugo", "Ines", "Jörg", "Kim", "Lena", "Mia", "Noah")
LAST = ("Lee", "Park", "Müller", "Silva", "Novak", "Rossi", "Khan", "Olsen", "Young", "Adler", "Brandt", "Costa")
TRADES = ("Dental", "Plumbing", "Law", "Yoga", "Bakery", "Roofing", "Media", "Coaching", "Clinic", "Fitness")
COLUMNS = (
    *("tenant_id", "keap_user_id", "person_name", "person_email", "business_name", "label", "external_id"),
    *("created_at", "connected_at", "disconnected_at", "kind", "client_id", "token_url", "scope", "generation"),
    *("access_token_sealed", "refresh_token_sealed", "access_token_expires_at", "refresh_token_issued_at"),
    *("refreshed_at", "failures", "failed_at", "refusals", "refused_at", "next_refresh_at", "last_used_at"),
    *("state", "state_cause", "state_since", "state_changes_at", "title_key"),
)


@dataclass
class Installation:
    """One database with its app and its server."""

    accounts: int
    settings: Settings
    environ: dict[str, str]
    server: subprocess.Popen[bytes]
    visitor: Visitor
    key: str
    pages: dict[str, str] = field(default_factory=dict)  # addresses that depend on the number of accounts
    times: dict[str, list[float]] = field(default_factory=dict)

    def ask(self, path: str) -> None:
        """Ask for a page or for what a program reads, and remember how long it took."""
        url = f"{self.settings.public_url}{self.pages.get(path, path)}"
        headers = {"Authorization": f"Bearer {self.key}"} if path.startswith(("/api/", "/metrics")) else {}
        get = requests.get if headers else self.visitor.session.get
        answer = self.measure(path, lambda: get(url, headers=headers, timeout=120))
        if answer.status_code != 200 and path != "/readyz":  # it may say that no worker is running
            raise SystemExit(f"{path} answered {answer.status_code}.")

    def look(self) -> None:
        """Start a process, and let it look for work as a worker does; as many accounts are due in each installation."""
        app = create_app(self.settings, serves=False)
        with app.app_context():
            self.measure("checks at the start", lambda: prepare_to_serve(self.settings))
            due = update(Account).where(Account.id <= DUE, Account.next_refresh_at.is_not(None))
            with write_transaction() as session:
                session.execute(due.values(next_refresh_at=utc_now(), claimed_until=None))
            if len(self.measure("claim what is due", lambda: claim_due(CLAIMED))) != CLAIMED:
                raise SystemExit("Too few accounts are due.")
            self.measure("lag", lag_seconds)
            self.measure("look for changed states", lambda: settle_due(200))
            db.engine.dispose()

    def measure(self, name: str, work: Callable[[], Result]) -> Result:
        """Do the work, remember how long it took, and return its result."""
        started = time.perf_counter()
        result = work()
        self.times.setdefault(name, []).append(time.perf_counter() - started)
        return result

    def peak_memory_mb(self) -> Iterator[tuple[str, float]]:
        """Yield the largest resident memory of the server, and of a worker in its first half minute."""
        self.visitor.get("/audit.csv")
        self.visitor.get("/export")
        self.visitor.press("/export", password=PASSWORD)
        yield "memory of the server", _peak_mb(self.server)
        command = [sys.executable, "-m", "keap_connect", "worker"]
        worker = subprocess.Popen(command, cwd=REPOSITORY, env=self.environ)  # noqa: S603
        time.sleep(30)
        yield "memory of the worker", _peak_mb(worker)
        worker.terminate()
        worker.wait()


MIDDLE, DEEPEST, LAST_NAMES = "a page in the middle", "the deepest page", "the deepest page by name"
DAYS = f"from={utc_now() - 2 * DAY:%Y-%m-%d}&to={utc_now() - DAY:%Y-%m-%d}"
ADDRESSES = (
    "/accounts",
    *(f"/accounts?state={state}" for state in ("reconnect_required", "at_risk", "active", "disconnected")),
    *(f"/accounts?sort={sort}" for sort in ("-state", "account", "-account", "expires", "-expires", "used", "-used")),
    *(
        "/accounts?sort=broken",
        "/accounts?sort=-broken",
        "/accounts?state=active&sort=account",
        MIDDLE,
        DEEPEST,
        LAST_NAMES,
    ),
    # Each finds as many of few as of many.
    *("/accounts?q=quixote", "/accounts?q=dental", "/accounts?q=dental+customer", "/accounts?q=xylophone"),
    *("/accounts/7", "/readyz", "/metrics", "/setup", "/health"),
    *("/audit", "/audit?kind=at_risk", "/audit?kind=connected", "/audit?kind=refreshed", "/audit?account=7"),
    *("/audit?who=xylophone", f"/audit?{DAYS}", f"/audit?{DAYS}&kind=at_risk"),
    *("/api/v1/accounts", "/api/v1/accounts?limit=100", "/api/v1/accounts?state=at_risk&limit=5"),
    *("/api/v1/accounts?q=quixote", "/api/v1/accounts?q=dental&limit=20", "/api/v1/accounts?q=dental+ann&limit=2"),
    *("/api/v1/accounts?q=dental&state=active&limit=20", "/api/v1/accounts?tenant_id=t00007"),
    *("/api/v1/accounts?external_id=c-7", "/api/v1/accounts?cursor=900", "/api/v1/accounts/7"),
    *("/api/v1/events", "/api/v1/events?kind=at_risk", "/api/v1/events?account=7", "/api/v1/events?cursor=900"),
)


def main() -> None:
    """Measure, and print one table for each database."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder = Path(name)
        for kind in DATABASES:
            urls = _new_databases(kind, folder, stack)
            pair = [_install(url, number, folder / f"{kind}-{number}", stack) for url, number in urls]
            for _ in range(ROUNDS):
                for path in ADDRESSES:
                    for one in pair:
                        one.ask(path)
                for one in pair:
                    one.look()
            print("\n".join(_table(kind, pair)), flush=True)


def _new_databases(kind: str, folder: Path, stack: ExitStack) -> list[tuple[str, int]]:
    if kind == "sqlite":
        return [(f"sqlite:///{folder / f'{number}.db'}", number) for number in (FEW, MANY)]
    database = start_postgres(folder, stack)
    return [(database.new_database(), number) for number in (FEW, MANY)]


def _install(url: str, accounts: int, instance: Path, stack: ExitStack) -> Installation:
    port = free_port()
    values = {**environ(url, "http://127.0.0.1:1", instance), "PORT": str(port), "API_RATE_PER_MINUTE": "10000000"}
    settings = Settings.from_env(values)
    started = time.monotonic()
    app = fill_database(settings, accounts)
    with app.app_context():
        create_admin(EMAIL, PASSWORD)
        key = issue_api_key("bench", [Scope.ACCOUNTS_READ, Scope.METRICS_READ], "bench").text
        db.engine.dispose()
    print(f"{accounts:,} accounts are stored after {time.monotonic() - started:.0f} s.", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "keap_connect", "serve"]
    environment = {"PATH": os.environ["PATH"], **values}
    server = subprocess.Popen(command, cwd=REPOSITORY, env=environment)  # noqa: S603
    stack.callback(server.wait)
    stack.callback(server.terminate)
    visitor = Visitor(settings.public_url)
    _wait_for(lambda: visitor.get("/healthz").ok)
    visitor.sign_in(EMAIL, PASSWORD)
    pages = {
        MIDDLE: f"/accounts?after=2~{accounts // 2}",
        DEEPEST: f"/accounts?before=3~{accounts + 1}",
        LAST_NAMES: f"/accounts?sort=account&before=1~{accounts + 1}~",
    }
    return Installation(accounts, settings, environment, server, visitor, key, pages)


def fill_database(settings: Settings, accounts: int) -> Flask:
    """Make the tables and store accounts in them; return the app."""
    app = create_app(settings, serves=False)
    with app.app_context():
        upgrade()
        with db.engine.connect() as connection:
            _fill(connection, accounts)
        recount()
        prepare_to_serve(settings)
        db.engine.dispose()
    return app


def _wait_for(is_done: Callable[[], bool]) -> None:
    for _ in range(600):
        try:
            if is_done():
                return
        except requests.ConnectionError:
            time.sleep(0.1)
    raise SystemExit("The server does not answer.")


def _fill(connection: Connection, accounts: int) -> None:
    """Store accounts as they look after a year: most are well, some are not; each with its words and two events."""
    if connection.dialect.name == "sqlite":  # a database that is only measured may be filled fast
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-2000000"):
            connection.exec_driver_sql(f"PRAGMA {pragma}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    randomly, now, ours = random.Random(7), utc_now(), Ours(*services().keap.registration)  # noqa: S311
    for first in range(1, accounts + 1, 5000):
        made = [_account(number, randomly, now, ours) for number in range(first, min(first + 5000, accounts + 1))]
        rows = ([getattr(one, name) for name in COLUMNS] for one in made)
        _load(connection, "account", COLUMNS, rows)
        for kind, actor in (("connected", "customer"), ("refreshed", "system")):
            events = ([now - DAY, number, kind, actor, "{}"] for number in range(first, first + len(made)))
            _load(connection, "account_event", ("at", "account_id", "kind", "actor", "details"), events)
        words = ([word, number] for number, one in enumerate(made, first) for word in words_of(one))
        _load(connection, "account_word", ("word", "account_id"), words)
    connection.commit()
    connection.exec_driver_sql("ANALYZE")
    connection.commit()


def _account(number: int, randomly: random.Random, now: datetime, ours: Ours) -> Any:
    first, last, chance = randomly.choice(FIRST), randomly.choice(LAST), randomly.random()
    # A worker refreshes eight hours before expiry; nothing becomes due while this measures.
    ago, seal = timedelta(hours=14) * randomly.random(), services().cipher.seal
    one: Any = SimpleNamespace(  # an object of the ORM takes ten times as long
        outcome_unknown_since=None,
        attempted_at=None,
        failure_reason=None,
        needs_first_refresh=False,
        disconnected_at=None,
        refused_at=None,
        failed_at=None,
        tenant_id=f"t{number:05}",
        keap_user_id=str(number),
        person_name=f"{first} {last}",
        person_email=f"{first}.{last}{number}@example.com",
        business_name=f"{'Quixote' if number <= 3 else last} {randomly.choice(TRADES)} {number}",
        label=f"Customer {number}" if number % 2 == 0 else None,
        external_id=f"c-{number}",
        created_at=now - 300 * DAY,
        connected_at=now - 300 * DAY,
        kind="oauth",
        client_id=ours[0],
        token_url=ours[1],
        scope="full",
        generation=300,
        access_token_sealed=seal("a" * 32, "account", number, "access_token"),
        refresh_token_sealed=seal("r" * 32, "account", number, "refresh_token"),
        access_token_expires_at=now + DAY - ago,
        refresh_token_issued_at=now - ago,
        refreshed_at=now - ago,
        failures=0,
        refusals=0,
        next_refresh_at=now + timedelta(hours=16) - ago if number % 2 else now + 30 * DAY - ago,
        last_used_at=now - ago if number % 2 else now - 40 * DAY,
    )
    if chance < 0.06:  # each filter fills a page, of few accounts too
        one.refused_at, one.next_refresh_at = now - 30 * DAY * randomly.random(), None
    elif chance < 0.12:
        one.disconnected_at, one.next_refresh_at = now - 90 * DAY * randomly.random(), None
    elif chance < 0.18:
        one.failures, one.failed_at = 3, now
    one.state, one.state_cause, one.state_changes_at = _standing(one, now, ours)
    one.state_since, one.title_key = one.refused_at or one.disconnected_at or now - ago, title_key_of(one)
    return one


def _standing(one: Any, now: datetime, ours: Ours) -> tuple[str, str | None, datetime | None]:
    standing = standing_of(one, now, ours)
    return standing.state, standing.cause, standing.changes_at


def _load(connection: Connection, table: str, columns: Iterable[str], rows: Iterable[list[object]]) -> None:
    driver, names = connection.connection.driver_connection, ", ".join(columns)
    assert driver is not None  # noqa: S101
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" for _ in columns)
        driver.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", map(_plain, rows))  # noqa: S608
        return
    with driver.cursor() as cursor, cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _plain(row: list[object]) -> list[object]:
    return [f"{value:%Y-%m-%d %H:%M:%S.%f}" if isinstance(value, datetime) else value for value in row]


def _peak_mb(process: subprocess.Popen[bytes]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _table(kind: str, pair: list[Installation]) -> Iterator[str]:
    small, large = pair
    yield (
        f"{kind}, {MANY:,} accounts beside {FEW:,}; medians of {ROUNDS} rounds, ms; {os.cpu_count()} cores, "
        f"Python {platform.python_version()}"
    )
    yield ""
    yield f"| | {FEW:,} | {MANY:,} | times |"
    yield "|---|---|---|---|"
    few, many = ({name: statistics.median(each) for name, each in one.times.items()} for one in pair)
    for name, seconds in few.items():
        yield f"| {name} | {seconds * 1000:.1f} | {many[name] * 1000:.1f} | {many[name] / seconds:.2f} |"
    for (name, little), (_, much) in zip(small.peak_memory_mb(), large.peak_memory_mb(), strict=True):
        yield f"| {name}, MB | {little:.0f} | {much:.0f} | {much / little:.2f} |"
    yield ""


if __name__ == "__main__":
    main()
