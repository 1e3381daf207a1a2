"""Several real processes on one database, and accounts to fight over."""

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from select import select as wait_readable
from typing import Any

import psutil
import pytest
from flask import Flask
from sqlalchemy import select, text, update

from keap_connect.accounts.changes import disconnect
from keap_connect.accounts.credentials import fingerprint, new_account, open_refresh_token, replace_credential
from keap_connect.accounts.state import AccountState, Ours, state_of
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.connect.matching import Grant, Match, match_grant
from keap_connect.database import database_clock, db, read_session, write_transaction
from keap_connect.keap.token_response import TokenResponse
from keap_connect.keap.user_info import Identity
from keap_connect.models import Account
from keap_connect.refresh import alarms
from keap_connect.refresh.lease import look
from keap_connect.refresh.recovery import list_kept
from keap_connect.services import services
from keap_connect.settings import Settings
from tests.conftest import environ_of
from tests.support.postgres import PostgresServer
from tests.support.sandbox import ANN, Sandbox

REPOSITORY = Path(__file__).parents[2]
ANSWER_SECONDS = 120


class Process:
    """One process of the app."""

    def __init__(self, nursery: socket.socket, environ: dict[str, str], log: Path, **settings: object) -> None:
        extra = {name: str(value) for name, value in settings.items()}
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self.log = log
        with log.open("ab") as errors:
            own = {"FLASK_SKIP_DOTENV": "1", **environ, "LOG_LEVEL": "WARNING", **extra}
            wanted = json.dumps(own).encode()
            socket.send_fds(nursery, [wanted], [commands, answers, errors.fileno()])
        os.close(commands)
        os.close(answers)
        self._heard = b""
        self._process: psutil.Process | None = None  # this one, even if its number is another one's by now
        ready = self.hear()
        assert ready, log.read_text()
        self.pid = ready["ready"]
        self._process = psutil.Process(self.pid)

    def tell(self, what: str, account_id: int | None = None, **options: object) -> None:
        """Start a command without waiting for its end."""
        named = {} if account_id is None else {"account_id": account_id}
        command = {"what": what, **named, **options}
        os.write(self._commands, json.dumps(command).encode() + b"\n")

    def hear(self) -> Any:
        """Wait for the answer; None when the process has died."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while b"\n" not in self._heard:
            ready, _, _ = wait_readable([self._answers], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"it does not answer: {self.log.read_text()}"
            more = os.read(self._answers, 65536)
            if not more:
                until(lambda: not self.is_alive())
                return None
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return json.loads(line)

    def ask(self, what: str, account_id: int | None = None, **options: object) -> Any:
        """Do one thing and return its answer."""
        self.tell(what, account_id, **options)
        answers = self.hear()
        return answers[0] if answers else None

    def freeze(self) -> None:
        """Stop it where it stands."""
        self._signal(signal.SIGSTOP)
        until(self.is_stopped)

    def is_stopped(self) -> bool:
        """Whether it stands still."""
        return self._process is not None and self._process.status() == psutil.STATUS_STOPPED

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._process is not None and self._process.is_running()

    def kill(self) -> None:
        """End it as a crash does."""
        self._signal(signal.SIGKILL)
        until(lambda: not self.is_alive())

    def close(self) -> None:
        """End it."""
        os.close(self._commands)
        os.close(self._answers)
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end by itself, now that its commands have ended
            self._signal(signal.SIGKILL)
        until(lambda: not self.is_alive())

    def _signal(self, sign: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(sign)


class Stage:
    """The shared database, seen from outside the processes.

    `makes_good` says that Keap takes a used refresh token again, so that whoever presents one again gets another pair
    instead of a refusal: `make test-long` runs the tests in these modes of the sandbox too.
    """

    def __init__(
        self, app: Flask, sandbox: Sandbox, environ: dict[str, str], nursery: socket.socket, folder: Path
    ) -> None:
        self.app = app
        self.sandbox = sandbox
        self.environ = environ
        self.processes: list[Process] = []
        self.makes_good = sandbox.state()["switches"]["old_refresh_token_works"] != "never"
        self._nursery = nursery
        self._folder = folder

    def start(self, number: int = 1, nursery: socket.socket | None = None, **settings: object) -> list[Process]:
        """Start processes, on this machine or in another nursery."""
        started = []
        for _ in range(number):
            log = self._folder / f"process-{len(self.processes)}.log"
            started.append(Process(nursery or self._nursery, self.environ, log, **settings))
            self.processes.append(started[-1])
        return started

    def logs(self) -> str:
        """Return what all processes logged."""
        return "".join(process.log.read_text() for process in self.processes)

    def add_accounts(
        self, number: int = 1, expires_in_seconds: float = -60, tenant_id: str = "ab123", is_due: bool = True
    ) -> list[int]:
        """Store grants that the sandbox issued; by default their access token has expired."""
        grants = self.sandbox.grant(tenant_id, ANN, number)
        accounts = []
        with self.app.app_context(), write_transaction() as session:
            for index, grant in enumerate(grants):
                account = new_account(session, tenant_id, f"{ANN}" if index == 0 else f"other-{index}")
                replace_credential(account, token_response(grant))
                account.access_token_expires_at = utc_now() + timedelta(seconds=expires_in_seconds)
                account.last_used_at = utc_now()
                if is_due:
                    account.next_refresh_at = utc_now()
                accounts.append(account)
        return [account.id for account in accounts]

    def add_pending_account(self) -> int:
        """Store a grant of the first account's person, before Keap has told whose it is."""
        (grant,) = self.sandbox.grant("ab123", ANN)
        with self.app.app_context(), write_transaction() as session:
            account = new_account(session, "ab123", None)
            replace_credential(account, token_response(grant))
        return account.id

    def reconnect(self, account_id: int) -> Match:
        """Let the customer authorize again, as the callback does."""
        account = self.row(account_id)
        (grant,) = self.sandbox.grant("ab123", ANN)
        placed = Grant(token_response(grant), Identity(account.tenant_id, account.keap_user_id))
        with self.app.app_context(), write_transaction() as session:
            return match_grant(session, placed, account_id)

    def disconnect(self, account_id: int) -> None:
        """Let the customer disconnect."""
        with self.app.app_context():
            disconnect(account_id, "test")

    def row(self, account_id: int) -> Account:
        """Read an account."""
        with self.app.app_context(), read_session() as session:
            return session.get_one(Account, account_id)

    def rows(self) -> list[Account]:
        """Read all accounts."""
        with self.app.app_context(), read_session() as session:
            return session.query(Account).order_by(Account.id).all()

    def change(self, *account_ids: int, **values: object) -> None:
        """Change the rows of accounts behind the app's back."""
        if "next_refresh_at" in values:
            values["claimed_until"] = None
        with self.app.app_context(), write_transaction() as session:
            rows = select(Account.id).where(Account.id.in_(account_ids))
            session.execute(rows.order_by(Account.id).with_for_update())  # as everybody who locks several rows
            session.execute(update(Account).where(Account.id.in_(account_ids)).values(**values))

    def state(self, account_id: int) -> AccountState:
        """Return what people see of an account."""
        with self.app.app_context():
            return state_of(self.row(account_id), utc_now(), Ours(*services().keap.registration))

    def is_leased(self, account_id: int) -> bool:
        """Whether some process has its lease, and it has not ended."""
        with self.app.app_context():
            return look(account_id).is_leased

    def is_held(self, account_id: int) -> bool:
        """Whether its row says that nobody may present its token for a while."""
        query = select(Account.blocked_until, database_clock()).where(Account.id == account_id)
        with self.app.app_context(), read_session() as session:
            blocked_until, now = session.execute(query).one()
        return blocked_until is not None and blocked_until > now

    @property
    def recovery_folder(self) -> Path:
        """Where this machine's recovery files are."""
        return Path(self.environ["INSTANCE_PATH"]) / "recovery"

    def kept_files(self) -> list[Path]:
        """Return the recovery files that have a pair in them."""
        with self.app.app_context():
            return list_kept()

    def alarms(self) -> list[str]:
        """Return what pauses refreshing."""
        with self.app.app_context():
            return [alarm.name for alarm in alarms.list_alarms()]

    def resume(self) -> None:
        """Let refreshing go on after a mass refusal, as the admin does."""
        with self.app.app_context():
            assert alarms.resume([alarms.MASS_REFUSAL], "test")

    def events(self, account_id: int) -> list[str]:
        """Return the kinds of its history, oldest first, without the changes of its state, which follow from them."""
        states = "'at_risk', 'recovered', 'reconnect_required'"
        query = text(f"SELECT kind FROM account_event WHERE account_id = :id AND kind NOT IN ({states}) ORDER BY id")
        with self.app.app_context(), read_session() as session:
            return list(session.scalars(query, {"id": account_id}))

    def presentations(self) -> list[dict[str, Any]]:
        """Return what the sandbox's ledger says of refresh tokens."""
        return [p for p in self.sandbox.ledger()["presentations"] if p["kind"] == "refresh_token"]

    def presented_twice(self) -> list[str]:
        """Return the refresh tokens that were presented more than once."""
        counts = Counter(p["fingerprint"] for p in self.presentations())
        return [mark for mark, number in counts.items() if number > 1]

    def is_reconciled(self, *account_ids: int) -> bool:
        """Whether the stored refresh tokens are the live ones of their grants in the sandbox's ledger."""
        with self.app.app_context():
            marks = [fingerprint(open_refresh_token(self.row(account_id))) for account_id in account_ids]
        tokens = {token["fingerprint"]: token["state"] for token in self.sandbox.ledger()["tokens"]}
        return all(tokens.get(mark) == "live" for mark in marks)

    def has_unread_answer(self) -> bool:
        """Whether an answer of the sandbox lies at a client's end of a connection, and was not read yet."""
        port = f":{int(self.sandbox.url.rpartition(':')[2]):04X}"
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return any(line[2].endswith(port) and int(line[4].partition(":")[2], 16) > 0 for line in lines)


class Outage:
    """Takes the database away from everybody and gives it back."""

    def __init__(self, stage: Stage, postgres: PostgresServer | None) -> None:
        self.postgres = postgres
        self.path = Path(stage.environ["DATABASE_URL"].removeprefix("sqlite:///"))
        self.lock: sqlite3.Connection | None = None
        self.is_away = False

    def begin(self) -> None:
        """PostgreSQL is stopped at once; an SQLite file is locked by another writer."""
        self.is_away = True
        if self.postgres:
            self.postgres.kill()
        else:
            self.lock = sqlite3.connect(self.path, isolation_level=None, timeout=30)
            self.lock.execute("BEGIN IMMEDIATE")

    def end(self) -> None:
        """All is well again."""
        self.is_away = False
        if self.postgres:
            self.postgres.start()
        elif self.lock:
            self.lock.execute("ROLLBACK")
            self.lock.close()


@contextlib.contextmanager
def program(
    stage: Stage, *arguments: str, command: Sequence[str] = (sys.executable, "-m", "keap_connect")
) -> Iterator[subprocess.Popen[bytes]]:
    """Give `./keap-connect …` as it runs in earnest."""
    command = [*command, *arguments]
    with subprocess.Popen(command, cwd=REPOSITORY, env={"PATH": "/usr/bin:/bin", **stage.environ}) as started:
        try:
            yield started
        finally:
            started.kill()


def start_elsewhere(stage: Stage, tmp_path: Path, **settings: object) -> Process:
    """Start a process on another host, which knows the database and sees nothing of the recovery files here."""
    elsewhere = tmp_path / "another host"
    (process,) = stage.start(1, INSTANCE_PATH=elsewhere, **settings)
    return process


def until(condition: Callable[[], Any], timeout: float = 60, every: float = 0.05) -> Any:
    """Wait for a condition and return what it gave."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(every)


def token_response(grant: dict[str, Any]) -> TokenResponse:
    """Read a grant that the sandbox issued."""
    return TokenResponse(grant["access_token"], grant["refresh_token"], utc_now() + timedelta(days=1), grant["scope"])


@contextlib.contextmanager
def open_nursery(**environ: str) -> Iterator[socket.socket]:
    """Start a program that has imported the app and forks its processes; give its socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.support.refreshing_process", str(theirs.fileno())]
    environ = {**os.environ, **environ}
    with ours, subprocess.Popen(command, cwd=REPOSITORY, env=environ, pass_fds=[theirs.fileno()]) as program:
        theirs.close()
        try:
            yield ours
        finally:
            ours.close()
            program.wait(ANSWER_SECONDS)


@pytest.fixture(scope="session")
def nursery(
    new_database: Callable[..., str], empty_sqlite: Path, empty_postgres: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[socket.socket]:
    """Give the nursery of this machine."""
    folder = tmp_path_factory.mktemp("nursery")
    file = shutil.copy(empty_sqlite, folder / "keap_connect.db")
    nowhere = Sandbox(folder)
    nowhere.url = "http://127.0.0.1:9"
    with open_nursery() as opened:
        for url in (f"sqlite:///{file}", new_database(empty_postgres)):
            opened.send(json.dumps({**environ_of(nowhere, url, folder), "LOG_LEVEL": "ERROR"}).encode())
            assert opened.recv(100) == b"rehearsed"
        yield opened


@pytest.fixture
def sandbox(sandbox: Sandbox, pytestconfig: pytest.Config) -> Sandbox:
    """Give the sandbox in the mode that this run of the tests was asked for."""
    sandbox.switch(old_refresh_token_works=pytestconfig.getoption("old_refresh_token_works"))
    return sandbox


@pytest.fixture
def stage(
    settings: Settings, sandbox: Sandbox, environ: dict[str, str], nursery: socket.socket, tmp_path: Path
) -> Iterator[Stage]:
    """Give the database, the sandbox, and the power to start processes."""
    app = create_app(settings)
    built = Stage(app, sandbox, environ, nursery, tmp_path)
    yield built
    for process in built.processes:
        process.close()
    sandbox.release()
    with app.app_context():
        db.engine.dispose()


SideBySide = Callable[[int, Callable[[Stage, int], None]], None]


@pytest.fixture
def side_by_side(
    request: pytest.FixtureRequest,
    pytestconfig: pytest.Config,
    tmp_path: Path,
    database_url: str,
    nursery: socket.socket,
) -> SideBySide:
    """Give the function that runs so many times, each on an installation with a database and a sandbox of its own."""

    def new_url(folder: Path) -> str:
        folder.mkdir()
        if database_url.startswith("sqlite"):
            shutil.copy(request.getfixturevalue("empty_sqlite"), folder / "keap_connect.db")
            return f"sqlite:///{folder}/keap_connect.db"
        url: str = request.getfixturevalue("new_database")(request.getfixturevalue("empty_postgres"))
        return url

    def run_in(folder: Path, url: str, run: Callable[[Stage, int], None], number: int) -> None:
        with Sandbox.start(folder / "sandbox.db") as sandbox:
            sandbox.switch(old_refresh_token_works=pytestconfig.getoption("old_refresh_token_works"))
            environ = environ_of(sandbox, url, folder)
            app = create_app(Settings.from_env(environ))
            stage = Stage(app, sandbox, environ, nursery, folder)
            try:
                run(stage, number)
            finally:
                for process in stage.processes:
                    process.close()
                sandbox.release()
                with app.app_context():
                    db.engine.dispose()

    def run_all(times: int, run: Callable[[Stage, int], None]) -> None:
        urls = {folder: new_url(folder) for folder in (tmp_path / str(number) for number in range(times))}
        with ThreadPoolExecutor(times) as pool:
            runs = [pool.submit(run_in, *place, run, number) for number, place in enumerate(urls.items())]
        problems = {number: problem for number, one in enumerate(runs) if (problem := one.exception())}
        assert not problems

    return run_all


@pytest.fixture
def outage(stage: Stage, request: pytest.FixtureRequest) -> Iterator[Outage]:
    """Give the power to take the database away."""
    is_postgres = stage.environ["DATABASE_URL"].startswith("postgresql")
    built = Outage(stage, request.getfixturevalue("postgres") if is_postgres else None)
    yield built
    if built.is_away:
        built.end()
