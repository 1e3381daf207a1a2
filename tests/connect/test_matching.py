"""Where a grant goes, as one table; and the same (tenant, person) stored by two at once: one account."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.orm import Session

from keap_connect.access import sign_ins
from keap_connect.accounts.directory import view_account
from keap_connect.clock import utc_now
from keap_connect.connect import callback
from keap_connect.connect.callback import keep_pending
from keap_connect.connect.endings import Ending
from keap_connect.connect.flows import start_flow
from keap_connect.connect.identifying import identify_pending
from keap_connect.connect.matching import Grant, match_grant
from keap_connect.connect.reconnect_links import make_link, start_by_link
from keap_connect.database import db, read_session, write_or_retry, write_transaction
from keap_connect.errors import AccountNotFound
from keap_connect.keap.user_info import Identity
from keap_connect.models import Account, SignIn
from keap_connect.refresh.worker import RefreshWorker
from tests.connect.arriving import receive
from tests.flows.stored import Stored, presented_twice, token_calls
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.sandbox import PERSON_IDS, Sandbox

ANN, BEN = "ann.lee@example.com", "ben.ortiz@example.com"
BROWSER = "b" * 43
ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 30


# Who holds which account; None where Keap has not told it yet.
Holder = tuple[str | None, str | None]


@pytest.fixture
def set_out(app: Flask, sandbox: Sandbox) -> Callable[[str, str], str]:
    """Give the function that starts a journey and returns the callback that Keap sends it to."""
    return lambda person, tenant: sandbox.consent(start_flow(BROWSER), person, tenant)


def identity_of(holder: Holder) -> Identity:
    tenant, person = holder
    return Identity(tenant, str(PERSON_IDS[person]) if person else None)


def grant_to(stored: Stored, holder: Holder) -> Grant:
    """Return a grant of live tokens for somebody of whom Keap told just so much."""
    tenant, person = holder
    return replace(stored.grant(tenant or "ab123", person or ANN), identity=identity_of(holder))


@on_sqlite
class TestTable:
    """Accounts there are, the one to reconnect, what Keap granted; then the ending, and which account has the pair."""

    @pytest.mark.parametrize(
        ("accounts", "wanted", "granted", "expected"),
        [
            # Connecting anew
            ([], None, ("ab123", ANN), (Ending.CONNECTED, 1)),
            ([("ab123", ANN)], None, ("ab123", ANN), (Ending.RECONNECTED, 1)),
            ([("ab123", ANN)], None, ("ab123", BEN), (Ending.CONNECTED, 2)),
            ([("ab123", ANN)], None, ("cd456", ANN), (Ending.CONNECTED, 2)),
            # Reconnecting the first account: the same tenant
            ([("ab123", ANN)], 1, ("ab123", ANN), (Ending.RECONNECTED, 1)),
            ([("ab123", ANN)], 1, ("ab123", BEN), (Ending.PERSON_CHANGED, 1)),
            ([("ab123", ANN), ("ab123", BEN)], 1, ("ab123", BEN), (Ending.OTHER_PERSON_UPDATED, 2)),
            # Reconnecting the first account: another tenant
            ([("ab123", ANN)], 1, ("cd456", ANN), (Ending.DECISION_PENDING, None)),
            ([("ab123", ANN), ("cd456", ANN)], 1, ("cd456", ANN), (Ending.OTHER_TENANT_UPDATED, 2)),
            ([("ab123", ANN), ("cd456", BEN)], 1, ("cd456", ANN), (Ending.DECISION_PENDING, None)),
            # Keap has not told tenant or person
            ([], None, ("ab123", None), (Ending.CONNECTED_PENDING, 1)),
            ([("ab123", ANN)], None, ("ab123", None), (Ending.CONNECTED_PENDING, 2)),
            ([("ab123", ANN)], None, (None, ANN), (Ending.CONNECTED_PENDING, 2)),
            ([("ab123", ANN)], 1, ("ab123", None), (Ending.CONNECTED_PENDING, 2)),
            ([("ab123", ANN)], 1, (None, ANN), (Ending.CONNECTED_PENDING, 2)),
            ([("ab123", ANN)], 1, (None, None), (Ending.CONNECTED_PENDING, 2)),
            ([("ab123", ANN)], 1, ("cd456", None), (Ending.DECISION_PENDING, None)),
            # Reconnecting a pending account
            ([("ab123", None)], 1, ("ab123", ANN), (Ending.RECONNECTED, 1)),
            ([(None, None)], 1, ("ab123", ANN), (Ending.RECONNECTED, 1)),
            ([("ab123", None), ("ab123", ANN)], 1, ("ab123", ANN), (Ending.OTHER_PERSON_UPDATED, 2)),
            ([("ab123", None)], 1, ("cd456", ANN), (Ending.DECISION_PENDING, None)),
            # The account to reconnect is gone
            ([("ab123", ANN)], 9, ("ab123", BEN), (Ending.CONNECTED, 2)),
        ],
    )
    def test_grant_goes_to_the_right_account_and_changes_no_other(
        self,
        accounts: list[Holder],
        wanted: int | None,
        granted: Holder,
        expected: tuple[Ending, int | None],
        stored: Stored,
    ):
        for holder in accounts:
            with write_transaction() as session:
                match_grant(session, grant_to(stored, holder))
        before = stored.rows()
        grant = grant_to(stored, granted)

        with write_transaction() as session:
            placement = match_grant(session, grant, wanted)

        ending, account_id = expected
        assert placement.ending is ending
        if account_id is not None:
            assert placement.account_id == account_id
            assert stored.tokens(account_id)[0] == grant.token_response.access_token
        untouched = [row for row in before if row[0] != account_id]
        assert [row for row in stored.rows() if row[0] != account_id] == untouched


@on_sqlite
class TestPendingAccount:
    """A reconnect by a link that was made for an account whose tenant and person are unknown."""

    def connect(self, stored: Stored, holder: Holder, wanted: int | None = None) -> int:
        with write_transaction() as session:
            return match_grant(session, grant_to(stored, holder), wanted).account_id

    def test_one_that_is_dead_is_merged_into_the_account_of_the_person_with_its_link(
        self, app: Flask, stored: Stored, sandbox: Sandbox
    ):
        dead = self.connect(stored, (None, None))
        known = self.connect(stored, ("ab123", ANN))
        stored.set(dead, refused_at=utc_now(), external_id="customer:7")
        with write_transaction() as session:
            sign_ins._open(session, SignIn(account_id=dead))
        link = make_link(dead, "admin").url.rpartition("/")[2]

        receive(sandbox.consent(start_by_link(link, BROWSER), ANN, "ab123"), BROWSER)

        assert stored.rows("sign_in") == [], "nobody knows who signed in by the earlier grant"
        account = stored.account()
        assert (account.id, account.external_id, stored.flows()[-1].ending) == (known, "customer:7", "reconnected")
        assert {"external_id_changed", "newer_stayed", "reconnect_link_used"} <= set(stored.history(known))
        assert stored.history(dead)[-1] == "moved_away"
        with pytest.raises(AccountNotFound, match=f"Account {dead} was merged into account {known}"):
            view_account(dead)

    def test_one_that_is_named_later_becomes_the_account_that_was_to_be_reconnected(self, stored: Stored):
        wanted = self.connect(stored, (None, None))
        pending = self.connect(stored, (None, None), wanted)
        assert pending != wanted

        assert identify_pending(pending) == wanted

        assert (stored.account().id, stored.account().keap_user_id) == (wanted, str(PERSON_IDS[ANN]))
        assert stored.mixed_up() == []

    def test_worker_lists_one_whose_person_is_missing(self, app: Flask, stored: Stored):
        account_id = self.connect(stored, ("ab123", None))

        RefreshWorker(app).run(until_idle=True)

        assert stored.account(account_id).keap_user_id == str(PERSON_IDS[ANN])


class TestTwoAtOnce:
    """The same (tenant, person) arrives twice at the same moment."""

    def test_grant_that_meets_one_not_committed_yet_waits_for_it_and_renews_it(
        self, app: Flask, stored: Stored, set_out: Callable[[str, str], str], sandbox: Sandbox
    ):
        callback_url = set_out(ANN, "ab123")
        sandbox.hold("profile", "after")

        def arrive() -> str:
            with app.app_context():
                return receive(callback_url, BROWSER)

        with ThreadPoolExecutor() as threads:
            arriving = threads.submit(arrive)
            try:
                sandbox.wait_held(1)
                with write_transaction() as session:
                    match_grant(session, replace(stored.grant("ab123", ANN), came_at=utc_now() - timedelta(minutes=1)))
                    sandbox.release()
                    wait_until_it_waits(sandbox)
            finally:
                sandbox.release()
            arriving.result(PATIENCE_SECONDS)

        assert stored.flows()[-1].ending == Ending.RECONNECTED
        assert stored.account().id == 1
        assert stored.history(1) == ["connected", "reconnected"]
        assert stored.mixed_up() == []

    def test_six_journeys_of_one_person_make_one_account_with_the_newest_grant(
        self,
        app: Flask,
        stored: Stored,
        set_out: Callable[[str, str], str],
        sandbox: Sandbox,
        monkeypatch: pytest.MonkeyPatch,
    ):
        came: list[Grant] = []
        monkeypatch.setattr(callback, "keep_pending", lambda *kept: came.append(kept[2]) or keep_pending(*kept))
        callbacks = [set_out(ANN, "ab123") for _ in range(6)]
        sandbox.hold("profile", "after")

        def arrive(callback_url: str) -> str:
            with app.app_context():
                return receive(callback_url, BROWSER)

        with ThreadPoolExecutor(len(callbacks)) as threads:
            arriving = [threads.submit(arrive, callback_url) for callback_url in callbacks]
            try:
                sandbox.wait_held(len(callbacks))
            finally:
                sandbox.release()
            for one in arriving:
                one.result(PATIENCE_SECONDS)

        assert sorted(flow.ending or "" for flow in stored.flows()) == ["connected"] + ["reconnected"] * 5
        newest = max(came, key=lambda grant: grant.came_at)
        account = stored.account()  # PostgreSQL gives the numbers of lost transactions to nobody: it need not be 1
        assert (len(came), stored.tokens(account.id)[0]) == (6, newest.token_response.access_token)
        assert account.connected_at == newest.came_at
        assert stored.mixed_up() == []

    @on_postgresql
    def test_two_processes_make_one_account_of_each_person(
        self, stored: Stored, set_out: Callable[[str, str], str], environ: dict[str, str], sandbox: Sandbox
    ):
        people = [(ANN, "ab123"), (ANN, "cd456"), (BEN, "ab123"), ("cleo.marsh@example.com", "ef789")]
        shares = [[set_out(*one) for one in people] for _ in range(2)]
        both_get_this = set_out("finn.hale@example.com", "ij345")

        refs = receive_in_processes(environ, [[both_get_this, *share] for share in shares])

        assert len({ref for answers in refs for ref in answers}) == 1 + 2 * len(people)
        owners = sorted(stored.owner(account.id) for account in stored.accounts())
        assert owners == sorted(
            (tenant, PERSON_IDS[person]) for person, tenant in [*people, ("finn.hale@example.com", "ij345")]
        )
        assert {flow.ending for flow in stored.flows()} == {Ending.CONNECTED, Ending.RECONNECTED}
        assert presented_twice(sandbox) == []
        assert stored.mixed_up() == []


def wait_until_it_waits(sandbox: Sandbox) -> None:
    """Wait until the other journey has heard all from Keap and, where that can be seen, waits for our row."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        calls = sandbox.ledger()["presentations"]
        has_heard = len(calls) > len(token_calls(sandbox)) and all(call["outcome"] != "in flight" for call in calls)
        if has_heard and (db.engine.dialect.name == "sqlite" or count_lock_waits()):
            return
        time.sleep(0.02)
    raise TimeoutError("the other journey never came to the database")


def count_lock_waits() -> int:
    """Count the PostgreSQL sessions that wait for another one's lock."""
    with read_session() as session:
        waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return int(session.scalar(waiting) or 0)


def receive_in_processes(environ: dict[str, str], shares: list[list[str]]) -> list[list[str]]:
    """Let one process for each share receive its callbacks, all from the same moment on."""
    command, pipe = [sys.executable, "-m", "tests.connect.arriving"], subprocess.PIPE
    with subprocess.Popen(
        command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as program:
        try:
            assert program.stdin
            assert program.stdout
            program.stdin.write(json.dumps({"environ": environ, "browser": BROWSER, "shares": shares}) + "\n")
            program.stdin.flush()
            assert [program.stdout.readline() for _ in shares] == ["ready\n"] * len(shares)
            answers, _ = program.communicate("go\n", timeout=PATIENCE_SECONDS)
            return [json.loads(line) for line in answers.splitlines()]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)  # also those that it forked


@on_postgresql
def test_two_that_lock_two_accounts_in_opposite_order_both_write(app: Flask, stored: Stored):
    ids, both = [stored.place(), stored.place("cd456")], threading.Barrier(2)

    def write_in(order: list[int]) -> int:
        tries = []

        def write(session: Session) -> int:
            tries.append(session.get_one(Account, order[0], with_for_update=True))
            if len(tries) == 1:
                both.wait(30)
            session.get_one(Account, order[1], with_for_update=True).label = "written"
            return len(tries)

        with app.app_context():
            return write_or_retry(write)

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(write_in, (ids, ids[::-1]))) == [1, 2]
    assert [account.label for account in stored.accounts()] == ["written"] * 2
