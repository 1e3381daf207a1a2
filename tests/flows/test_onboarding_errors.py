"""Every way the journey can fail: its own words, a next step, nothing stored, and never a code sent twice.

`test_reconnect.py` has the endings of a grant that waits for a decision.
"""

import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from flask import Flask

from keap_connect.accounts.changes import disconnect
from keap_connect.connect.endings import SUCCESSES, Ending
from keap_connect.connect.flows import list_journeys
from tests.conftest import MovedClock
from tests.flows.endings import assert_ended, next_steps
from tests.flows.stored import Stored, token_calls
from tests.support.engines import on_sqlite
from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor

ANN_LEE, DORA_QUIST = "ann.lee@example.com", "dora.quist@example.com"
ISSUER = "https://signin.infusionsoft.com"
AssertFailed = Callable[..., None]
Parameters = dict[str, str | list[str] | None]

# What is stored is the same on both databases here: nothing. The endings that store something run on both.
pytestmark = on_sqlite


@pytest.fixture
def existing_account(stored: Stored) -> int:
    """Let somebody be connected already, whom no failure of somebody else may touch."""
    return stored.place("ef789", "cleo.marsh@example.com")


@pytest.fixture
def assert_failed(
    existing_account: int, stored: Stored, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> AssertFailed:
    """Give the check of a failure: its page, as many token requests as it may send, every row as it was, and one event.

    The log and the event have the reference that the page shows. A failure without a flow is only in the log.
    """
    accounts, events = stored.rows(), stored.events()

    def check(visitor: Visitor, ending: Ending, status: int, heading: str, *sentences: str, sent: int = 0) -> None:
        assert_ended(visitor, ending, status, heading, *sentences)
        assert len(token_calls(sandbox)) == sent
        assert stored.rows() == accounts
        fresh = stored.events()[len(events) :]
        reference = re.search(r"send this reference: <code>(.*?)</code>", visitor.page.text)
        assert reference
        if "/connect/ended/" in visitor.page.url:
            assert fresh == []
            assert re.search(rf"\b{reference[1]}: .* saw the ending {ending.value}\.", caplog.text)
            return
        assert [(event.kind, event.account_id) for event in fresh] == [("connection.failed", None)]
        assert (fresh[0].details["reference"], fresh[0].details["ending"]) == (reference[1], ending)
        assert f"{reference[1]}: a person could not connect: {ending.outcome}." in caplog.text

    return check


@pytest.fixture
def closed_token_endpoint(environ: dict[str, str]) -> Iterator[None]:
    """Let the token endpoint be a port that is taken, so that nobody else gets it, and refuses every connection."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        environ["KEAP_TOKEN_URL"] = f"http://127.0.0.1:{taken.getsockname()[1]}/token"
        yield


@pytest.fixture
def other(new_visitor: Callable[[], Visitor]) -> Visitor:
    """Give another person with another browser."""
    return new_visitor()


@pytest.fixture
def callback_url(visitor: Visitor, sandbox: Sandbox) -> str:
    """Give the address that Keap sends the visitor back to, not opened yet."""
    return sandbox.consent(visitor.set_out(), ANN_LEE, "ab123")


def changed(callback_url: str, **parameters: str | list[str] | None) -> str:
    """Return the address with other parameters: None takes one away, a list repeats it."""
    query = {**parse_qs(urlsplit(callback_url).query), **parameters}
    kept = {name: value for name, value in query.items() if value is not None}
    return callback_url.partition("?")[0] + "?" + urlencode(kept, doseq=True)


def assert_still_open(visitor: Visitor, callback_url: str) -> None:
    """Check that neither code nor state was consumed: the true callback goes through."""
    visitor.get(callback_url)
    assert "Your Keap account is connected" in visitor.text


class TestKeapSaysNo:
    """Keap, or the person there, refuses before there is a code."""

    @pytest.mark.proves("F53")
    def test_deny_is_explained_and_can_be_tried_again(self, visitor: Visitor, assert_failed: AssertFailed):
        visitor.connect(allow=False)

        assert_failed(visitor, Ending.DENIED, 200, "Keap says: access denied", "User denied access to resource")
        assert next_steps(visitor) == ["/connect"]

    @pytest.mark.proves("F53")
    def test_login_without_a_keap_app_reads_why_allow_was_not_enough(
        self, visitor: Visitor, assert_failed: AssertFailed
    ):
        visitor.connect(person=DORA_QUIST, tenant="", allow=True)

        explanation = "the login has no Keap account: then Keap says the same even after Allow"
        assert_failed(visitor, Ending.DENIED, 200, "Keap says: access denied", explanation)

    def test_error_of_keap_itself_is_told_in_its_words(
        self, visitor: Visitor, sandbox: Sandbox, assert_failed: AssertFailed
    ):
        sandbox.fault("callback_server_error", "authorize")

        visitor.connect()

        assert_failed(visitor, Ending.KEAP_ERROR, 200, "Keap could not finish this", "An error occurred")

    @pytest.mark.parametrize("state", ["", "&state="])
    def test_denial_without_state_gets_the_same_words(self, state: str, visitor: Visitor, assert_failed: AssertFailed):
        visitor.get(f"/callback?error=access_denied{state}")

        assert_failed(visitor, Ending.DENIED, 200, "Keap says: access denied")

    @pytest.mark.parametrize("state", ["", "&state="])
    def test_error_of_keap_without_state_gets_the_same_words(
        self, state: str, visitor: Visitor, assert_failed: AssertFailed
    ):
        visitor.get(f"/callback?error=server_error{state}")

        assert_failed(visitor, Ending.KEAP_ERROR, 200, "Keap could not finish this")

    @pytest.mark.proves("R10")
    @pytest.mark.parametrize("name", ["error", "error_description"])
    def test_markup_in_an_error_is_shown_as_text(
        self, name: str, visitor: Visitor, callback_url: str, assert_failed: AssertFailed
    ):
        error = {"error": "invalid_scope", name: "<script>alert('Keap')</script>", "code": None}

        visitor.get(changed(callback_url, **error))

        assert_failed(visitor, Ending.KEAP_ERROR, 200, "Keap could not finish this")
        assert "&lt;script&gt;alert(&#39;Keap&#39;)&lt;/script&gt;" in visitor.page.text
        assert "<script>" not in visitor.page.text

    @pytest.mark.proves("R10")
    def test_failed_reconnect_leaves_the_account_alone_and_its_history_tells(
        self, admin: Visitor, existing_account: int, stored: Stored, sandbox: Sandbox
    ):
        before = stored.row(existing_account)
        sandbox.fault("callback_server_error", "authorize")

        admin.reconnect(existing_account, person="cleo.marsh@example.com", tenant="ef789")

        assert_ended(admin, Ending.KEAP_ERROR, 200, "Keap could not finish this")
        assert next_steps(admin) == [f"/reconnect/{existing_account}"]
        assert stored.row(existing_account) == before
        assert stored.history(existing_account) == ["connected", "reconnect_failed"]


class TestCallbackIsNotWhole:
    """State or code missing, empty, repeated, too long, or of somebody else: nothing is sent to Keap."""

    @pytest.mark.proves("R03")
    @pytest.mark.parametrize(
        "parameters",
        [
            {"state": None},
            {"state": ""},
            {"state": ["one", "two"]},
            {"state": "s" * 60_000},
            {"state": None, "code": None},
            {"state": None, "code": None, "scope": None},
        ],
        ids=["no state", "empty state", "repeated state", "60 kB state", "neither", "no query"],
    )
    def test_callback_without_one_state_belongs_to_no_journey(
        self, parameters: Parameters, visitor: Visitor, callback_url: str, assert_failed: AssertFailed
    ):
        visitor.get(changed(callback_url, **parameters))

        assert_failed(visitor, Ending.STATE_MISSING, 400, "This visit does not belong to a connection")

    @pytest.mark.parametrize("fault", ["callback_without_state", "callback_empty_state", "callback_duplicate_params"])
    def test_keap_may_lose_or_double_the_state_itself(
        self, fault: str, visitor: Visitor, sandbox: Sandbox, assert_failed: AssertFailed
    ):
        sandbox.fault(fault, "authorize")

        visitor.connect()

        assert_failed(visitor, Ending.STATE_MISSING, 400, "This visit does not belong to a connection")

    @pytest.mark.proves("R03", "R06")
    @pytest.mark.parametrize(
        "parameters",
        [
            {"code": None},
            {"code": ""},
            {"code": ["one", "two"]},
            {"code": "c" * 60_000},
            {"code": None, "access_token": "canary-token", "token_type": "bearer", "expires_in": "86399"},
            {"code": None, "error": ["access_denied", "access_denied"]},
        ],
        ids=["no code", "empty code", "repeated code", "60 kB code", "access token", "repeated error"],
    )
    def test_callback_without_one_code_leaves_the_journey_open(
        self, parameters: Parameters, visitor: Visitor, callback_url: str, assert_failed: AssertFailed
    ):
        visitor.get(changed(callback_url, **parameters))

        assert_failed(
            visitor, Ending.CODE_MISSING, 400, "Keap's answer was not complete", "Press the button to try again"
        )
        assert_still_open(visitor, callback_url)

    @pytest.mark.proves("R03")
    @pytest.mark.parametrize("name", ["code", "state"])
    def test_100_kilobytes_are_refused_whatever_server_lets_them_through(
        self, name: str, app: Flask, visitor: Visitor, callback_url: str, sandbox: Sandbox
    ):
        browser = app.test_client()
        browser.set_cookie("browser", visitor.session.cookies["browser"], domain="localhost")
        too_long = changed(callback_url, **{name: "x" * 100_000})

        by_the_app = browser.get(too_long, base_url=visitor.base_url, follow_redirects=True)
        by_the_server = visitor.get(too_long)

        assert (by_the_app.status_code, by_the_server.status_code) == (400, 414)
        assert token_calls(sandbox) == []
        assert_still_open(visitor, callback_url)

    @pytest.mark.proves("F57")
    @pytest.mark.parametrize("state", ["A" * 43, "é漢🔑" * 14, "' OR 1=1 --"])
    def test_state_that_did_not_come_from_here_is_refused(
        self, state: str, visitor: Visitor, assert_failed: AssertFailed
    ):
        visitor.get("/callback?" + urlencode({"code": "GdRGbcuo", "state": state}))

        assert_failed(visitor, Ending.STATE_UNKNOWN, 400, "This link is not known here")

    @pytest.mark.proves("R02")
    def test_state_older_than_ten_minutes_is_refused_and_on_record(
        self, app: Flask, visitor: Visitor, callback_url: str, clock: MovedClock, assert_failed: AssertFailed
    ):
        clock.advance(minutes=11)

        for url in (callback_url, changed(callback_url, code=None), callback_url):
            visitor.get(url)
            assert_failed(visitor, Ending.STATE_EXPIRED, 400, "That took longer than ten minutes")

        with app.app_context():
            assert [one.outcome for one in list_journeys()] == [Ending.STATE_EXPIRED.outcome]

    def test_state_of_the_day_before_yesterday_is_not_known(
        self, visitor: Visitor, callback_url: str, clock: MovedClock, assert_failed: AssertFailed
    ):
        clock.advance(days=2)

        visitor.get(callback_url)

        assert_failed(visitor, Ending.STATE_UNKNOWN, 400, "This link is not known here")

    def test_state_of_nine_minutes_is_not_too_old(self, visitor: Visitor, callback_url: str, clock: MovedClock):
        clock.advance(minutes=9, seconds=50)

        assert_still_open(visitor, callback_url)

    @pytest.mark.proves("R01", "F57")
    @pytest.mark.parametrize("has_been_here", [True, False])
    def test_callback_in_another_browser_is_refused(
        self, has_been_here: bool, visitor: Visitor, other: Visitor, callback_url: str, assert_failed: AssertFailed
    ):
        if has_been_here:
            other.set_out()

        other.get(callback_url)

        assert_failed(other, Ending.STATE_FOREIGN, 400, "This was started in another browser")
        assert_still_open(visitor, callback_url)

    @pytest.mark.parametrize("code", [*sorted(SUCCESSES), "decision_pending", "discarded", "nonsense"])
    def test_nobody_can_make_up_a_page_that_says_it_worked(self, code: str, visitor: Visitor):
        assert visitor.get(f"/connect/ended/{code}").status_code == 404


class TestIssuer:
    """The answer names who sent it (RFC 9207); the comparison is of plain strings."""

    pytestmark = pytest.mark.parametrize("environ", [{"KEAP_ISSUER": ISSUER}], indirect=True)

    @pytest.mark.proves("R08")
    @pytest.mark.parametrize(
        "issuer",
        [
            "https://evil.example",
            f"{ISSUER}/",
            ISSUER.upper(),
            f"{ISSUER} ",
            [ISSUER, "https://evil.example"],
            "https://evil.example/" + "i" * 600,
            "",
        ],
        ids=["other", "slash", "upper case", "blank", "repeated", "very long", "empty"],
    )
    def test_answer_of_another_issuer_is_not_used(
        self, issuer: str | list[str], visitor: Visitor, callback_url: str, assert_failed: AssertFailed
    ):
        visitor.get(changed(callback_url, iss=issuer))

        assert_failed(visitor, Ending.WRONG_ISSUER, 400, "The answer came from somewhere else")

    @pytest.mark.parametrize("issuer", [ISSUER, None])
    def test_right_issuer_or_none_goes_through(self, issuer: str | None, visitor: Visitor, callback_url: str):
        assert_still_open(visitor, changed(callback_url, iss=issuer))


class TestExchangeFails:
    """Keap does not trade the code for tokens. The code was sent once and is never sent again."""

    @pytest.mark.parametrize("reason", ["made up", "too old", "refused although valid"])
    def test_refused_code_is_told_as_refused(
        self, reason: str, visitor: Visitor, callback_url: str, sandbox: Sandbox, assert_failed: AssertFailed
    ):
        if reason == "made up":
            callback_url = changed(callback_url, code="GdRGbcuo")
        elif reason == "too old":
            sandbox.advance(seconds=601)
        else:
            sandbox.fault("refused_although_valid", "exchange")

        visitor.get(callback_url)

        heading = "Keap did not accept its own permission"
        assert_failed(visitor, Ending.CODE_REFUSED, 502, heading, "Authorization code is invalid", sent=1)

    @pytest.mark.parametrize(
        "fault",
        [
            "invalid_client_401",
            "unable_to_authenticate_401",
            "unauthorized_401_plain",
            "client_id_not_approved_fault",
            "developer_inactive_403",
        ],
    )
    def test_refused_client_is_not_blamed_on_the_customer(
        self, fault: str, visitor: Visitor, callback_url: str, sandbox: Sandbox, assert_failed: AssertFailed
    ):
        sandbox.fault(fault, "exchange")

        visitor.get(callback_url)

        heading = "Keap does not accept this app at the moment"
        assert_failed(visitor, Ending.CLIENT_REFUSED, 502, heading, "You did everything right.", sent=1)

    @pytest.mark.parametrize(
        "answer",
        [
            {"name": "rate_limited_quota_429"},
            {"name": "rate_limited_spike_429", "retry_after": "120"},
            {"name": "rate_limited_fault_429", "retry_after": "Wed, 21 Oct 2099 07:28:00 GMT"},
            {"name": "rate_limited_fault_429", "retry_after": "soon"},
        ],
    )
    def test_busy_keap_asks_for_patience(
        self, answer: dict[str, str], visitor: Visitor, callback_url: str, sandbox: Sandbox, assert_failed: AssertFailed
    ):
        sandbox.fault(endpoint="exchange", **answer)

        visitor.get(callback_url)

        assert_failed(visitor, Ending.KEAP_BUSY, 503, "Keap is busy", "Wait a minute, then try again.", sent=1)

    def test_unreachable_keap_was_sent_nothing(
        self, closed_token_endpoint: None, visitor: Visitor, callback_url: str, assert_failed: AssertFailed
    ):
        visitor.get(callback_url)

        assert_failed(visitor, Ending.KEAP_UNREACHABLE, 503, "Keap cannot be reached", "Try again in a few minutes.")

    @pytest.mark.proves("R09")
    @pytest.mark.parametrize(
        "fault",
        [
            "html_503",
            "json_500",
            "gateway_504",
            "gateway_504_after_rotation",
            "html_400",
            "html_403",
            "bot_filter_403",
            "ok_html",
            "ok_empty",
            "ok_truncated",
            "ok_list",
            "ok_error_field",
            "ok_null_tokens",
            "missing_access_token",
            "wrong_token_type",
            "reset_before",
            "reset_after",
            "lost_answer",
            "redirect",
        ],
    )
    def test_unusable_answer_is_calm_and_the_code_is_sent_once(
        self, fault: str, visitor: Visitor, callback_url: str, sandbox: Sandbox, assert_failed: AssertFailed
    ):
        sandbox.fault(fault, "exchange")

        visitor.get(callback_url)
        visitor.get(callback_url)  # Back, or reload: the same page, and not a second request

        heading = "Keap has a problem at the moment"
        assert_failed(visitor, Ending.KEAP_TROUBLE, 503, heading, "nothing was lost", sent=1)

    def test_button_of_a_failed_journey_leads_to_a_good_one(
        self, visitor: Visitor, callback_url: str, sandbox: Sandbox
    ):
        sandbox.fault("html_503", "exchange", first=1)
        visitor.get(callback_url)

        visitor.press(*next_steps(visitor), follow=False)
        visitor.get(sandbox.consent(visitor.page.headers["Location"], ANN_LEE, "ab123"))

        assert "Your Keap account is connected" in visitor.text

    @pytest.mark.parametrize(
        "answer",
        [
            {"name": "tenant_header_differs", "endpoint": "userinfo"},
            {"name": "tenant_header_differs", "endpoint": "profile"},
            {"name": "other_tenant_in_scope", "endpoint": "exchange"},
        ],
    )
    def test_grant_of_two_tenants_is_stored_for_neither(
        self, answer: dict[str, str], visitor: Visitor, callback_url: str, sandbox: Sandbox, assert_failed: AssertFailed
    ):
        sandbox.fault(**answer)

        visitor.get(callback_url)

        heading = "Keap named two different accounts"
        assert_failed(visitor, Ending.TENANT_CONFLICT, 502, heading, "ab123 and zz999", sent=1)

    def test_account_that_is_disconnected_meanwhile_stays_so(
        self, app: Flask, visitor: Visitor, callback_url: str, sandbox: Sandbox, stored: Stored
    ):
        account_id = stored.place()
        sandbox.hold("userinfo")
        with ThreadPoolExecutor() as threads:
            callback = threads.submit(visitor.get, callback_url)
            try:
                sandbox.wait_held(1)
                with app.app_context():
                    disconnect(account_id, "x")
            finally:
                sandbox.release()
            callback.result()

        assert_ended(visitor, Ending.DISCONNECTED, 400, "The account was disconnected meanwhile")
        assert stored.tokens(account_id) == (None, None)

    def test_journey_that_was_never_finished_is_told_as_interrupted(
        self, visitor: Visitor, callback_url: str, clock: MovedClock, sandbox: Sandbox
    ):
        sandbox.hold("exchange")
        with ThreadPoolExecutor() as threads:
            first = threads.submit(visitor.session.get, callback_url, timeout=60)
            try:
                sandbox.wait_held(1)
                visitor.get(callback_url)
                assert "Finishing the connection" in visitor.text
                clock.advance(seconds=91)
                visitor.get(visitor.page.url)
                assert_ended(visitor, Ending.INTERRUPTED, 503, "The connection was interrupted")
            finally:
                sandbox.release()
            assert first.result().status_code == 200

        assert len(token_calls(sandbox)) == 1
