"""The setup guide: every tick follows from a fact, and the check asks Keap once."""

import html
import re

import pytest

from keap_connect.settings import Settings
from tests.support.engines import on_sqlite
from tests.support.sandbox import CLIENT_ID, Sandbox
from tests.support.visitor import Visitor

pytestmark = on_sqlite
REAL_KEAP = {
    "KEAP_CLIENT_ID": "a-client-of-keap",
    "KEAP_CLIENT_SECRET": "canary-client-secret",
    "KEAP_AUTHORIZE_URL": "",
    "KEAP_TOKEN_URL": "",
    "KEAP_API_URL": "",
}
ON_THE_INTERNET = {**REAL_KEAP, "PUBLIC_URL": "https://connect.example.com"}
IN_THE_OFFICE = {**REAL_KEAP, "PUBLIC_URL": "https://192.168.1.5"}
ON_A_LAPTOP = {**REAL_KEAP, "PUBLIC_URL": "https://localhost:8443"}


def ticks(page: str) -> dict[str, str]:
    """Return the word beside each step, by the step's id."""
    return dict(re.findall(r'<li id="(\w+)">.*?<strong class="badge [\w-]+">(.*?)</strong>', page, re.DOTALL))


def copied(page: str, name: str) -> str:
    """Return what a copy button would copy."""
    found = re.search(rf'<input id="{name}" value="([^"]*)"', page)
    assert found
    return html.unescape(found[1])


def test_ticks_follow_the_facts_in_the_sandbox(admin: Visitor, visitor: Visitor, sandbox: Sandbox):
    before = ticks(admin.get("/setup").text)
    admin.press("/setup/check")
    visitor.connect()

    after = ticks(admin.get("/setup").text)

    assert before == {
        "account": "Not needed",
        "app": "Not needed",
        "permission": "Done",
        "credentials": "Not needed",
        "redirect_uri": "Done",
        "check": "To do",
        "connect": "To do",
        "worker": "To do",
    }
    assert {key for key in after if after[key] != before[key]} == {"check", "connect"}
    assert sandbox.url in admin.page.text


@pytest.mark.parametrize(
    ("environ", "word"),
    [(ON_THE_INTERNET, "Done"), (IN_THE_OFFICE, "Problem"), (ON_A_LAPTOP, "To do")],
    indirect=["environ"],
)
def test_redirect_uri_is_ticked_when_others_could_find_it(admin: Visitor, settings: Settings, word: str):
    page = admin.get("/setup").text

    assert ticks(page)["redirect_uri"] == word
    assert copied(page, "redirect-uri") == f"{settings.public_url}/callback"
    assert [ticks(page)[key] for key in ("account", "app", "credentials")] == ["Done"] * 3
    assert "canary-client-secret" not in page


def test_both_authorize_links_are_there_to_copy(admin: Visitor, visitor: Visitor, settings: Settings, sandbox: Sandbox):
    page = admin.get("/setup").text
    link, guide = copied(page, "authorize-url"), copied(page, "guide-url")

    assert guide == f"{sandbox.url}/app/oauth/authorize?client_id={CLIENT_ID}"
    assert link.startswith(f"{guide.partition('?')[0]}?")
    callback = sandbox.consent(link)
    assert callback.startswith(f"{settings.public_url}/callback?code=")
    assert "state" not in callback
    assert visitor.get(callback).status_code == 400  # as the page says: nobody knows who sent them
    with sandbox.signed_in() as ann:
        assert ann.get(guide, timeout=10).url == f"{sandbox.url}/app/central/home"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (None, "The token endpoint knows the client"),
        ("invalid_client_401", "The token endpoint refuses the client id or the secret. Keap answered 401"),
        ("html_503", "does not show whether it knows the client. Keap answered 503"),
    ],
)
def test_check_says_what_the_token_endpoint_said(admin: Visitor, sandbox: Sandbox, fault: str | None, words: str):
    if fault:
        sandbox.fault(fault)
    admin.get("/setup")

    admin.press("/setup/check")

    assert words in admin.text
    assert sandbox.ledger()["totals"]["token_calls"] == 1
    assert sandbox.ledger()["totals"]["refreshes"] == 0
