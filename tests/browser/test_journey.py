"""The clicks of a person who connects Keap, in Chromium, with the content security policy in force."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from flask import Flask
from playwright.sync_api import BrowserContext, Page, expect

from keap_connect.keap import call_slots
from tests.browser.person import Person, Watch
from tests.support.sandbox import Sandbox
from tests.support.server import free_port, serve

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

HOSTILE_NAME = """"><img src=x onerror=alert(1)> =HYPERLINK('https://evil.example') {{ 7 * 7 }}</title><h1>"""


def test_customer_connects_by_clicking_and_sees_which_account(person: Person):
    person.set_out()
    person.sign_in_at_keap("Ann Lee")
    person.allow("cd456")

    person.sees("Your Keap account is connected")
    person.reads("Bright Dental", "cd456", "Ann Lee", "ann.lee@example.com")
    assert person.exchanges == 1


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
def test_reload_and_an_old_callback_address_show_the_first_result(person: Person, watch: Watch):
    person.connect()
    person.sees("Your Keap account is connected")
    result = person.page.url

    person.page.reload()
    person.sees("Your Keap account is connected")
    person.page.goto(watch.visits("/callback")[0])

    person.sees("Your Keap account is connected")
    assert person.page.url == result
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
@pytest.mark.parametrize("presses", [True, False])
def test_person_who_comes_back_while_keap_is_busy_connects_a_little_later(
    person: Person, monkeypatch: pytest.MonkeyPatch, presses: bool
):
    # After a second the page tries again by itself; within a minute, the person presses the button.
    monkeypatch.setattr(call_slots, "RETRY_AFTER_SECONDS", 60 if presses else 1)
    person.set_out()
    person.sign_in_at_keap()
    with ExitStack() as others:
        for _ in range(call_slots.MOST_AT_ONCE):
            others.enter_context(call_slots.keap_call_slot())
        person.allow()
        person.sees("Keap is busy, try again")
        assert person.exchanges == 0
    if presses:
        person.follow("Try again")

    person.sees("Your Keap account is connected")
    assert person.exchanges == 1


@pytest.mark.proves("F53")
def test_person_who_denies_is_told_so_and_may_try_again(person: Person):
    person.set_out()
    person.sign_in_at_keap()
    person.press("Deny")

    person.sees("Keap says: access denied")
    person.reads("Nothing was changed", "User denied access to resource")
    person.press("Connect Keap again")
    person.allow("ab123")
    person.sees("Your Keap account is connected")
    assert person.exchanges == 1


@pytest.mark.proves("F53")
def test_login_without_a_keap_app_is_told_why_allow_did_not_help(person: Person):
    person.set_out()
    person.sign_in_at_keap("Dora Quist")
    person.press("Allow")

    person.sees("Keap says: access denied")
    person.reads("the login has no Keap application")
    expect(person.page.get_by_role("button", name="Connect Keap again")).to_be_visible()
    assert person.exchanges == 0


@pytest.mark.proves("F50")
def test_two_tabs_with_two_tenants_do_not_mix(person: Person, new_person: Callable[[], Person]):
    other = new_person()
    person.set_out()
    other.set_out()
    person.sign_in_at_keap("Ann Lee")
    other.sign_in_at_keap("Ann Lee")

    other.allow("cd456")
    other.sees("Your Keap account is connected")
    person.allow("ab123")
    person.sees("Your Keap account is connected")

    person.reads("Acme Plumbing", "ab123")
    other.reads("Bright Dental", "cd456")
    person.open("/your-accounts")
    person.reads("Acme Plumbing", "Bright Dental")
    assert person.exchanges == 2


def ask_for_another_tenant(person: Person) -> None:
    """Reconnect Acme Plumbing, but allow Bright Dental at Keap."""
    person.connect(tenant_id="ab123")
    person.set_out("Reconnect at Keap", "/reconnect/1")
    person.allow("cd456")
    person.sees("You chose another Keap account")
    person.reads("Acme Plumbing", "Bright Dental", "Nothing has changed yet")


@pytest.mark.proves("F54")
def test_reconnect_as_another_tenant_asks_and_may_connect_it_as_a_new_account(person: Person):
    ask_for_another_tenant(person)

    person.press("Connect Bright Dental as a new account")

    person.sees("Your Keap account is connected")
    person.reads("Bright Dental", "cd456")
    person.open("/your-accounts")
    person.reads("Acme Plumbing", "Bright Dental")


@pytest.mark.proves("F54")
def test_reconnect_as_another_tenant_asks_and_may_leave_everything_as_it_is(person: Person):
    ask_for_another_tenant(person)

    person.press("Do not connect it")

    person.sees("The other account was not connected")
    person.open("/your-accounts")
    person.reads("Acme Plumbing")
    expect(person.page.get_by_text("Bright Dental")).to_have_count(0)


def test_customer_reconnects_the_same_account_from_their_own_page(person: Person):
    person.connect()
    person.open("/your-accounts")
    person.follow("Reconnect")
    person.sees("Reconnect Acme Plumbing")
    person.press("Reconnect at Keap")
    person.allow("ab123")

    person.sees("Your Keap account is connected again")
    person.follow("Your accounts")
    expect(person.page.get_by_role("heading", level=2)).to_have_count(1)


def test_customer_disconnects_after_a_question_and_comes_back(person: Person):
    person.connect()
    person.open("/your-accounts")
    person.follow("Disconnect")
    person.sees("Disconnect Acme Plumbing?")
    person.reads("API settings", "Third-Party Authorized Applications")
    person.follow("Cancel")
    person.reads("Active")

    person.follow("Disconnect")
    person.press("Disconnect")

    person.sees("Your accounts")
    person.reads("Acme Plumbing is disconnected. Its tokens are deleted here.", "Disconnected")
    person.follow("Reconnect")
    person.press("Reconnect at Keap")
    person.allow("ab123")
    person.sees("Your Keap account is connected again")


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


@pytest.mark.proves("F52")
def test_browser_that_lost_its_cookie_at_keap_is_offered_a_new_start(person: Person, context: BrowserContext):
    person.set_out()
    person.sign_in_at_keap()
    context.clear_cookies(name="browser")
    person.allow("ab123")

    person.sees("This was started in another browser")
    person.reads("Nothing was changed, and nothing was lost.")
    assert person.sandbox.ledger()["totals"]["token_calls"] == 0
    person.press("Connect Keap again")
    person.allow("ab123")
    person.sees("Your Keap account is connected")


def test_keap_that_answers_html_503_loses_nothing_and_works_again_when_it_is_back(
    person: Person, new_person: Callable[[], Person]
):
    person.connect(tenant_id="ab123")
    switches = new_person()
    switches.page.goto(f"{person.sandbox.url}/sandbox")
    switches.page.locator("[name=fault]").select_option("html_503")
    switches.page.locator("[name=endpoint]").select_option("token")
    switches.press("Set the fault")

    person.set_out("Connect another Keap account")
    person.allow("cd456")

    person.sees("Keap has a problem at the moment")
    person.reads("nothing was lost", "Keap answered 503 (an HTML page).")
    person.open("/your-accounts")
    person.reads("Acme Plumbing", "Active")
    switches.press("Remove html_503")
    person.press("Connect another Keap account")
    person.allow("cd456")
    person.sees("Your Keap account is connected")


@pytest.mark.proves("F61")
def test_hostile_name_of_a_tenant_is_text_on_every_page_of_the_customer(
    person: Person, context: BrowserContext, watch: Watch
):
    context.on("dialog", lambda dialog: (watch.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    person.sandbox.rename("gh012", HOSTILE_NAME)
    person.connect("Eve Stone", "gh012")

    for path in (urlsplit(person.page.url).path, "/your-accounts", "/reconnect/1", "/accounts/1/disconnect"):
        person.open(path)
        person.reads(HOSTILE_NAME)
        expect(person.page.locator("img, h1 ~ h1")).to_have_count(0)


@pytest.mark.proves("F61")
def test_hostile_error_text_from_keap_is_text(person: Person, watch: Watch):
    words = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    person.set_out()
    authorization_url = watch.visits("/app/oauth/authorize")[0]
    state = parse_qs(urlsplit(authorization_url).query)["state"][0]

    query = urlencode({"error": "server_error", "error_description": words, "state": state})
    person.open(f"/callback?{query}")

    person.sees("Keap could not finish this")
    person.reads(words)
    expect(person.page.locator("main img, main script")).to_have_count(0)


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
    person.open("/your-accounts")
    person.follow("Disconnect")
    person.press("Disconnect")
    person.sees("Your accounts")

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
    person.connect()
    person.open("/your-accounts")
    person.tab_to("Skip to the content")
    person.page.keyboard.press("Enter")

    expect(person.page.locator("main")).to_be_focused()
    person.tab_to("Reconnect")


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


def test_person_who_landed_in_account_central_finds_help_on_the_start_page(person: Person, sandbox: Sandbox):
    sandbox.fault("never_calls_back", "authorize")
    person.set_out()
    person.sign_in_at_keap()
    person.allow("ab123")
    person.page.wait_for_url("**/app/central/home")
    sandbox.clear_faults()

    person.open("/")
    person.page.get_by_text("I landed in Account Central and never came back").click()

    expect(person.page.get_by_text("Return to this page and press the button again.")).to_be_visible()
    person.press("Connect Keap")
    person.allow("ab123")
    person.sees("Your Keap account is connected")
