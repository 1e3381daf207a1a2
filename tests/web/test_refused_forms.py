"""A refused form: 422, or 401 for a wrong password, with one sentence at its field and what was typed."""

import pytest

from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD
from tests.support.engines import on_sqlite
from tests.support.markup import Markup
from tests.support.visitor import Visitor

WRONG, RIGHT = {"password": "not the password"}, {"password": ADMIN_PASSWORD}
PASTED = {**RIGHT, "kind": "pasted_token", "access_token": "made-up-token"}
REFUSED = [
    # page, action, what is typed, and the id of the field with the sentence
    ("/profile", "/profile/password", {**WRONG, "new_password": "some other password"}, "password"),
    ("/profile", "/profile/password", {**RIGHT, "new_password": "short"}, "new_password"),
    ("/profile", "/profile/second-factor/new", WRONG, "factor_password"),
    ("/admins", "/admins", {**WRONG, "email": "new@example.com"}, "password"),
    ("/admins", "/admins", {**RIGHT, "email": ADMIN_EMAIL}, "email"),
    ("/admins/1", "/admins/1", {**WRONG, "act": "remove"}, "password"),
    ("/import", "/import", {**WRONG, "access_token": "made-up-token"}, "password"),
    ("/import", "/import", {**PASTED, "access_token": "short"}, "access_token"),
    ("/import", "/import", {**PASTED, "external_id": "a b"}, "external_id"),
    ("/import", "/import", {**PASTED, "refresh_token": "1.2E+10"}, "refresh_token"),
    ("/api-keys/new", "/api-keys/new", {**WRONG, "name": "A job"}, "password"),
    ("/api-keys/new", "/api-keys/new", {**RIGHT, "name": " "}, "name"),
    ("/api-keys/new", "/api-keys/new", {**RIGHT, "name": "A job", "accounts": "a, b"}, "accounts"),
    ("/export", "/export", WRONG, "password"),
    ("/accounts/bulk?act=disconnect&account=1", "/accounts/bulk", {**WRONG, "count": "1"}, "password"),
    ("/accounts/bulk?act=disconnect&account=1", "/accounts/bulk", {**RIGHT, "count": "2"}, "count"),
    ("/signin", "/signin", {**WRONG, "email": ADMIN_EMAIL}, "email"),
    ("/signin", "/signin", {**WRONG, "email": ADMIN_EMAIL}, "password"),
]


@on_sqlite
@pytest.mark.parametrize(("page", "action", "filled_in", "field_id"), REFUSED)
def test_a_refusal_is_shown_at_its_field(
    admin: Visitor, page: str, action: str, filled_in: dict[str, str], field_id: str
):
    admin.get(page)

    refused = admin.press(action, **filled_in)

    markup = Markup.of(refused.text)
    (field,) = [one for one in markup.all("input") if one["id"] == field_id]
    (sentence,) = [one for one in markup.elements if one["role"] == "alert"]
    assert refused.status_code == (401 if filled_in["password"] == WRONG["password"] else 422)
    assert field["aria-invalid"] == "true"
    assert sentence["id"] in field["aria-describedby"].split()
    assert sentence.text.strip()


@on_sqlite
def test_a_refused_choice_is_explained_where_it_was_made(admin: Visitor):
    admin.get("/admins/1")

    refused = admin.press("/admins/1", act="remove", **RIGHT)

    markup = Markup.of(refused.text)
    (buttons,) = [one for one in markup.elements if one["role"] == "group"]
    assert refused.status_code == 422
    assert buttons["aria-describedby"] == "act-error"
    assert "This is the last admin" in admin.text


@on_sqlite
@pytest.mark.parametrize(("choice", "typed"), [("scopes", "everything"), ("lifetime", "7")])
def test_a_refused_choice_of_a_key_keeps_what_was_typed(admin: Visitor, choice: str, typed: str):
    admin.get("/api-keys/new")

    fields = {"name": "A job", "scopes": "tokens:read", "lifetime": "30", choice: typed, **RIGHT}
    refused = admin.press("/api-keys/new", **fields)

    markup = Markup.of(refused.text)
    (name,) = [one for one in markup.all("input") if one["id"] == "name"]
    assert refused.status_code == 422
    assert f"{choice}-error" in [one["aria-describedby"] for one in markup.all("fieldset")]
    assert name["value"] == "A job"
