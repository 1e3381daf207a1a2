"""The drills: the commands of docs/emergencies.md, to the letter, after what each section is about (R50, F41, F96)."""

import base64
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from flask import Flask
from sqlalchemy import select, update

from keap_connect.access.api_keys import issue_api_key, verify_api_key
from keap_connect.accounts.stored_state import count_places
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.database import db, read_session, write_transaction
from keap_connect.errors import APIKeyRefused
from keap_connect.jobs.runner import JobRunner
from keap_connect.models import Account, AccountEvent, Delivery
from keap_connect.refresh.heartbeat import beat_as_server, process_name, retire
from keap_connect.settings import Settings
from tests.accounts.granted import store_account
from tests.conftest import TOKEN_KEY, MovedClock
from tests.support import postgres
from tests.support.drills import documented_lines, refreshes, wait_until
from tests.support.engines import on_sqlite
from tests.support.postgres import PostgresServer, client_program
from tests.support.sandbox import CLIENT_ID, Sandbox

pytestmark = on_sqlite
OTHER_KEY = base64.b64encode(bytes(range(32, 64))).decode()
MAIL = {"SMTP_URL": "smtp://127.0.0.1:1", "MAIL_FROM": "connect@example.com", "CUSTOMER_MAIL": "on"}
Start = Callable[..., Flask]


@pytest.fixture
def start(environ: dict[str, str]) -> Iterator[Start]:
    """Give the function that makes the app of new processes, with other settings."""
    made: list[Flask] = []

    def begin(**changes: str) -> Flask:
        made.append(create_app(Settings.from_env({**environ, **changes}), serves=False))
        return made[-1]

    yield begin
    for app in made:
        with app.app_context():
            db.engine.dispose()


def run(app: Flask, *arguments: str) -> tuple[int, str]:
    done = app.test_cli_runner().invoke(args=arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    with app.app_context():
        db.engine.dispose()
    return done.exit_code, done.output


def drill(app: Flask, words: str, folder: Path = Path("/backups")) -> list[str]:
    """Run a block of the document, and return what each command said; all have to succeed."""
    said = []
    for line in documented_lines("emergencies.md", words).splitlines():
        program, *arguments = shlex.split(line.replace("/backups", str(folder)))
        assert program == "./keap-connect"
        code, output = run(app, *arguments)
        assert code == 0, output
        said.append(output)
    return said


def store_some(app: Flask, sandbox: Sandbox, count: int = 3) -> None:
    """Store accounts that are due."""
    assert run(app, "db", "upgrade")[0] == 0
    with app.app_context():
        for number in range(count):
            facts = {"person_email": f"{number}@example.com", "next_refresh_at": utc_now() - timedelta(seconds=5)}
            store_account(sandbox, f"ab{100 + number}", **facts)
    assert run(app, "accounts", "list")[0] == 0  # writes the key check


def make_due(app: Flask) -> None:
    """Let the waits of all accounts be over; they are on a clock that no test moves."""
    with app.app_context(), write_transaction() as session:
        session.execute(update(Account).values(next_refresh_at=utc_now(), blocked_until=None))


def mails(app: Flask) -> int:
    """Do the job that writes mails, as a worker does, and count them."""
    with app.app_context(), read_session() as session:
        JobRunner(app).do_due()
        return len(session.scalars(select(Delivery.id).where(Delivery.kind == "reconnect")).all())


def states(app: Flask) -> dict[tuple[str, str | None], int]:
    with app.app_context():
        return {(str(state), cause): count for (state, cause), count in count_places().items() if count}


@pytest.mark.proves("R46", "F40")
def test_a_lost_key_ends_in_a_mail_to_every_customer_and_a_key_that_is_there_loses_nothing(
    start: Start, sandbox: Sandbox, environ: dict[str, str]
):
    store_some(start(), sandbox)
    assert "reconnected: 0." in run(start(**MAIL), "token-keys", "drop-unreadable", "--yes")[1]
    with start().app_context():
        beat_as_server()
    app = start(**MAIL, TOKEN_KEYS=OTHER_KEY)
    code, said = run(app, "worker", "--once")
    assert (code, "TOKEN_KEYS does not open" in said) == (1, True), said
    code, said = run(app, "token-keys", "drop-unreadable", "--all", "--yes")
    assert (code, "Do not end them" in said) == (4, True), said
    with start(TOKEN_KEYS=f"{OTHER_KEY},{TOKEN_KEY}").app_context():  # the old key was removed too early elsewhere
        beat_as_server()
    code, said = run(app, "token-keys", "drop-unreadable", "--all", "--yes")
    assert (code, "may have an older key, too" in said) == (4, True), said
    with app.app_context():
        retire(process_name())
    code, said = run(app, "token-keys", "drop-unreadable", "--yes")
    assert (code, "opens none of the stored values" in said) == (1, True), said
    assert states(app) == {("active", None): 3}

    drill(app, "drop-unreadable")

    assert states(app) == {("reconnect_required", "token_expired"): 3}
    assert mails(app) == 3
    assert run(app, "worker", "--once")[0] == 0
    assert refreshes(sandbox) == 0
    assert run(start(), "accounts", "list")[0] == 1  # the lost key turns up too late


@pytest.mark.proves("R50", "R103", "F41")
def test_a_lost_host_is_restored_on_another_one(start: Start, sandbox: Sandbox, tmp_path: Path):
    app = start()
    store_some(app, sandbox)
    folder = tmp_path / "backups"
    folder.mkdir()
    assert run(app, "database", "backup", str(folder / "keap_connect.db"))[0] == 0
    elsewhere = start(INSTANCE_PATH=str(tmp_path / "new"), DATABASE_URL=f"sqlite:///{tmp_path}/new.db")

    restore = documented_lines("emergencies.md", "database restore /")
    assert run(elsewhere, *shlex.split(restore.replace("/backups", str(folder)))[1:])[0] == 0
    assert run(elsewhere, "worker", "--once")[0] == 4
    assert refreshes(sandbox) == 0
    drill(elsewhere, "confirm-only-one")
    assert run(elsewhere, "worker", "--once")[0] == 0
    assert refreshes(sandbox) == 3


def test_a_new_client_secret_keeps_all_grants(start: Start, sandbox: Sandbox):
    store_some(start(), sandbox)
    sandbox.add_app(CLIENT_ID, "a-new-secret")
    assert run(start(), "worker", "--once")[0] == 4
    app = start(KEAP_CLIENT_ID=CLIENT_ID, KEAP_CLIENT_SECRET="a-new-secret")

    drill(app, "refreshing resume")

    make_due(app)
    assert run(app, "worker", "--once")[0] == 0
    assert set(states(app)) == {("active", None)}


@pytest.mark.proves("R49")
def test_a_leaked_api_key_is_refused_and_another_one_made(start: Start, sandbox: Sandbox):
    app = start()
    store_some(app, sandbox)
    with app.app_context():
        leaked = issue_api_key("nightly-sync", ["tokens:read"], "test").text
        assert verify_api_key(leaked)

    *_, made = drill(app, "api-keys revoke")

    with app.app_context():
        with pytest.raises(APIKeyRefused):
            verify_api_key(leaked)
        assert verify_api_key(made.split()[0]).name == "nightly-sync"


@pytest.mark.proves("F96")
def test_all_customers_are_asked_to_move_to_a_new_client_id(start: Start, sandbox: Sandbox):
    store_some(start(), sandbox, 30)
    app = start(**MAIL, KEAP_CLIENT_ID="another-client", KEAP_CLIENT_SECRET="another-secret")
    sandbox.add_app("another-client", "another-secret")
    assert run(app, "worker", "--once")[0] in {0, 4}
    assert states(app) == {("at_risk", "other_registration"): 30}

    drill(app, "--state at_risk")

    assert mails(app) == 30
    assert refreshes(sandbox) == 0
    silent = start(KEAP_CLIENT_ID="another-client", KEAP_CLIENT_SECRET="another-secret")
    code, said = run(silent, "accounts", "ask-to-reconnect", "--state", "at_risk")
    assert (code, "CUSTOMER_MAIL is off" in said) == (1, True), said


@pytest.mark.proves("F21")
def test_while_keap_is_down_nobody_is_lost_or_written_to(start: Start, sandbox: Sandbox, clock: MovedClock):
    app = start(**MAIL)
    store_some(app, sandbox)
    sandbox.fault("html_503", "refresh")
    for _ in range(6):
        make_due(app)
        run(app, "worker", "--once")
        clock.advance(hours=1)

    (said,) = drill(app, "refreshing status")

    assert "not paused" in said
    assert run(app, "accounts", "token", "1")[0] == 0
    assert {state for state, _ in states(app)} <= {"active", "at_risk"}
    assert mails(app) == 0
    assert refreshes(sandbox) >= 6
    sandbox.clear_faults()
    make_due(app)
    assert run(app, "worker", "--once")[0] == 0
    with app.app_context(), read_session() as session:
        assert all(session.scalars(select(Account.refreshed_at)).all())


@pytest.mark.proves("F43")
def test_a_wrong_clock_is_said_and_old_history_gives_room(start: Start, sandbox: Sandbox, clock: MovedClock):
    app = start()
    store_some(app, sandbox)
    with app.app_context(), write_transaction() as session:
        session.add(AccountEvent(at=utc_now() - timedelta(days=100), kind="connected", actor="customer", details={}))
    assert "1" in drill(app, "audit prune")[0]
    assert "Our clock is" not in run(app, "doctor")[1]
    clock.advance(seconds=400)

    code, said = run(app, *shlex.split(documented_lines("emergencies.md", "keap-connect doctor"))[1:])

    assert (code, "seconds ahead" in said) == (1, True), said


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """Give a folder that the user of the servers can reach."""
    with tempfile.TemporaryDirectory(prefix="archive-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        for part in ("wal", "first", "second"):
            Path(name, part).mkdir()
            Path(name, part).chmod(0o777)
        yield Path(name)


@contextmanager
def running(server: PostgresServer) -> Iterator[None]:
    server.start()
    try:
        yield
    finally:
        server.stop()


@pytest.mark.long
@pytest.mark.proves("R50", "F41")
def test_postgresql_goes_back_to_a_moment(
    start: Start, sandbox: Sandbox, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    archive, first, second = (shared_folder / part for part in ("wal", "first", "second"))
    monkeypatch.setitem(postgres.OPTIONS, "archive_mode", "on")
    monkeypatch.setitem(postgres.OPTIONS, "archive_command", f"cp %p {archive}/%f")
    server = PostgresServer(first)
    server.create()
    with running(server):
        url = server.new_database()
        app = start(DATABASE_URL=url)
        store_some(app, sandbox)
        backup = [client_program("pg_basebackup"), "-h", first, "-U", "postgres", "-D", second / "data"]
        subprocess.run(backup, check=True, timeout=120)
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            ((moment,),) = connection.execute("SELECT clock_timestamp()::text").fetchall()
            connection.execute("DELETE FROM account")
            connection.execute("SELECT pg_switch_wal()")
    recovery = {
        "restore_command": f"cp {archive}/%f %p",
        "recovery_target_time": moment,
        "recovery_target_action": "pause",  # what `promote` does at once waits until this test goes on
    }
    with (second / "data" / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in recovery.items())
    (second / "data" / "recovery.signal").touch()
    restored = PostgresServer(second)
    if os.geteuid() == 0:
        for path in (second / "data", *(second / "data").rglob("*")):
            shutil.chown(path, "nobody")

    with running(restored):
        url = url.replace(str(first), str(second))
        app = start(DATABASE_URL=url)
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            code, said = run(app, "database", "restored")
            assert (code, "read-only transaction" in said) == (1, True), said
            wait_until(lambda: connection.execute("SELECT pg_get_wal_replay_pause_state() = 'paused'").fetchone()[0])
            connection.execute("SELECT pg_wal_replay_resume()")
            wait_until(lambda: not connection.execute("SELECT pg_is_in_recovery()").fetchone()[0])
        drill(app, "database restored")
        assert run(app, "worker", "--once")[0] == 4
        assert refreshes(sandbox) == 0
        drill(app, "confirm-only-one")
        assert run(app, "worker", "--once")[0] == 0
        with app.app_context():
            db.engine.dispose()
    assert refreshes(sandbox) == 3
