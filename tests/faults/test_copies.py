"""A copy of the installation presents nothing until it is confirmed, and what is no copy is never asked about (F89)."""

import html
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from math import inf
from pathlib import Path
from threading import Lock, Semaphore

import psycopg
import pytest
from sqlalchemy import delete, func, insert, make_url, select, text, update
from sqlalchemy.exc import OperationalError

from keap_connect.access.admins import create_admin
from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.accounts.changes import erase
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.connect.matching import merge
from keap_connect.database import db, read_session, write_transaction
from keap_connect.errors import TemporarilyUnavailable
from keap_connect.events.deleting import LEAST_KEPT, prune_history
from keap_connect.events.history import EventKind, record
from keap_connect.health.refreshing import read_refreshing
from keap_connect.models import Account, AccountEvent, Confirmation, CounterOf01
from keap_connect.refresh import alarms, clone_guard, identity, recovery, refresher, replaying
from keap_connect.refresh.serving import refresh_account, valid_token
from keap_connect.refresh.storing import NewPair, Outcome
from keap_connect.refresh.worker import RefreshWorker
from keap_connect.services import services
from keap_connect.settings import Settings
from tests.api.fixtures import Program
from tests.conftest import ADMIN_PASSWORD
from tests.faults.conftest import Stage, program, start_elsewhere, token_response, until
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.plans import listening, plans_of
from tests.support.postgres import PostgresServer, client_program
from tests.support.sandbox import ANN
from tests.web.direct import visit

pytestmark = pytest.mark.proves("F89", "R103", "R41", "F41")


@pytest.fixture
def living(stage: Stage) -> Stage:
    """Give an installation with one account that was refreshed here."""
    (account_id,) = stage.add_accounts()
    stage.start(1)[0].ask("refresh", account_id)
    until(lambda: _mark(stage).split()[1:2] == [str(_newest_pair(stage))])
    stage.change(account_id, access_token_expires_at=utc_now(), next_refresh_at=utc_now())
    return stage


def _folder(stage: Stage) -> Path:
    return Path(stage.environ["INSTANCE_PATH"])


def _file(stage: Stage) -> Path:
    return Path(stage.environ["DATABASE_URL"].removeprefix("sqlite:///"))


def _mark(stage: Stage) -> str:
    path = _folder(stage) / clone_guard.MARK
    return path.read_text() if path.exists() else ""


def _newest_pair(stage: Stage) -> int | None:
    query = select(func.max(AccountEvent.id)).where(AccountEvent.pair_mark.is_not(None))
    with stage.app.app_context(), read_session() as session:
        return session.scalar(query)


def _edit(stage: Stage, *statements: object) -> None:
    with stage.app.app_context(), write_transaction() as session:
        for statement in statements:
            session.execute(statement)


def _goes_on(stage: Stage) -> None:
    """Check that nothing is asked: the account is refreshed by a process that starts now."""
    before = len(stage.presentations())
    stage.start(1)[0].ask("sweep")
    assert _alarms_there(stage) == []
    assert len(stage.presentations()) == before + 1


def _asks(stage: Stage, words: str) -> None:
    """Check that web, worker and commands present nothing, say why, and go on once the operator has confirmed."""
    before = len(stage.presentations())
    later = stage.start(1)[0]  # it starts as the web does
    assert [words in alarm for alarm in _alarms_there(stage)] == [True]
    later.ask("sweep")
    held = later.ask("valid_token", 1)
    assert (held["ok"], len(stage.presentations())) == (False, before)
    here = create_app(Settings.from_env(stage.environ), serves=False)
    assert here.test_cli_runner().invoke(args=["refreshing", "confirm-only-one"]).exit_code == 0
    with here.app_context():
        db.engine.dispose()
    assert _alarms_there(stage) == []
    stage.start(1)[0].ask("sweep")
    assert len(stage.presentations()) == before + 1


def _alarms_there(stage: Stage) -> list[str]:
    """Return what pauses the database that the processes are given, which may be another than the stage's own."""
    url = make_url(stage.environ["DATABASE_URL"])
    if url.drivername == "sqlite":
        connection: sqlite3.Connection | psycopg.Connection = sqlite3.connect(str(url.database))
    else:
        plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
        connection = psycopg.connect(plain)
    found = connection.execute("SELECT reason FROM alarm").fetchall()
    connection.close()
    return [reason for (reason,) in found]


# What must not be asked about


def test_a_restart_is_not_asked_about(living: Stage):
    _goes_on(living)


def test_another_host_and_an_empty_instance_path_are_not_asked_about(living: Stage, tmp_path: Path):
    """A container that was deployed anew, with or without the INSTANCE_ID that it had, is like another host."""
    living.environ["INSTANCE_PATH"] = str(tmp_path / "empty")
    _goes_on(living)
    assert (tmp_path / "empty" / clone_guard.MARK).exists()


def test_the_same_instance_id_is_not_asked_about_and_another_one_is(living: Stage, tmp_path: Path):
    living.environ["INSTANCE_ID"] = "production"  # named for the first time
    _goes_on(living)
    living.environ["INSTANCE_PATH"] = str(tmp_path / "empty")
    living.change(1, next_refresh_at=utc_now(), access_token_expires_at=utc_now())
    _goes_on(living)
    living.change(1, next_refresh_at=utc_now(), access_token_expires_at=utc_now())
    living.environ["INSTANCE_ID"] = "staging"
    _asks(living, "INSTANCE_ID is staging, and this database belongs to production.")


def test_db_upgrade_is_not_asked_about(living: Stage, ready_command: list[str]):
    with program(living, "db", "upgrade", command=ready_command) as upgrading:
        assert upgrading.wait(60) == 0
    _goes_on(living)


@on_sqlite
def test_a_folder_that_was_moved_on_its_disk_is_not_asked_about(living: Stage, tmp_path: Path):
    with living.app.app_context():
        db.engine.dispose()
    for process in living.processes:
        process.kill()
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in tmp_path.glob("keap_connect.db*"):
        path.rename(moved / path.name)
    _folder(living).rename(moved / "instance")
    living.environ |= {
        "DATABASE_URL": f"sqlite:///{moved / 'keap_connect.db'}",
        "INSTANCE_PATH": str(moved / "instance"),
    }
    _goes_on(living)


@on_postgresql
def test_a_synchronous_failover_is_not_asked_about(living: Stage, tmp_path: Path):
    """Simulated: the same database, so the same identifier and all commits, is reached at another address."""
    folder = make_url(living.environ["DATABASE_URL"]).query["host"]
    other = tmp_path / "standby"
    other.symlink_to(str(folder))
    living.environ["DATABASE_URL"] = living.environ["DATABASE_URL"].replace(str(folder), str(other))
    _goes_on(living)


@on_postgresql
def test_a_role_that_may_not_read_the_identifier_is_not_asked_about(
    living: Stage, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
):
    _edit(living, text("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC"), text("DROP ROLE IF EXISTS app"))
    _edit(living, text("CREATE ROLE app LOGIN"), text("GRANT ALL ON ALL TABLES IN SCHEMA public TO app"))
    _edit(living, text("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app"))
    living.environ["DATABASE_URL"] = living.environ["DATABASE_URL"].replace("postgres@", "app@")
    _goes_on(living)
    _edit(living, text("DROP OWNED BY app"), text("DROP ROLE app"))


def test_events_that_were_deleted_with_their_account_or_by_age_are_not_asked_about(living: Stage):
    (other,) = living.add_accounts(tenant_id="cd456")
    living.start(1)[0].ask("refresh", other)
    until(lambda: _mark(living).split()[1:2] == [str(_newest_pair(living))])
    seen = _mark(living)
    with living.app.app_context():
        erase(other, "test")
        clone_guard._write_mark()
    assert _mark(living) == seen  # a lower id would be less to compare with
    living.change(1, next_refresh_at=utc_now(), access_token_expires_at=utc_now())
    _goes_on(living)
    until(lambda: _mark(living).split()[1:2] == [str(_newest_pair(living))])
    _edit(living, text("UPDATE account_event SET at = '2020-01-01 00:00:00+00'"))
    with living.app.app_context():
        assert prune_history(LEAST_KEPT) > 0
    living.change(1, next_refresh_at=utc_now(), access_token_expires_at=utc_now())
    _goes_on(living)


def test_another_port_of_this_machine_is_not_asked_about(living: Stage):
    living.environ["PUBLIC_URL"] = "http://localhost:1"
    _goes_on(living)


# What is asked about


@on_postgresql
def test_an_account_that_is_erased_in_an_old_copy_does_not_make_it_the_living_one(living: Stage):
    """PostgreSQL gives ids above all that were lost: after a recovery, its sequences go on up to 32 further."""
    (other,) = living.add_accounts(tenant_id="cd456")
    newest = _newest_pair(living)
    until(lambda: _mark(living).split()[1:2] == [str(newest)])
    _edit(living, text(f"DELETE FROM account_event WHERE id >= {newest}"))
    with living.app.app_context():
        erase(other, "test")
    living.change(1, next_refresh_at=utc_now(), access_token_expires_at=utc_now())
    _asks(living, "newer tokens than this database has")


def test_a_new_public_url_is_asked_about(living: Stage):
    _edit(living, text("UPDATE confirmation SET public_url = 'https://connect.example.com'"))
    _asks(living, "PUBLIC_URL is localhost; this database was last used at https://connect.example.com.")


@on_postgresql
def test_a_dump_restored_elsewhere_with_the_same_settings_is_asked_about(
    living: Stage, new_database: Callable[[], str], tmp_path: Path
):
    dump, there = tmp_path / "dump", new_database()
    _run_client("pg_dump", "--format=custom", f"--file={dump}", _plain(living.environ["DATABASE_URL"]))
    _run_client("pg_restore", "--exit-on-error", f"--dbname={_plain(there)}", str(dump))
    living.environ |= {"DATABASE_URL": there, "INSTANCE_PATH": str(tmp_path / "empty")}
    _asks(living, "The tables of this database were created anew")


@on_sqlite
def test_a_whole_folder_that_was_copied_is_asked_about(living: Stage, tmp_path: Path):
    copied = tmp_path / "copied"
    shutil.copytree(_folder(living), copied)
    _copy_database(living, copied / "keap_connect.db")
    living.environ |= {"DATABASE_URL": f"sqlite:///{copied}/keap_connect.db", "INSTANCE_PATH": str(copied)}
    _asks(living, "The database file is not the one that was last used")


@on_sqlite
def test_a_file_with_the_same_inode_that_was_born_at_another_time_is_asked_about(living: Stage):
    """Simulated: a file system may give the number of a deleted file to the next one."""
    with living.app.app_context():
        assert identity.born_at(str(_file(living))) is None or identity.present_identity()["file_born_at"]
    _edit(living, text("UPDATE confirmation SET file_born_at = '1.000000000'"))
    _asks(living, "The database file is not the one that was last used")


@on_postgresql
def test_pg_upgrade_and_another_server_are_asked_about(living: Stage):
    """Simulated: the database was last seen on a server with another system identifier."""
    _edit(living, text("UPDATE confirmation SET system_identifier = '7000000000000000001'"))
    _asks(living, "The database is on another PostgreSQL server, or was upgraded by pg_upgrade.")


def test_a_backup_put_back_in_place_is_asked_about(living: Stage, tmp_path: Path):
    """Simulated: the rows of the backup take the place of the newer ones, so that the identity stays the same."""
    with living.app.app_context(), read_session() as session:
        table = Account.__table__
        yesterday = dict(session.execute(select(table)).mappings().one())
        event_id = session.scalar(select(func.max(AccountEvent.id)))
    living.start(1)[0].ask("refresh", 1)  # life goes on after the backup was made
    until(lambda: _mark(living).split()[1:2] == [str(_newest_pair(living))])
    yesterday |= {"access_token_expires_at": utc_now(), "next_refresh_at": utc_now()}
    del yesterday["id"]
    lost = delete(AccountEvent).where(AccountEvent.id > event_id).execution_options(synchronize_session=False)
    _edit(living, lost, table.update().values(yesterday))
    living.start(1)  # it may not even be the worker that notices
    before = len(living.presentations())
    living.start(1)[0].ask("sweep")
    assert clone_guard.OLD_DATABASE in _alarms_there(living)[0]
    assert len(living.presentations()) == before


def test_a_failover_that_lost_commits_is_asked_about(living: Stage):
    """Simulated: the same identifier, the newest event is gone, and another one was written since."""
    newest = delete(AccountEvent).where(AccountEvent.id == _newest_pair(living))
    _edit(living, newest.execution_options(synchronize_session=False))
    with living.app.app_context(), write_transaction() as session:
        record(session, EventKind.ADMIN_SIGNED_OUT, None, "test", email="x")
    _asks(living, clone_guard.OLD_DATABASE)


@on_postgresql
@pytest.mark.parametrize("first", ["a caller", "the worker"])
def test_a_process_that_runs_presents_nothing_after_a_failover_that_lost_commits(
    living: Stage, postgres: PostgresServer, first: str
):
    postgres.keep_copy()
    with living.app.app_context():
        refresh_account(1, "test")
        until(lambda: _mark(living).split()[1:2] == [str(_newest_pair(living))])
        before = len(living.presentations())

        postgres.fail_over()
        if first == "a caller":
            with pytest.raises(TemporarilyUnavailable, match="Refreshing is paused"):
                refresh_account(1, "test")
        else:
            worker = RefreshWorker(living.app)
            worker._beat_due = inf  # it has checked a moment ago, before the failover
            worker.run(until_idle=True)

    assert len(living.presentations()) == before
    assert clone_guard.OLD_DATABASE in _alarms_there(living)[0]


@on_postgresql
def test_nothing_is_sent_under_a_lease_that_went_to_another_database_than_the_check(
    living: Stage, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
):
    as_in_copy, acquire = living.row(1), refresher.acquire_leases
    postgres.keep_copy()
    with living.app.app_context():
        refresh_account(1, "test")
        until(lambda: _mark(living).split()[1:2] == [str(_newest_pair(living))])
        before = len(living.presentations())

        monkeypatch.setattr(refresher, "acquire_leases", lambda leases: postgres.fail_over() or acquire(leases))
        attempt = refresher.refresh_once(as_in_copy, "test")

    assert (attempt.outcome, len(living.presentations())) == (Outcome.NOT_SENT, before)
    assert clone_guard.OLD_DATABASE in _alarms_there(living)[0]


def test_refreshes_without_a_new_connection_and_without_trouble_check_nothing(
    living: Stage, monkeypatch: pytest.MonkeyPatch
):
    with living.app.app_context():
        for _ in range(3):  # until each connection that this needs is open
            refresh_account(1, "test")
        monkeypatch.setattr(clone_guard, "check_instance", lambda: pytest.fail("it checks"))
        refresh_account(1, "test")


@on_sqlite
def test_those_who_wait_for_a_check_that_fails_do_not_try_one_after_the_other(
    living: Stage, monkeypatch: pytest.MonkeyPatch
):
    waiting = Semaphore(0)
    checks: list[str] = []

    class Turn:
        lock = Lock()

        def acquire(self, timeout: float) -> bool:
            waiting.release()
            return self.lock.acquire(timeout=timeout)

        def release(self) -> None:
            self.lock.release()

    def fail() -> bool:
        checks.append("a check")
        for _ in range(4):
            assert waiting.acquire(timeout=60)
        raise OperationalError("SELECT 1", {}, Exception("away"))

    def ask() -> None:
        with living.app.app_context():
            clone_guard.check_before_lease()

    monkeypatch.setattr(clone_guard, "check_instance", fail)
    monkeypatch.setattr(living.app.extensions[clone_guard.MARK], "checking", Turn())
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask) for _ in range(4)]

    assert checks == ["a check"]
    failures = sorted(type(each.exception()).__name__ for each in asked)
    assert failures == ["OperationalError", *3 * ["TemporarilyUnavailable"]]


@on_sqlite
def test_a_caller_waits_for_the_check_of_another_no_longer_than_it_wants_to(living: Stage):
    def ask() -> None:
        with living.app.app_context():
            refresh_account(1, "test", patience_seconds=0.1)

    marker = living.app.extensions[clone_guard.MARK]
    marker.checked_at = -inf
    with ThreadPoolExecutor(1) as pool:
        with marker.checking:
            refused = pool.submit(ask).exception(30)
        assert isinstance(refused, TemporarilyUnavailable)
        assert pool.submit(ask).exception(30) is None


def test_an_event_with_another_value_is_asked_about(living: Stage):
    _edit(living, text("UPDATE account_event SET pair_mark = 'another' WHERE pair_mark IS NOT NULL"))
    _asks(living, clone_guard.OLD_DATABASE)


def test_a_database_from_before_the_last_confirmation_is_asked_about(living: Stage):
    with living.app.app_context():
        clone_guard.confirm_only_one("test")
    _edit(living, delete(Confirmation).where(Confirmation.id > 1))
    _asks(living, clone_guard.OLD_CONFIRMATION)


def test_a_worker_that_runs_notices_it_and_stops_all(living: Stage):
    worker = living.start(1)[0]
    worker.ask("sweep")
    worker.ask("work")
    _edit(living, text("UPDATE confirmation SET public_url = 'https://connect.example.com'"))

    until(lambda: _alarms_there(living))
    worker.ask("rest")


# The mark and the confirmation


def test_the_mark_is_never_ahead_and_the_higher_id_wins(living: Stage):
    newest = _newest_pair(living)
    with living.app.app_context():
        ahead = replace(clone_guard._read_mark(), event_id=newest + 1, pair_mark="x")
        (_folder(living) / clone_guard.MARK).write_text(str(ahead))
        clone_guard._write_mark()
    assert _mark(living) == str(ahead)  # another process has seen more, or this database is an old one
    with living.app.app_context():
        (_folder(living) / clone_guard.MARK).unlink()
        with write_transaction() as session:
            record(session, EventKind.REFRESHED, 1, "test")
            session.flush()
            clone_guard._write_mark()
            assert _mark(living).split()[1] == str(newest)
    until(lambda: _mark(living).split()[1] == str(_newest_pair(living)))
    assert _newest_pair(living) != newest


@on_sqlite
def test_the_newest_pair_is_found_by_its_index(living: Stage):
    """Millions of other events may have come since, while Keap failed."""
    with living.app.app_context():
        with listening() as asked, read_session() as session:
            clone_guard._newest(session)
        (plan,) = plans_of(asked[-1:])
    assert "ix_account_event_pairs" in plan


def test_another_host_goes_on_after_a_confirmation(living: Stage, tmp_path: Path):
    """Its mark is ahead of a database that lost commits, and the operator has answered already."""
    other = tmp_path / "other"
    shutil.copytree(_folder(living), other)
    with living.app.app_context():
        ahead = replace(clone_guard._read_mark(), event_id=1_000_000, pair_mark="x")
        clone_guard.confirm_only_one("test")
    (other / clone_guard.MARK).write_text(str(ahead))
    living.environ["INSTANCE_PATH"] = str(other)
    _goes_on(living)


def test_a_kept_pair_that_is_ahead_of_a_restored_row_is_kept_and_stored_on_confirmation(living: Stage):
    generation = living.row(1).generation
    kept = _keep_a_pair(living, 1, generation + 2)
    before = len(living.presentations())

    living.start(1)[0].ask("sweep")
    words = f"A recovery file on the host {socket.gethostname()} has tokens of account 1 that are newer"
    assert words in _alarms_there(living)[0]
    assert (kept.exists(), living.row(1).generation, len(living.presentations())) == (True, generation, before)
    with living.app.app_context():
        clone_guard.confirm_only_one("test")
    assert (kept.exists(), living.row(1).generation) == (False, generation + 3)
    assert _alarms_there(living) == []
    assert living.is_reconciled(1)


def test_a_copy_takes_no_kept_pair_from_the_living_database(living: Stage, tmp_path: Path):
    """Both are used with the same folder, as when somebody looks into a backup."""
    generation = living.row(1).generation
    kept = _keep_a_pair(living, 1, generation)
    mark = clone_guard.Mark(_mark(living).split()[0], 1_000_000, "x")
    (_folder(living) / clone_guard.MARK).write_text(str(mark))

    living.start(1)[0].ask("sweep")
    assert [clone_guard.OLD_DATABASE in alarm for alarm in _alarms_there(living)] == [True]
    assert (kept.exists(), living.row(1).generation) == (True, generation)
    with living.app.app_context():
        clone_guard.confirm_only_one("test")

    assert (kept.exists(), living.row(1).generation, living.is_reconciled(1)) == (False, generation + 1, True)


def test_a_kept_pair_of_another_host_is_stored_there_and_the_used_token_is_not_presented_here(
    living: Stage, tmp_path: Path
):
    living.sandbox.switch(family_revocation=True)
    generation, before = living.row(1).generation, len(living.presentations())
    kept = _keep_a_pair(living, 1, generation + 2)
    (there,) = living.start(1)
    there.ask("sweep")
    here = create_app(Settings.from_env({**living.environ, "INSTANCE_PATH": str(tmp_path / "here")}), serves=False)
    with here.app_context():
        clone_guard.confirm_only_one("test")
        db.engine.dispose()

    assert (_alarms_there(living), kept.exists(), living.row(1).generation) == ([], True, generation)
    worker = start_elsewhere(living, tmp_path, PACE=60)
    worker.ask("sweep")
    assert "recovery file that is not stored" in worker.ask("refresh", 1)["message"]
    assert len(living.presentations()) == before

    until(lambda: there.ask("sweep") and not kept.exists())  # a worker looks into its files every few seconds
    assert (living.row(1).generation, _alarms_there(living)) == (generation + 3, [])
    assert living.is_reconciled(1)


def test_a_pair_that_comes_for_a_row_that_was_put_back_is_stored_on_confirmation(living: Stage):
    """As after a failover that lost commits: it is the only living pair."""
    generation = living.row(1).generation
    (process,) = living.start(1)
    living.sandbox.hold("refresh", where="after")
    process.tell("refresh", 1)
    until(lambda: living.sandbox.control("GET", "/held", wait_for=1, timeout=5)["waiting"] >= 1)
    _edit(living, update(Account).values(generation=generation - 1))
    living.sandbox.release()
    process.hear()

    _confirm_the_pair_of_a_row_that_is_behind(living)
    assert living.row(1).generation == generation + 1


def test_a_kept_pair_of_a_living_process_that_is_ahead_is_stored_on_confirmation(living: Stage):
    generation = living.row(1).generation
    (grant,) = living.sandbox.grant("ab123", ANN)
    pair = NewPair(1, generation + 2, token_response(grant), "test")
    with living.app.app_context():
        (file,) = recovery.allocate(1)
        file.guard(pair)
        replaying.keep(file, pair)

    _confirm_the_pair_of_a_row_that_is_behind(living)
    assert living.row(1).generation == generation + 3


def _confirm_the_pair_of_a_row_that_is_behind(stage: Stage) -> None:
    with stage.app.app_context():

        def is_noticed() -> bool:
            replaying.replay()
            return stage.alarms() == [alarms.UNKNOWN_INSTANCE]

        until(is_noticed)
        clone_guard.confirm_only_one("test")
    assert (stage.alarms(), stage.is_reconciled(1)) == ([], True)


@on_sqlite
def test_kept_pairs_are_stored_before_anybody_may_refresh_again(living: Stage, monkeypatch: pytest.MonkeyPatch):
    """Else a caller could present the token of the row, which was spent to get the kept pair."""
    paused_by: list[str] = []
    with living.app.app_context():
        with write_transaction() as session:
            alarms.raise_alarm(session, alarms.UNKNOWN_INSTANCE, "It may be a copy.")
        monkeypatch.setattr(replaying, "replay", lambda is_confirmed: paused_by.extend(living.alarms()))
        clone_guard.confirm_only_one("test")

    assert (paused_by, living.alarms()) == ([alarms.UNKNOWN_INSTANCE], [])


@on_sqlite
def test_a_kept_pair_without_its_account_is_put_aside_until_the_newer_database_is_back(living: Stage):
    """Else a customer who connects meanwhile, and gets the number of that account, would get its tokens, too."""
    generation, table = living.row(1).generation, Account.__table__
    with living.app.app_context(), read_session() as session:
        row = dict(session.execute(select(table)).mappings().one())
    _edit(living, delete(Account).execution_options(synchronize_session=False))
    kept = _keep_a_pair(living, 1, generation)

    (process,) = living.start(1)
    process.ask("sweep")
    assert (kept.exists(), kept.with_suffix(".broken").exists()) == (False, True)
    assert "tokens of account 1, which this database does not have" in process.log.read_text()

    _edit(living, table.insert().values(row))
    kept.with_suffix(".broken").rename(kept)
    with living.app.app_context():
        replaying.replay()
    assert (kept.exists(), living.row(1).generation) == (False, generation + 1)
    assert living.is_reconciled(1)


@on_sqlite
@pytest.mark.parametrize("how", ["erased", "merged"])
def test_a_kept_pair_of_an_account_that_ended_here_is_deleted(living: Stage, how: str):
    kept = _keep_a_pair(living, 1, living.row(1).generation)
    with living.app.app_context():
        if how == "erased":
            erase(1, "test")
        else:
            (other,) = living.add_accounts(tenant_id="cd456")
            with write_transaction() as session:
                merge(session, session.get_one(Account, 1), session.get_one(Account, other), EventKind.NEWER_STAYED)
        replaying.replay()

    assert not list(kept.parent.glob(f"{kept.stem}.*"))


@pytest.mark.parametrize("seen", [7, 9])
def test_a_database_of_0_1_0_is_adopted_if_its_marker_fits(living: Stage, seen: int):
    (_folder(living) / clone_guard.MARK).unlink()
    (_folder(living) / "instance_id").write_text(f"abcd:{seen}")
    _edit(living, delete(Confirmation), insert(CounterOf01).values(instance_id="abcd", stored_pairs=8))
    if seen > 8:
        _asks(living, clone_guard.OLD_DATABASE)
    else:
        _goes_on(living)
        assert not (_folder(living) / "instance_id").exists()
    with living.app.app_context(), read_session() as session:
        assert session.get(CounterOf01, "abcd") is None


def test_all_say_the_same_sentence(living: Stage):
    with living.app.app_context(), write_transaction() as session:
        alarms.raise_alarm(session, alarms.UNKNOWN_INSTANCE, "It may be a copy.")
    with living.app.app_context():
        (pause,) = read_refreshing().pauses
    run = living.app.test_cli_runner().invoke
    ready = living.app.test_client().get("/readyz", base_url=living.environ["PUBLIC_URL"])

    assert pause.sentence.startswith("Refreshing has been paused since ")
    words = f"{pause.reason} {pause.advice}"
    assert words.startswith("It may be a copy. No refresh token is presented until")
    assert words.endswith("./keap-connect refreshing confirm-only-one")
    assert f"{pause.sentence} {pause.advice}" in run(args=["worker", "--once"]).output
    for command in (["refreshing", "status"], ["doctor"]):
        said = " ".join(run(args=command).output.split())
        assert "It may be a copy." in said
        assert "refreshing confirm-only-one" in said
    with living.app.app_context(), pytest.raises(TemporarilyUnavailable, match=r"It may be a copy\. No refresh token"):
        valid_token(1, "test")
    assert (ready.status_code, ready.text) == (503, "not ready\n")

    with living.app.app_context():
        create_admin("admin@example.com", ADMIN_PASSWORD)
        key = issue_api_key("job", list(Scope), "test").text
    living.change(1, access_token_expires_at=utc_now() + timedelta(seconds=30))  # soon enough to be refreshed first
    admin, job = visit(living.app), Program(living.app, key)
    admin.sign_in("admin@example.com", ADMIN_PASSWORD)
    for path in ("/accounts", "/setup"):
        assert pause.sentence in " ".join(html.unescape(admin.get(path).text).split())
    refused, served = job.post("/api/v1/accounts/1/refresh"), job.get("/api/v1/accounts/1/token")
    assert (refused.status_code, words in refused.json()["error_description"]) == (503, True)
    assert (served.status_code, words in served.json()["warning"]) == (200, True)


def _keep_a_pair(stage: Stage, account_id: int, generation: int) -> Path:
    """Write what a process keeps that died before the database answered, and return the file."""
    (grant,) = stage.sandbox.grant("ab123", ANN)
    with stage.app.app_context():
        (slot,) = recovery.allocate(1)
        kept = slot.path.with_name("0123456789abcdef.pair")
        kept.write_bytes(
            recovery._sealed(services().cipher, NewPair(account_id, generation, token_response(grant), "test"))
        )
        slot.path.unlink()
        recovery.give_back([slot])
    return kept


def _copy_database(stage: Stage, to: Path) -> None:
    connection = sqlite3.connect(_file(stage))
    connection.execute("VACUUM INTO ?", (str(to),))
    connection.close()


def _plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _run_client(name: str, *arguments: str) -> None:
    subprocess.run([client_program(name), *arguments], timeout=60, check=True)
