"""Two hosts share one PostgreSQL, each with a web process and a worker: cut off, and lost.

With the pace 10, which `make test` has, a lease ends after 6 s, a call after 3 s, and a token with an unknown outcome
rests for 12 s; `make test-long` has the real durations.
"""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, select

from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.accounts.state import AccountState
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.database import database_clock, db, read_session
from keap_connect.models import Account, Worker
from keap_connect.refresh import timing
from keap_connect.settings import Settings
from tests.conftest import environ_of, migrate
from tests.faults.conftest import Stage
from tests.support.drills import documented_lines, wait_until
from tests.support.hosts import CALLERS, World
from tests.support.postgres import PostgresServer
from tests.support.sandbox import Sandbox

LASTS_SECONDS = 80_000


class Member:
    """A host of the installation."""

    def __init__(self, installation: "Installation", number: int) -> None:
        self.host, self._installation = installation.world.new_host(number), installation
        self.folder = installation.folder / f"host-{number}"
        environ = {**installation.environ, "HOST": self.host.address, "INSTANCE_PATH": str(self.folder)}
        self.web, self.worker = (self.host.start(name, environ, installation.pace) for name in ("serve", "worker"))

    def ask(self, method: str, path: str, caller: str = "", **headers: str) -> tuple[int, dict[str, Any]]:
        """Call it without a key."""
        return self.host.ask(method, path, int(self._installation.environ["PORT"]), headers, caller)

    def token(self, account_id: int, caller: str = "") -> tuple[int, dict[str, Any]]:
        """Ask for a token."""
        return self.ask("GET", f"/api/v1/accounts/{account_id}/token", caller, **self._installation.key)

    def refresh(self, account_id: int, patience_seconds: int) -> int:
        """Ask for a refresh, and return the status."""
        key, patience = self._installation.key, {"Prefer": f"wait={patience_seconds}"}
        return self.ask("POST", f"/api/v1/accounts/{account_id}/refresh", **key, **patience)[0]

    def kept_files(self) -> list[Path]:
        """Return its recovery files that have a pair in them."""
        return [path for path in (self.folder / "recovery").glob("*.pair") if path.read_bytes()[:1].strip(b"\0")]


class Installation:
    """Two hosts, one database, and Keap."""

    def __init__(self, stage: Stage, world: World, folder: Path, pace: float) -> None:
        self.stage, self.world, self.folder, self.pace = stage, world, folder, pace
        self.environ = {**stage.environ, "DATABASE_URL": world.database_url, "INSTANCE_ID": "two-hosts"}
        self.environ |= {"LOG_LEVEL": "WARNING", "REFRESH_RATE_PER_MINUTE": "0"}
        with stage.app.app_context():
            scopes = [Scope.TOKENS_READ, Scope.ACCOUNTS_WRITE, Scope.METRICS_READ]
            self.key = {"Authorization": f"Bearer {issue_api_key('jobs', scopes, 'test').text}"}
        self._tenants = self._numbers = 0
        self.members: list[Member] = []
        self.members = [self.new_member(), self.new_member()]

    def new_member(self) -> Member:
        self._numbers += 1
        member = Member(self, self._numbers)
        wait_until(lambda: _is_up(member))
        return member

    def add(self, number: int, expires_in_seconds: float = -60) -> list[int]:
        """Add accounts that the workers refresh now; with tokens that hold, only callers do."""
        self._tenants += 1
        tenant_id = f"zz{100 + self._tenants}"
        return self.stage.add_accounts(number, expires_in_seconds, tenant_id, is_due=expires_in_seconds < 0)

    def has_rested(self, account_ids: list[int]) -> bool:
        """Whether attempts of unknown outcome are so old that a caller who needs the tokens might present them."""
        rest = (timing.UNKNOWN_OUTCOME_WAIT_SECONDS - timing.LEASE_SECONDS) / self.pace
        query = select(Account.id).where(Account.id.in_(account_ids), Account.lease_ends + rest < database_clock())
        with self.stage.app.app_context(), read_session() as session:
            return len(session.scalars(query).all()) == len(account_ids)

    def refreshed_by(self, member: Member) -> int:
        """Return how many accounts its worker has refreshed."""
        with self.stage.app.app_context(), read_session() as session:
            workers = session.scalars(select(Worker)).all()
        return sum(one.refreshed for one in workers if one.name.endswith(f":{member.worker.pid}"))

    def add_until_refreshed_by(self, *members: Member) -> list[int]:
        """Add accounts that are due until each of these workers has refreshed some, and return all of them."""
        added: list[int] = []
        while not all(self.refreshed_by(member) for member in members):
            fresh = self.add(6)
            wait_until(partial(self.is_well, *fresh))
            added += fresh
        return added

    def is_well(self, *account_ids: int) -> bool:
        """Whether these accounts were refreshed once, have their newest pairs, and everybody sees so."""
        found = {(row.state, row.generation) for row in self.stage.rows() if row.id in account_ids}
        return found == {(AccountState.ACTIVE, 2)} and self.stage.is_reconciled(*account_ids)

    @contextmanager
    def answers_held(self, member: Member, account_ids: list[int]) -> Iterator[list[Future[int]]]:
        """Let callers at one host refresh accounts, and hold Keap's answers, which have new pairs."""
        self.stage.sandbox.hold("refresh", where="after")
        with ThreadPoolExecutor(len(account_ids)) as pool:
            asking = [pool.submit(member.refresh, account_id, 25) for account_id in account_ids]
            self.stage.sandbox.wait_held(len(account_ids))
            yield asking

    @contextmanager
    def requests_lost(self, member: Member, account_ids: list[int]) -> Iterator[None]:
        """Let callers at one host refresh accounts, and lose on the way what it sends to Keap."""
        way, before = self.world.way_to_keap, self.world.way_to_keap.lost_requests
        with ThreadPoolExecutor(len(account_ids)) as pool:
            way.loses_everything = True
            for account_id in account_ids:
                pool.submit(member.refresh, account_id, 25)
            wait_until(lambda: way.lost_requests == before + len(account_ids))
            way.loses_everything = False
            yield

    def is_told(self, account_ids: list[int]) -> bool:
        """Whether the customers of these accounts are asked to connect again, since an answer was lost."""
        found = {row.state for row in self.stage.rows() if row.id in account_ids}
        return found == {AccountState.RECONNECT_REQUIRED} and all(
            "answer_lost" in self.stage.events(account_id) for account_id in account_ids
        )


def _is_up(member: Member) -> bool:
    assert member.web.poll() is None
    try:
        return member.ask("GET", "/api/v1/accounts")[0] == 401
    except OSError:
        return False


@pytest.fixture(scope="module", params=[10, pytest.param(1, marks=pytest.mark.long)])
def installation(
    request: pytest.FixtureRequest,
    pytestconfig: pytest.Config,
    postgres: PostgresServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    folder, url = tmp_path_factory.mktemp("hosts"), postgres.new_database()
    migrate(url)
    with Sandbox.start(folder / "sandbox.db") as sandbox, World(make_url(url), sandbox.port) as world:
        sandbox.switch(old_refresh_token_works=pytestconfig.getoption("old_refresh_token_works"))
        environ = environ_of(sandbox, url, folder)
        app = create_app(Settings.from_env(environ))
        try:
            yield Installation(Stage(app, sandbox, environ, None, folder), world, folder, request.param)
        finally:
            sandbox.release()
            with app.app_context():
                db.engine.dispose()


@pytest.fixture
def two(installation: Installation) -> Iterator[Installation]:
    """Give it with nothing presented yet."""
    installation.stage.sandbox.clear_ledger()
    yield installation
    installation.stage.sandbox.release()
    for member in installation.members:
        member.host.plug("net", "db")


@pytest.mark.proves("F22", "F23", "R26")
def test_callers_at_both_hosts_get_the_one_new_pair_and_both_workers_refresh(two: Installation):
    stage = two.stage
    stage.sandbox.switch(token_delay_seconds=0.3)
    (wanted,) = two.add(1)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda number: two.members[number % 2].token(wanted), range(20)))
    stage.sandbox.switch(token_delay_seconds=0)

    assert {(status, body.get("access_token")) for status, body in answers} == {(200, answers[0][1]["access_token"])}
    assert len(stage.presentations()) == 1

    added = two.add_until_refreshed_by(*two.members)
    assert (len(stage.presentations()), stage.presented_twice()) == (1 + len(added), [])


@pytest.mark.proves("R79", "R98")
def test_both_hosts_know_their_callers_by_their_own_addresses(two: Installation):
    (account_id,) = two.add(1, LASTS_SECONDS)
    for member in two.members:
        for caller in CALLERS:
            assert member.token(account_id, caller=caller)[0] == 200
        assert member.ask("GET", "/metrics", caller=CALLERS[0])[0] == 401, "it is for programs on its host"

        lines = map(json.loads, (member.folder / "audit.log").read_text().splitlines())
        assert [line["address"] for line in lines if line["account_id"] == account_id] == list(CALLERS)


@pytest.mark.proves("F79", "F81", "R26", "R30")
def test_a_host_that_cannot_reach_the_database_keeps_what_keap_answers(two: Installation):
    stage, (cut_off, other) = two.stage, two.members
    under_way = two.add(4, LASTS_SECONDS)
    with two.answers_held(cut_off, under_way):
        cut_off.host.pull("db")
        stage.sandbox.release()
        wait_until(lambda: len(cut_off.kept_files()) == len(under_way))

        stage.change(*under_way, next_refresh_at=utc_now())
        further = two.add(6)
        wait_until(lambda: two.is_well(*further))
        wait_until(lambda: two.has_rested(under_way))
        assert {(other.token(one)[0], other.refresh(one, 0)) for one in under_way} == {(200, 503)}
        assert len(stage.presentations()) == len(under_way + further)
        cut_off.host.plug("db")

    wait_until(lambda: two.is_well(*under_way) and not cut_off.kept_files())
    assert len(stage.presentations()) == len(under_way + further)
    assert stage.presented_twice() == []


@pytest.mark.long
@pytest.mark.parametrize("installation", [1], indirect=True)
@pytest.mark.proves("F17", "F18", "F79", "R26", "R31")
def test_a_host_that_is_cut_off_from_everything_loses_only_what_keap_answered_to_it(two: Installation):
    stage, (cut_off, other) = two.stage, two.members
    unheard, unanswered = two.add(3, LASTS_SECONDS), two.add(3, LASTS_SECONDS)
    with two.requests_lost(cut_off, unheard), two.answers_held(cut_off, unanswered):
        cut_off.host.pull("net", "db")
        stage.sandbox.release()
        stage.change(*unheard, *unanswered, next_refresh_at=utc_now())
        further = two.add(6)
        wait_until(lambda: two.is_well(*further))
        wait_until(lambda: two.has_rested(unheard + unanswered))
        assert {(other.token(one)[0], other.refresh(one, 0)) for one in unheard + unanswered} == {(200, 503)}
        assert len(stage.presentations()) == len(unanswered + further)
        cut_off.host.plug("net", "db")

    wait_until(lambda: two.is_well(*unheard))
    wait_until(lambda: two.is_told(unanswered))
    assert len(stage.presented_twice()) == len(unanswered)


@pytest.mark.long
@pytest.mark.parametrize("installation", [1], indirect=True)
@pytest.mark.proves("F79", "R26")
def test_a_cut_that_is_shorter_than_a_call_costs_nothing(two: Installation):
    stage, (cut_off, _other) = two.stage, two.members
    under_way = two.add(4, LASTS_SECONDS)
    with two.answers_held(cut_off, under_way) as asking:
        cut_off.host.pull("net", "db")
        stage.sandbox.release()
        further = two.add(6)
        wait_until(lambda: two.is_well(*further))
        cut_off.host.plug("net", "db")

        assert [one.result() for one in asking] == [200] * len(under_way)
    assert two.is_well(*under_way)
    assert len(stage.presentations()) == len(under_way + further)
    assert stage.presented_twice() == []


@pytest.mark.long
@pytest.mark.parametrize("installation", [1], indirect=True)
@pytest.mark.proves("F25", "F29", "R30", "R41")
def test_another_host_takes_the_place_of_a_dead_one_and_stores_what_that_one_left(two: Installation):
    stage, dead = two.stage, two.members[0]
    under_way = two.add(4, LASTS_SECONDS)
    with two.answers_held(dead, under_way):
        dead.host.pull("db")
        stage.sandbox.release()
        wait_until(lambda: len(dead.kept_files()) == len(under_way))
        dead.host.kill()
        dead.host.pull("net")

    two.members[0] = new = two.new_member()
    further = two.add_until_refreshed_by(new)
    assert stage.alarms() == [], "nobody has to confirm anything"
    assert {(new.token(one)[0], new.refresh(one, 0)) for one in under_way} == {(200, 503)}

    place = two.folder / "place"
    place.mkdir()
    (place / "instance").symlink_to(new.folder)
    lines = documented_lines("emergencies.md", "/mnt/old-host").replace("/mnt/old-host", str(dead.folder))
    subprocess.run(["sh", "-e", "-c", lines], cwd=place, check=True)

    wait_until(lambda: two.is_well(*under_way) and not new.kept_files())
    assert len(stage.presentations()) == len(under_way + further)
    assert stage.presented_twice() == []
