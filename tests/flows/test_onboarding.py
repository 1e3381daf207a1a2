"""The journey that goes well, over real HTTP against the sandbox: whose account it is, and what is stored."""

import json
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from keap_connect.accounts.state import REFRESH_TOKEN_LIFE
from keap_connect.connect.endings import Ending
from keap_connect.web.rendering import exact_time
from tests.flows.endings import assert_ended
from tests.flows.stored import Stored
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.sandbox import ANN, BEN, Sandbox
from tests.support.visitor import Visitor

ANN_LEE, BEN_ORTIZ = "ann.lee@example.com", "ben.ortiz@example.com"


def assert_connected(visitor: Visitor) -> None:
    assert_ended(visitor, Ending.CONNECTED, 200, "Your Keap account is connected")


@on_postgresql
def test_customer_connects_and_sees_which_account_and_by_whom(visitor: Visitor, stored: Stored):
    visitor.connect(person=ANN_LEE, tenant="ab123")

    assert_connected(visitor)
    account = stored.account()
    assert account.access_token_expires_at
    assert account.refresh_token_issued_at
    aged_out_at = account.refresh_token_issued_at + REFRESH_TOKEN_LIFE
    for fact in (
        "Acme Plumbing",
        "ab123",
        "Ann Lee",
        ANN_LEE,
        "You are done. Keap Connect can now work with Acme Plumbing.",
    ):
        assert fact in visitor.text
    for moment in (account.access_token_expires_at, aged_out_at):  # a customer needs neither
        assert exact_time(moment) not in visitor.text


@on_postgresql
def test_stored_account_holds_what_keap_told_and_the_tokens_keap_issued(visitor: Visitor, stored: Stored):
    visitor.connect(person=ANN_LEE, tenant="ab123")

    account = stored.account()
    assert (account.tenant_id, account.keap_user_id) == ("ab123", str(ANN))
    assert (account.business_name, account.person_name, account.person_email) == ("Acme Plumbing", "Ann Lee", ANN_LEE)
    assert account.scope == "full|ab123.infusionsoft.com"
    assert stored.owner(account.id) == ("ab123", ANN)
    assert stored.history(account.id) == ["connected"]


@on_postgresql
def test_stored_tokens_are_the_ones_that_keap_takes_for_live(visitor: Visitor, stored: Stored, admin: Visitor):
    visitor.connect()

    admin.get("/accounts/1")
    admin.press("/accounts/1/refresh")

    assert "Refreshed: new tokens are stored." in admin.text
    assert stored.history(1) == ["connected", "refreshed"]


@on_postgresql
def test_person_connects_many_keap_accounts(visitor: Visitor, stored: Stored):
    visitor.connect(person=ANN_LEE, tenant="ab123")
    visitor.connect(person=ANN_LEE, tenant="cd456")

    assert_connected(visitor)
    assert "Bright Dental" in visitor.text
    assert [stored.owner(account.id) for account in stored.accounts()] == [("ab123", ANN), ("cd456", ANN)]


@on_postgresql
def test_two_people_of_one_keap_account_become_two_accounts(new_visitor: Callable[[], Visitor], stored: Stored):
    ann, ben = new_visitor(), new_visitor()

    ann.connect(person=ANN_LEE, tenant="ab123")
    before = stored.rows()
    ben.connect(person=BEN_ORTIZ, tenant="ab123")

    assert_connected(ben)
    assert "Ben Ortiz" in ben.text
    assert "Ann" not in ben.text
    assert [stored.owner(account.id) for account in stored.accounts()] == [("ab123", ANN), ("ab123", BEN)]
    assert stored.rows()[:1] == before


@on_postgresql
def test_second_connect_renews_the_same_account_and_keeps_its_history(
    new_visitor: Callable[[], Visitor], stored: Stored
):
    new_visitor().connect(person=ANN_LEE, tenant="ab123")
    stored.set(1, label="Ann at Acme", external_id="crm:7")
    before, old_tokens = stored.account(), stored.tokens(1)

    again = new_visitor()
    again.connect(person=ANN_LEE, tenant="ab123")

    assert_ended(again, Ending.RECONNECTED, 200, "Your Keap account is connected again")
    after = stored.account()
    kept = ("id", "label", "external_id", "created_at", "keap_user_id")
    assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
    assert after.generation > before.generation
    assert not set(old_tokens) & set(stored.tokens(1))
    assert stored.history(1) == ["connected", "reconnected"]


def test_name_changed_at_keap_is_taken_over_by_the_next_connect(visitor: Visitor, stored: Stored, sandbox: Sandbox):
    visitor.connect()
    sandbox.rename("ab123", "Acme & Daughters")

    visitor.connect()

    assert "Acme & Daughters" in visitor.text
    assert stored.account().business_name == "Acme & Daughters"


@on_sqlite
def test_app_asks_for_the_one_scope_that_keap_knows_and_for_a_code(visitor: Visitor):
    asked = parse_qs(urlsplit(visitor.set_out()).query, strict_parsing=True)

    assert (asked["scope"], asked["response_type"]) == (["full"], ["code"])


class TestKeapDoesNotTellWhoItIs:
    """The identity call fails: the tokens are kept, and the details come later."""

    @pytest.mark.parametrize(
        ("fault", "parameters"),
        [
            ("html_503", {}),
            ("json_500", {}),
            ("html_403", {}),
            ("rate_limited_quota_429", {}),
            ("refused_although_valid", {}),
            ("ok_html", {}),
            ("ok_empty", {}),
            ("ok_list", {}),
            ("ok_truncated", {}),
            ("reset_before", {}),
            ("redirect", {"status": 302}),
        ],
    )
    @on_sqlite
    def test_tokens_are_kept_whatever_user_info_answers(
        self, fault: str, parameters: dict[str, object], visitor: Visitor, stored: Stored, sandbox: Sandbox
    ):
        sandbox.fault(fault, "userinfo", **parameters)

        visitor.connect(person=ANN_LEE, tenant="ab123")

        assert_ended(visitor, Ending.CONNECTED_PENDING, 200, "Connected; the details follow")
        assert stored.account().is_pending
        assert stored.owner(1) == ("ab123", ANN)

    def test_account_without_company_is_complete_all_the_same(self, visitor: Visitor, stored: Stored, sandbox: Sandbox):
        sandbox.fault("html_503", "profile")

        visitor.connect()

        assert_connected(visitor)
        assert "not known yet" in visitor.text
        assert not stored.account().is_pending
        assert stored.account().business_name is None

    @on_postgresql
    def test_customer_finds_the_pending_account_among_their_own(self, visitor: Visitor, sandbox: Sandbox):
        sandbox.fault("html_503", "api")

        visitor.connect(tenant="ab123")
        visitor.get("/your-accounts")

        assert "ab123" in visitor.text

    @on_postgresql
    def test_admin_lets_the_details_be_filled_in_later(
        self, visitor: Visitor, admin: Visitor, stored: Stored, sandbox: Sandbox
    ):
        sandbox.fault("html_503", "api")
        visitor.connect(person=ANN_LEE, tenant="ab123")
        tokens = stored.tokens(1)
        sandbox.clear_faults()

        admin.get("/accounts/1")
        admin.press("/accounts/1/complete")

        assert "Keap has named the account. Its details are stored." in admin.text
        account = stored.account()
        assert (account.keap_user_id, account.business_name) == (str(ANN), "Acme Plumbing")
        assert stored.tokens(1) == tokens
        assert stored.history(1) == ["connected", "details_filled_in"]

    @on_sqlite
    def test_asking_again_in_vain_keeps_the_tokens(
        self, visitor: Visitor, admin: Visitor, stored: Stored, sandbox: Sandbox
    ):
        sandbox.fault("html_503", "userinfo")
        visitor.connect()
        before = stored.rows()

        admin.get("/accounts/1")
        admin.press("/accounts/1/complete")

        assert "Keap did not say who this account belongs to. Its tokens are kept." in admin.text
        assert stored.rows() == before

    @on_postgresql
    def test_grant_moves_into_the_account_that_the_person_has_already(
        self, visitor: Visitor, new_visitor: Callable[[], Visitor], admin: Visitor, stored: Stored, sandbox: Sandbox
    ):
        new_visitor().connect(person=ANN_LEE, tenant="ab123")
        stored.set(1, label="Ann at Acme")
        sandbox.fault("html_503", "api")
        visitor.connect(person=ANN_LEE, tenant="ab123")
        fresh = stored.tokens(2)
        sandbox.clear_faults()

        admin.get("/accounts/2")
        admin.press("/accounts/2/complete")

        assert admin.page.url.endswith("/accounts/1")
        assert stored.account().label == "Ann at Acme"
        assert stored.tokens(1) == fresh
        assert stored.history(1) == ["connected", "reconnected", "moved_here"]

    @on_postgresql
    def test_customer_follows_the_grant_that_moved(
        self, visitor: Visitor, new_visitor: Callable[[], Visitor], admin: Visitor, sandbox: Sandbox
    ):
        new_visitor().connect(person=ANN_LEE, tenant="ab123")
        sandbox.fault("html_503", "api")
        result = visitor.connect(person=ANN_LEE, tenant="ab123").url
        sandbox.clear_faults()

        admin.get("/accounts/2")
        admin.press("/accounts/2/complete")

        for path in (result, "/your-accounts"):
            assert visitor.get(path).status_code == 200
            assert "Acme Plumbing" in visitor.text

    @on_sqlite
    def test_moved_grant_keeps_the_day_from_which_its_45_days_count(
        self, visitor: Visitor, admin: Visitor, stored: Stored, sandbox: Sandbox
    ):
        stored.place("ab123", ANN_LEE)
        sandbox.fault("html_503", "api")
        visitor.connect(person=ANN_LEE, tenant="ab123")
        issued_at = stored.account(2).refresh_token_issued_at
        sandbox.clear_faults()

        admin.get("/accounts/2")
        admin.press("/accounts/2/complete")

        assert issued_at
        assert stored.account(1).refresh_token_issued_at == issued_at


class TestWhichTenantItIs:
    """From the token response's scope, else from the header on every answer of the API."""

    @on_postgresql
    @pytest.mark.parametrize("user_info_names_it", [True, False])
    def test_tenant_missing_from_the_scope_is_learned_from_the_header(
        self, user_info_names_it: bool, visitor: Visitor, stored: Stored, sandbox: Sandbox
    ):
        sandbox.fault("missing_scope", "exchange")
        sandbox.switch(userinfo_v2_tenant_id=user_info_names_it)

        visitor.connect(person=ANN_LEE, tenant="cd456")

        assert_connected(visitor)
        assert stored.account().tenant_id == "cd456"
        assert stored.owner(1) == ("cd456", ANN)

    @on_sqlite
    def test_tenant_that_nobody_names_leaves_the_account_pending(
        self, visitor: Visitor, stored: Stored, sandbox: Sandbox
    ):
        sandbox.fault("missing_scope", "exchange")
        sandbox.fault("missing_tenant_header", "api")
        sandbox.fault("missing_tenant_id", "userinfo")

        visitor.connect(person=ANN_LEE, tenant="cd456")

        assert_ended(visitor, Ending.CONNECTED_PENDING, 200, "Connected; the details follow")
        assert stored.account().tenant_id is None
        assert stored.owner(1) == ("cd456", ANN)

    @on_sqlite
    def test_scope_in_the_callback_is_no_proof_of_the_tenant(self, visitor: Visitor, stored: Stored, sandbox: Sandbox):
        callback_url = sandbox.consent(visitor.set_out(), ANN_LEE, "ab123")
        assert "ab123" in callback_url

        visitor.get(callback_url.replace("ab123", "zz999"))

        assert_connected(visitor)
        assert stored.account().tenant_id == "ab123"


@on_sqlite
class TestOddGrants:
    """What Keap may grant instead of the usual; all of it is stored, none of it is passed over in silence."""

    @pytest.mark.proves("R07")
    def test_other_scope_than_full_is_recorded_and_shown_to_the_admin(
        self, visitor: Visitor, admin: Visitor, stored: Stored, sandbox: Sandbox
    ):
        granted = {**sandbox.grant("ab123", ANN)[0], "scope": "readonly|ab123.infusionsoft.com"}
        sandbox.fault("status", "exchange", status=200, body=json.dumps(granted))

        visitor.connect(person=ANN_LEE, tenant="ab123")
        admin.get("/accounts/1")

        assert stored.account().scope == "readonly|ab123.infusionsoft.com"
        assert stored.history(1) == ["connected", "scope_changed"]
        assert "Keap granted the scope readonly|ab123.infusionsoft.com instead of full." in admin.text

    def test_grant_without_a_refresh_token_is_stored_for_what_it_is(
        self, visitor: Visitor, stored: Stored, sandbox: Sandbox
    ):
        sandbox.fault("missing_refresh_token", "exchange")

        visitor.connect()

        assert_connected(visitor)
        assert stored.account().kind == "access_token_only"
        assert stored.tokens(1)[1] is None

    @pytest.mark.parametrize("with_unicode", [False, True])
    def test_very_long_tokens_are_stored_unchanged(
        self, with_unicode: bool, visitor: Visitor, stored: Stored, sandbox: Sandbox
    ):
        sandbox.fault("long_tokens", "exchange", unicode=with_unicode)

        visitor.connect(person=ANN_LEE, tenant="ab123")

        assert [len(token or "") for token in stored.tokens(1)] == [8192, 8192]
        assert stored.owner(1) == ("ab123", ANN)

    @pytest.mark.parametrize(
        ("expires_in", "hours"),
        [("missing", 1), (None, 1), ("7200", 2), (7200.9, 2), (0, 1), (-5, 1), ("soon", 1), (10**12, 7 * 24)],
    )
    def test_odd_life_of_a_token_is_read_with_care(
        self, expires_in: object, hours: int, visitor: Visitor, stored: Stored, sandbox: Sandbox
    ):
        sandbox.fault("odd_expires_in", "exchange", value=expires_in)

        visitor.connect()

        account = stored.account()
        assert account.access_token_expires_at
        life = account.access_token_expires_at - account.connected_at
        assert timedelta(hours=hours) - timedelta(minutes=1) < life <= timedelta(hours=hours)

    def test_name_full_of_markup_is_shown_as_text(self, visitor: Visitor, admin: Visitor):
        visitor.connect(person="eve.stone@example.com", tenant="gh012")
        pages = [visitor.page.text, visitor.get("/your-accounts").text]
        pages += [admin.get(path).text for path in ("/accounts", "/accounts/1", "/accounts/1/disconnect")]

        for page in pages:
            assert "&gt;&lt;img src=x onerror=alert(1)&gt;" in page
            assert "<img" not in page
