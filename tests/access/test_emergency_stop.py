"""The drill for the bad day: what somebody stole is worth nothing afterwards, and there is a way back (R94, F72)."""

from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from flask import Flask

from keap_connect.access.admins import create_admin
from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.access.passwords import issue_password_link
from keap_connect.accounts.credentials import fingerprint, open_refresh_token
from keap_connect.accounts.directory import get_account
from keap_connect.connect.invitation_lists import invite_many
from keap_connect.connect.invitations import NewInvitation, make_invitation, resend
from keap_connect.connect.reconnect_links import make_link
from keap_connect.database import write_transaction
from keap_connect.emergency_stop import stop_everything
from keap_connect.errors import TemporarilyUnavailable
from keap_connect.events.history import Actor
from keap_connect.models import Account
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD, MovedClock
from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor
from tests.web.direct import send, visit

TOKEN = "/api/v1/accounts/1/token"


@pytest.fixture
def run(app: Flask) -> Callable[..., str]:
    """Give the function that runs a command and returns what it said."""

    def run(*arguments: str, code: int = 0) -> str:
        finished = app.test_cli_runner().invoke(args=arguments)
        assert finished.exit_code == code, finished.output
        return finished.output

    return run


@pytest.mark.proves("R94", "F72")
def test_after_the_stop_nothing_stolen_reads_anything_and_the_way_back_works(
    app: Flask, sandbox: Sandbox, run: Callable[..., str]
):
    customer, admin = visit(app, sandbox), visit(app)
    customer.connect()
    with app.app_context():
        create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
        key = issue_api_key("jobs", list(Scope), "x").text
        way_in = issue_password_link(ADMIN_EMAIL, "x")
        link = urlsplit(make_link(1, "x").url).path
        presented = len(sandbox.ledger()["presentations"])
    admin.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)
    before = _what_is_read(app, customer, admin, key, link)

    said = run("emergency-stop", "--yes")

    assert before == [200, 200, 200, 200]
    assert _what_is_read(app, customer, admin, key, link) == [403, 303, 401, 404]
    assert "ann.lee@example.com" in said
    assert "refreshing confirm-only-one" in said
    _sign_in(admin, ADMIN_PASSWORD)
    assert send(admin, "GET", "/accounts").status_code == 303, "the old password is worth nothing"
    assert admin.choose_password(way_in, "the thief's own one").status_code == 404
    with app.app_context(), write_transaction() as session:
        session.get_one(Account, 1).next_refresh_at = session.get_one(Account, 1).created_at
        mark = fingerprint(open_refresh_token(session.get_one(Account, 1)) or "")
    assert "paused" in run("worker", "--once", code=4)
    assert len(sandbox.ledger()["presentations"]) == presented

    run("refreshing", "confirm-only-one")
    run("worker", "--once")
    with app.app_context():
        way_in = issue_password_link(ADMIN_EMAIL, "x")
        key = issue_api_key("jobs", list(Scope), "x").text
        assert fingerprint(open_refresh_token(get_account(1)) or "") != mark, "refreshed again"
    admin.choose_password(way_in, "quite another password")
    _sign_in(admin, "quite another password")
    assert _what_is_read(app, customer, admin, key, link) == [403, 200, 200, 404]


@pytest.mark.proves("R94")
def test_a_request_that_was_allowed_before_the_stop_makes_no_link_after_it(
    app: Flask, sandbox: Sandbox, clock: MovedClock
):
    visit(app, sandbox).connect()
    acts: list[Callable[[str], object]] = [
        lambda actor: make_link(1, actor),
        lambda actor: make_invitation(NewInvitation(label="Acme"), actor),
        lambda actor: invite_many(b"label\nAcme\n", actor, is_mailed=False),
        lambda actor: resend(1, actor),
    ]
    with app.app_context():
        make_invitation(NewInvitation(label="Acme"), Actor.COMMAND_LINE)
        stop_everything(Actor.COMMAND_LINE)
        for act in acts:
            with pytest.raises(TemporarilyUnavailable, match="stopped a moment ago"):
                act("API key 1 (jobs)")
        for act in acts[:3]:
            act(Actor.COMMAND_LINE)
        clock.advance(minutes=1)
        acts[0]("API key 2 (jobs)")


def _sign_in(admin: Visitor, password: str) -> None:
    admin.get("/signin")
    admin.press("/signin", False, email=ADMIN_EMAIL, password=password)


def _what_is_read(app: Flask, customer: Visitor, admin: Visitor, key: str, link: str) -> list[int]:
    """Return what the customer, the admin, a program and the holder of a link are answered."""
    pages = [send(customer, "GET", "/reconnect/1"), send(admin, "GET", "/accounts")]
    program = send(visit(app), "GET", TOKEN, {"Authorization": f"Bearer {key}"})
    return [page.status_code for page in [*pages, program, send(visit(app), "GET", link)]]
