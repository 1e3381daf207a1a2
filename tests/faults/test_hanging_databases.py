"""The database hangs, without an error, between Keap's answer and the commit: the pair is in its file at once."""

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import sqlalchemy

from keap_connect.accounts.state import AccountState
from keap_connect.database import read_session, write_transaction
from tests.faults.conftest import Process, Stage, until
from tests.support.engines import on_postgresql
from tests.support.vanishing import Line

LOCKED, ALL_VANISH, COMMIT_VANISHES, ANSWER_VANISHES = "locked", "all vanish", "COMMIT vanishes", "its answer vanishes"
Act = Callable[[], object]
PAIRS, HANGS_SECONDS = 20, 60
CANNOT_COMMIT = "could not be stored"


def _hanging(stage: Stage, way: str, stack: contextlib.ExitStack) -> tuple[Act, Act]:
    """Return what lets the database hang, and what ends that.

    Either another program locks the file, or the table, or packets vanish between the processes and PostgreSQL.
    """
    url = sqlalchemy.make_url(stage.environ["DATABASE_URL"])
    if way != LOCKED:
        line = stack.enter_context(Line(url))
        stage.environ["DATABASE_URL"] = line.url
        cut_at_commit = partial(line.cut_at, b"COMMIT\0", is_delivered=way == ANSWER_VANISHES)
        return line.cut if way == ALL_VANISH else cut_at_commit, line.mend
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    stack.callback(engine.dispose)
    run = stack.enter_context(engine.connect()).exec_driver_sql

    def lock() -> None:
        if url.get_backend_name() == "sqlite":
            run("BEGIN EXCLUSIVE")
        else:
            run("BEGIN")
            run("LOCK TABLE account IN ACCESS EXCLUSIVE MODE")

    return lock, partial(run, "ROLLBACK")


def _answer_while_it_hangs(stage: Stage, holders: dict[int, Process], commands: Sequence[str], begin: Act) -> None:
    """Let each process get a pair for an account that it cannot commit, and wait until all pairs are in files."""
    stage.sandbox.hold("refresh", where="after")
    for number, (account_id, holder) in enumerate(holders.items()):
        holder.tell(commands[number % len(commands)], account_id)
    stage.sandbox.wait_held(len(holders), timeout=25)
    begin()
    stage.sandbox.release()
    until(lambda: len(stage.kept_files()) == len(holders))
    assert CANNOT_COMMIT not in stage.logs(), "an error wrote them, and not the thread that watches over new pairs"


def _check(stage: Stage, *account_ids: int) -> None:
    until(lambda: stage.is_reconciled(*account_ids) and not stage.kept_files(), timeout=120)
    assert len(stage.presentations()) == len(account_ids)
    assert stage.presented_twice() == []
    for account_id in account_ids:
        assert stage.state(account_id) is AccountState.ACTIVE
        assert "answer_lost" not in stage.events(account_id)


@pytest.mark.proves("F81", "R30")
@pytest.mark.parametrize(
    ("database_url", "way", "command"),
    [
        ("sqlite", LOCKED, "refresh"),
        ("sqlite", LOCKED, "take_up"),
        ("postgresql", LOCKED, "take_up"),
        ("postgresql", ALL_VANISH, "refresh"),
        ("postgresql", COMMIT_VANISHES, "refresh"),
        ("postgresql", ANSWER_VANISHES, "take_up"),
    ],
    indirect=["database_url"],
)
def test_a_pair_is_in_its_recovery_file_while_the_database_hangs(stage: Stage, way: str, command: str):
    stage.sandbox.switch(family_revocation=True)
    (account_id,) = stage.add_accounts()
    with contextlib.ExitStack() as stack:
        begin, end = _hanging(stage, way, stack)
        # A transaction whose client has vanished has to end soon; a statement that waits for a lock must not.
        limit = 30 if way == LOCKED else 1
        (holder,) = stage.start(1, BUSY_TIMEOUT_MS=600_000, STATEMENT_SECONDS=limit)
        _answer_while_it_hangs(stage, {account_id: holder}, [command], begin)
        holder.kill()
        end()

        (fresh,) = stage.start(1)
        fresh.ask("work")
        _check(stage, account_id)


@pytest.mark.long
@pytest.mark.proves("F81", "R30")
@pytest.mark.parametrize(
    ("database_url", "way"),
    [("sqlite", LOCKED), ("postgresql", LOCKED), ("postgresql", ALL_VANISH)],
    indirect=["database_url"],
)
def test_twenty_processes_are_killed_during_a_minute_without_the_database(stage: Stage, way: str):
    stage.sandbox.switch(family_revocation=True)
    ids = stage.add_accounts(PAIRS)
    with contextlib.ExitStack() as stack:
        begin, end = _hanging(stage, way, stack)
        holders = dict(zip(ids, stage.start(PAIRS), strict=True))
        _answer_while_it_hangs(stage, holders, ["refresh", "take_up"], begin)
        for holder in holders.values():
            holder.kill()
            time.sleep(HANGS_SECONDS / PAIRS)
        end()

        (fresh,) = stage.start(1)
        fresh.ask("work")
        _check(stage, *ids)


@pytest.mark.proves("F81")
def test_the_recovery_file_of_a_slow_commit_is_gone_after_it(stage: Stage):
    (account_id,) = stage.add_accounts()
    (holder,) = stage.start(1, BUSY_TIMEOUT_MS=600_000)
    with contextlib.ExitStack() as stack:
        begin, end = _hanging(stage, LOCKED, stack)
        _answer_while_it_hangs(stage, {account_id: holder}, ["refresh"], begin)
        end()

    assert holder.hear()[0]["ok"]
    assert not list(stage.recovery_folder.glob("*.pair"))
    assert holder.ask("refresh", account_id)["ok"]
    assert stage.is_reconciled(account_id)


@on_postgresql
@pytest.mark.proves("F81")
def test_connections_to_postgresql_have_time_limits_and_only_transactions_those_of_statements(stage: Stage):
    limits = sqlalchemy.text(
        "SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout')"
    )
    with stage.app.app_context():
        with write_transaction() as session:
            assert session.execute(limits).one() == ("30s", "30s")
            parameters = session.connection().connection.dbapi_connection.info.get_parameters()  # type: ignore[union-attr]
        with read_session() as session:
            assert session.execute(limits).one() == ("0", "0")

    assert {name: parameters.get(name) for name in ("connect_timeout", "tcp_user_timeout")} == {
        "connect_timeout": "10",
        "tcp_user_timeout": "15000",
    }
