"""The journey over HTTPS, as `make run HTTPS=1` serves it: certificate, server and cookies are those of real life."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.browser.person import Person, Watch
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD
from tests.support.sandbox import Sandbox
from tests.test_launch import Launched, launched


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """Give one start behind HTTPS for all tests of this module."""
    admin = {"ADMIN_EMAIL": ADMIN_EMAIL, "ADMIN_PASSWORD": ADMIN_PASSWORD}
    with launched(tmp_path_factory.mktemp("https") / "instance", HTTPS="1", **admin) as started:
        yield started


@pytest.fixture
def person(running: Launched, watch: Watch, page: Page) -> Person:
    """Give a person who comes by HTTPS."""
    sandbox = Sandbox(Path("unused"))
    sandbox.url = running.sandbox_url
    return Person(page, f"https://localhost:{running.port}", sandbox)


def sign_in(person: Person) -> None:
    """Sign in as the admin."""
    person.open("/signin")
    person.page.locator("[name=email]").fill(ADMIN_EMAIL)
    person.page.locator("[name=password]").fill(ADMIN_PASSWORD)
    person.press("Sign in")
    person.sees("Accounts")


@pytest.mark.proves("R62")
def test_admin_is_still_signed_in_after_the_way_to_keap_and_back(person: Person):
    sign_in(person)
    person.connect("Ben Ortiz", "ab123")
    person.sees("Your Keap account is connected")

    person.open("/accounts")

    person.sees("Accounts")
    person.reads("Acme Plumbing", "Ben Ortiz")


@pytest.mark.proves("R62")
def test_cookies_are_bound_to_host_and_https(person: Person, context: BrowserContext):
    sign_in(person)
    person.connect("Cleo Marsh", "ef789")
    person.open("/your-accounts")
    person.follow("Disconnect")
    person.page.get_by_label("Your password").fill(ADMIN_PASSWORD)
    person.press("Disconnect")
    person.page.wait_for_url("**/accounts/*")

    ours = {cookie["name"]: cookie for cookie in context.cookies(person.public_url)}
    assert {"__Host-browser", "__Host-admin", "__Host-person"} <= set(ours)
    for name, cookie in ours.items():
        assert name.startswith("__Host-")
        assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Lax")
        assert (cookie["path"], cookie["domain"]) == ("/", "localhost")
        assert len(name + cookie["value"]) < 4096


def test_no_page_of_the_journey_asks_anyone_but_the_app_and_the_sandbox(person: Person, watch: Watch):
    person.connect("Finn Hale", "ij345")
    person.sees("Your Keap account is connected")

    assert watch.foreign_requests(person.public_url, person.sandbox.url) == []
    assert person.page.evaluate("isSecureContext && document.referrer") == ""
