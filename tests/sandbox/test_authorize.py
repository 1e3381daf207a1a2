"""`/app/oauth/authorize` answers as Keap does (RFC 6749 section 4.1.1 and 4.1.2)."""

import re

import pytest
import requests

from tests.sandbox.client import REDIRECT_URI, Client, query_of
from tests.support.sandbox import Sandbox, new_browser

ERROR_URI = "https://developer.infusionsoft.com/docs/read/Getting_Started_With_OAuth2"


def get(url: str) -> requests.Response:
    with new_browser() as browser:
        return browser.get(url, allow_redirects=False, timeout=10)


def test_allow_redirects_with_code_tenant_and_state_verbatim(client: Client, sandbox: Sandbox):
    state = "a|b c%20d+é&=#"

    callback = sandbox.consent(client.authorization_url(state=state), tenant="cd456")

    assert re.fullmatch(
        re.escape(REDIRECT_URI) + r"\?code=[A-Za-z0-9]{8}&scope=full%7Ccd456\.infusionsoft\.com&state=.+", callback
    )
    assert query_of(callback)["state"] == state


def test_state_is_left_out_when_none_was_sent(client: Client):
    assert "state" not in client.consent(state=None)


def test_redirect_keeps_the_query_of_the_redirect_uri(client: Client):
    assert client.consent(redirect_uri=f"{REDIRECT_URI}?x=1")["x"] == "1"


def test_deny_redirects_with_keaps_words(client: Client, sandbox: Sandbox):
    callback = sandbox.consent(client.authorization_url(), allow=False)

    assert query_of(callback) == {
        "error": "access_denied",
        "error_description": "User denied access to resource",
        "error_uri": ERROR_URI,
        "state": "s-1",
    }


def test_allow_without_any_keap_app_is_denied_too(client: Client, sandbox: Sandbox):
    url = client.authorization_url()

    assert sandbox.consent(url, "dora.quist@example.com") == sandbox.consent(url, allow=False)


def test_unknown_client_id_is_sent_back_with_server_error(client: Client):
    answer = get(client.authorization_url(client_id="unknown"))

    assert query_of(answer.headers["Location"])["error"] == "server_error"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"scope": "contacts"}, "invalid_scope"),
        ({"scope": "full openid"}, "invalid_scope"),
    ],
)
def test_wrong_parameter_is_sent_back_with_its_error(client: Client, changes: dict[str, str], error: str):
    answer = get(client.authorization_url(**changes))

    assert answer.status_code == 302
    assert query_of(answer.headers["Location"])["error"] == error


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "unknown", "redirect_uri": "http://example.com/"},
        {"client_id": "unknown", "redirect_uri": None},
        {"redirect_uri": "http://example.com/callback"},
        {"redirect_uri": "javascript:alert(1)"},
        {"redirect_uri": "https://example.com/#fragment"},
        {"redirect_uri": "https://example.com/\r\nX-Odd: 1"},
        {"redirect_uri": "https://example.com/\r\nX-Odd: 1", "client_id": "unknown"},
    ],
)
def test_nobody_is_sent_to_an_unacceptable_address(client: Client, changes: dict[str, str]):
    answer = get(client.authorization_url(**changes))

    assert answer.status_code == 400
    assert "Location" not in answer.headers


def test_link_with_the_client_id_alone_ends_in_account_central(client: Client):
    answer = get(client.authorization_url(redirect_uri=None))

    assert (answer.status_code, answer.headers["Location"]) == (303, "/app/central/home")


@pytest.mark.parametrize(
    ("mode", "redirect_uri", "accepted"),
    [
        ("allow-localhost", "https://example.com/callback", True),
        ("allow-localhost", "http://127.0.0.1:5000/callback", True),
        ("strict-https", "https://example.com/callback", True),
        ("strict-https", "http://localhost:5000/callback", False),
        ("registered-list", "https://registered.example.com/callback", True),
        ("registered-list", "https://example.com/callback", False),
    ],
)
def test_redirect_uri_mode_decides(client: Client, sandbox: Sandbox, mode: str, redirect_uri: str, accepted: bool):
    sandbox.switch(redirect_uri_mode=mode)
    sandbox.add_app("listed", "secret", ["https://registered.example.com/callback"])

    answer = get(client.authorization_url(client_id="listed", redirect_uri=redirect_uri))

    assert (answer.status_code == 303) is accepted, answer.text


def test_disabled_app_is_sent_back_with_server_error(client: Client, sandbox: Sandbox):
    sandbox.switch(app_disabled=True)

    assert query_of(get(client.authorization_url()).headers["Location"])["error"] == "server_error"


def test_unknown_parameters_and_pkce_are_ignored(client: Client):
    parameters = client.consent(code_challenge="x", code_challenge_method="plain", prompt="none", scope="full")

    assert client.exchange(parameters["code"]).status_code == 200


def test_tenant_that_the_login_cannot_reach_is_refused(client: Client, sandbox: Sandbox):
    with sandbox.signed_in("ben.ortiz@example.com") as browser:
        answer = browser.post(
            client.authorization_url(), {"tenant_id": "cd456", "decision": "allow"}, allow_redirects=False, timeout=10
        )

    assert answer.status_code == 400


def test_consent_lists_the_tenants_of_the_login_and_shows_odd_names_as_text(client: Client, sandbox: Sandbox):
    with sandbox.signed_in("ann.lee@example.com") as ann, sandbox.signed_in("eve.stone@example.com") as eve:
        anns = ann.get(client.authorization_url(), timeout=10).text
        eves = eve.get(client.authorization_url(), timeout=10).text

    assert re.findall(r'name="tenant_id" value="(\w+)"( checked)?', anns) == [("ab123", " checked"), ("cd456", "")]
    assert "<img" not in eves
    assert "&gt;&lt;img src=x onerror=alert(1)&gt;" in eves


@pytest.mark.parametrize(
    "next_page", ["https://evil.example.com/", "//evil.example.com/", "/app/\r\nX-Odd: 1", "/sandbox"]
)
def test_sign_in_leads_nowhere_else(sandbox: Sandbox, next_page: str):
    with new_browser() as browser:
        answer = browser.post(
            f"{sandbox.url}/app/signin",
            {"person_id": "4236128"},
            params={"next": next_page},
            allow_redirects=False,
            timeout=10,
        )

    assert answer.headers["Location"] == "/app/central/home"
