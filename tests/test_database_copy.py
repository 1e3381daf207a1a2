"""The move from SQLite to PostgreSQL: docs/growing.md, and what may go wrong on the way (R41, R103)."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from flask import Flask
from sqlalchemy import Engine, create_engine, insert, select, text

from keap_connect import database_copy
from keap_connect.application import create_app
from keap_connect.database import Base, database_clock, db
from keap_connect.deployment import check_deployment
from keap_connect.errors import SettingsError
from keap_connect.models import KeyCheck
from keap_connect.refresh.recovery import FOLDER
from keap_connect.settings import Settings
from tests.accounts.granted import store_account
from tests.support.drills import Shell, documented_lines, make_due, refreshes
from tests.support.engines import on_sqlite
from tests.support.sandbox import Sandbox
from tests.test_migrations import value_for

pytestmark = on_sqlite
TABLES = Base.metadata.sorted_tables


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    """Give the app of the old database, which no process uses."""
    built = create_app(settings)
    with built.app_context():
        db.engine.dispose()
    yield built
    with built.app_context():
        db.engine.dispose()


@pytest.fixture
def new_url(new_database: Callable[[], str]) -> str:
    """Give the URL of an empty PostgreSQL database, as an operator would write it, with a password."""
    return new_database().replace("postgresql+psycopg://postgres@", "postgresql://postgres:canary-password@")


@dataclass
class Move:
    """The app before and after DATABASE_URL was changed to another one."""

    old: Flask
    new: Flask
    url: str


@pytest.fixture
def move(app: Flask, environ: dict[str, str], new_url: str) -> Iterator[Move]:
    new = create_app(Settings.from_env({**environ, "DATABASE_URL": new_url}), serves=False)
    yield Move(app, new, new_url)
    with new.app_context():
        db.engine.dispose()


def run(app: Flask, *arguments: str) -> tuple[int, str]:
    """Run a command in this process; return its exit code and what it said."""
    done = app.test_cli_runner().invoke(args=arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "canary-password" not in done.output
    with app.app_context():
        db.engine.dispose()
    return done.exit_code, done.output


def plain_engine(app: Flask) -> Engine:
    """Return an engine that takes no part in the locks of our processes."""
    return create_engine(app.config["SQLALCHEMY_DATABASE_URI"], poolclass=sqlalchemy.NullPool)


def change(app: Flask, statement: str, **values: object) -> None:
    """Change the old database past the program."""
    with plain_engine(app).begin() as connection:
        connection.execute(text(statement), values)


def all_rows(app: Flask) -> dict[str, list[dict[str, Any]]]:
    with plain_engine(app).connect() as connection:
        return {
            table.name: [dict(row) for row in connection.execute(select(table).order_by(*table.primary_key)).mappings()]
            for table in TABLES
        }


@pytest.mark.proves("R41")
def test_every_kind_of_value_arrives(move: Move):
    hostile = {"business_name": "Nul\0 “é” \\N\t\n\\u0000", "state_changes_at": None, "lease_owner": None}
    with plain_engine(move.old).begin() as connection:
        for table in (one for one in TABLES if one is not KeyCheck.__table__):
            connection.execute(table.delete())
            for number in (1, 2, 3):
                connection.execute(insert(table), {one.name: value_for(one, number) for one in table.columns})
        connection.execute(text("UPDATE account SET business_name = :business_name WHERE id = 1"), hostile)
        connection.execute(text("UPDATE account SET lease_owner = NULL, lease_ends = NULL, blocked_until = NULL"))
        connection.execute(text("UPDATE account SET lease_owner = 'x', lease_ends = 5 WHERE id = 2"))
        connection.execute(
            text("""UPDATE account_event SET details = '{"a": "\\u0000", "b": "\\\\u0000"}' WHERE id = 1""")
        )
        connection.execute(text("DELETE FROM account_event WHERE id = 3"))
    before = all_rows(move.old)

    code, said = run(move.old, "database", "copy", "--to", move.url)

    assert (code, "every sealed value was opened" in said) == (0, True), said
    after = all_rows(move.new)
    with plain_engine(move.new).connect() as connection:
        now = connection.scalar(select(database_clock())) or 0.0
        waits = [(row.pop("blocked_until") or 0) - now for row in after["account"]]
        added = insert(Base.metadata.tables["account_event"])
        values = {"at": before["account_event"][0]["at"], "kind": "x", "actor": "x", "details": {}}
        assert connection.execute(added.values(values)).inserted_primary_key == (4,)  # the third was deleted
    for row in before["account"]:
        row.pop("blocked_until")
    before["account"][0]["business_name"] = "Nul\N{REPLACEMENT CHARACTER} “é” \\N\t\n\\u0000"
    before["account_event"][0]["details"]["a"] = "\N{REPLACEMENT CHARACTER}"
    before["account"][1] |= {"lease_owner": None, "lease_ends": None}
    assert after == before
    # On another clock the end of a lease means nothing: its attempt may not be taken for an old one.
    assert [wait > 600 for wait in waits] == [False, True, False]


USES = (("worker", "--once"), ("accounts", "list"), ("db", "upgrade"), ("doctor",), ("database", "backup", "new.db"))


@pytest.mark.proves("R41", "R103")
def test_growing_md_moves_the_accounts_and_the_old_database_presents_nothing(
    app: Flask, sandbox: Sandbox, shell: Shell, new_url: str
):
    with app.app_context():
        store_account(sandbox)
        store_account(sandbox, "ab124")
        db.engine.dispose()
    make_due(shell.environ["DATABASE_URL"])
    place = "postgresql://keap@db.example.com/keap"

    copied = shell.run(documented_lines("growing.md", "database copy").replace(place, f"'{new_url}'"))
    old = [run(app, *command) for command in USES]
    with pytest.raises(SettingsError, match="was moved to"):  # as another WSGI server starts
        create_app(Settings.from_env({k: v for k, v in shell.environ.items() if k != "PATH"}))
    assert copied.returncode == 0, copied.stderr
    assert [(code != 0, "was moved to postgresql://postgres@/test_" in said) for code, said in old] == [
        (True, True)
    ] * 5
    assert refreshes(sandbox) == 0

    started = documented_lines("growing.md", "keap-connect doctor").replace(place, f"'{new_url}'")
    started = started.replace("./keap-connect worker", "./keap-connect worker --once --json")
    worked = shell.run(started)
    assert (worked.returncode, '"refreshed": 2' in worked.stdout) == (0, True), worked.stdout + worked.stderr
    assert refreshes(sandbox) == 2


@pytest.mark.proves("R41")
@pytest.mark.parametrize(
    "killed_at", ["before _reserve", "after _reserve", "after _copy_rows", "before _put_in_service"]
)
def test_a_copy_that_is_killed_is_repeated(move: Move, shell: Shell, sandbox: Sandbox, killed_at: str):
    when, function = killed_at.split()
    is_retired = function == "_put_in_service"

    shell.kill_at("database_copy", function, when, "database", "copy", "--to", move.url)

    code, said = run(move.new, "accounts", "list")
    assert (code, "unfinished copy" in said or "no tables" in said) == (1, True), said
    code, said = run(move.old, "accounts", "list")
    assert (code == 0, "was moved to" in said) == (not is_retired, is_retired), said
    if not is_retired:
        with move.old.app_context():
            store_account(sandbox, "ab999")
            db.engine.dispose()

    code, said = run(move.old, "database", "copy", "--to", move.url)
    assert (code, "was complete already" in said) == (0, is_retired), said
    code, said = run(move.new, "accounts", "list")
    assert (code, "ab999" in said) == (0, not is_retired), said
    assert run(move.old, "database", "copy", "--to", move.url)[0] == 1


@pytest.mark.proves("R41")
def test_a_process_that_starts_in_the_new_database_meanwhile_keeps_what_it_stores(
    move: Move, monkeypatch: pytest.MonkeyPatch
):
    write = database_copy._write_revision

    def copy_while(act: Callable[[], object]) -> str:
        def act_and_write(revision: str) -> None:
            act()
            monkeypatch.setattr(database_copy, "_write_revision", write)
            write(revision)

        monkeypatch.setattr(database_copy, "_write_revision", act_and_write)
        code, said = run(move.old, "database", "copy", "--to", move.url)
        assert code != 0
        return said

    def start() -> None:
        with move.new.app_context():
            check_deployment()
            db.engine.dispose()

    with ExitStack() as used:
        new = plain_engine(move.new)
        assert "1 other connections" in copy_while(lambda: used.enter_context(new.connect()))
    assert "is not empty" in copy_while(start)
    assert run(move.new, "accounts", "list")[0] == 0


@pytest.mark.proves("R41")
def test_a_step_that_fails_leaves_the_old_database_in_service(
    move: Move, new_database: Callable[[], str], tmp_path: Path, environ: dict[str, str], sandbox: Sandbox
):
    with move.old.app_context():
        store_account(sandbox)
        db.engine.dispose()
    recovery = tmp_path / "instance" / FOLDER
    recovery.mkdir(exist_ok=True)

    def refused(words: str, url: str = move.url) -> None:
        code, said = run(move.old, "database", "copy", "--to", url)
        assert (code != 0, words in said) == (True, True), said
        assert run(move.old, "accounts", "list")[0] == 0

    refused("only to PostgreSQL", "sqlite:///other.db")
    refused("No such file or directory", "postgresql://keap@/keap?host=/nowhere")
    with move.old.app_context(), db.engine.connect():
        assert (
            "A process of this installation uses"
            in move.old.test_cli_runner().invoke(args=["database", "copy", "--to", move.url]).output
        )
        db.engine.dispose()
    (recovery / "kept.pair").write_bytes(b"x")
    refused("wait in recovery files")
    (recovery / "kept.pair").unlink()

    filled = new_database()
    with create_engine(filled, poolclass=sqlalchemy.NullPool).begin() as connection:
        connection.execute(text("CREATE TABLE mine (id integer)"))
        refused("1 other connections use this database", filled)
    refused("is not empty", filled)

    with pytest.MonkeyPatch.context() as lossy:
        lossy.setattr(database_copy, "_copy_table", lambda *_: None)
        refused("rows, and 0 arrived")
    change(move.old, "UPDATE account SET generation = 3000000000")
    refused("out of range for type integer")
    change(move.old, "UPDATE account SET generation = 1, refresh_token_sealed = x'00'")
    (tmp_path / "other.db").touch()
    other = create_app(Settings.from_env({**environ, "DATABASE_URL": f"sqlite:///{tmp_path}/other.db"}), serves=False)
    assert "not of this version" in run(other, "database", "copy", "--to", move.url)[1]
    assert run(other, "db", "upgrade")[0] == 0
    assert "never been used" in run(other, "database", "copy", "--to", move.url)[1]
    with other.app_context():
        check_deployment()
        db.engine.dispose()
    code, said = run(other, "database", "copy", "--to", move.url)
    assert (code, "holds no unfinished copy of the old one" in said) == (1, True), said

    code, said = run(move.old, "database", "copy", "--to", move.url)
    assert (code, "No key in TOKEN_KEYS opens 1 of them" in said) == (0, True), said
