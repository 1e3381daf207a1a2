"""A form that was refused says why at the very field, for the eye and for a screen reader."""

import pytest

from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD
from tests.support.markup import Markup
from tests.support.visitor import Visitor

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
WRONG, RIGHT = {"password": "not the password"}, {"password": ADMIN_PASSWORD}
REFUSED = [
    # page, action, what is filled in, and the id of the field that is to be told
    ("/profile", "/profile/password", {**WRONG, "new_password": "some other password"}, "password"),
    ("/profile", "/profile/password", {**RIGHT, "new_password": "short"}, "new_password"),
    ("/profile", "/profile/second-factor/new", WRONG, "factor_password"),
    ("/admins", "/admins", {**WRONG, "email": "new@example.com"}, "password"),
    ("/admins", "/admins", {**RIGHT, "email": ADMIN_EMAIL}, "email"),
    ("/admins/1", "/admins/1", {**WRONG, "act": "remove"}, "password"),
    ("/import", "/import", {**WRONG, "access_token": "made-up-token"}, "password"),
    ("/import", "/import", {**RIGHT, "access_token": "short"}, "access_token"),
    ("/api-keys/new", "/api-keys/new", {**WRONG, "name": "A job"}, "password"),
    ("/export", "/export", WRONG, "password"),
    ("/signin", "/signin", {**WRONG, "email": ADMIN_EMAIL}, "email"),
    ("/signin", "/signin", {**WRONG, "email": ADMIN_EMAIL}, "password"),
]


@on_sqlite
@pytest.mark.parametrize(("page", "action", "filled_in", "field_id"), REFUSED)
def test_a_refusal_is_told_at_its_field(
    admin: Visitor, page: str, action: str, filled_in: dict[str, str], field_id: str
):
    admin.get(page)

    refused = admin.press(action, **filled_in)

    markup = Markup.of(refused.text)
    (field,) = [one for one in markup.all("input") if one["id"] == field_id]
    (sentence,) = [one for one in markup.elements if one["role"] == "alert"]
    assert 400 <= refused.status_code < 500
    assert field["aria-invalid"] == "true"
    assert sentence["id"] in field["aria-describedby"].split()
    assert sentence.text.strip()


@on_sqlite
def test_a_choice_that_is_refused_is_told_where_it_was_made(admin: Visitor):
    admin.get("/admins/1")

    refused = admin.press("/admins/1", act="remove", **RIGHT)

    markup = Markup.of(refused.text)
    (choices,) = markup.all("fieldset")
    (chosen,) = [one for one in markup.all("input") if "checked" in one.attributes]
    assert refused.status_code == 422
    assert (choices["aria-describedby"], chosen["value"]) == ("act-error", "remove")
    assert "That is the last one" in admin.text
