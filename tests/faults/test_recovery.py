"""The database fails between answer and commit: the new pair waits in the recovery file, never lost (R28, R30)."""

import shutil
import sqlite3
import stat
from pathlib import Path

import pytest
import sqlalchemy

from tests.faults.conftest import Process, Stage, until
from tests.support.postgres import PostgresServer

PACE = 60


class Outage:
    """Takes the database away from everybody and gives it back."""

    def __init__(self, stage: Stage, postgres: PostgresServer | None) -> None:
        self.postgres = postgres
        self.path = Path(stage.environ["DATABASE_URL"].removeprefix("sqlite:///"))
        self.lock: sqlite3.Connection | None = None

    def begin(self) -> None:
        """PostgreSQL is stopped at once; an SQLite file is locked by another writer."""
        if self.postgres:
            self.postgres.kill()
        else:
            self.lock = sqlite3.connect(self.path, isolation_level=None)
            self.lock.execute("BEGIN IMMEDIATE")

    def end(self) -> None:
        """All is well again."""
        if self.postgres:
            self.postgres.start()
        elif self.lock:
            self.lock.execute("ROLLBACK")
            self.lock.close()


@pytest.fixture
def outage(stage: Stage, request: pytest.FixtureRequest) -> Outage:
    """Give the power to take the database away."""
    is_postgres = stage.environ["DATABASE_URL"].startswith("postgresql")
    return Outage(stage, request.getfixturevalue("postgres") if is_postgres else None)


def _refresh_while_the_database_is_away(stage: Stage, outage: Outage, account_id: int, **settings: object) -> Process:
    (holder,) = stage.start(1, BUSY_TIMEOUT_MS=200, **settings)
    stage.sandbox.hold("refresh", where="after")
    holder.tell("refresh", account_id)
    stage.sandbox.wait_held(1)
    outage.begin()
    stage.sandbox.release()
    return holder


def _kept_files(stage: Stage) -> list[Path]:
    folder = Path(stage.environ["INSTANCE_PATH"]) / "recovery"
    return [path for path in folder.glob("*.pair") if path.read_bytes().strip(b"\0")]


@pytest.mark.proves("R28", "R30", "F34")
def test_a_pair_the_database_refused_is_stored_once_it_is_back(stage: Stage, outage: Outage):
    (account_id,) = stage.add_accounts()
    holder = _refresh_while_the_database_is_away(stage, outage, account_id)

    answer = holder.hear()[0]
    files = until(lambda: _kept_files(stage))
    outage.end()

    assert answer["error"] == "TemporarilyUnavailable"
    assert "token" not in answer
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
    until(lambda: stage.is_reconciled(account_id))
    until(lambda: not _kept_files(stage))


@pytest.mark.proves("R30", "F34")
def test_a_pair_survives_the_death_of_its_process_and_a_restart(stage: Stage, outage: Outage):
    (account_id,) = stage.add_accounts()
    holder = _refresh_while_the_database_is_away(stage, outage, account_id)
    holder.hear()
    until(lambda: _kept_files(stage))
    holder.kill()
    outage.end()

    (fresh,) = stage.start(1)
    answer = fresh.ask("valid_token", account_id, min_validity_seconds=600)

    assert answer["ok"] or answer["error"] == "TemporarilyUnavailable"
    until(lambda: fresh.ask("sweep") and stage.is_reconciled(account_id))
    assert len(stage.refresh_presentations()) == 1
    assert not _kept_files(stage)


@pytest.mark.proves("R30")
def test_nobody_presents_the_old_token_while_its_holder_waits_for_the_database(stage: Stage, outage: Outage):
    (account_id,) = stage.add_accounts()
    stage.sandbox.switch(family_revocation=True)
    (other,) = stage.start(1, PACE=6)  # lease 10 s, doubt wait 20 s
    holder = _refresh_while_the_database_is_away(stage, outage, account_id, PACE=6)
    holder.hear()
    holder.freeze()  # it cannot store the pair yet, although the database is back
    other.ask("valid_token", account_id)
    outage.end()

    until(lambda: other.ask("valid_token", account_id)["message"].startswith("The last attempt's answer was lost"))
    holder.thaw()

    until(lambda: stage.is_reconciled(account_id))
    assert len(stage.refresh_presentations()) == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.proves("R29", "F35")
def test_nothing_is_sent_when_no_recovery_file_can_be_allocated(stage: Stage):
    (account_id,) = stage.add_accounts()
    folder = Path(stage.environ["INSTANCE_PATH"]) / "recovery"
    folder.parent.mkdir(exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_text("a file in the place of the folder")
    (process,) = stage.start(1)

    answer = process.ask("refresh", account_id)

    assert answer["error"] == "RecoveryUnavailable"
    assert stage.refresh_presentations() == []


@pytest.mark.proves("R29", "F33", "F36")
def test_nothing_is_sent_when_the_lease_cannot_be_written(stage: Stage, outage: Outage):
    (account_id,) = stage.add_accounts()
    (process,) = stage.start(1, BUSY_TIMEOUT_MS=200)
    outage.begin()

    answer = process.ask("refresh", account_id)
    outage.end()

    assert not answer["ok"]
    assert stage.refresh_presentations() == []
    until(lambda: process.ask("refresh", account_id)["ok"])


@pytest.mark.proves("R40")
def test_a_kept_pair_obeys_the_fence(stage: Stage, outage: Outage):
    (account_id,) = stage.add_accounts()
    holder = _refresh_while_the_database_is_away(stage, outage, account_id)
    holder.hear()
    until(lambda: _kept_files(stage))
    holder.kill()
    outage.end()
    stage.change(account_id, generation=99)
    before = stage.row(account_id).refresh_token_sealed

    (fresh,) = stage.start(1)
    fresh.ask("sweep")

    assert stage.row(account_id).refresh_token_sealed == before
    assert not _kept_files(stage)


def test_postgres_errors_are_seen_as_trouble(stage: Stage, outage: Outage):
    from keap_connect.database import Trouble, read_session

    Trouble.last_at = -1e9
    outage.begin()
    try:
        with stage.app.app_context(), read_session() as session:
            session.execute(sqlalchemy.text("SELECT nothing FROM nowhere"))
    except sqlalchemy.exc.DBAPIError:
        pass
    outage.end()

    assert Trouble.last_at > 0
