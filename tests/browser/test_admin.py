"""What only a browser shows of an admin's clicks: that no script is needed, and where it takes an address to lead.

What the pages of an admin say in each case, tests/web reads without a browser.
"""

from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from playwright.sync_api import Browser

from keap_connect.access.admins import create_admin
from keap_connect.settings import Settings
from tests.browser.person import Person, Watch
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD
from tests.support.engines import on_sqlite
from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor

pytestmark = on_sqlite


@pytest.fixture
def new_admin(app: Flask, browser: Browser, settings: Settings, sandbox: Sandbox) -> Iterator[Callable[[bool], Person]]:
    """Give the function that opens a browser, with scripts or without, at the sign-in page of an admin."""
    with app.app_context():
        create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
    contexts, watches = [], []

    def open_browser(runs_scripts: bool) -> Person:
        contexts.append(browser.new_context(java_script_enabled=runs_scripts, locale="en-US"))
        watches.append(Watch.over(contexts[-1]))
        person = Person(contexts[-1].new_page(), settings.public_url, sandbox)
        person.open("/signin")
        return person

    yield open_browser
    for context in contexts:
        context.close()
    assert [watch.complaints for watch in watches if watch.complaints] == []


def sign_in(person: Person) -> None:
    """Fill in the sign-in form and send it."""
    person.page.locator("[name=email]").fill(ADMIN_EMAIL)
    person.page.locator("[name=password]").fill(ADMIN_PASSWORD)
    person.press("Sign in")
    person.sees("Accounts")


def test_admin_reconnects_an_account_without_scripts(
    new_admin: Callable[[bool], Person], visitor: Visitor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("keap_connect.refresh.timing.CONFIRM_WAIT_SECONDS", 0)
    visitor.connect()
    admin = new_admin(False)
    sign_in(admin)
    admin.sandbox.withdraw("ab123")
    admin.open("/accounts/1")
    admin.press("Refresh now")
    admin.reads("Not refreshed; the tokens are kept.")
    admin.press("Refresh now")  # Keap is believed when it says so twice
    admin.reads("A person must authorize again.", "Reconnect required")

    admin.follow("Reconnect here")
    admin.press("Reconnect at Keap")
    admin.sign_in_at_keap("Ann Lee")
    admin.allow("ab123")

    admin.sees("Your Keap account is connected again")
    admin.open("/accounts/1")
    admin.reads("Active", "Reconnected by Ann Lee", "Keap refused the refresh token for good")


# tests/web/test_auth.py tries every other kind of address, in the field and in the link.
@pytest.mark.proves("F59", "R16")
@pytest.mark.parametrize("target", ["/\\evil.example", "/\t/evil.example"])
def test_sign_in_leads_to_no_other_site(new_admin: Callable[[bool], Person], target: str):
    person = new_admin(True)
    person.page.locator("[name=next]").evaluate("(field, value) => field.value = value", target)

    sign_in(person)
