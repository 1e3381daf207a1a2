"""The customer comes back: finds what is theirs and nothing else, disconnects, and signs out for good."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask

from tests.conftest import MovedClock
from tests.flows.endings import heading_of, next_steps
from tests.flows.stored import Stored, files_of, has_pieces_of
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.sandbox import ANN, Sandbox
from tests.support.visitor import Visitor

ANN_LEE, BEN_ORTIZ = "ann.lee@example.com", "ben.ortiz@example.com"


@pytest.fixture
def ann(new_visitor: Callable[[], Visitor]) -> Visitor:
    """Give Ann, who has connected ab123 as account 1 in her browser."""
    person = new_visitor()
    person.connect(person=ANN_LEE, tenant="ab123")
    return person


def disconnect(visitor: Visitor, account_id: int = 1) -> None:
    """Walk from the account to the question and press Disconnect there."""
    visitor.get(f"/accounts/{account_id}/disconnect")
    visitor.press(f"/accounts/{account_id}/disconnect")


class TestComingBack:
    """No password: whoever connects again has shown who they are."""

    @on_postgresql
    def test_customer_finds_all_accounts_of_the_same_keap_user(self, ann: Visitor, new_visitor: Callable[[], Visitor]):
        new_visitor().connect(person=ANN_LEE, tenant="cd456")

        later = new_visitor()
        later.connect(person=ANN_LEE, tenant="ab123")
        later.get("/your-accounts")

        assert heading_of(later) == "Your accounts"
        for fact in ("Acme Plumbing", "ab123", "Bright Dental", "cd456"):
            assert fact in later.text

    @on_postgresql
    def test_customer_sees_nothing_of_others_not_even_of_the_same_keap_account(
        self, ann: Visitor, new_visitor: Callable[[], Visitor], stored: Stored
    ):
        anns_label = {"label": "Ann at Acme"}
        stored.set(1, **anns_label)
        new_visitor().connect(person=ANN_LEE, tenant="cd456")
        ben = new_visitor()
        ben.connect(person=BEN_ORTIZ, tenant="ab123")

        ben.get("/your-accounts")

        assert "/reconnect/3" in next_steps(ben)
        assert not {"/reconnect/1", "/reconnect/2", "/accounts/1/disconnect"} & set(next_steps(ben))
        for fact in ("Ann", "Bright Dental", "cd456"):
            assert fact not in ben.page.text

    @on_sqlite
    def test_customer_does_not_see_the_label_that_the_integrator_gave(self, ann: Visitor, stored: Stored):
        stored.set(1, label="Difficult")

        for path in ("/your-accounts", "/reconnect/1", "/accounts/1/disconnect"):
            assert "Acme Plumbing" in ann.get(path).text
            assert "Difficult" not in ann.page.text
        ann.reconnect(1, tenant="cd456")
        assert "Difficult" not in ann.page.text

    @on_sqlite
    def test_result_page_shows_the_way_to_the_accounts(self, ann: Visitor):
        assert "/your-accounts" in next_steps(ann)
        assert ann.get("/your-accounts").status_code == 200

    @on_sqlite
    @pytest.mark.parametrize("path", ["/accounts/1/disconnect", "/reconnect/1"])
    def test_browser_that_has_not_connected_is_asked_to(self, path: str, ann: Visitor, visitor: Visitor):
        visitor.get(path)

        assert visitor.page.status_code == 403
        assert heading_of(visitor) == "You are not signed in"
        assert "Acme" not in visitor.text

    @on_sqlite
    def test_browser_that_has_not_connected_sees_an_ordinary_page_without_accounts(
        self, ann: Visitor, visitor: Visitor
    ):
        visitor.get("/your-accounts")

        assert visitor.page.status_code == 200
        assert (heading_of(visitor), next_steps(visitor)) == ("Your accounts", ["/connect"])
        assert "No account here yet" in visitor.text
        assert "Acme" not in visitor.text

    @on_sqlite
    def test_person_replaced_by_another_no_longer_sees_the_account(self, ann: Visitor, admin: Visitor):
        admin.reconnect(1, person=BEN_ORTIZ, tenant="ab123")

        ann.get("/your-accounts")

        assert "Acme" not in ann.text
        assert ann.get("/accounts/1/disconnect").status_code == 404

    @on_sqlite
    def test_person_without_a_name_yet_loses_the_account_to_whoever_reconnects_it(
        self, visitor: Visitor, admin: Visitor, sandbox: Sandbox
    ):
        sandbox.fault("html_503", "api")
        visitor.connect(person=ANN_LEE, tenant="ab123")
        sandbox.clear_faults()

        admin.reconnect(1, person=BEN_ORTIZ, tenant="ab123")

        assert "No account here yet" in visitor.get("/your-accounts").text
        assert visitor.get("/accounts/1/disconnect").status_code == 403

    @on_sqlite
    @pytest.mark.parametrize("has_another_account", [True, False])
    def test_person_whose_name_came_later_is_that_person_from_then_on(
        self, has_another_account: bool, visitor: Visitor, admin: Visitor, stored: Stored, sandbox: Sandbox
    ):
        sandbox.fault("html_503", "api")
        visitor.connect(person=ANN_LEE, tenant="ab123")
        sandbox.clear_faults()
        if has_another_account:
            stored.place("ab123", ANN_LEE)
        stored.place("cd456", ANN_LEE)
        admin.get("/accounts/1")
        admin.press("/accounts/1/complete")

        visitor.get("/your-accounts")
        assert "Acme Plumbing" in visitor.text
        assert "Bright Dental" in visitor.text
        account_id = next(one.id for one in stored.accounts() if one.tenant_id == "ab123")
        admin.reconnect(account_id, person=BEN_ORTIZ, tenant="ab123")
        visitor.get("/your-accounts")
        assert "Acme" not in visitor.text

    @on_sqlite
    def test_customer_is_no_admin(self, ann: Visitor):
        for path in ("/accounts", "/accounts/1"):
            assert ann.get(path, allow_redirects=False).headers["Location"].startswith("/signin")

    @on_sqlite
    def test_sign_out_button_of_an_admin_works_on_the_page_that_a_reconnect_ends_at(
        self, admin: Visitor, stored: Stored
    ):
        stored.place("ab123", ANN_LEE)
        admin.reconnect(1, person=ANN_LEE, tenant="ab123")

        admin.press("/signout")

        assert admin.page.status_code == 200
        assert admin.get("/accounts", allow_redirects=False).headers["Location"].startswith("/signin")


class TestDisconnect:
    """Asked once more, told how to withdraw the consent at Keap, and really forgotten."""

    @on_postgresql
    def test_customer_is_asked_and_told_how_to_withdraw_at_keap(self, ann: Visitor, stored: Stored):
        ann.get("/accounts/1/disconnect")
        question = ann.text
        assert stored.account().disconnected_at is None

        ann.press("/accounts/1/disconnect")

        for told in ("Disconnect Acme Plumbing?", "Third-Party Authorized Applications", "deleted here, at once"):
            assert told in question
        assert heading_of(ann) == "Your accounts"
        assert "remove this application from Third-Party Authorized Applications in Keap's API settings." in ann.text
        assert stored.account().disconnected_at
        assert stored.history(1) == ["connected", "disconnected"]

    @on_postgresql
    def test_disconnected_account_offers_reconnect_and_nothing_else(self, ann: Visitor):
        disconnect(ann)

        assert "Disconnected" in ann.text
        assert "/reconnect/1" in next_steps(ann)
        assert "/accounts/1/disconnect" not in next_steps(ann)

    @on_postgresql
    def test_other_accounts_of_the_same_person_stay_connected(self, ann: Visitor, stored: Stored):
        ann.connect(person=ANN_LEE, tenant="cd456")
        before = stored.row(2)

        disconnect(ann, 1)

        assert stored.row(2) == before
        assert stored.owner(2) == ("cd456", ANN)

    @on_sqlite
    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_foreign_account_cannot_be_disconnected(self, method: str, ann: Visitor, stored: Stored):
        stored.place("ef789", "cleo.marsh@example.com")
        before = stored.rows()
        ann.get("/")
        form = {"csrf_token": ann.fields("/connect")["csrf_token"]}

        answer = ann.session.request(method, f"{ann.base_url}/accounts/2/disconnect", data=form, timeout=30)

        assert answer.status_code == 404
        assert "Cedar" not in answer.text
        assert stored.rows() == before

    @pytest.mark.proves("R25")
    @pytest.mark.parametrize("fault", [None, "long_tokens"])
    @on_sqlite
    def test_tokens_are_nowhere_in_the_database_files_neither_clear_nor_sealed(
        self, fault: str | None, app: Flask, visitor: Visitor, stored: Stored, sandbox: Sandbox
    ):
        if fault:
            sandbox.fault(fault, "exchange")  # longer than a page of the database
        visitor.connect(person=ANN_LEE, tenant="ab123")
        account = stored.account()
        clear = [(token or "").encode() for token in stored.tokens(1)]
        sealed = [account.access_token_sealed or b"", account.refresh_token_sealed or b""]
        assert [has_pieces_of(secret, files_of(app)) for secret in clear + sealed] == [False, False, True, True]

        disconnect(visitor)

        assert [has_pieces_of(secret, files_of(app)) for secret in clear + sealed] == [False] * 4
        assert stored.tokens(1) == (None, None)

    @pytest.mark.proves("R25")
    def test_refresh_that_ends_later_does_not_bring_the_tokens_back(
        self, ann: Visitor, admin: Visitor, stored: Stored, sandbox: Sandbox
    ):
        admin.get("/accounts/1")
        sandbox.hold("refresh", "after")
        with ThreadPoolExecutor() as threads:
            refreshing = threads.submit(admin.press, "/accounts/1/refresh")
            try:
                sandbox.wait_held(1)
                disconnect(ann)
            finally:
                sandbox.release()
            refreshing.result(30)

        assert "This account was disconnected; its tokens are deleted." in admin.text
        assert stored.tokens(1) == (None, None)
        assert stored.account().disconnected_at

    @on_sqlite
    def test_second_press_changes_nothing_more(self, ann: Visitor, stored: Stored):
        ann.get("/accounts/1/disconnect")
        form = ann.fields("/accounts/1/disconnect")
        disconnect(ann)
        before = stored.rows(), stored.history(1)

        ann.session.post(f"{ann.base_url}/accounts/1/disconnect", form, timeout=30)

        assert (stored.rows(), stored.history(1)) == before


class TestSignOut:
    """On a shared computer: the session ends on the server, and nothing brings it back but Keap."""

    @on_postgresql
    def test_signed_out_customer_is_unknown_and_still_connected(self, ann: Visitor, stored: Stored):
        ann.get("/your-accounts")

        ann.press("/your-accounts/sign-out")

        assert "You are signed out here. Your Keap accounts stay connected." in ann.text
        assert "person" not in ann.session.cookies
        assert "No account here yet" in ann.get("/your-accounts").text
        assert stored.owner(1) == ("ab123", ANN)

    @on_postgresql
    @pytest.mark.proves("R60", "F60")
    def test_copied_cookie_is_refused_after_sign_out(self, ann: Visitor, visitor: Visitor):
        visitor.session.cookies.update(ann.session.cookies)
        assert "Acme Plumbing" in visitor.get("/your-accounts").text

        ann.get("/your-accounts")
        ann.press("/your-accounts/sign-out")

        assert "No account here yet" in visitor.get("/your-accounts").text
        assert "Acme" not in visitor.text

    @pytest.mark.proves("F104")
    @on_sqlite
    def test_nothing_of_the_customer_can_be_opened_afterwards_also_with_a_copied_cookie(
        self, ann: Visitor, visitor: Visitor, new_visitor: Callable[[], Visitor]
    ):
        addresses = [ann.page.url, ann.reconnect(1, tenant="cd456").url, "/your-accounts", "/reconnect/1"]
        visitor.session.cookies.update(ann.session.cookies)
        other = new_visitor()
        theirs = other.connect(person=BEN_ORTIZ, tenant="ab123").url
        ann.get("/your-accounts")

        signed_out = ann.press("/your-accounts/sign-out", follow=False)

        assert signed_out.headers["Clear-Site-Data"] == '"cache", "storage"'
        for browser in (ann, visitor):
            pages = [browser.get(address) for address in addresses]
            assert [page.status_code for page in pages] == [404, 404, 200, 403]
            assert not [page.url for page in pages for word in ("Acme", "Bright", "ab123", "Ann") if word in page.text]
        assert "person" not in ann.session.cookies
        assert "Acme Plumbing" in other.get(theirs).text
        assert "Acme Plumbing" in ann.connect(person=ANN_LEE, tenant="ab123").text

    @on_sqlite
    def test_result_page_seen_late_does_not_sign_in(self, visitor: Visitor, sandbox: Sandbox, clock: MovedClock):
        callback_url = sandbox.consent(visitor.set_out(), ANN_LEE, "ab123")
        result = visitor.get(callback_url, allow_redirects=False).headers["Location"]

        clock.advance(minutes=11)
        visitor.get(result)

        assert heading_of(visitor) == "Your Keap account is connected"
        assert "person" not in visitor.session.cookies

    @on_sqlite
    def test_result_page_is_for_the_browser_that_connected(self, ann: Visitor, visitor: Visitor):
        visitor.get("/")

        visitor.get(ann.page.url)

        assert visitor.page.status_code == 404
        assert "Acme" not in visitor.text
        assert "person" not in visitor.session.cookies


@on_sqlite
class TestPlantedSession:
    """A session id that somebody put into the browser beforehand is worth nothing afterwards."""

    @pytest.mark.proves("R59", "F60")
    def test_made_up_id_is_not_taken_over_by_the_sign_in(self, visitor: Visitor, new_visitor: Callable[[], Visitor]):
        planted = "p" * 43
        visitor.session.cookies.set("person", planted)

        visitor.connect(person=ANN_LEE, tenant="ab123")

        issued = [cookie.value for cookie in visitor.session.cookies if cookie.name == "person"]
        assert planted not in issued[-1:]
        attacker = new_visitor()
        attacker.session.cookies.set("person", planted)
        assert "No account here yet" in attacker.get("/your-accounts").text

    @pytest.mark.proves("R59", "F60")
    def test_live_session_of_an_attacker_ends_when_the_victim_connects_with_it(
        self, visitor: Visitor, new_visitor: Callable[[], Visitor]
    ):
        attacker = new_visitor()
        attacker.connect(person=BEN_ORTIZ, tenant="ab123")
        visitor.session.cookies.set("person", attacker.session.cookies["person"], domain="localhost.local", path="/")

        visitor.connect(person=ANN_LEE, tenant="cd456")

        assert "Bright Dental" in visitor.get("/your-accounts").text
        assert "No account here yet" in attacker.get("/your-accounts").text

    @pytest.mark.proves("R59")
    def test_each_connect_gives_a_new_id_and_ends_the_old_one(self, ann: Visitor, visitor: Visitor):
        old = ann.session.cookies["person"]

        ann.connect(person=ANN_LEE, tenant="ab123")

        assert ann.session.cookies["person"] != old
        visitor.session.cookies.set("person", old)
        assert "No account here yet" in visitor.get("/your-accounts").text
