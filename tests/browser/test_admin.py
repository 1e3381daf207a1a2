"""The clicks of an admin: sign in, find, repair, sign out; with scripts and without."""

import re
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from playwright.sync_api import Browser, expect

from keap_connect.access.admins import create_admin
from keap_connect.accounts.credentials import open_access_token, open_refresh_token
from keap_connect.accounts.directory import get_account
from keap_connect.settings import Settings
from tests.browser.person import Person, Watch
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD
from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
with_and_without_scripts = pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
without_scripts = pytest.mark.parametrize("scripts", [False], ids=["no scripts"])  # test_pages.py has scripts


@pytest.fixture
def scripts() -> bool:
    """Say whether the admin's browser runs scripts."""
    return True


@pytest.fixture
def new_admin(
    app: Flask, browser: Browser, settings: Settings, sandbox: Sandbox, scripts: bool
) -> Iterator[Callable[[], Person]]:
    """Give the function that opens one more browser at the sign-in page; the admin is in the database."""
    with app.app_context():
        create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
    contexts, watches = [], []

    def open_browser() -> Person:
        contexts.append(browser.new_context(java_script_enabled=scripts, locale="en-US"))
        watches.append(Watch.over(contexts[-1]))
        person = Person(contexts[-1].new_page(), settings.public_url, sandbox)
        person.open("/signin")
        return person

    yield open_browser
    for context in contexts:
        context.close()
    assert [watch.complaints for watch in watches if watch.complaints] == []


@pytest.fixture
def admin(new_admin: Callable[[], Person]) -> Person:
    """Give an admin, signed in, who looks at the list of accounts."""
    person = new_admin()
    sign_in(person)
    person.sees("Accounts")
    return person


def sign_in(person: Person, password: str = ADMIN_PASSWORD) -> None:
    """Fill in the sign-in form and send it."""
    person.page.locator("[name=email]").fill(ADMIN_EMAIL)
    person.page.locator("[name=password]").fill(password)
    person.press("Sign in")


@pytest.fixture
def lose(admin: Person, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], None]:
    """Give the function that has an account's access withdrawn at Keap, which is believed when it says so twice."""
    monkeypatch.setattr("keap_connect.refresh.timing.CONFIRM_WAIT_SECONDS", 0)

    def lose_account(account_id: int, tenant_id: str) -> None:
        sandbox.withdraw(tenant_id)
        admin.open(f"/accounts/{account_id}")
        admin.press("Refresh now")
        admin.reads("Not refreshed; the tokens are kept.")
        admin.press("Refresh now")
        admin.reads("A person must authorize again.", "Reconnect required")

    return lose_account


def rows(admin: Person) -> list[str]:
    """Return the Keap accounts that the list shows, by their names."""
    return admin.page.locator(".accounts tbody a").all_inner_texts()


def test_admin_without_an_account_is_told_what_to_do_first(admin: Person, settings: Settings):
    admin.reads("No account is connected yet")

    expect(admin.page.get_by_label("Address for customers")).to_have_value(f"{settings.public_url}/")
    expect(admin.page.get_by_role("button", name="Copy")).to_be_visible()


@without_scripts
def test_admin_finds_all_accounts_and_searches_them(admin: Person, visitor: Visitor, scripts: bool):
    for who, tenant in (("ann.lee", "ab123"), ("ann.lee", "cd456"), ("ben.ortiz", "ab123"), ("cleo.marsh", "ef789")):
        visitor.connect(f"{who}@example.com", tenant)
    admin.open("/accounts")
    assert sorted(rows(admin)) == ["Acme Plumbing", "Acme Plumbing", "Bright Dental", "Cedar & Sons"]

    admin.page.get_by_label("Search accounts").fill("acme ben")
    admin.press("Search")

    expect(admin.page.locator(".accounts tbody tr")).to_have_count(1)
    admin.reads("Acme Plumbing", "Ben Ortiz")
    admin.page.get_by_label("Search accounts").fill("nobody")
    admin.press("Search")
    admin.reads("Nothing found", "No account matches “nobody”")
    admin.follow("Show all accounts")
    expect(admin.page.locator(".accounts tbody tr")).to_have_count(4)


def test_admin_filters_by_state(admin: Person, visitor: Visitor, lose: Callable[[int, str], None]):
    for tenant in ("ab123", "cd456"):
        visitor.connect("ann.lee@example.com", tenant)
    lose(2, "cd456")
    admin.open("/accounts")
    admin.reads("1 account has to be reconnected")
    assert rows(admin) == ["Bright Dental", "Acme Plumbing"]

    for word, found in {
        "Reconnect required 1": ["Bright Dental"],
        "Active 1": ["Acme Plumbing"],
        "All 2": None,
    }.items():
        admin.follow(word)
        expect(admin.page.locator("nav [aria-current=true]")).to_have_text(word)
        assert found is None or rows(admin) == found


def test_account_page_shows_no_token(admin: Person, visitor: Visitor, app: Flask):
    visitor.connect()

    admin.open("/accounts")
    admin.follow("Acme Plumbing")

    admin.sees("Acme Plumbing")
    with app.app_context():
        tokens = [open_access_token(get_account(1)) or "", open_refresh_token(get_account(1)) or ""]
    for token in tokens:
        admin.reads(f"…{token[-4:]}")
        assert token[:-4] not in admin.page.content()


REFRESH_ANSWERS = {  # tests/web/test_accounts.py reads the words for every other answer of Keap
    "": "Refreshed: new tokens are stored.",
    "html_503": "Not refreshed; the tokens are kept. Keap answered 503 (an HTML page).",
}


@pytest.mark.parametrize(("fault", "scripts"), [("", True), ("html_503", False)])
def test_refresh_now_says_plainly_how_it_went(
    admin: Person, visitor: Visitor, sandbox: Sandbox, fault: str, scripts: bool
):
    visitor.connect()
    if fault:
        sandbox.fault(fault, "refresh")
    admin.open("/accounts/1")

    admin.press("Refresh now")

    admin.sees("Acme Plumbing")
    notices = admin.page.locator("main").locator("[role=status], [role=alert]")
    notice = notices.filter(has_text=REFRESH_ANSWERS[fault])
    expect(notice).to_have_count(1)
    admin.page.reload()
    expect(notice).to_have_count(0)


def test_refresh_whose_answer_was_lost_is_not_repeated_at_once(admin: Person, visitor: Visitor, sandbox: Sandbox):
    visitor.connect()
    sandbox.fault("lost_answer", "refresh", first=1)
    admin.open("/accounts/1")
    admin.press("Refresh now")
    admin.reads("Not refreshed; the tokens are kept.", "At risk", "Keap may have replaced the token")

    admin.press("Refresh now")

    admin.reads("the refresh token rests before it is tried again")
    assert sandbox.ledger()["totals"]["refreshes"] == 1


@without_scripts
def test_admin_asks_again_whose_account_a_pending_one_is(
    admin: Person, visitor: Visitor, sandbox: Sandbox, scripts: bool
):
    sandbox.fault("json_500", "api")
    visitor.connect("cleo.marsh@example.com", "ef789")
    admin.open("/accounts/1")
    admin.reads("Keap has not sent us the details of this account yet.")

    admin.press("Ask Keap again")
    admin.reads("Keap did not say who this account belongs to. Its tokens are kept.")
    sandbox.clear_faults()
    admin.press("Ask Keap again")

    admin.sees("Cedar & Sons")
    admin.reads("Keap has named the account. Its details are stored.", "Cleo Marsh", "Keap returned the details")


@with_and_without_scripts
def test_admin_reconnects_an_account(admin: Person, visitor: Visitor, lose: Callable[[int, str], None], scripts: bool):
    visitor.connect()
    lose(1, "ab123")

    admin.follow("Reconnect here")
    admin.sees("Reconnect Acme Plumbing")
    admin.press("Reconnect at Keap")
    admin.sign_in_at_keap("Ann Lee")
    admin.allow("ab123")

    admin.sees("Your Keap account is connected again")
    admin.open("/accounts/1")
    admin.reads("Active", "Reconnected by Ann Lee", "Keap refused the refresh token for good")


def test_admin_disconnects_an_account_after_a_question(admin: Person, visitor: Visitor, app: Flask):
    visitor.connect()
    admin.open("/accounts/1")

    admin.follow("Disconnect")
    admin.sees("Disconnect Acme Plumbing?")
    admin.page.get_by_label("Your password").fill(ADMIN_PASSWORD)
    admin.press("Disconnect")

    admin.sees("Acme Plumbing")
    admin.reads("Acme Plumbing is disconnected. Its tokens are deleted here.", "Disconnected", ADMIN_EMAIL)
    with app.app_context():
        assert get_account(1).refresh_token_sealed is None


def test_admin_who_was_signed_out_comes_back_to_the_page_they_wanted(new_admin: Callable[[], Person], visitor: Visitor):
    visitor.connect()
    person = new_admin()
    person.open("/accounts/1")
    person.sees("Sign in")

    sign_in(person)

    person.sees("Acme Plumbing")
    expect(person.page).to_have_url(re.compile("/accounts/1$"))


@pytest.mark.proves("F60", "R60")
def test_copied_cookie_is_refused_after_sign_out(admin: Person, new_admin: Callable[[], Person]):
    copied = admin.page.context.cookies()
    thief = new_admin()
    thief.page.context.add_cookies(copied)
    thief.open("/accounts")
    thief.sees("Accounts")

    admin.press("Sign out")
    admin.sees("Sign in")

    thief.open("/accounts")
    thief.sees("Sign in")


@pytest.mark.proves("F60", "R59")
def test_session_planted_before_the_sign_in_is_worth_nothing_after_it(new_admin: Callable[[], Person]):
    victim, attacker = new_admin(), new_admin()
    planted = {"name": "admin", "value": "A" * 43, "url": victim.public_url}
    for person in (victim, attacker):
        person.page.context.add_cookies([planted])
        person.open("/signin")

    sign_in(victim)

    victim.sees("Accounts")
    attacker.open("/accounts")
    attacker.sees("Sign in")


@without_scripts
def test_wrong_password_is_told_beside_the_form(new_admin: Callable[[], Person], scripts: bool):
    person = new_admin()

    sign_in(person, "not the password")

    person.sees("Sign in")
    expect(person.page.get_by_role("alert")).to_be_visible()
    expect(person.page.locator("[name=email]")).to_have_value(ADMIN_EMAIL)
    expect(person.page.locator("[name=password]")).to_have_value("")
    expect(person.page.locator("[name=password]")).to_have_accessible_description(re.compile("is wrong"))


# tests/web/test_auth.py tries every other kind of address, in the field and in the link.
@pytest.mark.proves("F59", "R16")
@pytest.mark.parametrize("target", ["/\\evil.example", "/\t/evil.example"])
def test_sign_in_leads_to_no_other_site(new_admin: Callable[[], Person], target: str):
    person = new_admin()
    person.page.locator("[name=next]").evaluate("(field, value) => field.value = value", target)

    sign_in(person)

    person.sees("Accounts")
