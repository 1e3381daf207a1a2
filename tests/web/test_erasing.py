"""An erased customer leaves nothing behind, and what is past its time goes by itself (R96)."""

from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import func, select, text

from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.accounts.changes import erase
from keap_connect.connect.flows import forget_past
from keap_connect.connect.reconnect_links import make_link
from keap_connect.database import Base, db, read_session, write_transaction
from keap_connect.errors import AccountNotFound
from keap_connect.models import Account, AuthorizationFlow, SignIn
from keap_connect.refresh.serving import refresh_account
from tests.conftest import MovedClock
from tests.support.sandbox import Sandbox
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
    assert send(customer, "GET", "/your-accounts").status_code == 403


@pytest.mark.proves("R96")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_its_sealed_tokens_are_not_even_in_the_free_pages_of_the_file(app: Flask, sandbox: Sandbox, database_url: str):
    visit(app, sandbox).connect()
    with app.app_context(), read_session() as session:
        sealed = session.get_one(Account, 1).refresh_token_sealed
    assert sealed is not None

    with app.app_context():
        erase(1, "command line")
        connection = db.engine.connect()
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
    assert sealed not in Path(database_url.removeprefix("sqlite:///")).read_bytes()


@pytest.mark.proves("R96")
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
