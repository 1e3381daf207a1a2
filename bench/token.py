"""Measures the token endpoint beside a bare Flask route, Flask-Dance's storage and an Authlib token model.

We are served as `./keap-connect serve` does, the others by Granian's own WSGI, one process each; the same load for all,
in turns; medians of the rounds. Then what callers keep of their speed while Keap takes 12 s for one refresh that many
wait for, and while other clients begin requests and do not go on. Environment: ROUNDS=5,
SECONDS=4, CALLERS=16, MANY=100000 accounts. Everything it loads it starts itself and ends by its process id.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import requests
from sqlalchemy import insert

from bench.accounts import environ, start_postgres
from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.database import db, write_transaction
from keap_connect.deployment import upgrade
from keap_connect.models import Account
from keap_connect.server.checks import prepare_to_serve
from keap_connect.services import services
from keap_connect.settings import Settings
from tests.support.real_server import SHIPPED
from tests.support.server import free_port
from tests.support.unfinished import unfinished

REPOSITORY = Path(__file__).parent.parent
ROUNDS, SECONDS = int(os.environ.get("ROUNDS", "5")), os.environ.get("SECONDS", "4")
CALLERS, MANY = os.environ.get("CALLERS", "16"), int(os.environ.get("MANY", "100000"))
FEW = 100
IMPATIENT, KEAP_SECONDS = 50, "12"
GRANIAN = [sys.executable, "-m", "granian", "--interface", "wsgi", "--no-ws", "--log-level", "error"]
GRANIAN += ["--blocking-threads", "16"]
# 40 bodies and 1,100 connections, as threats go.
UNFINISHED = {"nothing_at_all": 1100, "headers": 40, "body": 40, "answer_not_read": 16}
PEER_KEY = "kc_0123456789abcdef_" + "5" * 56
BARE, FLASK_DANCE, AUTHLIB = "bare Flask route", "Flask-Dance, SQLAlchemy", "Authlib token model"
OURS, OURS_MANY, OURS_POSTGRES = f"ours, {FEW} accounts", f"ours, {MANY:,} accounts", f"ours, {FEW}, PostgreSQL"


@dataclass(frozen=True)
class Server:
    """A running server, and how to ask it."""

    port: int
    host: str
    key: str
    accounts: int

    def ask(self, account: int) -> int:
        """Ask for one account's token and return the status."""
        headers = {"Host": self.host, "Authorization": f"Bearer {self.key}"}
        url = f"http://127.0.0.1:{self.port}/api/v1/accounts/{account}/token"
        return requests.get(url, headers=headers, timeout=60).status_code

    def load(self) -> dict[str, float]:
        """Let all callers ask for a while; return answers per second and the slowest hundredth."""
        command = [sys.executable, "-m", "bench.callers", str(self.port), SECONDS, CALLERS, self.host, self.key]
        paths = "\n".join(f"/api/v1/accounts/{number}/token" for number in range(1, self.accounts + 1))
        told = subprocess.run(command, cwd=REPOSITORY, input=paths, capture_output=True, text=True, check=True)  # noqa: S603
        seen = json.loads(told.stdout)
        if set(seen["statuses"]) != {"200"}:
            raise SystemExit(f"Not every answer was a token: {seen['statuses']}.")
        return {"rate": seen["statuses"]["200"] / seen["seconds"], "p99": seen["p99"]}


def main() -> None:
    """Measure, and print the table."""
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    kept, beside_unfinished = list[float](), list[float]()
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        servers = start(Path(name), stack)
        for number in range(1, ROUNDS + 1):
            for label, server in servers.items():
                found[label].append(server.load())
            kept.append(speed_kept_during_a_slow_refresh(Path(name) / f"slow-{number}"))
            beside_unfinished.append(speed_kept_beside_unfinished_requests(servers[OURS]))
            print(f"Round {number} of {ROUNDS} is over.", file=sys.stderr, flush=True)
    print("\n".join(table(found)))
    print(
        f"Speed that the others keep while {IMPATIENT} callers ask for a token whose refresh takes Keap "
        f"{KEAP_SECONDS} s: {statistics.median(kept):.2f}"
    )
    others = ", ".join(f"{number:,} {kind.replace('_', ' ')}" for kind, number in UNFINISHED.items())
    print(f"Speed that callers keep beside clients that do not go on: {statistics.median(beside_unfinished):.2f}")
    print(f"({others})")


def speed_kept_beside_unfinished_requests(server: Server) -> float:
    """Return the speed beside clients that do not go on, as a share of the speed before and after them."""
    before = server.load()["rate"]
    with unfinished(server.port, server.host, **UNFINISHED):
        time.sleep(3)  # until the pages that nobody reads are made
        during = server.load()["rate"]
    return during / statistics.mean((before, server.load()["rate"]))


def speed_kept_during_a_slow_refresh(folder: Path) -> float:
    """Return the speed while many callers wait for one slow refresh, as a share of the speed before and after it."""
    with ExitStack() as stack:
        endpoint = subprocess.Popen(  # noqa: S603  (no word from outside)
            [sys.executable, "-m", "bench.token_endpoint", KEAP_SECONDS], cwd=REPOSITORY, stdout=subprocess.PIPE
        )
        stack.callback(endpoint.wait)
        stack.callback(endpoint.terminate)
        assert endpoint.stdout  # noqa: S101
        address = endpoint.stdout.readline().decode().strip()
        (refresh_token,) = requests.post(f"{address}/tokens", "1", timeout=10).json()
        server = stack.enter_context(ours(f"sqlite:///{folder}.db", FEW, folder, address, refresh_token))
        pool = stack.enter_context(ThreadPoolExecutor(IMPATIENT))
        before = server.load()["rate"]
        expired = [pool.submit(server.ask, FEW + 1) for _ in range(IMPATIENT)]
        during = server.load()["rate"]
        statuses = Counter(each.result() for each in expired)
        after = server.load()["rate"]
        if set(statuses) - {200, 503} or requests.get(f"{address}/figures", timeout=10).json()["granted"] != 1:
            raise SystemExit(f"The slow refresh went wrong: {statuses}.")
    return during / statistics.mean((before, after))


def start(folder: Path, stack: ExitStack) -> dict[str, Server]:
    """Start everything that is measured."""
    database = start_postgres(folder, stack)
    servers = {BARE: stack.enter_context(peer("bare", folder))}
    for label, url, accounts in (
        (OURS, f"sqlite:///{folder / 'few.db'}", FEW),
        (OURS_MANY, f"sqlite:///{folder / 'many.db'}", MANY),
        (OURS_POSTGRES, database.new_database(), FEW),
    ):
        servers[label] = stack.enter_context(ours(url, accounts, folder / f"instance-{len(servers)}"))
    servers[FLASK_DANCE] = stack.enter_context(peer("flask_dance", folder))
    servers[AUTHLIB] = stack.enter_context(peer("authlib", folder))
    return servers


@contextmanager
def ours(
    url: str, accounts: int, instance: Path, keap: str = "http://127.0.0.1:1", refresh_token: str | None = None
) -> Iterator[Server]:
    """Serve our app on a database with so many accounts, keys checked, rates counted, audit written.

    Args:
        refresh_token: of one more account, whose access token has expired.
    """
    port = free_port()
    settings = {**environ(url, keap, instance), "PORT": str(port), "API_RATE_PER_MINUTE": "10000000"}
    key = fill(Settings.from_env(settings), accounts, refresh_token)
    with served(SHIPPED, port, settings):
        yield Server(port, urlsplit(Settings.from_env(settings).public_url).netloc, key, accounts)


@contextmanager
def peer(name: str, folder: Path) -> Iterator[Server]:
    """Serve one of the others."""
    port = free_port()
    settings = {"PEER": name, "PEER_DATABASE": f"sqlite:///{folder / name}.db", "PEER_KEY": PEER_KEY}
    with served([*GRANIAN, "--port", str(port), "bench.token_peers:app"], port, settings):
        yield Server(port, f"localhost:{port}", PEER_KEY, FEW)


@contextmanager
def served(command: list[str], port: int, settings: dict[str, str]) -> Iterator[None]:
    """Serve until the end of the block."""
    inside = {"PATH": os.environ["PATH"], **settings}
    server = subprocess.Popen(command, cwd=REPOSITORY, env=inside)  # noqa: S603
    try:
        for _ in range(600):
            try:
                requests.get(f"http://127.0.0.1:{port}/", timeout=5)
                break
            except requests.ConnectionError:
                time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait()


def fill(settings: Settings, accounts: int, refresh_token: str | None) -> str:
    """Lay the tables out, store accounts whose tokens hold, and return a key for them."""
    app = create_app(settings, serves=False)
    with app.app_context():
        upgrade()
        with write_transaction() as session:
            session.execute(insert(Account), [_row(number) for number in range(1, accounts + 1)])
            if refresh_token:
                expired = {"access_token_expires_at": utc_now() - timedelta(hours=1)}
                session.execute(insert(Account), [_row(accounts + 1, refresh_token) | expired])
        prepare_to_serve(settings)
        key = issue_api_key("bench", [Scope.TOKENS_READ], "bench").text
        db.engine.dispose()
    return key


def table(found: dict[str, list[dict[str, float]]]) -> Iterator[str]:
    """Give the lines of the result."""
    rates = {label: statistics.median(one["rate"] for one in loads) for label, loads in found.items()}
    slow = {label: statistics.median(one["p99"] for one in loads) for label, loads in found.items()}
    yield (
        f"{CALLERS} callers, {ROUNDS} rounds of {SECONDS} s in turns, medians; 1 process, 16 threads; "
        f"{os.cpu_count()} cores, Python {platform.python_version()}"
    )
    yield ""
    yield "| | tokens/s | of the bare route | p99 ms | of the bare route |"
    yield "|---|---|---|---|---|"
    for label, rate in rates.items():
        yield (
            f"| {label} | {rate:,.0f} | {rate / rates[BARE]:.2f} | {slow[label]:.1f} | {slow[label] / slow[BARE]:.2f} |"
        )
    faster = max(rates[FLASK_DANCE], rates[AUTHLIB])
    yield ""
    yield f"Ours beside the faster of the two libraries: {rates[OURS] / faster:.1f} times"
    yield f"{MANY:,} accounts beside {FEW}: {rates[OURS_MANY] / rates[OURS]:.2f}"


def _row(number: int, refresh_token: str = "r" * 32) -> dict[str, object]:
    now = utc_now()
    seal = services().cipher.seal
    return {
        "id": number,
        "tenant_id": "ab123",
        "keap_user_id": str(number),
        "client_id": services().keap.client_id,
        "token_url": services().keap.token_url,
        "access_token_sealed": seal("a" * 32, "account", number, "access_token"),
        "refresh_token_sealed": seal(refresh_token, "account", number, "refresh_token"),
        "access_token_expires_at": now + timedelta(days=1),
        "refresh_token_issued_at": now,
        "next_refresh_at": now + timedelta(days=1),
        "created_at": now,
        "connected_at": now,
        "last_used_at": now,
        "failures": 0,
        "refusals": 0,
    }


if __name__ == "__main__":
    main()
