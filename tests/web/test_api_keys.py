"""The settings page of the API keys: shown once, asked for with the password, revoked after a question."""

import re
from datetime import timedelta
from html import unescape

import pytest
from flask import Flask

from keap_connect.access.api_keys import (
    Scope,
    get_api_key,
    issue_api_key,
    list_api_keys,
    rotate_api_key,
    verify_api_key,
)
from keap_connect.clock import utc_now
from keap_connect.database import write_transaction
from keap_connect.errors import APIKeyRefused, FormRefused
from keap_connect.models import Account
from tests.accounts.granted import store_account
from tests.conftest import ADMIN_PASSWORD, MovedClock
from tests.support.engines import on_sqlite
from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor
from tests.web.direct import send, visit

pytestmark = on_sqlite

RIGHT = {"name": "Nightly sync", "scopes": "tokens:read", "lifetime": "30", "password": ADMIN_PASSWORD}


def make(admin: Visitor, **fields: str) -> str | None:
    """Fill the form in and return the key that is shown."""
    admin.get("/api-keys/new")
    admin.press("/api-keys/new", **{**RIGHT, **fields})
    shown = re.search(r'<input id="key" value="(kc_[0-9a-f_]+)" readonly>', admin.page.text)
    return shown[1] if shown else None


@pytest.mark.proves("R49")
def test_a_key_is_shown_once(app: Flask, admin: Visitor):
    key = make(admin)

    assert key is not None
    with app.app_context():
        assert verify_api_key(key).scopes == ["tokens:read"]
    assert 'data-copy="key"' in admin.page.text
    for path in ("/api-keys", "/api-keys/new", "/api-keys/1/revoke"):
        assert key not in admin.get(path).text
    assert key[:19] in admin.get("/api-keys").text
    assert "Last used" in admin.text


@pytest.mark.proves("R58")
@pytest.mark.parametrize(
    ("wrong", "status", "words"),
    [
        ({"password": "a wrong password"}, 401, "That password is wrong."),
        ({"password": ""}, 401, "That password is wrong."),
        ({"name": " "}, 422, "Give the key a name"),
        ({"scopes": "everything"}, 422, "Choose what the key may do"),
        ({"lifetime": "7"}, 422, "Choose how long the key lasts."),
        ({"accounts": "7"}, 422, "There is no account 7."),
        ({"accounts": "a, b"}, 422, "There is no account tenant:a."),
        ({"accounts": "a; b!"}, 422, "Enter accounts with commas"),
        ({"accounts": "9999999999"}, 422, "There is no account 9999999999."),
    ],
    ids=str,
)
def test_a_form_that_will_not_do_says_why_and_keeps_what_was_typed(
    app: Flask, admin: Visitor, wrong: dict[str, str], status: int, words: str
):
    assert make(admin, **wrong) is None

    assert admin.page.status_code == status
    assert words in admin.text
    assert ADMIN_PASSWORD not in admin.page.text
    assert "Nightly sync" in admin.page.text or "name" in wrong
    with app.app_context():
        assert list_api_keys() == []


def test_guessing_the_password_is_throttled(admin: Visitor):
    statuses = []
    for _ in range(11):
        make(admin, password="a wrong password")
        statuses.append(admin.page.status_code)

    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert "Retry-After" in admin.page.headers


def test_a_key_may_be_for_some_accounts(app: Flask, admin: Visitor, sandbox: Sandbox):
    with app.app_context():
        store_account(sandbox)
        store_account(sandbox, "cd456", external_id="dentist")
        store_account(sandbox, "ef789")

    key = make(admin, accounts=" 1, external:dentist ef789", lifetime="")
    with app.app_context(), write_transaction() as session:
        session.delete(session.get_one(Account, 3))

    assert "Accounts ab123 , cd456 , No. 3, which is erased Last used" in [admin.get("/api-keys"), admin.text][1]
    make(admin)
    assert "Accounts all, future ones included Last used" in [admin.get("/api-keys"), admin.text][1]
    with app.app_context():
        assert verify_api_key(key or "").account_ids == [1, 2, 3]
        assert list_api_keys()[1].expires_at is None


@pytest.mark.proves("R72")
def test_a_key_is_revoked_after_a_question(app: Flask, admin: Visitor):
    key = make(admin)
    admin.get("/api-keys/1/revoke")
    asked = admin.text
    admin.press("/api-keys/1/revoke")

    assert "Revoke Nightly sync?" in asked
    assert "is revoked" in admin.text
    with app.app_context(), pytest.raises(APIKeyRefused):
        verify_api_key(key or "")


def test_a_key_that_is_not_there_is_not_found(admin: Visitor):
    for key_id in (1, 2**31):
        assert send(admin, "GET", f"/api-keys/{key_id}/revoke").status_code == 404


def test_of_the_keys_that_are_over_the_latest_are_shown(app: Flask, admin: Visitor):
    for number in range(12):
        make(admin, name=f"key {number:02}")
        send(admin, "GET", f"/api-keys/{number + 1}/revoke")
        admin.press(f"/api-keys/{number + 1}/revoke")

    assert re.findall(r"<h2>key (\d\d)</h2>", admin.page.text) == [f"{number:02}" for number in range(11, 1, -1)]


def test_a_new_key_comes_with_a_command_that_works(admin: Visitor, app: Flask, sandbox: Sandbox):
    with app.app_context():
        store_account(sandbox)
        store_account(sandbox, "cd456")

    key = make(admin, accounts="2")

    path = "/api/v1/accounts/2/token"
    assert f"curl -H 'Authorization: Bearer {key}' '{admin.base_url}{path}'" in unescape(admin.page.text)
    assert send(visit(app), "GET", path, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert "Accounts that it may read: cd456 ." in admin.text


@pytest.mark.proves("R58")
def test_a_rotated_key_works_beside_the_new_one_until_its_time_is_over(
    app: Flask, admin: Visitor, clock: MovedClock, sandbox: Sandbox
):
    with app.app_context():
        store_account(sandbox)
    old = make(admin, accounts="1")
    assert rotate(admin, password="wrong") is None
    assert admin.page.status_code == 401
    assert rotate(admin, overlap="3") is None
    assert admin.page.status_code == 422

    new = rotate(admin)

    shown = admin.get("/api-keys").text
    assert ("Replaced by a newer key" in shown, "/api-keys/2/rotate" in shown) == (True, True)
    assert "/api-keys/1/rotate" not in shown
    assert "API key 2 (Nightly sync) takes the place of 1, which ends" in admin.get("/audit").text
    with app.app_context():
        keys = [verify_api_key(str(text)) for text in (old, new)]
        alike = {(key.name, *key.scopes, *(key.account_ids or [])) for key in keys}
        assert alike == {("Nightly sync", "tokens:read", 1)}
        lifetime = keys[1].expires_at - utc_now() if keys[1].expires_at else None
        assert lifetime is not None
        assert timedelta(days=29) < lifetime <= timedelta(days=30)
        with pytest.raises(FormRefused, match="rotated already"):
            rotate_api_key(1, timedelta(hours=1), "x")
        clock.advance(hours=2)
        assert verify_api_key(str(new))
        with pytest.raises(APIKeyRefused):
            verify_api_key(str(old))
        with pytest.raises(FormRefused, match="create a new one"):
            rotate_api_key(1, timedelta(hours=1), "x")


def test_rotating_a_key_never_lengthens_its_life(app: Flask):
    with app.app_context():
        ends = utc_now() + timedelta(hours=1)
        old = issue_api_key("Nightly sync", [Scope.TOKENS_READ], "x", expires_at=ends).row

        rotate_api_key(old.id, timedelta(days=1), "x")

        assert get_api_key(old.id).expires_at == ends


def rotate(admin: Visitor, **fields: str) -> str | None:
    """Rotate the first key and return the new one that is shown."""
    admin.get("/api-keys/1/rotate")
    admin.press("/api-keys/1/rotate", **{"overlap": "1", "password": ADMIN_PASSWORD, **fields})
    shown = re.search(r'<input id="key" value="(kc_[0-9a-f_]+)" readonly>', admin.page.text)
    return shown[1] if shown else None
