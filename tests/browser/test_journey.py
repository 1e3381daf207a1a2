"""What only a browser shows of the journey: clicks, keys and Back, with the content security policy in force.

What its pages say in each case, tests/flows reads without a browser.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask
from playwright.sync_api import BrowserContext, Page, expect

from keap_connect.keap import call_slots
from tests.browser.person import Person, Watch
from tests.support.engines import on_sqlite
from tests.support.server import free_port, serve

pytestmark = on_sqlite

HOSTILE_NAME = """"><img src=x onerror=alert(1)> =HYPERLINK('https://evil.example') {{ 7 * 7 }}</title><h1>"""


@pytest.mark.proves("F56")
def test_connect_button_works_with_the_content_security_policy_on(person: Person):
    answer = person.page.goto(person.public_url)
    assert answer is not None
    policy = answer.headers["content-security-policy"]

    person.press("Connect Keap")

    expect(person.page.get_by_role("heading", level=1)).to_have_text("Sign in")
    assert person.page.url.startswith(f"{person.sandbox.url}/app/signin")
    assert "form-action 'self'" in policy


@pytest.mark.proves("R11")
def test_result_page_leaves_no_code_behind_and_asks_no_other_origin(person: Person, watch: Watch):
    person.connect()
    person.sees("Your Keap account is connected")

    result = urlsplit(person.page.url)
    callback = parse_qs(urlsplit(watch.visits("/callback")[0]).query)
    secrets = [callback["code"][0], callback["state"][0]]
    kept = person.page.evaluate("[location.href, document.referrer, document.title, history.state, document.cookie]")
    assert (result.query, result.fragment) == ("", "")
    assert not [secret for secret in secrets if secret in str(kept) + person.page.content()]
    assert watch.foreign_requests(person.public_url, person.sandbox.url) == []


@pytest.mark.proves("R11", "F49")
def test_back_from_the_result_does_not_repeat_the_exchange(person: Person, watch: Watch):
    person.connect()
    person.sees("Your Keap account is connected")

    person.page.go_back()
    expect(person.page.get_by_role("heading", level=1)).to_have_text("Allow access to your Keap app?")
    person.allow("ab123")

    person.sees("Your Keap account is connected")
    assert len(watch.visits("/callback")) == 2
    assert person.exchanges == 1


@pytest.mark.proves("F49")
def test_second_copy_of_a_callback_waits_for_the_first_and_moves_on_by_itself(
    person: Person, new_person: Callable[[], Person], watch: Watch
):
    person.set_out()
    person.sign_in_at_keap()
    person.sandbox.hold("exchange")
    person.tab_to("Allow")
    person.page.keyboard.press("Enter")  # a click would wait for the callback's answer
    person.sandbox.wait_held(1)

    copy = new_person()
    # A page with a route has no cache; in the cache, a second request for an address waits for the first answer.
    copy.page.route("**/callback*", lambda route: route.continue_())
    copy.page.goto(watch.visits("/callback")[0])
    copy.sees("Finishing the connection…")
    person.sandbox.release()

    person.sees("Your Keap account is connected")
    copy.sees("Your Keap account is connected")
    assert person.exchanges == 1


@pytest.mark.proves("F93", "R99")
def test_person_who_comes_back_while_keap_is_busy_connects_a_little_later(
    person: Person, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(call_slots, "RETRY_AFTER_SECONDS", 1)  # then the page tries again
    person.set_out()
    person.sign_in_at_keap()
    with ExitStack() as others:
        for _ in range(call_slots.MOST_AT_ONCE):
            others.enter_context(call_slots.keap_call_slot())
        person.allow()
        person.sees("Keap is busy, try again")
        assert person.exchanges == 0

    person.sees("Your Keap account is connected")
    assert person.exchanges == 1


@pytest.mark.proves("F104")
def test_customer_signs_out_and_their_accounts_are_no_longer_shown(person: Person):
    person.connect()
    result = urlsplit(person.page.url).path
    person.open("/your-accounts")
    person.press("Sign out")

    person.sees("Connect your Keap account")
    person.reads("Your Keap accounts stay connected.")
    for page_before in ("Your accounts", "There is nothing here"):
        person.page.go_back()
        person.sees(page_before)
    person.open(result)
    person.sees("There is nothing here")
    person.open("/your-accounts")
    person.sees("Your accounts")
    person.reads("No account here yet")


@pytest.fixture
def other_site() -> Iterator[Flask]:
    """Give a site of somebody else, for views to be added; its address is in `SERVER_NAME`."""
    port = free_port()
    site = Flask("other_site", static_folder=None)
    site.config["SERVER_NAME"] = f"127.0.0.1:{port}"
    with serve(site, port):
        yield site


@pytest.mark.proves("F69", "R65")
def test_page_framed_by_another_origin_is_refused(page: Page, person: Person, watch: Watch, other_site: Flask):
    paths = ["/", "/your-accounts", "/accounts/1/disconnect", "/signin", "/nowhere"]
    frames = "".join(f'<iframe name="{path}" src="{person.public_url}{path}"></iframe>' for path in paths)
    other_site.add_url_rule("/", view_func=lambda: f'{frames}<iframe name="own" src="/own"></iframe>')
    other_site.add_url_rule("/own", "own", lambda: "<h1>Framed</h1>")

    page.goto(f"http://{other_site.config['SERVER_NAME']}/")

    expect(page.frame_locator("[name=own]").get_by_role("heading")).to_have_text("Framed")
    shown = {frame.name: urlsplit(frame.url).scheme for frame in page.frames if frame.name in paths}
    assert shown == dict.fromkeys(paths, "chrome-error")
    assert [words for words in watch.complaints if "frame-ancestors" not in words] == []
    watch.complaints.clear()


def test_cookies_are_kept_from_scripts_and_from_other_sites(person: Person, context: BrowserContext):
    person.connect()

    ours = {cookie["name"]: cookie for cookie in context.cookies(person.public_url)}
    assert {"browser", "person"} <= set(ours)
    assert {(cookie["httpOnly"], cookie["sameSite"], cookie["path"]) for cookie in ours.values()} == {
        (True, "Lax", "/")
    }
    assert person.page.evaluate("document.cookie + localStorage.length + sessionStorage.length") == "00"


def test_customer_walks_the_whole_journey_by_keyboard(person: Person):
    keyboard = person.page.keyboard
    person.open("/")
    person.tab_to("Connect Keap")
    keyboard.press("Enter")
    expect(person.page.get_by_role("heading", level=1)).to_have_text("Sign in")
    person.tab_to("Ann Lee")
    keyboard.press("Enter")
    expect(person.page.get_by_role("heading", level=1)).to_have_text("Allow access to your Keap app?")
    person.tab_to("ab123")
    keyboard.press("ArrowDown")
    person.tab_to("Allow")
    keyboard.press("Enter")
    person.sees("Your Keap account is connected")
    person.reads("Bright Dental")
    person.tab_to("Your accounts")
    keyboard.press("Enter")
    person.sees("Your accounts")
    person.tab_to("Disconnect")
    keyboard.press("Enter")
    person.sees("Disconnect Bright Dental?")
    person.tab_to("Disconnect")
    keyboard.press("Enter")
    person.reads("Bright Dental is disconnected")


def test_skip_link_leads_the_keyboard_past_the_header(person: Person):
    person.open("/")
    person.tab_to("Skip to the content")
    person.page.keyboard.press("Enter")

    expect(person.page.locator("main")).to_be_focused()
    person.tab_to("Connect Keap")


def test_button_that_is_pressed_twice_sends_one_form(person: Person, watch: Watch):
    person.open("/")
    person.page.get_by_role("button", name="Connect Keap").dblclick()

    person.page.wait_for_url(f"{person.sandbox.url}/**")
    assert len(watch.visits("/connect")) == 1


def test_back_from_keap_leaves_a_button_that_works(person: Person):
    person.set_out()
    person.page.go_back()
    person.sees("Connect your Keap account")

    person.press("Connect Keap")

    person.sign_in_at_keap()
    person.allow("ab123")
    person.sees("Your Keap account is connected")
