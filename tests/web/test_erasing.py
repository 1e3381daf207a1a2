"""An erased customer leaves nothing behind, and what is past its time goes by itself (R96)."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from flask import Flask
from sqlalchemy import delete, func, select, text

from keap_connect.access.api_keys import Scope, issue_api_key, revoke_api_key
from keap_connect.accounts.changes import disconnect, erase
from keap_connect.accounts.directory import view_account
from keap_connect.clock import utc_now
from keap_connect.connect.flows import forget_past
from keap_connect.connect.reconnect_links import make_link
from keap_connect.database import Base, db, read_session, write_transaction
from keap_connect.errors import AccountNotFound
from keap_connect.events.search import Search, list_events
from keap_connect.models import Account, Alarm, APIKey, AuthorizationFlow, ReconnectLink, SignIn
from keap_connect.refresh.alarms import UNKNOWN_INSTANCE
from keap_connect.refresh.serving import refresh_account
from keap_connect.refresh.worker import RefreshWorker
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD, MovedClock
from tests.support.engines import on_sqlite
from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor
from tests.web.direct import send, visit

TRACES = ("ann.lee@example.com", "Ann", "ab123", "Bakery")


def everything(app: Flask) -> str:
    """Return all that stands in the database."""
    with app.app_context(), db.engine.connect() as connection:
        return str([connection.execute(select(table)).all() for table in Base.metadata.sorted_tables])


@pytest.mark.proves("R96")
def test_nothing_of_an_erased_customer_is_left(app: Flask, sandbox: Sandbox):
    customer, other = visit(app, sandbox), visit(app, sandbox)
    customer.connect()
    other.connect(person="cleo.marsh@example.com", tenant="ef789")
    with app.app_context():
        link = urlsplit(make_link(1, "x").url).path
    visit(app, sandbox).connect(action=link, page=link)
    customer.reconnect(1, tenant="cd456")  # a grant that waits for a decision
    with app.app_context():
        with write_transaction() as session:
            session.get_one(Account, 1).label = "Bakery"
        refresh_account(1, "x")
        make_link(1, "x")
        key = issue_api_key("jobs", list(Scope), "x").text
    send(visit(app), "GET", "/api/v1/accounts/1/token", {"Authorization": f"Bearer {key}"})
    before = everything(app)

    with app.app_context():
        erase(1, "command line")
        with pytest.raises(AccountNotFound, match=r"^Account 1 was erased for good\.$"):
            view_account(1)

    left = everything(app)
    assert all(trace in before for trace in TRACES)
    assert [trace for trace in TRACES if trace in left] == []
    assert "cleo.marsh@example.com" in left
    with app.app_context(), read_session() as session:
        assert session.execute(text("SELECT kind FROM account_event WHERE account_id = 1")).all() == [("erased",)]
        waiting = select(func.count()).where(AuthorizationFlow.pending_grant_sealed.is_not(None))
        assert session.scalar(waiting) == 0
        assert session.scalar(select(func.count()).where(SignIn.account_id == 1)) == 0
        with pytest.raises(AccountNotFound):
            erase(1, "command line")
    assert send(customer, "GET", "/reconnect/1").status_code == 403


@pytest.mark.proves("R96", "R104")
@on_sqlite
def test_what_is_disconnected_or_erased_is_in_no_file_either(app: Flask, sandbox: Sandbox, tmp_path: Path):
    visit(app, sandbox).connect()
    with app.app_context():
        refresh_account(1, "x")
        with read_session() as session:
            account = session.get_one(Account, 1)
    sealed = [account.access_token_sealed, account.refresh_token_sealed]
    names = [b"ann.lee@example.com", b"Acme Plumbing"]

    def found() -> list[bytes]:
        written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        return [each for each in [*sealed, *names] if each in written]

    with app.app_context():
        before = found()
        disconnect(1, "x")
        without_tokens = found()
        erase(1, "x")

    assert before == [*sealed, *names]
    assert without_tokens == names
    assert found() == []


NEVER = dict.fromkeys(("KEEP_EVENTS", "KEEP_JOURNEYS", "KEEP_LINKS"), "0")


@pytest.mark.proves("R104")
@on_sqlite
@pytest.mark.parametrize(("environ", "keeps_all"), [({}, False), (NEVER, True)], indirect=["environ"])
def test_the_worker_deletes_what_is_older_than_the_settings_allow(
    app: Flask, sandbox: Sandbox, clock: MovedClock, keeps_all: bool
):
    visit(app, sandbox).connect()
    with app.app_context():
        make_link(1, "x")
        refresh_account(1, "x")
        revoke_api_key(issue_api_key("A job", [Scope.TOKENS_READ], "x").row.id, "x")
        issue_api_key("Another job", [Scope.TOKENS_READ], "x")
        disconnect(1, "x")

    def left() -> tuple[int | None, int | None, int | None, list[str]]:
        with app.app_context():
            RefreshWorker(app).run(until_idle=True)
            with read_session() as session:
                counts = [
                    session.scalar(select(func.count(table.id))) for table in (AuthorizationFlow, ReconnectLink, APIKey)
                ]
            events = list_events(Search()).rows[::-1]
        return *counts, [f"{event.kind} by {event.actor}" for event in events]

    all_events = ["connected by customer", "reconnect_link_made by x", "refreshed by x", "api_key_issued by x"]
    all_events += ["api_key_revoked by x", "api_key_issued by x", "disconnected by x"]
    young = left()
    clock.advance(days=30, minutes=11)
    without_journeys = left()
    clock.advance(days=7)
    without_links = left()
    clock.advance(days=364)
    with app.app_context(), write_transaction() as session:
        session.add(Alarm(name=UNKNOWN_INSTANCE, raised_at=utc_now(), reason="It may be a copy."))
    of_a_copy = left()
    with app.app_context(), write_transaction() as session:
        session.execute(delete(Alarm))
    without_events, once = left(), left()

    assert young == (1, 1, 2, all_events)
    if keeps_all:
        assert [without_journeys, without_links, without_events, once] == [young] * 4
        return
    assert without_journeys == (0, 1, 2, all_events)
    assert without_links == (0, 0, 2, all_events)
    assert of_a_copy == without_links
    # The newest pair stays: without its row, an older backup could not be recognized.
    assert without_events == once == (0, 0, 1, ["refreshed by x", "history_pruned by system"])


@pytest.mark.proves("R96")
@pytest.mark.parametrize("environ", [{"KEEP_JOURNEYS": "1"}], indirect=True)
def test_states_and_sessions_that_are_over_are_pruned(app: Flask, sandbox: Sandbox, clock: MovedClock):
    visit(app, sandbox).connect()
    visit(app, sandbox).connect(person="cleo.marsh@example.com", tenant="ef789")

    def rows() -> list[int | None]:
        with app.app_context(), read_session() as session:
            return [session.scalar(select(func.count()).select_from(table)) for table in (AuthorizationFlow, SignIn)]

    assert rows() == [2, 2]
    clock.advance(days=1, minutes=11)
    with app.app_context():
        forget_past()
    assert rows() == [0, 2]
    visit(app, sandbox).connect()

    assert rows() == [1, 1]


@pytest.mark.proves("R58")
@on_sqlite
def test_an_admin_disconnects_and_erases_with_the_password_only(app: Flask, admin: Visitor, sandbox: Sandbox):
    visit(app, sandbox).connect()

    def press(act: str, password: str) -> int:
        admin.get(f"/accounts/1/{act}")
        return admin.press(f"/accounts/1/{act}", follow=False, password=password).status_code

    def history() -> list[tuple[str, str]]:
        with app.app_context():
            return [(event.kind, event.actor) for event in list_events(Search(account_id=1)).rows]

    assert [press(act, "not the password") for act in ("disconnect", "erase")] == [401, 401]
    assert "That password is wrong. Nothing was changed." in admin.text
    assert "Ask the customer to sign in at Keap" in admin.text
    assert history() == [("connected", "customer")]
    assert press("disconnect", ADMIN_PASSWORD) == 303
    assert history()[0] == ("disconnected", ADMIN_EMAIL)
    assert 'href="/accounts/1/erase"' in admin.get("/accounts/1").text
    assert press("erase", ADMIN_PASSWORD) == 303
    assert history() == [("erased", ADMIN_EMAIL)]
    assert admin.get("/accounts/1").status_code == 404
