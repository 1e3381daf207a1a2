"""Reconnect links: for one account and one use, for people without a sign-in, and of no use once they are gone."""

import re
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from flask import Flask
from sqlalchemy import select

from keap_connect.accounts.changes import erase
from keap_connect.connect import reconnect_links
from keap_connect.connect.endings import Ending
from keap_connect.database import read_session
from keap_connect.errors import AccountNotFound
from keap_connect.models import ReconnectLink
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD, MovedClock
from tests.flows.endings import assert_ended, heading_of, next_steps
from tests.flows.stored import Stored, token_calls
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.sandbox import ANN, BEN, Sandbox
from tests.support.visitor import Visitor

ANN_LEE, BEN_ORTIZ = "ann.lee@example.com", "ben.ortiz@example.com"
GONE = "This link does not work"


@pytest.fixture
def make_link(admin: Visitor, stored: Stored) -> Callable[..., str]:
    """Give the function that lets the admin make a link for account 1, and returns its path."""
    stored.place("ab123", ANN_LEE)

    def make(account_id: int = 1) -> str:
        admin.get(f"/accounts/{account_id}")
        admin.press(f"/accounts/{account_id}/reconnect-links")
        found = re.search(r'<input id="link" value="([^"]+)"', admin.page.text)
        assert found is not None
        assert found[1].startswith(f"{admin.base_url}/r/")
        return urlsplit(found[1]).path

    return make


@pytest.fixture
def link(make_link: Callable[..., str]) -> str:
    """Give the path of a link for account 1."""
    return make_link()


def follow(visitor: Visitor, link: str, **choices: object) -> None:
    """Open a link, press its button, and decide at Keap."""
    visitor.connect(action=link, page=link, **choices)


def is_gone(visitor: Visitor, link: str) -> bool:
    """Whether a link leads to the neutral page."""
    visitor.get(link)
    return visitor.page.status_code == 404 and heading_of(visitor) == GONE


@on_postgresql
@pytest.mark.proves("R15")
def test_person_without_a_sign_in_reconnects_by_the_link_once(
    link: str, visitor: Visitor, admin: Visitor, stored: Stored
):
    old_tokens = stored.tokens(1)

    follow(visitor, link, person=ANN_LEE, tenant="ab123")

    assert_ended(visitor, Ending.RECONNECTED, 200, "Your Keap account is connected again", "Acme Plumbing")
    assert not set(old_tokens) & set(stored.tokens(1))
    assert stored.owner(1) == ("ab123", ANN)
    assert stored.history(1) == ["connected", "reconnect_link_made", "reconnected", "reconnect_link_used"]
    assert stored.details(1, "reconnect_link_used")["made_by"] == ADMIN_EMAIL
    assert is_gone(visitor, link)
    admin.get("/accounts/1")
    assert "/accounts/1/reconnect-links/1/revoke" not in admin.page.text


@on_sqlite
def test_opening_a_link_starts_nothing_and_names_nobody(link: str, visitor: Visitor, stored: Stored):
    visitor.get(link)

    assert heading_of(visitor) == "Reconnect your Keap account"
    assert stored.flows() == []
    for fact in ("Acme", "ab123", "Ann", ADMIN_EMAIL):
        assert fact not in visitor.page.text


@on_postgresql
@pytest.mark.proves("R15")
@pytest.mark.parametrize("by_link", [True, False])
def test_a_reconnect_revokes_the_other_links_of_that_account_and_no_more(
    make_link: Callable[..., str], new_visitor: Callable[[], Visitor], stored: Stored, sandbox: Sandbox, by_link: bool
):
    stored.place("cd456", ANN_LEE)
    used, open_one, of_another_account = make_link(), make_link(), make_link(2)
    late = new_visitor()
    callback_url = sandbox.consent(late.set_out(open_one, open_one), ANN_LEE, "ab123")

    person = new_visitor()
    follow(person, used) if by_link else person.connect(person=ANN_LEE, tenant="ab123")

    assert [is_gone(person, one) for one in (used, open_one, of_another_account)] == [True, True, False]
    assert stored.details(1, "reconnect_link_revoked")["made_by"] == ADMIN_EMAIL
    late.get(callback_url)
    assert_ended(late, Ending.LINK_GONE, 400, "This link no longer works", "connected again in another way")
    assert stored.history(1).count("reconnected") == 1


@on_postgresql
@pytest.mark.proves("R15")
def test_used_expired_revoked_and_random_links_look_all_the_same(
    make_link: Callable[..., str], new_visitor: Callable[[], Visitor], admin: Visitor, clock: MovedClock, stored: Stored
):
    stored.place("cd456", ANN_LEE)
    old = make_link(2)
    clock.advance(days=6)
    admin.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)
    used, revoked = make_link(), make_link()
    admin.get("/accounts/1")
    admin.press("/accounts/1/reconnect-links/3/revoke")
    assert "The reconnect link is revoked and no longer works." in admin.text
    follow(new_visitor(), used)
    stranger = new_visitor()
    clock.advance(hours=23, minutes=59)
    assert not is_gone(stranger, old)
    clock.advance(minutes=2)

    links = [used, old, revoked, "/r/" + "A" * 43, "/r/x", f"{old}x", "/r/" + "é" * 2000]
    answers = [stranger.get(link) for link in links]

    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.text for answer in answers}) == 1
    assert heading_of(stranger) == GONE
    flows = len(stored.flows())
    for link in links:
        stranger.get("/")
        form = {"csrf_token": stranger.fields("/connect")["csrf_token"]}
        posted = stranger.session.post(stranger.base_url + link, data=form, allow_redirects=False)
        assert (posted.status_code, posted.text) == (404, answers[0].text), link
    assert len(stored.flows()) == flows


def erasing(function: Callable[..., object]) -> Callable[..., object]:
    """Let account 1 be erased right before a function is called."""

    def erase_first(*arguments: object, **named: object) -> object:
        with suppress(AccountNotFound):  # what failed is tried again
            erase(1, "x")
        return function(*arguments, **named)

    return erase_first


def test_pressing_a_link_whose_account_is_erased_at_that_moment_starts_nothing(
    link: str, visitor: Visitor, stored: Stored, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reconnect_links, "start_flow", erasing(reconnect_links.start_flow))
    visitor.get(link)
    visitor.press(link)

    assert (visitor.page.status_code, heading_of(visitor)) == (404, GONE)
    assert stored.flows() == []


@on_postgresql
def test_an_account_that_is_erased_while_its_link_is_made_has_none(
    app: Flask, stored: Stored, monkeypatch: pytest.MonkeyPatch
):
    stored.place("ab123", ANN_LEE)
    monkeypatch.setattr(reconnect_links, "_add", erasing(reconnect_links._add))

    with app.app_context(), pytest.raises(AccountNotFound):
        reconnect_links.make_link(1, "x")


@pytest.mark.proves("R15")
@on_sqlite
def test_link_is_random_and_only_its_hash_is_stored(make_link: Callable[..., str], app: Flask):
    secrets = [make_link().removeprefix("/r/") for _ in range(2)]

    assert [len(secret) for secret in secrets] == [43, 43], "256 bits"
    assert secrets[0] != secrets[1]
    with app.app_context(), read_session() as session:
        rows = [str(vars(row)) for row in session.scalars(select(ReconnectLink))]
    assert len(rows) == 2
    assert [secret for secret in secrets if any(secret in row for row in rows)] == []


@on_sqlite
def test_person_who_pressed_deny_tries_the_link_again(link: str, visitor: Visitor, stored: Stored):
    before = stored.row(1)
    follow(visitor, link, allow=False)
    assert_ended(visitor, Ending.DENIED, 200, "Keap says: access denied")
    assert stored.row(1) == before
    (again,) = next_steps(visitor)

    visitor.connect(action=again, page=visitor.page.url)

    assert_ended(visitor, Ending.RECONNECTED, 200, "Your Keap account is connected again")
    assert stored.history(1).count("reconnect_link_used") == 1


@on_sqlite
def test_trying_again_ends_with_the_link(link: str, visitor: Visitor, new_visitor: Callable[[], Visitor]):
    follow(visitor, link, allow=False)
    (again,) = next_steps(visitor)
    follow(new_visitor(), link)

    visitor.press(again)

    assert (visitor.page.status_code, heading_of(visitor)) == (404, GONE)


@on_postgresql
@pytest.mark.proves("R14")
def test_person_who_is_another_takes_the_account_over_by_the_usual_rules(link: str, visitor: Visitor, stored: Stored):
    follow(visitor, link, person=BEN_ORTIZ, tenant="ab123")

    assert_ended(visitor, Ending.PERSON_CHANGED, 200, "Reconnected by another person", "Ben Ortiz")
    assert stored.owner(1) == ("ab123", BEN)


@pytest.mark.proves("R14", "R15")
@pytest.mark.parametrize("choice", ["connect", "discard"])
@on_sqlite
def test_another_keap_account_changes_nothing_and_the_page_does_not_tell_which_one_was_meant(
    link: str, visitor: Visitor, stored: Stored, choice: str
):
    before = stored.row(1)

    follow(visitor, link, person=ANN_LEE, tenant="cd456")

    assert heading_of(visitor) == "You chose another Keap account"
    assert "Bright Dental" in visitor.text
    for fact in ("Acme", "ab123"):
        assert fact not in visitor.page.text
    again, confirm, other = next_steps(visitor)
    assert (again, confirm) == (confirm.replace("/confirm", "/again"), other)
    visitor.press(confirm, choice=choice)
    assert stored.row(1) == before
    assert is_gone(visitor, link) == (choice == "connect"), "a stored grant uses the link up, a discarded one does not"


@pytest.mark.proves("R14", "R15")
@on_sqlite
def test_after_another_keap_account_the_first_button_chooses_again_by_the_same_link(
    link: str, visitor: Visitor, stored: Stored
):
    follow(visitor, link, person=ANN_LEE, tenant="cd456")
    held = visitor.page.url
    assert re.search(r'class="button button-primary" type="submit">Choose again at Keap<', visitor.page.text)

    visitor.connect(action=next_steps(visitor)[0], page=held, person=ANN_LEE, tenant="ab123")

    assert_ended(visitor, Ending.RECONNECTED, 200, "Your Keap account is connected again", "Acme Plumbing")
    assert [stored.owner(account.id) for account in stored.accounts()] == [("ab123", ANN)]
    visitor.get(held)
    assert heading_of(visitor) == "You chose another Keap account", "the other grant is kept until its time is over"


class TestTwoPeopleWithOneLink:
    """Both have pressed the button; the first one back has used it up."""

    @pytest.fixture
    def second(self, link: str, new_visitor: Callable[[], Visitor], sandbox: Sandbox) -> Visitor:
        """Give somebody who has allowed access, and is not back yet; `callback` is where Keap sends them."""
        person = new_visitor()
        person.get(link)
        self.callback = sandbox.consent(person.set_out(link, link), BEN_ORTIZ, "ab123", allow=True)
        return person

    @on_postgresql
    def test_second_one_back_changes_nothing_and_is_told(
        self, link: str, second: Visitor, visitor: Visitor, stored: Stored, sandbox: Sandbox
    ):
        follow(visitor, link, person=ANN_LEE, tenant="ab123")
        before = stored.row(1)
        sandbox.clear_ledger()

        second.get(self.callback)

        assert_ended(second, Ending.LINK_GONE, 400, "This link no longer works")
        assert token_calls(sandbox) == []
        assert stored.row(1) == before

    @on_sqlite
    def test_revoked_while_at_keap_it_changes_nothing_either(self, second: Visitor, admin: Visitor, stored: Stored):
        before = stored.row(1)
        admin.get("/accounts/1")
        admin.press("/accounts/1/reconnect-links/1/revoke")

        second.get(self.callback)

        assert_ended(second, Ending.LINK_GONE, 400, "This link no longer works")
        assert stored.row(1) == before
        assert stored.history(1)[-2:] == ["reconnect_link_revoked", "reconnect_failed"]

    def test_used_up_between_the_last_look_and_the_answer_it_takes_nobodys_account(
        self, link: str, second: Visitor, visitor: Visitor, stored: Stored, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("keap_connect.connect.callback._link_still_works", lambda _flow: True)
        follow(visitor, link, person=ANN_LEE, tenant="ab123")
        before = stored.row(1)

        second.get(self.callback)

        assert_ended(second, Ending.CONNECTED, 200, "Your Keap account is connected")
        assert stored.row(1) == before
        assert stored.owner(2) == ("ab123", BEN)
        assert stored.history(1).count("reconnect_link_used") == 1


@on_sqlite
def test_link_of_one_account_cannot_be_revoked_under_another(
    make_link: Callable[..., str], admin: Visitor, visitor: Visitor, stored: Stored
):
    link = make_link()
    stored.place("cd456", ANN_LEE)
    admin.get("/accounts/1")
    form = {"csrf_token": admin.fields("/signout")["csrf_token"]}

    for path in ("/accounts/2/reconnect-links/1/revoke", "/accounts/1/reconnect-links/9999999999999/revoke"):
        admin.session.post(admin.base_url + path, data=form)

    assert not is_gone(visitor, link)


@on_sqlite
def test_secret_of_a_link_stands_in_no_log(link: str, visitor: Visitor, caplog: pytest.LogCaptureFixture):
    caplog.clear()
    visitor.session.post(visitor.base_url + link, data={"csrf_token": "forged"})
    visitor.session.put(visitor.base_url + link)

    ours = [record.getMessage() for record in caplog.records if record.name.startswith("keap_connect")]
    assert len(ours) == 2
    assert [line for line in ours if link.removeprefix("/r/") in line] == []
