"""All parts at once through a real PgBouncer: no error, no wrong answer, and nothing of ours left in a session."""

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from keap_connect import database, engine
from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.accounts.credentials import fingerprint, open_access_token
from keap_connect.answer_limit import LimitedConnection
from keap_connect.application import create_app
from keap_connect.database import db, read_session
from keap_connect.errors import TemporarilyUnavailable
from keap_connect.refresh import clone_guard, recovery
from keap_connect.refresh.refresher import refresh_once
from keap_connect.refresh.serving import refresh_account
from keap_connect.refresh.storing import Outcome
from keap_connect.settings import Settings
from tests.api.fixtures import Program
from tests.conftest import migrate
from tests.faults.conftest import REPOSITORY, Stage, until
from tests.support.pgbouncer import find_program, run_pgbouncer
from tests.support.postgres import PostgresServer
from tests.support.real_server import RealServer, real_servers
from tests.web.direct import visit

HASTY = "query_wait_timeout = 4\nquery_timeout = 4"
FEW_SESSIONS, MANY_SESSIONS = 3, 180
# What PgBouncer itself sets for its clients.
SET_BY_POOLER = (
    "application_name",
    "client_encoding",
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
    "standard_conforming_strings",
)
LEFT_BEHIND = """
SELECT (SELECT string_agg(name || '=' || setting, ' ') FROM pg_settings WHERE source = 'session' AND name <> ALL(%s)),
       (SELECT string_agg(name, ' ') FROM pg_prepared_statements),
       (SELECT string_agg(mode, ' ') FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'),
       (SELECT string_agg(channel, ' ') FROM pg_listening_channels() AS channel)
"""
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("accounts", "list"),
    ("accounts", "show", "1"),
    ("accounts", "token", "1"),
    ("accounts", "refresh", "1"),
    ("audit", "list"),
    ("api-keys", "list"),
    ("refreshing", "status"),
)


@pytest.fixture
def pooled(request: pytest.FixtureRequest, new_database: Callable[[], str]) -> Iterator[str]:
    """Give the URL of a database that was migrated through PgBouncer, in the mode that the test names.

    The mode "hasty" is that of transactions, with time limits of a few seconds.
    """
    if find_program() is None:
        pytest.skip("there is no PgBouncer here: install pgbouncer")
    # In session mode each connection has a session to itself until it ends.
    sessions = MANY_SESSIONS if request.param == "session" else FEW_SESSIONS
    mode, more = ("transaction", HASTY) if request.param == "hasty" else (request.param, "")
    direct = new_database()
    with run_pgbouncer(direct, mode, sessions, more) as url:
        migrate(direct if more else url)
        yield url


@pytest.fixture
def database_url(pooled: str) -> str:
    """Let everything go through PgBouncer."""
    return pooled


@pytest.mark.proves("F92")
@pytest.mark.parametrize("pooled", ["transaction", "session"], indirect=True)
def test_all_parts_work_through_a_pooler(stage: Stage, pooled: str, ready_command: list[str]):
    _work_through(stage, pooled, ready_command, accounts=12, servers=1, callers=8, calls=12, commands=COMMANDS[2:4])


@pytest.mark.long
@pytest.mark.proves("F92")
@pytest.mark.parametrize("pooled", ["transaction", "session"], indirect=True)
def test_all_parts_work_through_a_pooler_for_longer(stage: Stage, pooled: str, ready_command: list[str]):
    _work_through(stage, pooled, ready_command, accounts=300, servers=2, callers=24, calls=1000, commands=COMMANDS * 3)


@pytest.mark.proves("F89", "F92")
@pytest.mark.parametrize("pooled", ["transaction"], indirect=True)
@pytest.mark.parametrize("when", ["before a look at the account", "between that and the lease"])
def test_a_failover_behind_a_pooler_is_noticed_also_if_no_connection_of_ours_fails(
    stage: Stage, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, when: str
):
    (account_id,) = stage.add_accounts()

    def is_back() -> bool:
        with suppress(OperationalError):
            return stage.row(account_id) is not None
        return False

    with stage.app.app_context():
        refresh_account(account_id, "test")
        postgres.keep_copy()
        until(is_back)
        refresh_account(account_id, "test")
        with read_session() as session:
            newest = str(clone_guard._newest(session))
        mark = Path(stage.environ["INSTANCE_PATH"]) / clone_guard.MARK
        until(lambda: mark.read_text() == newest)
        postgres.fail_over()
        until(is_back)
        account = stage.row(account_id)
        # As in a process that was idle meanwhile: PgBouncer has kept its connections.
        monkeypatch.setattr(database.Trouble, "last_at", 0.0)
        monkeypatch.setattr(database.Trouble, "connected_at", 0.0)

        if when == "between that and the lease":
            assert refresh_once(account, "test").outcome is Outcome.NOT_SENT
        with pytest.raises(TemporarilyUnavailable, match="Refreshing is paused"):
            refresh_account(account_id, "test")

    assert len(stage.presentations()) == 2


@pytest.mark.proves("F92")
@pytest.mark.parametrize("pooled", ["transaction"], indirect=True)
def test_a_writing_transaction_has_its_time_limit_through_a_pooler_and_leaves_none_behind(
    stage: Stage, pooled: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine, "STATEMENT_SECONDS", 1)

    with (
        stage.app.app_context(),
        pytest.raises(OperationalError, match="statement timeout"),
        database.write_transaction() as session,
    ):
        session.execute(text("SELECT pg_sleep(20)"))

    assert _left_behind(pooled) == {(None, None, None, None)}


@pytest.mark.proves("F92")
@pytest.mark.parametrize("pooled", ["transaction"], indirect=True)
def test_backup_restore_and_copy_do_not_go_through_a_pooler(
    stage: Stage, pooled: str, empty_sqlite: Path, tmp_path: Path
):
    """Seen: four of five queries of the app failed while pg_dump ran, since it had emptied their search_path."""
    (tmp_path / "dump").touch()
    old_url = f"sqlite:///{shutil.copy(empty_sqlite, tmp_path / 'old.db')}"
    old = create_app(Settings.from_env({**stage.environ, "DATABASE_URL": old_url}), serves=False)
    commands = [
        (stage.app, "backup", str(tmp_path / "new")),
        (stage.app, "restore", str(tmp_path / "dump")),
        (old, "copy", "--to", pooled),
    ]
    for app, *command in commands:
        done = app.test_cli_runner().invoke(args=["database", *command])
        assert (done.exit_code, "leads through a pooler" in done.output) == (1, True), done.output


@pytest.mark.proves("F81", "F92")
@pytest.mark.parametrize(
    ("pooled", "hangs"),
    [("transaction", "pooler"), ("transaction", "server"), ("session", "pooler"), ("session", "server")],
    indirect=["pooled"],
)
def test_a_pair_is_in_its_recovery_file_while_a_pooler_or_the_server_behind_it_hangs(
    stage: Stage, pooled: str, postgres: PostgresServer, hangs: str
):
    stage.sandbox.switch(family_revocation=True)
    (account_id,) = stage.add_accounts()
    (holder,) = stage.start(1)
    stage.sandbox.hold("refresh", where="after")
    holder.tell("refresh", account_id)
    stage.sandbox.wait_held(1)
    with postgres.hanging() if hangs == "server" else _hanging(pooled):
        stage.sandbox.release()
        (kept,) = until(lambda: [path for path in _pair_files(stage) if path.read_bytes().strip(b"\0")])
        holder.kill()

    (fresh,) = stage.start(1)
    fresh.ask("work")
    until(lambda: stage.is_reconciled(account_id) and not kept.exists())
    assert len(stage.presentations()) == 1
    assert "answer_lost" not in stage.events(account_id)


@pytest.mark.proves("F92")
@pytest.mark.parametrize("pooled", ["hasty"], indirect=True)
def test_token_calls_answer_503_while_the_server_behind_a_pooler_hangs(
    stage: Stage, pooled: str, postgres: PostgresServer, ready_command: list[str]
):
    """Whether a call has a session already or waits for one, the pooler's limits end it."""
    (account_id,) = stage.add_accounts(1, expires_in_seconds=80_000)
    with stage.app.app_context():
        key = issue_api_key("job", [Scope.TOKENS_READ], "x").text
    calls = FEW_SESSIONS * 2

    with real_servers(1, stage.environ, [*ready_command, "serve"]) as (server,), ThreadPoolExecutor(calls) as pool:

        def ask(_number: int) -> int:
            return server.ask(f"/api/v1/accounts/{account_id}/token", key)[0]

        until(lambda: set(pool.map(ask, range(calls))) == {200})
        with postgres.hanging():
            assert list(pool.map(ask, range(calls))) == [503] * calls
        until(lambda: set(pool.map(ask, range(calls))) == {200})


@pytest.mark.proves("F92")
@pytest.mark.parametrize("pooled", ["transaction"], indirect=True)
def test_token_calls_and_pages_answer_503_while_a_pooler_hangs(
    stage: Stage, pooled: str, monkeypatch: pytest.MonkeyPatch
):
    """A stopped program: its kernel takes what is sent, so no limit of the network ends the wait."""
    monkeypatch.setattr(LimitedConnection, "answer_seconds", 1.0)
    (account_id,) = stage.add_accounts(1, expires_in_seconds=80_000)
    app = create_app(Settings.from_env(stage.environ | {"DATABASE_URL": f"{pooled}&connect_timeout=2"}))
    with app.app_context():
        job = Program(app, issue_api_key("job", [Scope.TOKENS_READ], "x").text)
    path = f"/api/v1/accounts/{account_id}/token"
    assert job.get(path).status_code == 200

    with ThreadPoolExecutor(2) as pool, _hanging(pooled):
        asked = [pool.submit(job.get, path), pool.submit(visit(app).get, f"/r/{'x' * 43}")]
        refused, page = (each.result(timeout=60) for each in asked)
    served = job.get(path)

    with app.app_context():
        db.engine.dispose()
    assert (refused.status_code, refused.json()["error"]) == (503, "temporarily_unavailable")
    assert refused.json()["error_description"] == "The database does not answer."
    assert refused.headers["Retry-After"] == "5"
    assert (page.status_code, "The database does not answer" in page.text) == (503, True)
    assert served.status_code == 200


@contextmanager
def _hanging(pooled: str) -> Iterator[None]:
    """Stop PgBouncer as it stands, until the end of the block."""
    process = psutil.Process(int((Path(str(make_url(pooled).query["host"])) / "pid").read_text()))
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def _pair_files(stage: Stage) -> list[Path]:
    return list((Path(stage.environ["INSTANCE_PATH"]) / recovery.FOLDER).glob("*.pair"))


def _work_through(
    stage: Stage,
    pooled: str,
    command: list[str],
    *,
    accounts: int,
    servers: int,
    callers: int,
    calls: int,
    commands: tuple[tuple[str, ...], ...],
) -> None:
    """Let callers, commands and a worker, who renews half of the accounts, work at once."""
    ids = stage.add_accounts(accounts, expires_in_seconds=80_000)
    stage.change(*ids[accounts // 2 :], next_refresh_at=None)
    with stage.app.app_context():
        keys = [issue_api_key(f"job {n}", [Scope.TOKENS_READ, Scope.ACCOUNTS_READ], "x").text for n in range(4)]
    environ = stage.environ | {"API_RATE_PER_MINUTE": "10000000", "LOG_LEVEL": "WARNING"}

    with ExitStack() as stack:
        running = stack.enter_context(real_servers(servers, environ, [*command, "serve"]))
        worker = stack.enter_context(_start(environ, *command, "worker"))
        stack.callback(worker.terminate)
        pool = stack.enter_context(ThreadPoolExecutor(callers + 1))
        ordered = pool.submit(lambda: [_run(environ, *command, *arguments) for arguments in commands])
        calling = [pool.submit(_call, running[n % servers], keys[n % len(keys)], ids, n, calls) for n in range(callers)]
        answers = [answer for each in calling for answer in each.result()]
        printed = ordered.result()
        until(lambda: all(stage.row(account_id).refreshed_at for account_id in ids[: accounts // 2]))
        worker.terminate()
        complaints = worker.communicate(timeout=60)[1]

    assert Counter(status for status, _, _ in answers) == {200: callers * calls}
    assert [(each.returncode, each.stderr) for each in printed] == [(0, "")] * len(commands)
    assert (worker.returncode, complaints) == (0, "")
    grants = {token["fingerprint"]: token["grant_id"] for token in stage.sandbox.ledger()["tokens"]}
    own = {account_id: grants[fingerprint(_token(stage, account_id))] for account_id in ids}
    handed_out = [(int(path.split("/")[4]), body) for _, path, body in answers if path.endswith("/token")]
    for account_id, body in handed_out:
        assert grants[fingerprint(body["access_token"])] == own[account_id]
    assert stage.presented_twice() == []
    assert stage.is_reconciled(*ids)
    written = [json.loads(line) for line in (Path(environ["INSTANCE_PATH"]) / "audit.log").read_text().splitlines()]
    assert len(written) == len(handed_out) + commands.count(("accounts", "token", "1"))
    assert _left_behind(pooled) == {(None, None, None, None)}


def _call(server: RealServer, key: str, ids: list[int], first: int, calls: int) -> list[tuple[int, str, Any]]:
    """Ask for tokens, and now and then for what else a program asks for."""
    paths = [f"/api/v1/accounts/{account_id}/token" for account_id in ids]
    answers = []
    for number in range(first, first + calls):
        path = "/api/v1/accounts?limit=5" if number % 4 == 3 else paths[number % len(paths)]
        status, body = server.ask(path, key)
        answers.append((status, path, json.loads(body)))
    return answers


def _left_behind(pooled: str) -> set[tuple[Any, ...]]:
    """Return what the sessions hold of those that used them before."""
    url = make_url(pooled)
    with ExitStack() as stack:
        found = set()
        for _ in range(FEW_SESSIONS):  # each of them keeps its session to itself until the end
            connection = psycopg.connect(
                host=str(url.query["host"]), port=6432, user="postgres", dbname=url.database, prepare_threshold=None
            )
            stack.enter_context(connection)
            found.add(connection.execute(LEFT_BEHIND, [list(SET_BY_POOLER)]).fetchone() or ())
        return found


def _token(stage: Stage, account_id: int) -> str | None:
    with stage.app.app_context():
        return open_access_token(stage.row(account_id))


def _start(environ: dict[str, str], *command: str) -> subprocess.Popen[str]:
    inside = {"PATH": "/usr/bin:/bin", "FLASK_SKIP_DOTENV": "1", **environ}
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=inside, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _run(environ: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    with _start(environ, *command) as process:
        said = process.communicate(timeout=120)
    return subprocess.CompletedProcess(command, process.returncode, *said)
