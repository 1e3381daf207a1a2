"""Showing an access token: after the password again, once for each form, and never without a line in the history."""

import re
from collections.abc import Callable

import pytest
import requests
from flask import Flask

from keap_connect.access.passwords import ATTEMPTS_AGAIN
from keap_connect.accounts.changes import disconnect
from keap_connect.accounts.credentials import new_account, replace_credential
from keap_connect.clock import utc_now
from keap_connect.database import write_transaction
from keap_connect.events.search import Search, list_events
from keap_connect.keap.token_response import TokenResponse
from keap_connect.models import Account
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD
from tests.support.engines import on_sqlite
from tests.support.visitor import Visitor
from tests.web.direct import send

pytestmark = on_sqlite

ACCESS_TOKEN, REFRESH_TOKEN = "canary-access-token-of-4d9f", "canary-refresh-token-of-83b1"
PATH = "/accounts/1/access-token"


@pytest.fixture(autouse=True)
def account_id(app: Flask) -> int:
    """Let there be one account."""
    with app.app_context(), write_transaction() as session:
        account = new_account(session, "ab123", "1")
        replace_credential(account, TokenResponse(ACCESS_TOKEN, REFRESH_TOKEN, utc_now(), "full"))
        return account.id


def reveal(admin: Visitor, password: str = ADMIN_PASSWORD) -> requests.Response:
    """Open the form and send it."""
    admin.get(PATH)
    return admin.press(PATH, password=password)


def reveals(app: Flask) -> list[str]:
    """Return who looked at the token."""
    with app.app_context():
        return [event.actor for event in list_events(Search(account_id=1)).rows if event.kind == "token_revealed"]


@pytest.mark.proves("R58")
def test_token_is_shown_after_the_password_and_the_history_says_so(app: Flask, admin: Visitor):
    answer = reveal(admin)

    assert answer.status_code == 200
    assert f'value="{ACCESS_TOKEN}"' in answer.text
    assert REFRESH_TOKEN not in answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    assert reveals(app) == [ADMIN_EMAIL]
    assert "The access token was shown." in admin.get("/accounts/1").text


@pytest.mark.proves("R58")
@pytest.mark.parametrize("password", ["a wrong password", "", ADMIN_PASSWORD + " ", ADMIN_PASSWORD.upper()])
def test_cookie_alone_shows_nothing(app: Flask, admin: Visitor, password: str):
    answer = reveal(admin, password)

    assert answer.status_code == 401
    assert "That password is wrong. Nothing was changed." in admin.text
    assert ACCESS_TOKEN not in answer.text
    assert reveals(app) == []
    assert reveal(admin).status_code == 200, "one mistake locks nobody out"


@pytest.mark.proves("R54")
def test_guessing_here_is_throttled_as_at_the_sign_in(app: Flask, admin: Visitor):
    for _ in range(ATTEMPTS_AGAIN):
        assert reveal(admin, "a wrong password").status_code == 401

    answer = reveal(admin)

    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    assert "Too many attempts." in admin.text
    assert (ACCESS_TOKEN in answer.text, reveals(app)) == (False, [])


def test_form_that_is_sent_again_shows_nothing(app: Flask, admin: Visitor):
    admin.get(PATH)
    form = {**admin.fields(PATH), "password": ADMIN_PASSWORD}
    assert ACCESS_TOKEN in send(admin, "POST", PATH, data=form).text

    answer = send(admin, "POST", PATH, data=form)

    assert answer.status_code == 422
    assert "The token was shown already." in admin.text
    assert ACCESS_TOKEN not in answer.text
    assert len(reveals(app)) == 1
    assert send(admin, "POST", PATH, data={**form, "reveals": "x"}).status_code == 422


@pytest.mark.parametrize("case", ["disconnected", "broken"])
def test_what_cannot_be_shown_is_told_plainly(app: Flask, admin: Visitor, case: str):
    admin.get(PATH)
    form = {**admin.fields(PATH), "password": ADMIN_PASSWORD}
    with app.app_context():
        if case == "disconnected":
            disconnect(1, ADMIN_EMAIL)
        else:
            with write_transaction() as session:
                session.get_one(Account, 1).access_token_sealed = b"not ours"

    answer = send(admin, "POST", PATH, data=form)

    told = {"disconnected": "No access token is stored", "broken": "does not open with any key of TOKEN_KEYS"}
    assert answer.status_code == 422
    assert told[case] in admin.text
    assert reveals(app) == []
    admin.get(PATH)
    assert ("password" in admin.page.text) == (case == "broken")
    assert re.search(r'<a class="button[^>]*href="/accounts/1"', admin.page.text)


def test_account_that_is_not_there_has_no_token(admin: Visitor, new_visitor: Callable[[], Visitor]):
    assert admin.get("/accounts/999/access-token").status_code == 404
    assert admin.get("/accounts/9999999999999999/access-token").status_code == 404
    assert "/signin" in new_visitor().get(PATH).url


@pytest.mark.proves("R79")
@pytest.mark.parametrize("environ", [{"AUDIT_LOG": "/dev/full"}], indirect=True)
def test_token_whose_audit_line_cannot_be_written_is_not_shown_nor_in_the_history(app: Flask, admin: Visitor):
    answer = reveal(admin)

    assert (answer.status_code, ACCESS_TOKEN in answer.text) == (503, False)
    assert reveals(app) == []
