"""Reconnect: the grant goes to the right account, no other account changes, and no fresh grant is thrown away."""

import json
from collections.abc import Callable

import pytest

from keap_connect.clock import utc_now
from keap_connect.connect.endings import Ending
from tests.conftest import MovedClock
from tests.flows.endings import assert_ended, heading_of, next_steps
from tests.flows.stored import Stored, token_calls
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.sandbox import ANN, BEN, Sandbox
from tests.support.visitor import Visitor

ANN_LEE, BEN_ORTIZ = "ann.lee@example.com", "ben.ortiz@example.com"


@pytest.fixture
def ann(new_visitor: Callable[[], Visitor]) -> Visitor:
    """Give Ann, who has connected ab123 as account 1 in her browser."""
    person = new_visitor()
    person.connect(person=ANN_LEE, tenant="ab123")
    return person


class TestSameTenantAndPerson:
    """Account A gets the new pair and keeps all else."""

    def test_customer_reconnects_from_your_accounts(self, ann: Visitor, stored: Stored):
        stored.set(1, label="Ann at Acme", external_id="crm:7")
        before, old_tokens = stored.account(), stored.tokens(1)

        ann.get("/your-accounts")
        assert "/reconnect/1" in next_steps(ann)
        ann.reconnect(1, person=ANN_LEE, tenant="ab123")

        assert_ended(ann, Ending.RECONNECTED, 200, "Your Keap account is connected again", "Acme Plumbing", "ab123")
        after = stored.account()
        assert (after.id, after.label, after.external_id) == (1, "Ann at Acme", "crm:7")
        assert after.created_at == before.created_at
        assert not set(old_tokens) & set(stored.tokens(1))
        assert stored.history(1) == ["connected", "reconnected"]

    @on_postgresql
    def test_admin_reconnects_from_the_account_page(self, admin: Visitor, stored: Stored):
        stored.place("ab123", ANN_LEE)
        old_tokens = stored.tokens(1)

        admin.get("/accounts/1")
        assert "/reconnect/1" in next_steps(admin)
        admin.reconnect(1, person=ANN_LEE, tenant="ab123")

        assert_ended(admin, Ending.RECONNECTED, 200, "Your Keap account is connected again")
        assert not set(old_tokens) & set(stored.tokens(1))
        assert stored.history(1) == ["connected", "reconnected"]

    @on_sqlite
    def test_page_says_which_account_to_choose_at_keap(self, ann: Visitor):
        ann.get("/reconnect/1")

        assert heading_of(ann) == "Reconnect Acme Plumbing"
        assert "choose the same Keap account, ab123" in " ".join(ann.text.split())

    @on_postgresql
    def test_disconnected_account_comes_back_under_its_old_id(self, ann: Visitor, stored: Stored):
        ann.get("/accounts/1/disconnect")
        ann.press("/accounts/1/disconnect")

        ann.reconnect(1, person=ANN_LEE, tenant="ab123")

        assert_ended(ann, Ending.RECONNECTED, 200, "Your Keap account is connected again")
        assert stored.account(1).disconnected_at is None
        assert stored.owner(1) == ("ab123", ANN)
        assert stored.history(1) == ["connected", "disconnected", "reconnected"]

    def test_account_that_keap_refused_for_good_is_active_again(self, ann: Visitor, admin: Visitor, stored: Stored):
        stored.set(1, refused_at=utc_now(), refusals=2, failures=2, failure_reason="Invalid Refresh Token")
        admin.get("/accounts/1")
        assert "Reconnect required" in admin.text

        ann.reconnect(1, person=ANN_LEE, tenant="ab123")

        admin.get("/accounts/1")
        assert "Nothing to do: the connection is kept alive automatically." in admin.text
        assert (stored.account(1).refused_at, stored.account(1).failures) == (None, 0)

    @pytest.mark.proves("R14", "F13")
    @on_sqlite
    def test_grant_without_a_refresh_token_replaces_the_whole_pair(
        self, ann: Visitor, stored: Stored, sandbox: Sandbox
    ):
        old_tokens = stored.tokens(1)
        sandbox.fault("missing_refresh_token", "exchange")

        ann.reconnect(1, person=ANN_LEE, tenant="ab123")

        access_token, refresh_token = stored.tokens(1)
        assert access_token not in old_tokens
        assert refresh_token is None
        assert stored.account(1).kind == "access_token_only"

    @on_sqlite
    def test_denied_reconnect_leaves_the_account_and_leads_back_to_it(self, ann: Visitor, stored: Stored):
        before = stored.row(1)

        ann.reconnect(1, allow=False)

        assert_ended(ann, Ending.DENIED, 200, "Keap says: access denied")
        assert next_steps(ann) == ["/reconnect/1"]
        assert stored.row(1) == before
        assert stored.history(1) == ["connected", "reconnect_failed"]


class TestSameTenantOtherPerson:
    """Account A takes that person, unless they have an account already."""

    @on_postgresql
    def test_account_takes_the_person_who_allowed_it_this_time(self, ann: Visitor, stored: Stored):
        stored.set(1, label="Acme", external_id="crm:7")

        ann.reconnect(1, person=BEN_ORTIZ, tenant="ab123")

        assert_ended(ann, Ending.PERSON_CHANGED, 200, "Reconnected by another person", "Ben Ortiz")
        account = stored.account()
        assert (account.id, account.keap_user_id, account.person_email) == (1, str(BEN), BEN_ORTIZ)
        assert (account.label, account.external_id) == ("Acme", "crm:7")
        assert stored.owner(1) == ("ab123", BEN)
        assert stored.details(1, "person_changed") == {
            "before": "Ann Lee",
            "person": "Ben Ortiz",
            "address": "127.0.0.1",
        }

    @on_postgresql
    def test_person_with_an_account_gets_that_one_updated_and_the_page_of_the_other_says_so(
        self, ann: Visitor, admin: Visitor, stored: Stored
    ):
        bens = stored.place("ab123", BEN_ORTIZ)
        before, old_tokens = stored.row(1), stored.tokens(bens)

        ann.reconnect(1, person=BEN_ORTIZ, tenant="ab123")

        assert_ended(ann, Ending.OTHER_PERSON_UPDATED, 200, "Your own connection was updated", "Ben Ortiz")
        assert stored.row(1) == before
        assert not set(old_tokens) & set(stored.tokens(bens))
        assert stored.owner(bens) == ("ab123", BEN)
        admin.get("/accounts/1")
        told = "A reconnect was authorized by Ben Ortiz, who has an account of their own; that one was updated instead."
        assert told in admin.text

    @on_sqlite
    def test_details_of_the_person_before_do_not_stay_on_the_account(
        self, ann: Visitor, stored: Stored, sandbox: Sandbox
    ):
        nameless = {"id": str(BEN), "tenant_id": "ab123"}
        sandbox.fault("status", "userinfo", status=200, body=json.dumps(nameless))

        ann.reconnect(1, person=BEN_ORTIZ, tenant="ab123")

        account = stored.account(1)
        assert account.keap_user_id == str(BEN)
        assert (account.person_name, account.person_email) == (None, None)


class TestOtherTenantNotKnown:
    """Account A never changes; the page asks, and the sealed pair waits ten minutes."""

    @pytest.fixture
    def asked(self, ann: Visitor, stored: Stored) -> Visitor:
        """Give Ann before the question: she was to reconnect ab123 and allowed cd456."""
        self.before = stored.rows()
        ann.reconnect(1, person=ANN_LEE, tenant="cd456")
        return ann

    @pytest.mark.proves("R14", "F54")
    def test_page_asks_and_names_both_while_nothing_has_changed(self, asked: Visitor, stored: Stored):
        assert asked.page.status_code == 200
        assert heading_of(asked) == "You chose another Keap account"
        for name in ("Acme Plumbing", "ab123", "Bright Dental", "cd456", "Nothing has changed yet."):
            assert name in asked.text
        assert asked.text.count("Ann Lee ann.lee@example.com") == 2
        assert stored.rows() == self.before
        assert stored.history(1) == ["connected", "other_tenant_chosen"]

    @on_sqlite
    def test_reload_asks_the_same_question_again(self, asked: Visitor, stored: Stored, sandbox: Sandbox):
        sandbox.clear_ledger()

        asked.get(asked.page.url)

        assert heading_of(asked) == "You chose another Keap account"
        assert token_calls(sandbox) == []

    @on_postgresql
    def test_customer_connects_it_as_a_new_account(self, asked: Visitor, stored: Stored):
        asked.press(confirmation(asked), choice="connect")

        assert_ended(asked, Ending.CONNECTED, 200, "Your Keap account is connected", "Bright Dental")
        assert stored.rows()[:1] == self.before
        assert [stored.owner(account.id) for account in stored.accounts()] == [("ab123", ANN), ("cd456", ANN)]
        assert stored.flows()[-1].pending_grant_sealed is None
        asked.get("/your-accounts")
        assert "Bright Dental" in asked.text

    @on_postgresql
    def test_customer_leaves_everything_as_it_is(self, asked: Visitor, stored: Stored):
        asked.press(confirmation(asked), choice="discard")

        assert_ended(asked, Ending.DISCARDED, 200, "The other account was not connected", "deleted here, as you asked")
        assert stored.rows() == self.before
        assert stored.flows()[-1].pending_grant_sealed is None

    @on_postgresql
    @pytest.mark.parametrize("path", ["reload", "decide"])
    def test_decision_after_ten_minutes_comes_too_late(
        self, path: str, asked: Visitor, stored: Stored, clock: MovedClock
    ):
        clock.advance(minutes=11)

        if path == "decide":
            asked.press(confirmation(asked), choice="connect")
        else:
            asked.get(asked.page.url)

        assert_ended(asked, Ending.DECISION_EXPIRED, 200, "The decision was not made in time")
        assert stored.rows() == self.before

    @on_sqlite
    def test_grant_past_its_time_is_forgotten_at_the_next_start(
        self, asked: Visitor, stored: Stored, new_visitor: Callable[[], Visitor], clock: MovedClock
    ):
        assert stored.flows()[-1].pending_grant_sealed
        clock.advance(minutes=11)

        new_visitor().set_out()

        assert [flow.pending_grant_sealed for flow in stored.flows()] == [None] * 3
        asked.get(asked.page.url)
        assert_ended(asked, Ending.DECISION_EXPIRED, 200, "The decision was not made in time")

    @on_sqlite
    def test_second_press_decides_nothing_more(self, asked: Visitor, stored: Stored):
        action, fields = confirmation(asked), asked.fields(confirmation(asked))
        asked.press(action, choice="connect")
        after_first = stored.rows()

        asked.session.post(asked.base_url + action, data={**fields, "choice": "discard"}, timeout=30)

        assert stored.rows() == after_first

    @on_sqlite
    def test_nobody_else_can_see_the_question_or_decide(
        self, asked: Visitor, stored: Stored, new_visitor: Callable[[], Visitor]
    ):
        stranger = new_visitor()
        stranger.get("/")
        token = stranger.fields("/connect")["csrf_token"]
        url = stranger.base_url + confirmation(asked)

        pressed = stranger.session.post(url, data={"csrf_token": token, "choice": "connect"}, timeout=30)
        seen = stranger.get(asked.page.url)

        assert (pressed.status_code, seen.status_code) == (404, 404)
        assert "Bright Dental" not in seen.text
        assert stored.rows() == self.before

    @on_sqlite
    def test_held_tokens_are_on_no_page_and_in_no_row(self, asked: Visitor, stored: Stored):
        rows = repr(stored.rows("authorization_flow"))

        for token in stored.held_tokens():
            assert token not in asked.page.text
            assert token not in rows

    @on_sqlite
    def test_customer_who_connects_it_elsewhere_meanwhile_updates_that_account(
        self, asked: Visitor, stored: Stored, new_visitor: Callable[[], Visitor]
    ):
        new_visitor().connect(person=ANN_LEE, tenant="cd456")

        asked.press(confirmation(asked), choice="connect")

        assert_ended(asked, Ending.RECONNECTED, 200, "Your Keap account is connected again", "Bright Dental")
        assert [account.tenant_id for account in stored.accounts()] == ["ab123", "cd456"]


class TestOtherTenantKnown:
    """That account is updated, and A never changes."""

    @on_postgresql
    def test_account_of_the_tenant_that_was_chosen_is_updated(self, ann: Visitor, admin: Visitor, stored: Stored):
        chosen = stored.place("cd456", ANN_LEE, label="Ann at Bright")
        before, old_tokens = stored.row(1), stored.tokens(chosen)

        ann.reconnect(1, person=ANN_LEE, tenant="cd456")

        heading = "Another Keap account was updated"
        assert_ended(ann, Ending.OTHER_TENANT_UPDATED, 200, heading, "Bright Dental", "cd456")
        assert stored.row(1) == before
        assert not set(old_tokens) & set(stored.tokens(chosen))
        assert (stored.account(chosen).label, stored.owner(chosen)) == ("Ann at Bright", ("cd456", ANN))
        admin.get("/accounts/1")
        assert "A reconnect ended at another Keap account, cd456. Nothing changed here." in admin.text

    @on_sqlite
    def test_account_of_another_person_in_that_tenant_is_not_touched(
        self, ann: Visitor, admin: Visitor, stored: Stored
    ):
        cleos = stored.place("ef789", "cleo.marsh@example.com")
        before = stored.rows()

        admin.reconnect(cleos, person=BEN_ORTIZ, tenant="ab123")

        assert heading_of(admin) == "You chose another Keap account"
        assert stored.rows() == before


class TestPending:
    """Keap did not tell who allowed it: the decision is made once it does."""

    @on_postgresql
    def test_pending_account_is_completed_by_a_reconnect(self, visitor: Visitor, stored: Stored, sandbox: Sandbox):
        sandbox.fault("html_503", "api")
        visitor.connect(person=ANN_LEE, tenant="ab123")
        sandbox.clear_faults()

        visitor.reconnect(1, person=ANN_LEE, tenant="ab123")

        assert_ended(visitor, Ending.RECONNECTED, 200, "Your Keap account is connected again", "Acme Plumbing")
        assert (stored.account().id, stored.account().keap_user_id) == (1, str(ANN))

    @on_postgresql
    def test_reconnect_by_an_unnamed_person_leaves_the_account_until_keap_tells(
        self, ann: Visitor, admin: Visitor, stored: Stored, sandbox: Sandbox
    ):
        before = stored.row(1)
        sandbox.fault("html_503", "api")
        ann.reconnect(1, person=ANN_LEE, tenant="ab123")
        assert_ended(ann, Ending.CONNECTED_PENDING, 200, "Connected; the details follow")
        assert stored.row(1) == before
        fresh = stored.tokens(2)
        sandbox.clear_faults()

        admin.get("/accounts/2")
        admin.press("/accounts/2/complete")

        assert admin.page.url.endswith("/accounts/1")
        assert stored.account().id == 1
        assert stored.tokens(1) == fresh

    @on_postgresql
    def test_unnamed_person_who_turns_out_to_be_another_takes_the_account(
        self, ann: Visitor, admin: Visitor, stored: Stored, sandbox: Sandbox
    ):
        sandbox.fault("html_503", "api")
        ann.reconnect(1, person=BEN_ORTIZ, tenant="ab123")
        sandbox.clear_faults()

        admin.get("/accounts/2")
        admin.press("/accounts/2/complete")

        assert stored.account().id == 1
        assert stored.owner(1) == ("ab123", BEN)
        assert stored.history(1) == ["connected", "person_changed", "moved_here"]

    def test_unnamed_grant_of_another_tenant_becomes_an_account_of_its_own(
        self, ann: Visitor, admin: Visitor, stored: Stored, sandbox: Sandbox
    ):
        before = stored.row(1)
        sandbox.fault("missing_scope", "exchange")
        sandbox.fault("html_503", "api")
        ann.reconnect(1, person=ANN_LEE, tenant="cd456")
        assert_ended(ann, Ending.CONNECTED_PENDING, 200, "Connected; the details follow")
        sandbox.clear_faults()

        admin.get("/accounts/2")
        admin.press("/accounts/2/complete")

        assert stored.row(1) == before
        assert stored.account(2).tenant_id == "cd456"
        assert stored.owner(2) == ("cd456", ANN)

    @on_sqlite
    def test_older_unnamed_grant_does_not_replace_a_newer_one(
        self, visitor: Visitor, new_visitor: Callable[[], Visitor], admin: Visitor, stored: Stored, sandbox: Sandbox
    ):
        sandbox.fault("html_503", "api")
        visitor.connect(person=ANN_LEE, tenant="ab123")
        sandbox.clear_faults()
        new_visitor().connect(person=ANN_LEE, tenant="ab123")
        newest = stored.tokens(2)

        admin.get("/accounts/1")
        admin.press("/accounts/1/complete")

        assert stored.account().id == 2
        assert stored.tokens(2) == newest

    @pytest.mark.parametrize("tenant", ["ab123", "cd456"])
    @on_sqlite
    def test_unnamed_person_of_a_tenant_that_keap_named(
        self, tenant: str, ann: Visitor, stored: Stored, sandbox: Sandbox
    ):
        before = stored.row(1)
        sandbox.fault("html_503", "userinfo")

        ann.reconnect(1, person=ANN_LEE, tenant=tenant)

        headings = {"ab123": "Connected; the details follow", "cd456": "You chose another Keap account"}
        assert heading_of(ann) == headings[tenant]
        assert stored.row(1) == before


@on_sqlite
class TestWhoMayStart:
    """An admin, and the customer whose account it is; to all others it does not exist."""

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_foreign_customer_cannot_tell_the_account_from_none(self, method: str, ann: Visitor, stored: Stored):
        stored.place("ef789", "cleo.marsh@example.com")
        ann.get("/")
        form = {"csrf_token": ann.fields("/connect")["csrf_token"]}
        flows = len(stored.flows())

        foreign, missing = (
            ann.session.request(method, f"{ann.base_url}/reconnect/{number}", data=form, timeout=30)
            for number in (2, 999)
        )

        assert (foreign.status_code, missing.status_code) == (404, 404)
        assert without_reference(foreign.text) == without_reference(missing.text)
        for fact in ("Cedar", "ef789", "Cleo"):
            assert fact not in foreign.text
        assert len(stored.flows()) == flows

    def test_somebody_unknown_is_told_to_connect_first(self, visitor: Visitor, stored: Stored):
        stored.place("ab123", ANN_LEE)

        visitor.get("/reconnect/1")

        assert visitor.page.status_code == 403
        assert heading_of(visitor) == "You are not signed in"
        assert "Acme" not in visitor.text

    def test_link_alone_starts_nothing(self, ann: Visitor, stored: Stored):
        flows = len(stored.flows())

        ann.get("/reconnect/1")

        assert len(stored.flows()) == flows


def confirmation(visitor: Visitor) -> str:
    """Return where the two answers lead that are below the button to choose again."""
    again, *actions = next_steps(visitor)
    assert again == "/reconnect/1"
    assert len(set(actions)) == 1
    return actions[0]


def without_reference(page: str) -> str:
    """Return a page without the random reference for the log."""
    before, mark, after = page.partition("send this reference: <code>")
    return before + mark + after[8:]
