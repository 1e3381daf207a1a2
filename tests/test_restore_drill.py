"""The drill: docs/backup.md, word for word, after a kill -9 under load (R50, R103, F41, F71, F90)."""

import base64
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy
from flask import Flask

from keap_connect.access.admins import create_admin, get_admin
from keap_connect.access.api_keys import issue_api_key
from keap_connect.access.sign_ins import find_admin, sign_in_admin
from keap_connect.accounts.credentials import open_access_token, open_refresh_token
from keap_connect.accounts.directory import get_account
from keap_connect.application import create_app
from keap_connect.database import db
from keap_connect.deployment import downgrade
from keap_connect.engine import keep_others_out
from keap_connect.notifications.endpoints import add_endpoint, list_deliveries
from keap_connect.settings import Settings
from tests.accounts.granted import store_account
from tests.conftest import TOKEN_KEY
from tests.support.drills import ROOT, Shell, documented_lines, make_due, refreshes, wait_until
from tests.support.engines import on_sqlite
from tests.support.postgres import client_program
from tests.support.real_server import real_server
from tests.support.sandbox import Sandbox

OTHER_KEY = base64.b64encode(bytes(range(32, 64))).decode()
ACCOUNTS = 3


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    """Give the app of a process that has ended before anything is restored."""
    built = create_app(settings)
    yield built
    with built.app_context():
        db.engine.dispose()


def store_some(app: Flask, sandbox: Sandbox) -> list[str]:
    """Store accounts; return what must be in no backup."""
    with app.app_context():
        for number in range(ACCOUNTS):
            store_account(sandbox, f"ab{number}")
        pair = open_access_token(get_account(1)), open_refresh_token(get_account(1))
        db.engine.dispose()
    return [TOKEN_KEY, *(token for token in pair if token)]


@pytest.mark.proves("R50", "R103", "F41", "F71", "F90")
def test_readme_restores_after_a_kill_under_load(
    app: Flask, sandbox: Sandbox, shell: Shell, database_url: str, request: pytest.FixtureRequest
):
    secrets = store_some(app, sandbox)
    is_sqlite = database_url.startswith("sqlite")
    name = f"/backups/keap_connect.{'db' if is_sqlite else 'dump'}"
    with app.app_context():
        key = issue_api_key("drill", ["tokens:read"], "test").text
        db.engine.dispose()
    with real_server(shell.environ) as server:
        backup = shell.run(documented_lines("backup.md", f"backup {name}"))
        worker = shell.start("worker")
        wait_until(lambda: refreshes(sandbox) == 0 and server.ask("/api/v1/accounts/1/token", key)[0] == 200)
        make_due(database_url)
        wait_until(lambda: refreshes(sandbox) > 0)
        running = shell.run(documented_lines("backup.md", f"restore {name}"))
        for process in (worker, server.process):
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert (backup.returncode, running.returncode == 0) == (0, False), backup.stderr + running.stderr
    if not is_sqlite:
        full = shell.run("./keap-connect database backup /backups/full > full.sh && ulimit -f 20 && sh full.sh")
        assert (full.returncode != 0, list(shell.backups.glob("full*"))) == (True, []), full.stderr
    file = shell.backups / name.removeprefix("/backups/")
    assert file.stat().st_mode & 0o777 == 0o600
    content = file.read_bytes()
    if not is_sqlite:
        content = subprocess.check_output([client_program("pg_restore"), "--file=-", file])
        shell.environ["DATABASE_URL"] = request.getfixturevalue("new_database")()
    assert [secret for secret in secrets if secret.encode() in content] == []

    before = refreshes(sandbox)
    restored = shell.run(documented_lines("backup.md", f"restore {name}"))
    handed_out = shell.run("./keap-connect accounts token 1")
    refused = shell.run("./keap-connect worker --once")
    assert restored.returncode == 0, restored.stderr
    assert "confirm-only-one" in restored.stdout
    if not is_sqlite:
        assert f"\n{ROOT}/keap-connect database restored" in (shell.backups / "restore.sh").read_text()
    assert (handed_out.returncode, handed_out.stdout.strip()) == (0, secrets[1])
    assert (refused.returncode, "confirm-only-one" in refused.stderr) == (4, True)
    assert refreshes(sandbox) == before

    assert shell.run(documented_lines("backup.md", "confirm-only-one")).returncode == 0
    assert shell.run("./keap-connect worker --once").returncode == 0
    assert shell.run("./keap-connect doctor --json").returncode in {0, 1}


# SQLite: what is refused, and what is kept


def cli(app: Flask, *arguments: str) -> tuple[int, str]:
    """Run a command in this process, and let go of the database; return its exit code and what it said."""
    done = app.test_cli_runner().invoke(args=arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    with app.app_context():
        db.engine.dispose()
    return done.exit_code, done.output


@pytest.fixture
def backup(app: Flask, sandbox: Sandbox, tmp_path: Path) -> Path:
    """Give a backup of a database that has accounts."""
    store_some(app, sandbox)
    (tmp_path / "saved").mkdir()
    file = tmp_path / "saved" / "keap_connect.db"
    assert cli(app, "database", "backup", str(file))[0] == 0
    return file


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("keap_connect.db*") if path.suffix != ".lock"}


def newer(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()


def of_another_program(file: Path) -> None:
    file.unlink(missing_ok=True)
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE note (text)")
    connection.close()


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8192])


def overwritten(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:4096] + bytes(len(content) // 2) + content[4096 + len(content) // 2 :])


def the_database(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.parent.parent / "keap_connect.db")


def a_cut_short_copy(file: Path) -> None:
    part = file.parent.parent / "keap_connect.db.part"
    file.rename(part)
    file.symlink_to(part)


def a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


UNFIT: dict[str, tuple[Callable[[Path], object], str]] = {
    "newer": (newer, "is newer than this program"),
    "another program's": (of_another_program, "is not a Keap Connect database"),
    "a text": (lambda file: file.write_text("PGDMP"), "is not a Keap Connect database"),
    "empty": (lambda file: file.write_text(""), "is not a Keap Connect database"),
    "not there": (Path.unlink, "No such file or directory: "),
    "the database": (the_database, "is the database itself"),
    "a copy that a restore left": (a_cut_short_copy, "Rename it first"),
    "a pipe": (a_pipe, "is not a file"),
    "cut off": (cut_off, "is damaged"),
    "overwritten": (overwritten, "is damaged"),
    "another key's": (lambda _file: None, "TOKEN_KEYS does not open"),
}


@on_sqlite
@pytest.mark.proves("F90")
@pytest.mark.parametrize("name", UNFIT)
def test_a_backup_that_is_not_fit_is_refused_in_one_sentence_and_changes_nothing(
    app: Flask, environ: dict[str, str], backup: Path, tmp_path: Path, name: str
):
    spoil, expected = UNFIT[name]
    spoil(backup)
    before = contents(tmp_path)
    if name == "another key's":
        app = create_app(Settings.from_env({**environ, "TOKEN_KEYS": OTHER_KEY}), serves=False)

    code, said = cli(app, "database", "restore", str(backup))

    assert (code, expected in said, said.count("\n")) == (1, True, 1), said
    assert contents(tmp_path) == before


@on_sqlite
def test_a_restore_refuses_while_a_process_uses_the_database(app: Flask, backup: Path, tmp_path: Path):
    with app.app_context(), db.engine.connect():
        before = contents(tmp_path)
        done = app.test_cli_runner().invoke(args=["database", "restore", str(backup)])
        assert contents(tmp_path) == before

    assert (done.exit_code, "A process of this installation uses" in done.output) == (4, True)


@on_sqlite
@pytest.mark.proves("F90")
@pytest.mark.parametrize(
    ("killed_at", "is_cut_short"),
    [(("_keep_aside", "after"), False), (("put_in_place", "before"), True), (("put_in_place", "after"), True)],
)
def test_a_restore_that_is_killed_loses_nothing_and_is_repeated(
    app: Flask, shell: Shell, backup: Path, killed_at: tuple[str, str], is_cut_short: bool
):
    """An empty database in the place of the old one would be taken for an installation without accounts."""
    database = shell.folder / "keap_connect.db"
    before, there = database.read_bytes(), {"instance", "keap-connect", "backups", "saved"}

    shell.kill_at("backup", *killed_at, "database", "restore", str(backup))

    (kept,) = shell.folder.glob("keap_connect.db.2*")
    assert kept.read_bytes() == before
    said = cli(app, "accounts", "list"), cli(app, "db", "upgrade")
    if is_cut_short:
        assert [(code, "a restore was cut short" in text, str(kept) in text) for code, text in said] == [
            (4, True, True),
            (4, True, True),
        ]
    else:
        assert [code for code, _ in said] == [0, 0]
        kept.unlink()
    code, text = cli(app, "database", "restore", str(backup))
    (again,) = shell.folder.glob("keap_connect.db.2*")
    assert (code, str(again) in text, again.read_bytes()) == (0, True, before)
    assert {path.name for path in shell.folder.iterdir()} - there == {
        database.name,
        f"{database.name}.lock",
        again.name,
    }
    assert cli(app, "refreshing", "status")[0] == 4


@on_sqlite
def test_no_process_opens_the_database_while_it_is_restored(app: Flask, backup: Path, tmp_path: Path):
    with keep_others_out(tmp_path / "keap_connect.db"):
        code, said = cli(app, "accounts", "list")

    assert (code, "it is being restored" in said) == (4, True)


@on_sqlite
@pytest.mark.proves("F90")
def test_a_file_copied_over_the_database_is_said_to_be_damaged_and_restored(app: Flask, shell: Shell, backup: Path):
    database = shell.folder / "keap_connect.db"
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("CREATE TABLE filler (content)")
    connection.executemany("INSERT INTO filler VALUES (zeroblob(3000))", [()] * 300)
    connection.commit()
    stale = {suffix: Path(f"{database}{suffix}").read_bytes() for suffix in ("-wal", "-shm")}
    connection.close()

    def copy_over() -> bytes:
        database.write_bytes(backup.read_bytes()[:-40960])
        for suffix, content in stale.items():
            Path(f"{database}{suffix}").write_bytes(content)
        return database.read_bytes()

    copy_over()

    said = [shell.run(f"./keap-connect {command}") for command in ("worker --once", "doctor", "serve")]
    assert [(one.returncode, "damaged" in one.stdout + one.stderr) for one in said] == [(1, True)] * 3, said
    assert cli(app, "accounts", "list")[0] == 1
    code, restored = cli(app, "database", "restored")
    assert (code, "The database is damaged (" in restored) == (1, True)
    hurt = copy_over()  # whoever opened it last has folded the -wal in
    assert cli(app, "database", "restore", str(backup))[0] == 0

    assert not Path(f"{database}-wal").exists()
    (kept,) = (path for path in shell.folder.glob("keap_connect.db.2*") if not path.name.endswith("-wal"))
    assert (kept.read_bytes(), Path(f"{kept}-wal").read_bytes()) == (hurt, stale["-wal"])
    assert cli(app, "accounts", "token", "1")[0] == 0


@on_sqlite
@pytest.mark.proves("R102")
def test_the_pause_after_a_restore_is_in_the_history_and_announced(app: Flask, backup: Path):
    with app.app_context():
        add_endpoint("https://example.com/hook", None, None, "x")
    assert cli(app, "database", "restored")[0] == 0
    with app.app_context():
        (announced,) = list_deliveries(1).rows
        db.engine.dispose()
    assert cli(app, "database", "restore", str(backup))[0] == 0
    code, said = cli(app, "audit", "list", "--kind", "refreshing_paused")

    assert (announced.kind, announced.payload["data"]["reason"]) == ("refreshing.paused", "unknown_instance")
    assert (code, "Refreshing is paused. This database was restored from a backup" in said) == (0, True)


@on_sqlite
@pytest.mark.proves("R60")
def test_a_restore_brings_no_sign_in_back(app: Flask, backup: Path, tmp_path: Path):
    with app.app_context():
        admin = create_admin("eve@example.com", "a long enough phrase")
        session_id = sign_in_admin(admin)
        db.engine.dispose()
    assert cli(app, "database", "backup", str(tmp_path / "newer.db"))[0] == 0

    assert cli(app, "database", "restore", str(tmp_path / "newer.db"))[0] == 0

    with app.app_context():
        assert get_admin(admin.email)
        assert find_admin(session_id) is None
        db.engine.dispose()


@on_sqlite
def test_a_backup_overwrites_nothing(app: Flask, backup: Path):
    before = backup.read_bytes()
    code, said = cli(app, "database", "backup", str(backup))

    assert (code, "exists already" in said) == (1, True)
    assert [path.name for path in backup.parent.iterdir()] == [backup.name]
    assert backup.read_bytes() == before


@on_sqlite
@pytest.mark.proves("F90")
def test_a_backup_that_cannot_be_made_says_why_and_leaves_nothing(app: Flask, environ: dict[str, str], backup: Path):
    """A backup of the wrong file, every night and without an error, would be noticed when it is needed."""
    of_another_program(wrong := backup.with_name("wrong.db"))
    missing = backup.with_name("missing.db")
    cases = {
        backup.parent / "no folder" / "new.db": (environ["DATABASE_URL"], "No such file or directory"),
        backup / "new.db": (environ["DATABASE_URL"], "Not a directory"),
        backup.with_name("new.db"): (f"sqlite:///{missing}", f"{missing}, which DATABASE_URL names, does not exist"),
        backup.with_name("newer.db"): (f"sqlite:///{wrong}", "is not a Keap Connect database"),
    }
    for file, (database_url, reason) in cases.items():
        there = create_app(Settings.from_env({**environ, "DATABASE_URL": database_url}), serves=False)
        code, said = cli(there, "database", "backup", str(file))
        assert (code, reason in said, said.count("\n")) == (1, True, 1), said

    assert {path.name for path in backup.parent.glob("[!w]*")} == {backup.name}


@on_sqlite
@pytest.mark.proves("F90")
def test_a_full_disk_is_said_and_changes_nothing(app: Flask, shell: Shell, backup: Path):
    before = (shell.folder / "keap_connect.db").read_bytes()
    for lines in ("./keap-connect database backup /backups/new.db", f"./keap-connect database restore {backup}"):
        done = shell.run(f"ulimit -f 90; {lines}")
        assert (done.returncode, done.stderr.count("\n"), " was not " in done.stderr) == (1, 1, True), done.stderr

    assert (shell.folder / "keap_connect.db").read_bytes() == before
    assert list(shell.folder.glob("keap_connect.db.[2p]*")) == []
    assert list(shell.backups.iterdir()) == []


@on_sqlite
def test_a_backup_is_restored_where_there_is_no_database_and_a_link_to_it_stays_a_link(
    app: Flask, environ: dict[str, str], backup: Path, tmp_path: Path
):
    database = tmp_path / "keap_connect.db"
    database.rename(tmp_path / "elsewhere.db")
    database.symlink_to(tmp_path / "elsewhere.db")
    (link := tmp_path / "newest").symlink_to(backup)

    assert cli(app, "database", "restore", str(link))[0] == 0
    assert (database.is_symlink(), len(list(tmp_path.glob("elsewhere.db.2*")))) == (True, 1)

    fresh = create_app(Settings.from_env({**environ, "DATABASE_URL": f"sqlite:///{tmp_path}/fresh.db"}), serves=False)
    code, said = cli(fresh, "database", "restore", str(link))
    assert (code, "there was none" in said) == (0, True)
    assert cli(fresh, "accounts", "token", "1")[0] == 0


@on_sqlite
@pytest.mark.parametrize("revision", ["0001", "0005"])
def test_an_older_backup_is_restored_upgraded_and_presents_nothing_until_confirmed(
    app: Flask, environ: dict[str, str], backup: Path, sandbox: Sandbox, revision: str
):
    old = create_app(Settings.from_env({**environ, "DATABASE_URL": f"sqlite:///{backup}"}), serves=False)
    with old.app_context():
        downgrade(revision)
        db.engine.dispose()

    code, said = cli(app, "database", "restore", str(backup))
    assert (code, "./keap-connect db upgrade" in said) == (0, True), said
    assert "db upgrade" in cli(app, "worker", "--once")[1]
    assert cli(app, "db", "upgrade")[0] == 0
    make_due(environ["DATABASE_URL"])
    assert cli(app, "worker", "--once")[0] == 4
    assert refreshes(sandbox) == 0
    assert cli(app, "refreshing", "confirm-only-one")[0] == 0
    assert cli(app, "worker", "--once")[0] == 0
    assert refreshes(sandbox) == ACCOUNTS


# PostgreSQL: what is refused, and what the lines do not say


@pytest.fixture
def ordinary_role(new_database: Callable[[], str]) -> Iterator[tuple[str, psycopg.Connection]]:
    """Give the URL of an empty database for a role that is no superuser, and the connection of another role."""
    url = sqlalchemy.make_url(new_database())
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute("CREATE ROLE ordinary LOGIN")
        yield url.set(username="ordinary").render_as_string(hide_password=False), connection
        connection.execute("DROP ROLE ordinary")


@on_sqlite
@pytest.mark.proves("F90")
def test_a_restore_sees_the_connections_of_other_roles(
    environ: dict[str, str], ordinary_role: tuple[str, psycopg.Connection], tmp_path: Path
):
    url, other = ordinary_role
    (tmp_path / "dump").touch()
    app = create_app(Settings.from_env({**environ, "DATABASE_URL": url}), serves=False)

    code, said = cli(app, "database", "restore", str(tmp_path / "dump"))
    assert (code, "1 other connections use this database" in said) == (4, True), said

    other.execute("CREATE TABLE alembic_version (version_num text)")
    for command in (("database", "restored"), ("accounts", "list")):
        code, said = cli(app, *command)
        assert (code != 0, "permission denied for table alembic_version" in said, said.count("\n")) == (True, True, 1)
    other.execute("DROP TABLE alembic_version")


@on_sqlite
@pytest.mark.proves("R50")
def test_no_command_shows_a_password_of_the_database(
    environ: dict[str, str], new_database: Callable[[], str], tmp_path: Path
):
    url = new_database().replace("postgres@", "postgres:canary-1@") + "&password=canary-2&sslpassword=canary-3"
    silent = url.replace("?host=", "?port=1&host=")
    (tmp_path / "dump").touch()

    for database_url in (url, silent):
        app = create_app(Settings.from_env({**environ, "DATABASE_URL": database_url}), serves=False)
        for command in (("backup", str(tmp_path / "new")), ("restore", str(tmp_path / "dump")), ("restored",)):
            code, said = cli(app, "database", *command)
            is_empty = database_url == url and command[0] != "restore"
            assert ("canary" in said, code != 0) == (False, database_url != url or is_empty), said
            assert said.count("\n") == 1 or not code, said

    unknown = create_app(
        Settings.from_env({**environ, "DATABASE_URL": url.replace("postgres:", "unknown:")}), serves=False
    )
    for command in (("backup", str(tmp_path / "new")), ("restore", str(tmp_path / "dump"))):
        code, said = cli(unknown, "database", *command)
        assert (code, 'role "unknown" does not exist' in said, said.count("\n")) == (4, True, 1), said
