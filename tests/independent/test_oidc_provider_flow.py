"""The app against an authorization server that we did not write: strict about PKCE, rotation and replay.

It holds the app to the standards rather than to our own reading of them.
"""

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import parse_qs, quote_plus, urlencode, urlsplit

import pytest
import requests
from flask import Flask
from playwright.sync_api import Page, expect
from sqlalchemy import select

from keap_connect.accounts.credentials import open_refresh_token
from keap_connect.accounts.directory import get_account, list_accounts, view_account
from keap_connect.accounts.state import AccountState
from keap_connect.connect.flows import open_code_verifier
from keap_connect.database import read_session
from keap_connect.errors import TemporarilyUnavailable
from keap_connect.events.history import Actor
from keap_connect.models import AuthorizationFlow
from keap_connect.refresh import serving
from keap_connect.refresh.lease import Situation, look
from keap_connect.refresh.serving import refresh_account
from keap_connect.settings import Settings
from tests.conftest import SECRET_KEY, TOKEN_KEY
from tests.support.engines import on_sqlite
from tests.support.oidc_provider import CLIENT_ID, CLIENT_SECRET, OIDCProvider
from tests.support.sandbox import basic
from tests.support.server import free_port
from tests.support.visitor import Visitor

pytestmark = on_sqlite


@pytest.fixture
def environ(oidc_provider: OIDCProvider, database_url: str) -> dict[str, str]:
    """Give the environment of an app whose authorization server is the independent one."""
    port = free_port()
    public_url = f"http://localhost:{port}"
    oidc_provider.allow_redirect_uri(f"{public_url}/callback")
    return {
        "PORT": str(port),
        "PUBLIC_URL": public_url,
        "SECRET_KEY": SECRET_KEY,
        "TOKEN_KEYS": TOKEN_KEY,
        "DATABASE_URL": database_url,
        "KEAP_CLIENT_ID": oidc_provider.client_id,
        "KEAP_CLIENT_SECRET": oidc_provider.client_secret,
        "KEAP_AUTHORIZE_URL": oidc_provider.authorization_url,
        "KEAP_TOKEN_URL": oidc_provider.token_url,
        "KEAP_API_URL": oidc_provider.api_url,
        "KEAP_ISSUER": oidc_provider.issuer,
        "KEAP_PKCE": "on",
        "LOG_LEVEL": "DEBUG",
    }


@pytest.fixture
def without_pkce(environ: dict[str, str]) -> None:
    """Let the app under test start with PKCE switched off."""
    environ["KEAP_PKCE"] = "off"


@pytest.fixture
def new_visitor(app: Flask, settings: Settings) -> Callable[[], Visitor]:
    """Give the function that makes another person with another browser."""
    return lambda: Visitor(settings.public_url)


@pytest.fixture
def calls(oidc_provider: OIDCProvider) -> Callable[[], list[dict[str, object]]]:
    """Give the function that returns the calls to the token endpoint since this test began."""
    before = len(oidc_provider.log())
    return lambda: oidc_provider.log()[before:]


def connect(visitor: Visitor, provider: OIDCProvider, login: str = "ann") -> str:
    """Walk the whole journey; return the address of the page it ends at."""
    return visitor.get(provider.sign_in(visitor.set_out(), login)).url


def refresh(admin: Visitor, account_id: int = 1) -> str:
    """Press "Refresh now" as the admin; return what the page says then."""
    admin.get(f"/accounts/{account_id}")
    admin.press(f"/accounts/{account_id}/refresh")
    return admin.text


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def with_query(url: str, **changes: str | None) -> str:
    """Return a URL with some query parameters changed, or left out when None."""
    query = {name: value for name, value in {**query_of(url), **changes}.items() if value is not None}
    return urlsplit(url)._replace(query=urlencode(query)).geturl()


@pytest.mark.proves("R04")
def test_customer_connects_and_the_tenant_is_learned_from_the_header(
    app: Flask, visitor: Visitor, oidc_provider: OIDCProvider, calls: Callable[[], list[dict[str, object]]]
):
    connect(visitor, oidc_provider)

    assert "Your Keap account is connected" in visitor.text
    with app.app_context():
        account = view_account(1)
    assert (account.tenant_id, account.business_name) == ("xy987", "Independent Example Inc")
    assert (account.person_name, account.person_email) == ("ann Example", "ann@example.com")
    assert [(call["status"], call["has_code_verifier"]) for call in calls()] == [(200, True)]


def test_customer_connects_by_clicking(page: Page, app: Flask, settings: Settings, oidc_provider: OIDCProvider):
    page.goto(settings.public_url)
    page.get_by_role("button", name="Connect Keap").click()
    page.locator("[name=login]").fill("ann")
    page.locator("[name=password]").fill("any")
    page.get_by_role("button", name="Sign-in").click()
    page.get_by_role("button", name="Continue").click()

    expect(page.get_by_role("heading", level=1)).to_have_text("Your Keap account is connected")
    expect(page.locator("main")).to_contain_text("xy987")
    expect(page).to_have_url(re.compile(rf"^{settings.public_url}/connect/[\w-]+$"))


@pytest.mark.proves("R04")
def test_verifier_appears_in_no_url_and_no_log(
    app: Flask, visitor: Visitor, oidc_provider: OIDCProvider, caplog: pytest.LogCaptureFixture
):
    authorization_url = visitor.set_out()
    with app.app_context(), read_session() as session:
        verifier = open_code_verifier(session.scalars(select(AuthorizationFlow)).one())

    visitor.get(oidc_provider.sign_in(authorization_url))

    assert "Your Keap account is connected" in visitor.text
    assert verifier is not None
    assert re.fullmatch(r"[A-Za-z0-9._~-]{43,128}", verifier)
    urls = [authorization_url, visitor.page.url, *(answer.url for answer in visitor.page.history)]
    assert not [text for text in [*urls, visitor.page.text, caplog.text] if verifier in text]


@pytest.mark.proves("R04")
def test_code_of_another_flow_is_refused_for_its_wrong_verifier(
    visitor: Visitor, oidc_provider: OIDCProvider, calls: Callable[[], list[dict[str, object]]]
):
    mine, other = visitor.set_out(), visitor.set_out()
    stolen_code = query_of(oidc_provider.sign_in(other, "mallory"))["code"]

    visitor.get(with_query(oidc_provider.sign_in(mine), code=stolen_code))

    assert "Keap did not accept its own permission" in visitor.text
    assert [(call["status"], call["error"]) for call in calls()] == [(400, "invalid_grant")]


@pytest.mark.proves("R04")
def test_server_that_demands_pkce_ends_the_journey_in_a_plain_page_when_it_is_off(
    without_pkce: None, visitor: Visitor, oidc_provider: OIDCProvider, calls: Callable[[], list[dict[str, object]]]
):
    connect(visitor, oidc_provider)

    assert visitor.page.status_code == 200
    assert "Keap could not finish this" in visitor.text
    assert "PKCE" in visitor.text
    assert calls() == []


@pytest.mark.proves("R08")
@pytest.mark.parametrize("change", ["/", "1", "/other"], ids=["trailing slash", "other port", "other path"])
def test_answer_of_another_issuer_is_refused_before_any_token_request(
    visitor: Visitor, oidc_provider: OIDCProvider, calls: Callable[[], list[dict[str, object]]], change: str
):
    callback_url = oidc_provider.sign_in(visitor.set_out())
    assert query_of(callback_url)["iss"] == oidc_provider.issuer

    visitor.get(with_query(callback_url, iss=oidc_provider.issuer + change))

    assert "The answer came from somewhere else" in visitor.text
    assert calls() == []


def test_person_who_denies_is_told_so(
    visitor: Visitor, oidc_provider: OIDCProvider, calls: Callable[[], list[dict[str, object]]]
):
    visitor.get(oidc_provider.sign_in(visitor.set_out(), allow=False))

    assert "Keap says: access denied" in visitor.text
    assert calls() == []


@pytest.mark.proves("R18")
def test_odd_client_secret_authenticates_in_the_body_and_in_the_header(
    admin: Visitor, visitor: Visitor, oidc_provider: OIDCProvider, calls: Callable[[], list[dict[str, object]]]
):
    connect(visitor, oidc_provider)
    refresh(admin)

    assert {":", "%", "+", " "} <= set(CLIENT_SECRET)
    assert [(call["grant_type"], call["auth_method"], call["status"], call["has_query"]) for call in calls()] == [
        ("authorization_code", "client_secret_post", 200, False),
        ("refresh_token", "client_secret_basic", 200, False),
    ]


def test_each_refresh_presents_the_newest_token_of_the_rotation(
    admin: Visitor, visitor: Visitor, oidc_provider: OIDCProvider, calls: Callable[[], list[dict[str, object]]]
):
    connect(visitor, oidc_provider)

    said = [refresh(admin) for _ in range(3)]

    assert all("Refreshed: new tokens are stored." in page for page in said)
    presented = [call["fingerprint"] for call in calls() if call["grant_type"] == "refresh_token"]
    assert len(set(presented)) == 3
    assert {call["status"] for call in calls()} == {200}


def test_reconnect_keeps_the_account_and_takes_the_new_grant(
    app: Flask, admin: Visitor, visitor: Visitor, oidc_provider: OIDCProvider
):
    connect(visitor, oidc_provider)

    visitor.get(oidc_provider.sign_in(visitor.set_out("/reconnect/1", "/reconnect/1")))

    assert "Your Keap account is connected again" in visitor.text
    assert "Refreshed: new tokens are stored." in refresh(admin)
    with app.app_context():
        assert list_accounts().total == 1


@pytest.mark.proves("F09")
def test_parallel_refreshes_present_the_token_once_and_the_grant_lives_on(
    app: Flask,
    visitor: Visitor,
    oidc_provider: OIDCProvider,
    calls: Callable[[], list[dict[str, object]]],
    monkeypatch: pytest.MonkeyPatch,
):
    connect(visitor, oidc_provider)
    all_have_looked = threading.Barrier(8)
    this_thread = threading.local()

    def look_together(account_id: int) -> Situation:
        situation = look(account_id)
        if not hasattr(this_thread, "has_looked"):
            this_thread.has_looked = True
            all_have_looked.wait(30)
        return situation

    def refresh_now(_: int) -> bool:
        with app.app_context(), suppress(TemporarilyUnavailable):
            refresh_account(1, Actor.SYSTEM)
            return True
        return False

    with monkeypatch.context() as patch, ThreadPoolExecutor(8) as pool:
        patch.setattr(serving, "look", look_together)  # or the last would begin when the first has ended
        outcomes = list(pool.map(refresh_now, range(8)))

    with app.app_context():
        refresh_account(1, Actor.SYSTEM)
    presented = [call["fingerprint"] for call in calls() if call["grant_type"] == "refresh_token"]
    assert len(presented) == len(set(presented)) == 2
    assert any(outcomes)


def test_grant_killed_by_a_replay_needs_a_reconnect_and_no_other_account_does(
    app: Flask,
    admin: Visitor,
    new_visitor: Callable[[], Visitor],
    oidc_provider: OIDCProvider,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("keap_connect.refresh.timing.CONFIRM_WAIT_SECONDS", 0)
    connect(new_visitor(), oidc_provider, "ann")
    connect(new_visitor(), oidc_provider, "bob")
    with app.app_context():
        spent = open_refresh_token(get_account(1))
    refresh(admin, 1)

    replay = requests.post(
        oidc_provider.token_url,
        data={"grant_type": "refresh_token", "refresh_token": spent},
        headers={"Authorization": basic(quote_plus(CLIENT_ID), quote_plus(CLIENT_SECRET))},
        timeout=10,
    )
    assert replay.json()["error"] == "invalid_grant"

    assert "Not refreshed; the tokens are kept." in refresh(admin, 1)
    assert "A person must authorize again." in refresh(admin, 1)
    assert "Refreshed: new tokens are stored." in refresh(admin, 2)
    with app.app_context():
        assert view_account(1).state is AccountState.RECONNECT_REQUIRED
        assert view_account(2).state is AccountState.ACTIVE
