"""Label and external id: the integrator's own names, with clear errors that keep what was typed."""

import html
import re

import pytest
from flask import Flask

from keap_connect.accounts import changes
from keap_connect.accounts.credentials import new_account
from keap_connect.accounts.directory import view_account
from keap_connect.database import write_transaction
from keap_connect.errors import ExternalIdTaken
from keap_connect.events.search import Search, list_events
from tests.support.engines import on_sqlite
from tests.support.visitor import Visitor

PATH = "/accounts/1/names"


@pytest.fixture(autouse=True)
def two_accounts(app: Flask) -> None:
    """Let there be two accounts; the second one has an external id."""
    with app.app_context(), write_transaction() as session:
        new_account(session, "ab123", "1")
        new_account(session, "cd456", "1").external_id = "crm:2"


def save(admin: Visitor, label: str = "", external_id: str = "") -> int:
    """Fill in the form of the first account and send it; return the status."""
    admin.get("/accounts/1")
    return admin.press(PATH, label=label, external_id=external_id).status_code


def names(app: Flask) -> tuple[str | None, str | None]:
    """Return what is stored."""
    with app.app_context():
        account = view_account(1)
    return account.label, account.external_id


def typed(admin: Visitor) -> tuple[str, str]:
    """Return what stands in the two fields."""
    found = [
        re.search(rf'<input id="{name}"[^>]*value="([^"]*)"', admin.page.text) for name in ("label", "external_id")
    ]
    return html.unescape(found[0][1]), html.unescape(found[1][1])


@on_sqlite
def test_names_are_saved_shown_told_in_the_history_and_cleared(app: Flask, admin: Visitor):
    assert save(admin, "  The  \u202eDen\u2066tist\u200f ", " crm:1 ") == 200

    assert names(app) == ("The Dentist", "crm:1")
    assert "The names are saved." in admin.text
    assert typed(admin) == ("The Dentist", "crm:1")
    assert "<h1>The Dentist</h1>" in admin.page.text
    save(admin, "The Dentist", "")
    assert names(app) == ("The Dentist", None)
    with app.app_context():
        assert [event.sentence for event in list_events(Search(account_id=1)).rows] == [
            "The external id was changed from “crm:1” to none.",
            "The external id was changed from none to “crm:1”.",
            "The label was changed from none to “The Dentist”.",
        ]


@on_sqlite
@pytest.mark.parametrize(("label", "kept"), [("\u200b", None), ("\ufeff \u200d", None), ("a\u200db", "a\u200db")])
def test_a_label_that_nobody_can_see_is_none(app: Flask, admin: Visitor, label: str, kept: str | None):
    """Else the account would have no name in the list, and no link that can be clicked."""
    assert save(admin, label) == 200

    assert names(app) == (kept, None)


REFUSED = {
    ("ok", "crm 7"): "Use letters from A to Z, digits and . _ : - only, without spaces.",
    ("ok", "crm/7"): "Use letters from A to Z",
    ("ok", "é"): "Use letters from A to Z",
    ("ok", "٣"): "Use letters from A to Z",
    ("ok", "a\nb"): "Use letters from A to Z",
    ("ok", "x" * 201): "The external id may have at most 200 characters.",
    ("ok", "crm:2"): "Account 2 has this external id already.",
    ("a\x7fb", "ok"): "The label has characters that cannot be shown.",
    ("x" * 201, "ok"): "The label may have at most 200 characters.",
}


@on_sqlite
def test_a_name_that_breaks_a_rule_is_refused_and_what_was_typed_stays(app: Flask, admin: Visitor):
    for (label, external_id), sentence in REFUSED.items():
        assert save(admin, label, external_id) == 422, external_id

        assert sentence in admin.text
        assert 'role="alert"' in admin.page.text
        assert typed(admin) == (label, external_id)
        assert names(app) == (None, None)


@on_sqlite
def test_every_character_and_length_that_is_allowed_is_taken(app: Flask, admin: Visitor):
    for external_id in ("AZaz09._:-", "x" * 200, "-", "crm:1"):
        assert save(admin, "x" * 200, external_id) == 200
        assert names(app) == ("x" * 200, external_id)


def test_two_at_once_cannot_take_the_same_id(app: Flask, monkeypatch: pytest.MonkeyPatch):
    """The look before the write finds nothing, as when the other one commits in between."""
    lock = changes.lock_accounts
    monkeypatch.setattr(changes, "lock_accounts", lambda session, own, _has_id: lock(session, own))

    with app.app_context(), pytest.raises(ExternalIdTaken, match="Another account has this external id already"):
        changes.change_account(1, "admin", {"external_id": "crm:2"})

    assert names(app) == (None, None)
