"""The dashboard while somebody looks at it, and what the pages with a secret leave behind."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from playwright.sync_api import Browser, expect
from sqlalchemy import update

from keap_connect.access.admins import create_admin
from keap_connect.access.sign_ins import sign_in_admin
from keap_connect.accounts.directory import PAGE_SIZE
from keap_connect.accounts.state import AccountState
from keap_connect.clock import utc_now
from keap_connect.database import write_transaction
from keap_connect.models import Account
from tests.browser.person import FIND_CROWDED, Person, Watch
from tests.browser.seed import add_account, add_worker
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD
from tests.support.engines import on_sqlite

pytestmark = on_sqlite
BOTTOMS_OF_WORDS = """all => all.map(head => {
    const words = document.createRange();
    words.selectNodeContents(head.querySelector("a") ?? head);
    return words.getBoundingClientRect().bottom;
})"""


@pytest.fixture
def admin(person: Person, app: Flask) -> Person:
    """Give an admin, signed in, with two accounts, whose browser's clock moves by itself or by the test."""
    with app.app_context():
        created = create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
        assert created is not None
        cookie = {"name": "admin", "value": sign_in_admin(created), "url": person.public_url}
        for company in ("Acme Plumbing", "Bright Dental"):
            add_account(company, company[:2].lower() + "101")
    person.page.context.add_cookies([cookie])
    person.page.clock.install()
    return person


@pytest.fixture
def lose(app: Flask) -> Callable[[int], None]:
    """Give the function that lets Keap have refused an account."""

    def refuse(account_id: int) -> None:
        with app.app_context(), write_transaction() as session:
            session.get_one(Account, account_id).refused_at = utc_now()

    return refuse


def test_at_least_14_accounts_are_visible_without_scrolling(admin: Person, app: Flask):
    with app.app_context():
        add_worker()
        for number in range(PAGE_SIZE):
            state = AccountState.RECONNECT_REQUIRED if number % 3 else AccountState.AT_RISK
            add_account(f"Cedar & Pine Landscaping {number}", f"cp{number}", "Alexandra Hollingsworth", state)

    admin.page.set_viewport_size({"width": 1280, "height": 900})
    admin.open("/accounts")

    bottoms = "all => all.filter(row => row.getBoundingClientRect().bottom <= innerHeight).length"
    assert admin.page.locator("tbody tr").evaluate_all(bottoms) >= 14
    assert admin.page.locator("tbody tr").count() == PAGE_SIZE
    assert len(set(admin.page.locator("thead th").evaluate_all(BOTTOMS_OF_WORDS))) == 1


def wait_for_the_next_look(admin: Person) -> None:
    """Let the page ask once more, and take in the answer."""
    with admin.page.expect_response("**/accounts*"):
        admin.page.clock.run_for(15_000)


def test_the_longest_words_for_a_time_fit_their_column(admin: Person, app: Flask):
    lately = utc_now() - timedelta(seconds=20)
    with app.app_context(), write_transaction() as session:
        session.execute(update(Account).values(refreshed_at=lately, last_used_at=lately))

    admin.page.set_viewport_size({"width": 1200, "height": 800})
    admin.open("/accounts")

    assert admin.text.count("just now") == 2
    assert admin.page.evaluate(FIND_CROWDED) == []


def test_states_change_without_a_reload_and_it_is_said_once(admin: Person, lose: Callable[[int], None], watch: Watch):
    admin.open("/accounts")
    news = admin.page.locator("#news")
    admin.page.get_by_label("Search accounts").fill("half typed")
    admin.page.get_by_role("link", name="Bright Dental").focus()
    wait_for_the_next_look(admin)
    expect(news).to_have_text("")

    lose(2)
    wait_for_the_next_look(admin)

    expect(admin.page.locator("#summary")).to_have_text("1 account has to be reconnected.")
    expect(news).to_contain_text("1 account has to be reconnected.")
    assert admin.page.locator("tbody .badge").all_inner_texts() == ["Reconnect required", "Active"]
    expect(admin.page.get_by_role("link", name="Bright Dental")).to_be_focused()
    expect(admin.page.get_by_label("Search accounts")).to_have_value("half typed")
    assert len(watch.visits("/accounts")) == 1


def test_nobody_is_asked_while_nobody_looks(admin: Person, lose: Callable[[int], None], watch: Watch):
    admin.open("/accounts")
    admin.page.evaluate("Object.defineProperty(document, 'hidden', {configurable: true, get: () => true})")
    asked = len(watch.requests)

    admin.page.clock.run_for(60_000)

    assert len(watch.requests) == asked
    lose(1)
    admin.page.evaluate("delete document.hidden")
    wait_for_the_next_look(admin)
    admin.reads("Reconnect required")


def test_page_says_when_it_can_no_longer_keep_itself_up_to_date(admin: Person):
    admin.open("/accounts")
    admin.page.context.clear_cookies()

    admin.page.clock.run_for(15_000)

    expect(admin.page.locator("#news")).to_contain_text("as old as the page")
    admin.reads("Acme Plumbing")


@pytest.mark.proves("F68")
def test_token_hides_itself_and_is_not_there_after_reload_or_back(admin: Person):
    admin.open("/accounts/1")
    admin.follow("Reveal the access token")
    admin.page.get_by_label("Your password").fill(ADMIN_PASSWORD)
    admin.press("Show the access token")
    token = admin.page.get_by_label("Access token, shown only once")
    expect(token).to_have_value("access-token-" + admin.page.locator("#access-token").input_value()[-6:])
    secret = token.input_value()

    admin.page.reload()
    admin.reads("Your password")
    assert secret not in admin.page.content()

    admin.page.get_by_label("Your password").fill(ADMIN_PASSWORD)
    admin.press("Show the access token")
    expect(token).to_have_value(secret)
    admin.page.clock.run_for(30_000)
    expect(token).to_have_value("")
    admin.reads("Hidden again.")

    token.evaluate("(field, secret) => field.value = secret", secret)
    admin.page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide'))")
    expect(token).to_have_value("")

    admin.open("/accounts")
    admin.page.go_back()
    expect(admin.page.get_by_role("heading", level=1)).to_have_text("Access token")
    assert not any(
        secret in value for value in admin.page.locator("input").evaluate_all("all => all.map(one => one.value)")
    )


def test_link_that_was_made_is_not_made_again_by_a_reload(admin: Person):
    admin.open("/accounts/1")
    admin.press("Send reconnect link")
    expect(admin.page.get_by_role("button", name="Copy")).to_have_count(2)  # the link, and a ready text

    admin.page.reload()

    admin.sees("Acme Plumbing")
    expect(admin.page.get_by_role("button", name="Revoke")).to_have_count(1)
    about_it = admin.page.get_by_text("Not opened yet").evaluate("one => one.clientWidth")
    assert about_it > 400, "the sentence about a link has a whole line"


def test_keys_search_move_and_open_but_not_while_somebody_types_or_when_switched_off(admin: Person):
    admin.open("/accounts")
    link = admin.page.locator("tbody a")
    admin.page.keyboard.press("j")
    expect(link.nth(0)).to_be_focused()
    admin.page.keyboard.press("j")
    expect(link.nth(1)).to_be_focused()
    admin.page.keyboard.press("x")
    expect(admin.page.locator("#ticked")).to_have_text("1 ticked:")
    admin.page.keyboard.press("k")
    expect(link.nth(0)).to_be_focused()
    admin.page.keyboard.press("/")
    admin.page.keyboard.type("jk?")
    expect(admin.page.get_by_label("Search accounts")).to_have_value("jk?")

    link.nth(0).focus()
    admin.page.keyboard.press("?")
    admin.page.get_by_label("Use these keys").uncheck()
    admin.press("Close")
    link.nth(0).focus()
    admin.page.keyboard.press("j")
    expect(link.nth(0)).to_be_focused()


def test_each_page_shows_the_keys_that_it_has(admin: Person):
    admin.open("/admins")
    admin.page.keyboard.press("j")
    admin.page.keyboard.press("Enter")
    admin.sees(ADMIN_EMAIL)
    admin.page.keyboard.press("?")
    expect(admin.page.locator("#keys dt:visible")).to_have_text(["u", "?"])
    admin.press("Close")
    admin.page.keyboard.press("u")
    admin.sees("Admins")

    admin.press("Keyboard shortcuts")
    expect(admin.page.locator("#keys dt:visible")).to_have_text(["j, k", "?"])

    admin.open("/setup")
    expect(admin.page.locator("[data-keys]")).to_be_hidden()


def test_coming_back_from_an_account_leads_to_the_same_filter_and_the_same_account(admin: Person):
    admin.open("/accounts?q=acme&state=active")
    admin.follow("Acme Plumbing")
    admin.page.get_by_label("External id").fill("crm:1")
    admin.press("Save the names")

    admin.page.get_by_role("link", name="Accounts").last.click()

    expect(admin.page).to_have_url(f"{admin.public_url}/accounts?q=acme&state=active")
    expect(admin.page.get_by_role("link", name="Acme Plumbing")).to_be_focused()


def test_ticks_stay_when_the_list_is_replaced_and_an_address_is_copied_by_a_click(
    admin: Person, lose: Callable[[int], None]
):
    admin.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    admin.open("/accounts")
    admin.page.get_by_label("Acme Plumbing").check()
    lose(2)
    wait_for_the_next_look(admin)
    expect(admin.page.locator("tbody .badge").first).to_have_text("Reconnect required")
    expect(admin.page.get_by_label("Acme Plumbing")).to_be_checked()
    expect(admin.page.get_by_label("Acme Plumbing")).to_be_focused()

    admin.press("Tick the page")
    expect(admin.page.locator("#ticked")).to_have_text("2 ticked:")
    admin.page.get_by_text("jane@ac101.example.com").click()
    expect(admin.page.get_by_text("Copied")).to_be_visible()
    assert admin.page.evaluate("navigator.clipboard.readText()") == "jane@ac101.example.com"


def test_times_are_in_the_zone_of_the_reader_with_utc_on_hover(admin: Person, app: Flask, browser: Browser):
    moment = datetime(2027, 3, 4, 20, 30, tzinfo=UTC)
    with app.app_context(), write_transaction() as session:
        session.execute(update(Account).values(access_token_expires_at=moment))
    context = browser.new_context(timezone_id="Asia/Kolkata")
    context.add_cookies(admin.page.context.cookies())
    page = context.new_page()

    page.goto(f"{admin.public_url}/accounts/1")
    expires = page.locator("time[datetime='2027-03-04T20:30:00Z']")
    expect(expires).to_have_text("2027-03-05 02:00:00")
    assert expires.get_attribute("title") == "2027-03-04 20:30:00 UTC"
    page.goto(f"{admin.public_url}/accounts")
    in_the_list = page.locator("time[datetime='2027-03-04T20:30:00Z']").first
    assert in_the_list.get_attribute("title") == "2027-03-05 02:00:00 (2027-03-04 20:30:00 UTC)"
    page.goto(f"{admin.public_url}/audit")
    expect(page.get_by_role("columnheader", name="When")).to_have_text("When")
    context.close()
