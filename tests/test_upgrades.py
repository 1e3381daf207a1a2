"""docs/upgrading.md: from each version to this one, beside the old processes, and back (R42, F42)."""

import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.client import HTTPException
from pathlib import Path

import pytest
import sqlalchemy
from flask import Flask
from sqlalchemy import MetaData, create_engine, insert, select, update

from keap_connect.access.api_keys import issue_api_key, verify_api_key
from keap_connect.accounts.credentials import open_access_token, open_refresh_token
from keap_connect.accounts.directory import get_account
from keap_connect.accounts.stored_state import derive_anew
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.connect.endings import Ending
from keap_connect.connect.invitation_lists import list_invitations
from keap_connect.database import db
from keap_connect.deployment import VERSION, check_deployment, downgrade, read_revision, upgrade
from keap_connect.key_rotation import list_closed_values
from keap_connect.models import AuthorizationFlow, Invitation
from keap_connect.settings import Settings
from tests.accounts.granted import store_account
from tests.support.drills import ROOT, Shell, documented_lines, wait_until
from tests.support.engines import on_sqlite
from tests.support.filled_versions import ENVIRON, FOLDER, NAMES, load, revision_of
from tests.support.real_server import RealServer, real_servers
from tests.support.sandbox import Sandbox
from tests.test_migrations import HEAD, REVISIONS, value_for

VERSIONS = sorted(path.stem for path in FOLDER.glob("*.sql"))
# What an old process cannot use while the new tables are there.
DROPPED = {"pending_file"}  # 0016: a file that waits on the import page of 0.1.0


@pytest.fixture(params=["sqlite", "postgresql"])
def old_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of a database without a table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/old.db"
    new_database: Callable[[], str] = request.getfixturevalue("new_database")
    return new_database()


@pytest.fixture
def upgraded(old_url: str, tmp_path: Path) -> Iterator[Flask]:
    """Give the app of this version on that database."""
    environ = {**ENVIRON, "DATABASE_URL": old_url, "INSTANCE_PATH": str(tmp_path / "instance")}
    app = create_app(Settings.from_env(environ), serves=False)
    yield app
    with app.app_context():
        db.engine.dispose()


def pairs() -> list[tuple[str | None, str | None]]:
    accounts = [get_account(number) for number in range(1, len(NAMES) + 1)]
    return [(open_access_token(one), open_refresh_token(one)) for one in accounts]


@pytest.mark.proves("F42")
@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_is_upgraded_and_goes_back_with_all_tokens(upgraded: Flask, old_url: str, version: str):
    load(version, old_url)
    (key,) = re.findall("API key: (.*)", (FOLDER / f"{version}.sql").read_text(encoding="utf-8"))

    done = upgraded.test_cli_runner().invoke(args=["db", "upgrade"])

    assert done.exit_code == 0, done.output
    with upgraded.app_context():
        assert (check_deployment(), list(list_closed_values())) == ([], [])
        before = pairs()
        assert all(
            access.startswith(f"access-token-{number}") for number, (access, _) in enumerate(before, 1) if access
        )
        assert verify_api_key(key).name == "nightly"
        derive_anew(0, 100)  # as a worker does at its start
        store = upgraded.test_cli_runner().invoke(args=["accounts", "list", "sohne"])
        assert "customer-2" in store.output, store.output

        downgrade(revision_of(version))
        tables = MetaData()
        tables.reflect(db.engine)
        sealed = tables.tables["account"].c.refresh_token_sealed
        with db.engine.connect() as connection:
            assert len(connection.scalars(select(sealed).where(sealed.is_not(None))).all()) == len(NAMES)
        upgrade()
        assert pairs() == before


@pytest.mark.parametrize("old_url", ["sqlite"], indirect=True)
def test_db_upgrade_says_that_there_were_no_tables_as_in_another_folder_than_before(upgraded: Flask, tmp_path: Path):
    first, second = (upgraded.test_cli_runner().invoke(args=["db", "upgrade"]).output for _ in range(2))

    assert first.startswith("The database is up to date. There were no tables, so new ones were made in sqlite:///")
    assert str(tmp_path / "old.db") in first
    assert second.rstrip() == "The database is up to date."


@pytest.mark.proves("F42")
def test_0_1_0_knows_every_ending_after_the_way_back(upgraded: Flask, old_url: str):
    load("0.1.0", old_url)
    with upgraded.app_context():
        upgrade()
        table, kept = AuthorizationFlow.__table__, {"pending_grant_sealed": b"sealed", "pending_until": utc_now()}
        with db.engine.begin() as connection:
            for ending in Ending:
                values = {"ref": ending, "state_hash": ending, "browser_hash": "", "ending": ending, **kept}
                connection.execute(insert(table).values(started_at=utc_now(), expires_at=utc_now(), **values))

        downgrade(revision_of("0.1.0"))

        with db.engine.connect() as connection:
            columns = table.c.ref, table.c.ending, table.c.pending_grant_sealed
            found = {ref: (ending, grant) for ref, ending, grant in connection.execute(select(*columns))}
    new = {"confirmation_pending", "confirmation_declined", "confirmation_expired", "identity_pending"}
    assert {found[ending] for ending in new} == {
        (ending, None) for ending in ("decision_expired", "discarded", "keap_trouble")
    }
    assert {ending: found[ending] for ending in set(Ending) - new} == {
        ending: (ending, b"sealed") for ending in set(Ending) - new
    }


@pytest.mark.proves("F42")
def test_invitations_from_before_their_words_are_found(upgraded: Flask):
    with upgraded.app_context():
        upgrade("0026")
        table, now = Invitation.__table__, utc_now()
        usual = {"state": "sent", "needs_confirmation": False, "is_mailed": False, "made_by": "x", "made_at": now}
        with db.engine.begin() as connection:
            for number in range(1002):  # more than the migration reads at once
                values = {**usual, "label": f"Company {number}", "token_hash": f"hash {number}"}
                connection.execute(insert(table).values(sent_at=now, expires_at=now + timedelta(days=1), **values))

        upgrade()

        assert [one.label for one in list_invitations(9, text="1001 comp").rows] == ["Company 1001"]


@pytest.mark.proves("F42")
def test_an_old_process_goes_on_beside_every_revision_since_0_1_0(upgraded: Flask, old_url: str):
    load("0.1.0", old_url)
    old, engine, first = MetaData(), create_engine(old_url), revision_of("0.1.0")
    old.reflect(engine)
    tables = [one for one in old.sorted_tables if one.name not in {"alembic_version", *DROPPED}]
    with upgraded.app_context():
        for number, revision in enumerate((one for one in REVISIONS if one > first), 100):
            upgrade(revision)
            with engine.begin() as connection:
                for table in tables:
                    row = {one.name: 1 if one.foreign_keys else value_for(one, number) for one in table.columns}
                    connection.execute(insert(table).values(row))
                    connection.execute(update(table).where(*key_of(table, row)).values(row))
                    assert connection.execute(select(table).where(*key_of(table, row))).one(), (revision, table.name)
    engine.dispose()


def key_of(table: sqlalchemy.Table, row: dict[str, object]) -> list[sqlalchemy.ColumnElement[bool]]:
    return [column == row[column.name] for column in table.primary_key]


@pytest.mark.long
@pytest.mark.proves("R42")
def test_no_token_call_fails_while_all_processes_are_restarted(
    environ: dict[str, str], sandbox: Sandbox, ready_command: list[str]
):
    app = create_app(Settings.from_env(environ))
    with app.app_context():
        store_account(sandbox)
        key = issue_api_key("rolling", ["tokens:read"], "test").text
        db.engine.dispose()
    statuses, failures, is_over = [], [], threading.Event()
    servers: list[RealServer] = []

    def ask() -> None:
        """Ask as a proxy does: if a server takes no connection, or closes it unanswered, the other gets the call."""
        while not is_over.is_set():
            for server in reversed(servers[-2:]):
                try:
                    statuses.append(server.ask("/api/v1/accounts/1/token", key)[0])
                    break
                except ConnectionError:
                    continue
                except (OSError, HTTPException) as problem:
                    failures.append(repr(problem))
            else:
                failures.append("no server listens")

    def wait_for_calls() -> None:
        before = len(statuses)
        wait_until(lambda: len(statuses) > before + 20)

    serve = [*ready_command, "serve"]
    with real_servers(2, environ, serve) as (first, second):
        servers += [first, second]
        callers = [threading.Thread(target=ask) for _ in range(4)]
        for caller in callers:
            caller.start()
        try:
            for old in (first, second):
                wait_for_calls()
                assert old.end() == 0
                fresh = RealServer(environ, serve)
                fresh.wait_until_it_listens()
                servers[servers.index(old)] = fresh
            wait_for_calls()
        finally:
            is_over.set()
            for caller in callers:
                caller.join()
            for server in servers:
                server.process.terminate()
                server.process.wait()

    assert (set(statuses), failures) == ({200}, [])


@on_sqlite
@pytest.mark.proves("F42")
def test_upgrading_md_upgrades_and_goes_back(environ: dict[str, str], tmp_path: Path, ready_command: list[str]):
    path = tmp_path / "old.db"
    load("0.1.0", f"sqlite:///{path}")
    shell = Shell({**environ, **ENVIRON, "DATABASE_URL": f"sqlite:///{path}"}, tmp_path, ready_command)

    listed = [
        shell.run(lines + "./keap-connect accounts list")
        for lines in ("", documented_lines("upgrading.md", "db upgrade"), documented_lines("upgrading.md", "downgrade"))
    ]

    assert ["customer-3" in done.stdout for done in listed] == [False, True, False], listed
    assert ["run `./keap-connect db upgrade`" in done.stderr for done in listed] == [True, False, True]
    rows = re.findall(
        r"^\| ([0-9.]+) \| `(\d+)` \|$", (ROOT / "docs/upgrading.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert dict(rows) == {version: revision_of(version) for version in VERSIONS}
    if "## Unreleased" not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
        assert revision_of(VERSION) == HEAD
    with create_engine(f"sqlite:///{path}", poolclass=sqlalchemy.NullPool).connect() as connection:
        assert read_revision(connection) == revision_of("0.1.0")
