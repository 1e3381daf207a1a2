"""State: random, bound to one browser and one journey, used once; and browsers that repeat, prefetch or forget."""

import base64
import hashlib
import logging
import re
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from flask import Flask

import keap_connect
from keap_connect.connect.endings import Ending
from keap_connect.keap.answers import GrantType
from tests.conftest import MovedClock
from tests.flows.endings import assert_ended, heading_of, next_steps
from tests.flows.recorder import Recorder
from tests.flows.stored import Stored, token_calls
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.sandbox import ANN, BEN, Sandbox
from tests.support.visitor import Visitor
from tests.web.direct import move, send, visit

ANN_LEE, BEN_ORTIZ = "ann.lee@example.com", "ben.ortiz@example.com"
PATIENCE_SECONDS = 30


@pytest.fixture
def callback_url(visitor: Visitor, sandbox: Sandbox) -> str:
    """Give the address that Keap sends the visitor back to, not opened yet."""
    return sandbox.consent(visitor.set_out(), ANN_LEE, "ab123")


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def assert_connected(visitor: Visitor, *facts: str) -> None:
    assert_ended(visitor, Ending.CONNECTED, 200, "Your Keap account is connected", *facts)


def wait_until_finished(visitor: Visitor) -> None:
    """Reload the result page, as it does by itself, until the exchange is over."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while heading_of(visitor) == "Finishing the connection…":
        assert time.monotonic() < deadline, "the exchange never ended"
        visitor.get(visitor.page.url)


def same_browser(visitor: Visitor) -> Visitor:
    """Return another tab of a visitor's browser, with a connection of its own."""
    tab = Visitor(visitor.base_url, visitor.sandbox)
    tab.session.cookies.update(visitor.session.cookies)
    return tab


@on_sqlite
class TestState:
    """What it is made of, and whom it belongs to."""

    @pytest.mark.proves("R01")
    def test_hundred_starts_give_a_hundred_states_of_256_bits(self, app: Flask):
        visitor = visit(app)
        visitor.get("/")
        form = visitor.fields("/connect")

        def start() -> str:
            return query_of(send(visitor, "POST", "/connect", data=form).headers["Location"])["state"]

        states = set()
        for number in range(5):
            move(visitor, app, f"192.0.2.{number}")
            states |= {start() for _ in range(20)}

        assert len(states) == 100
        assert {len(base64.urlsafe_b64decode(state + "=")) for state in states} == {32}

    @pytest.mark.proves("R01", "F57")
    def test_code_of_an_attacker_does_not_end_in_the_browser_of_a_victim(
        self, visitor: Visitor, new_visitor: Callable[[], Visitor], stored: Stored, sandbox: Sandbox
    ):
        attacker = new_visitor()
        attackers_callback = sandbox.consent(attacker.set_out(), BEN_ORTIZ, "ab123")
        visitor.set_out()

        visitor.get(attackers_callback)

        assert visitor.page.status_code == 400
        assert heading_of(visitor) == "This was started in another browser"
        assert (stored.accounts(), token_calls(sandbox)) == ([], [])

    def test_state_of_one_journey_with_the_code_of_another_is_the_journey_of_the_state(
        self, visitor: Visitor, stored: Stored, sandbox: Sandbox
    ):
        first, second = (sandbox.consent(visitor.set_out(), ANN_LEE, tenant) for tenant in ("ab123", "cd456"))
        mixed = first.replace(query_of(first)["code"], query_of(second)["code"])

        visitor.get(mixed)

        # The code is Ann's own, from the same browser, so this is no attack; it is stored for what Keap says it is.
        assert [stored.owner(account.id) for account in stored.accounts()] == [("cd456", ANN)]

    def test_neither_state_nor_browser_is_stored_in_clear(self, visitor: Visitor, callback_url: str, stored: Stored):
        rows = repr(stored.rows("authorization_flow"))

        assert query_of(callback_url)["state"] not in rows
        assert visitor.session.cookies["browser"] not in rows

    @pytest.mark.parametrize("path", ["/connect", "/"])
    def test_opening_a_page_starts_nothing(self, path: str, visitor: Visitor, stored: Stored):
        visitor.get(path)

        assert "/connect" in next_steps(visitor)
        assert stored.flows() == []


class TestOneCallbackManyTimes:
    """Reload, Back, duplicates and impatient browsers: one exchange, and everybody sees its result."""

    @pytest.mark.proves("R02", "R13")
    def test_ten_parallel_copies_make_one_exchange_and_see_the_same_success(
        self, visitor: Visitor, callback_url: str, stored: Stored, sandbox: Sandbox
    ):
        tabs = [same_browser(visitor) for _ in range(10)]
        barrier = threading.Barrier(len(tabs))
        sandbox.hold("exchange")

        def open_callback(tab: Visitor) -> None:
            barrier.wait()
            tab.get(callback_url)

        with ThreadPoolExecutor(len(tabs)) as threads:
            copies = [threads.submit(open_callback, tab) for tab in tabs]
            try:
                finished: list[Future[None]] = []
                for copy in as_completed(copies, timeout=PATIENCE_SECONDS):
                    finished.append(copy)
                    if len(finished) == len(tabs) - 1:
                        break
            finally:
                sandbox.release()
        for tab in tabs:
            wait_until_finished(tab)

        assert len(token_calls(sandbox)) == 1
        assert len({tab.page.url for tab in tabs}) == 1
        assert {heading_of(tab) for tab in tabs} == {"Your Keap account is connected"}
        assert stored.owner(stored.account().id) == ("ab123", ANN)

    @pytest.mark.proves("R13", "F49")
    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_duplicate_says_connected_although_the_first_client_has_left(
        self, moment: str, visitor: Visitor, callback_url: str, stored: Stored, sandbox: Sandbox
    ):
        sandbox.hold("exchange", moment)
        parts = urlsplit(callback_url)
        request = [
            f"GET {parts.path}?{parts.query} HTTP/1.1",
            f"Host: {parts.netloc}",
            f"Cookie: browser={visitor.session.cookies['browser']}",
            "\r\n",
        ]
        with socket.create_connection(("127.0.0.1", parts.port or 80)) as first:
            first.sendall("\r\n".join(request).encode())
            sandbox.wait_held(1)

        try:
            visitor.get(callback_url)
            assert heading_of(visitor) == "Finishing the connection…"
        finally:
            sandbox.release()
        wait_until_finished(visitor)

        assert_connected(visitor, "Acme Plumbing")
        assert len(token_calls(sandbox)) == 1
        assert stored.owner(stored.account().id) == ("ab123", ANN)

    @on_postgresql
    @pytest.mark.proves("F49")
    def test_back_and_reload_show_the_result_of_the_first(
        self, visitor: Visitor, callback_url: str, stored: Stored, sandbox: Sandbox
    ):
        result = visitor.get(callback_url).url
        before = stored.rows()

        for url in (callback_url, result, callback_url):
            visitor.get(url)
            assert_connected(visitor, "Acme Plumbing")
            assert visitor.page.url == result

        assert len(token_calls(sandbox)) == 1
        assert stored.rows() == before

    @pytest.mark.proves("R13")
    @on_sqlite
    @pytest.mark.parametrize(
        "late", ["&error=access_denied", "&error=server_error&error_description=late", "&code=GdRGbcuo"]
    )
    def test_late_callback_paints_no_error_over_a_success(
        self, late: str, visitor: Visitor, callback_url: str, sandbox: Sandbox
    ):
        visitor.get(callback_url)
        state = query_of(callback_url)["state"]

        visitor.get(f"/callback?state={state}{late}")

        assert_connected(visitor, "Acme Plumbing")
        assert len(token_calls(sandbox)) == 1

    @pytest.mark.proves("R12", "F51")
    @on_sqlite
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("Sec-Purpose", "prefetch"),
            ("Sec-Purpose", "prefetch;prerender"),
            ("Sec-Purpose", "prefetch;anonymous-client-ip"),
            ("Purpose", "prefetch"),
            ("Purpose", "preview"),
            ("X-Purpose", "preview"),
            ("X-Moz", "prefetch"),
        ],
    )
    def test_prefetch_consumes_nothing(
        self, name: str, value: str, visitor: Visitor, callback_url: str, sandbox: Sandbox
    ):
        speculative = visitor.get(callback_url, headers={name: value})

        assert (speculative.status_code, speculative.content) == (204, b"")
        assert token_calls(sandbox) == []
        visitor.get(callback_url)
        assert_connected(visitor)

    @pytest.mark.proves("R12", "F51")
    @on_sqlite
    @pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE"])
    def test_other_methods_consume_nothing(self, method: str, visitor: Visitor, callback_url: str, sandbox: Sandbox):
        answer = visitor.session.request(method, callback_url, timeout=30)

        assert answer.status_code == 405
        assert token_calls(sandbox) == []
        visitor.get(callback_url)
        assert_connected(visitor)

    @pytest.mark.proves("F51")
    @on_sqlite
    def test_link_preview_without_cookies_consumes_nothing(self, visitor: Visitor, callback_url: str, sandbox: Sandbox):
        preview = requests.get(callback_url, timeout=30)

        assert preview.status_code == 400
        assert token_calls(sandbox) == []
        visitor.get(callback_url)
        assert_connected(visitor)


class TestManyJourneysAtOnce:
    """Tabs do not disturb each other, and leave nothing behind in the browser."""

    @pytest.mark.proves("R63")
    @on_sqlite
    def test_thirty_starts_in_one_browser_and_the_first_middle_and_last_of_them_arrive(
        self, app: Flask, stored: Stored, sandbox: Sandbox
    ):
        visitor = visit(app, sandbox)
        urls, sizes = [], set()
        for number in range(30):
            if number % 20 == 0:
                move(visitor, app, f"192.0.2.{number}")
            urls.append(visitor.set_out())
            sizes.add(sum(len(cookie.name) + len(cookie.value or "") for cookie in visitor.session.cookies))

        arrivals = [(0, ANN_LEE, "ab123", "Acme"), (14, ANN_LEE, "cd456", "Bright"), (29, BEN_ORTIZ, "ab123", "Ben")]
        for number, person, tenant, fact in arrivals:
            visitor.get(sandbox.consent(urls[number], person, tenant))
            assert_connected(visitor, fact)

        assert len(sizes) == 1
        owners = [stored.owner(account.id) for account in stored.accounts()]
        assert owners == [("ab123", ANN), ("cd456", ANN), ("ab123", BEN)]

    @on_postgresql
    @pytest.mark.proves("R63")
    def test_unfinished_journeys_of_one_browser_are_bounded(self, app: Flask, stored: Stored, sandbox: Sandbox):
        visitor, other = visit(app, sandbox), visit(app, sandbox)
        others_url = other.set_out()

        urls = []
        for number in range(55):
            if number % 20 == 0:
                move(visitor, app, f"192.0.2.{number}")
            urls.append(visitor.set_out())

        assert len(stored.flows()) == 50 + 1
        other.get(sandbox.consent(others_url, BEN_ORTIZ, "ab123"))
        assert_connected(other)
        visitor.get(sandbox.consent(urls[-1], ANN_LEE, "ab123"))
        assert_connected(visitor)

    @pytest.mark.proves("F50")
    def test_two_tabs_that_return_in_the_other_order_are_not_mixed_up(
        self, visitor: Visitor, stored: Stored, sandbox: Sandbox
    ):
        first, second = visitor.set_out(), visitor.set_out()
        first_callback = sandbox.consent(first, ANN_LEE, "ab123")
        second_callback = sandbox.consent(second, ANN_LEE, "cd456")

        second_result = visitor.get(second_callback).url
        first_result = visitor.get(first_callback).url

        for result, company, other in (
            (first_result, "Acme Plumbing", "Bright Dental"),
            (second_result, "Bright Dental", "Acme Plumbing"),
        ):
            visitor.get(result)
            assert company in visitor.text
            assert other not in visitor.text
        assert [stored.owner(account.id) for account in stored.accounts()] == [("cd456", ANN), ("ab123", ANN)]

    @pytest.mark.proves("F50")
    @on_sqlite
    def test_two_tabs_of_an_exchange_at_the_same_time_are_not_mixed_up(
        self, visitor: Visitor, stored: Stored, sandbox: Sandbox
    ):
        tabs = {"ab123": same_browser(visitor), "cd456": same_browser(visitor)}
        visitor.get("/")
        for tab in tabs.values():
            tab.session.cookies.update(visitor.session.cookies)
        callbacks = {tenant: sandbox.consent(tab.set_out(), ANN_LEE, tenant) for tenant, tab in tabs.items()}
        sandbox.hold("exchange", "after")

        with ThreadPoolExecutor() as threads:
            arriving = [threads.submit(tabs[tenant].get, callbacks[tenant]) for tenant in tabs]
            try:
                sandbox.wait_held(2)
            finally:
                sandbox.release()
            for one in arriving:
                one.result(PATIENCE_SECONDS)

        assert_connected(tabs["ab123"], "Acme Plumbing")
        assert_connected(tabs["cd456"], "Bright Dental")
        assert {stored.owner(account.id) for account in stored.accounts()} == {("ab123", ANN), ("cd456", ANN)}

    @on_sqlite
    def test_start_page_that_was_open_while_another_tab_connected_still_works(self, visitor: Visitor):
        waiting = visitor.get("/")
        visitor.connect(person=ANN_LEE, tenant="ab123")
        visitor.page = waiting

        visitor.press("/connect", follow=False)

        assert visitor.page.status_code == 303


class TestBrowserForgets:
    """The person comes back without what they left with, or not at all."""

    @on_postgresql
    @pytest.mark.proves("F52")
    def test_cookies_deleted_at_keap_end_in_a_friendly_restart(
        self, visitor: Visitor, callback_url: str, stored: Stored, sandbox: Sandbox
    ):
        visitor.session.cookies.clear()

        visitor.get(callback_url)

        heading = "This was started in another browser"
        assert_ended(visitor, Ending.STATE_FOREIGN, 400, heading, "whose cookies were deleted", "nothing was lost")
        assert (stored.accounts(), token_calls(sandbox)) == ([], [])
        visitor.press(*next_steps(visitor), follow=False)
        visitor.get(sandbox.consent(visitor.page.headers["Location"], ANN_LEE, "ab123"))
        assert_connected(visitor)

    @pytest.mark.proves("F52")
    @on_sqlite
    def test_sign_in_that_ended_at_keap_does_not_stop_the_journey(
        self, visitor: Visitor, stored: Stored, sandbox: Sandbox
    ):
        visitor.connect(person=ANN_LEE, tenant="ab123")
        callback_url = sandbox.consent(visitor.set_out(), ANN_LEE, "cd456")
        visitor.session.cookies.pop("person")

        visitor.get(callback_url)

        assert_connected(visitor, "Bright Dental")

    @on_postgresql
    @pytest.mark.proves("F55")
    def test_person_whom_keap_never_sends_back_is_counted_once_their_time_is_up(
        self, visitor: Visitor, admin: Visitor, clock: MovedClock, sandbox: Sandbox
    ):
        sandbox.fault("never_calls_back", "authorize")
        assert sandbox.consent(visitor.set_out()) == "/app/central/home"
        admin.get("/accounts")
        assert "did not finish" not in admin.text

        clock.advance(minutes=11)
        admin.get("/accounts")

        assert "1 person started to connect within the last day and did not finish" in admin.text

    @on_sqlite
    def test_person_who_set_out_the_day_before_yesterday_is_no_longer_counted(
        self, visitor: Visitor, admin: Visitor, clock: MovedClock
    ):
        visitor.set_out()

        clock.advance(days=2)
        admin.sign_in("admin@example.com", "canary-password of the admin")
        admin.get("/accounts")

        assert heading_of(admin) == "Accounts"
        assert "did not finish" not in admin.text

    @on_sqlite
    def test_start_page_helps_whoever_landed_in_account_central(self, visitor: Visitor):
        visitor.get("/")

        assert "I landed in Account Central and never came back" in visitor.text


@on_sqlite
class TestWhereTheBrowserIsSent:
    """Addresses come from the settings, never from the request; and none of ours keeps a secret."""

    @pytest.mark.proves("R05", "F58")
    @pytest.mark.parametrize(
        "headers",
        [
            {"X-Forwarded-Host": "evil.example"},
            {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "X-Forwarded-Port": "443"},
            {"Forwarded": "host=evil.example;proto=https"},
            {"X-Original-Host": "evil.example", "X-Host": "evil.example", "X-Forwarded-Server": "evil.example"},
        ],
    )
    def test_forwarded_hosts_change_no_address(self, headers: dict[str, str], visitor: Visitor):
        visitor.session.headers.update(headers)

        query = query_of(visitor.set_out())
        callback = visitor.get("/callback?code=a&state=b", allow_redirects=False)

        assert query["redirect_uri"] == f"{visitor.base_url}/callback"
        assert callback.headers["Location"] == "/connect/ended/state_unknown"
        assert "evil.example" not in visitor.get("/").text

    @pytest.mark.proves("R05", "F58")
    @pytest.mark.parametrize("path", ["/", "/connect", "/callback?code=a&state=b", "/signin", "/nowhere"])
    def test_other_host_is_refused(self, path: str, visitor: Visitor, stored: Stored):
        answer = visitor.get(path, headers={"Host": "evil.example"}, allow_redirects=False)

        assert answer.status_code == 400
        assert "evil.example" not in answer.text + str(answer.headers)
        assert stored.flows() == []

    @pytest.mark.proves("R05")
    def test_redirect_uri_is_the_same_byte_for_byte_in_both_requests(
        self, recorder: Recorder, visitor: Visitor, sandbox: Sandbox
    ):
        authorization_url = visitor.set_out()

        visitor.get(sandbox.consent(authorization_url, ANN_LEE, "ab123"))

        assert_connected(visitor)
        asked = re.search(r"[?&]redirect_uri=([^&]+)", authorization_url)
        exchanged = re.search(r"(?:^|&)redirect_uri=([^&]+)", recorder.requests[0].body)
        assert asked
        assert exchanged
        assert asked[1] == exchanged[1]

    @pytest.mark.proves("R11")
    @pytest.mark.parametrize("outcome", ["allow", "deny", "foreign"])
    def test_callback_leads_to_an_address_without_code_and_state(
        self, outcome: str, visitor: Visitor, sandbox: Sandbox
    ):
        callback_url = sandbox.consent(visitor.set_out(), ANN_LEE, "ab123", allow=outcome != "deny")
        secrets = [value for name, value in query_of(callback_url).items() if name in {"code", "state"}]
        if outcome == "foreign":
            visitor.session.cookies.clear()

        answer = visitor.get(callback_url, allow_redirects=False)
        page = visitor.get(answer.headers["Location"])

        assert answer.status_code == 303
        assert not answer.content or not any(secret in answer.text for secret in secrets)
        assert "?" not in answer.headers["Location"]
        for response in (answer, page):
            assert response.headers["Referrer-Policy"] == "no-referrer"
            assert response.headers["Cache-Control"] == "no-store"
            assert not any(secret in response.text + response.url.partition("?")[0] for secret in secrets)

    @pytest.mark.proves("R11")
    def test_result_page_loads_nothing_from_elsewhere(self, visitor: Visitor):
        visitor.connect()

        loaded = re.findall(r'<(?:script|link|img|iframe)\b[^>]*?(?:src|href)="([^"]+)"', visitor.page.text)

        assert loaded
        assert all(url.startswith("/static/") for url in loaded)


@on_sqlite
class TestPKCE:
    """Switched on, each journey has a verifier of its own, and it never leaves the server but for the token request."""

    pytestmark = pytest.mark.parametrize("environ", [{"KEAP_PKCE": "on"}], indirect=True)

    @pytest.fixture(autouse=True)
    def demand_pkce(self, sandbox: Sandbox) -> None:
        """Let the sandbox hold the client to its challenge."""
        sandbox.switch(pkce=True)

    @pytest.mark.proves("R04")
    def test_challenge_is_sent_first_and_the_verifier_only_to_the_token_endpoint(
        self, recorder: Recorder, visitor: Visitor, sandbox: Sandbox, stored: Stored, caplog: pytest.LogCaptureFixture
    ):
        caplog.set_level(logging.DEBUG)
        authorization_url = visitor.set_out()
        sealed = stored.rows("authorization_flow")

        callback_url = sandbox.consent(authorization_url, ANN_LEE, "ab123")
        visitor.get(callback_url)

        assert_connected(visitor)
        verifier = recorder.requests[0].form["code_verifier"]
        digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        query = query_of(authorization_url)
        assert (query["code_challenge"], query["code_challenge_method"]) == (digest, "S256")
        assert 43 <= len(verifier) <= 128
        places = [
            authorization_url,
            callback_url,
            visitor.page.url,
            recorder.requests[0].path,
            caplog.text,
            repr(sealed),
        ]
        assert [place for place in places if verifier in place] == []

    @pytest.mark.proves("R04")
    def test_each_journey_has_a_verifier_of_its_own(self, recorder: Recorder, visitor: Visitor, sandbox: Sandbox):
        for tenant in ("ab123", "cd456"):
            visitor.connect(person=ANN_LEE, tenant=tenant)

        assert len({request.form["code_verifier"] for request in recorder.requests}) == 2

    @pytest.mark.proves("R04")
    def test_verifier_that_does_not_fit_the_challenge_fails(self, visitor: Visitor, stored: Stored, sandbox: Sandbox):
        authorization_url = visitor.set_out()
        other = query_of(visitor.set_out())["code_challenge"]
        tampered = authorization_url.replace(query_of(authorization_url)["code_challenge"], other)

        visitor.get(sandbox.consent(tampered, ANN_LEE, "ab123"))

        assert_ended(visitor, Ending.CODE_REFUSED, 502, "Keap did not accept its own permission")
        assert stored.accounts() == []

    @pytest.mark.proves("R04")
    def test_state_is_checked_all_the_same(
        self, visitor: Visitor, callback_url: str, new_visitor: Callable[[], Visitor], sandbox: Sandbox
    ):
        other = new_visitor()

        other.get(callback_url)

        assert_ended(other, Ending.STATE_FOREIGN, 400, "This was started in another browser")
        assert token_calls(sandbox) == []

    def test_verifier_is_forgotten_once_the_journey_has_ended(self, visitor: Visitor, stored: Stored):
        visitor.set_out()
        assert stored.flows()[-1].code_verifier_sealed

        visitor.connect()

        assert stored.flows()[-1].code_verifier_sealed is None


@pytest.mark.proves("R06")
def test_source_knows_no_other_grant_than_code_and_refresh_token():
    package = Path(keap_connect.__file__).parent
    sources = [path.read_text(encoding="utf-8") for path in package.rglob("*.py") if "sandbox" not in path.parts]

    retired = ("MobileApplicationClient", "LegacyApplicationClient", "BackendApplicationClient", "response_type=token")
    assert set(GrantType) == {"authorization_code", "refresh_token"}
    assert sources
    assert [name for name in retired if any(name in source for source in sources)] == []
