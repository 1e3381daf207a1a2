"""The independent authorization server is as strict as the tests that lean on it believe."""

import base64
import hashlib
import secrets
from urllib.parse import parse_qsl, quote_plus, urlencode, urlsplit

import pytest
import requests
from playwright.sync_api import Page

from tests.support.oidc_provider import OIDCProvider

REDIRECT_URI = "http://localhost:5000/callback"


class Client:
    """A minimal client: body credentials on the exchange, Basic on refresh, as Keap documents it."""

    def __init__(self, provider: OIDCProvider) -> None:
        self.provider = provider
        self.verifier = secrets.token_urlsafe(32)

    def authorization_url(self, **extra: str) -> str:
        fields = {
            "client_id": self.provider.client_id,
            "response_type": "code",
            "scope": "full",
            "state": "state-of-this-browser",
            "redirect_uri": REDIRECT_URI,
        }
        return f"{self.provider.authorization_url}?{urlencode(fields | extra)}"

    def authorize(self) -> str:
        digest = hashlib.sha256(self.verifier.encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        url = self.authorization_url(code_challenge=challenge, code_challenge_method="S256")
        return query_of(self.provider.sign_in(url))["code"]

    def exchange(self, code: str, verifier: str | None = None) -> requests.Response:
        return self.post(
            {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": REDIRECT_URI,
                "code_verifier": verifier or self.verifier,
                "client_id": self.provider.client_id,
                "client_secret": self.provider.client_secret,
            }
        )

    def refresh(self, refresh_token: str) -> requests.Response:
        pair = f"{quote_plus(self.provider.client_id)}:{quote_plus(self.provider.client_secret)}"
        headers = {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
        return self.post({"grant_type": "refresh_token", "refresh_token": refresh_token}, headers)

    def post(self, fields: dict[str, str], headers: dict[str, str] | None = None) -> requests.Response:
        return requests.post(self.provider.token_url, data=fields, headers=headers, timeout=10)

    def user_info(self, access_token: str) -> requests.Response:
        url = f"{self.provider.api_url}/v2/oauth/connect/userinfo"
        return requests.get(url, headers={"Authorization": f"Bearer {access_token}"}, timeout=10)


def query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


@pytest.fixture
def client(oidc_provider: OIDCProvider) -> Client:
    return Client(oidc_provider)


def test_it_demands_pkce(client: Client) -> None:
    answer = query_of(client.provider.sign_in(client.authorization_url()))

    assert answer["error"] == "invalid_request"
    assert "PKCE" in answer["error_description"]
    assert "code" not in answer


def test_it_refuses_a_wrong_code_verifier(client: Client) -> None:
    response = client.exchange(client.authorize(), verifier=secrets.token_urlsafe(32))

    assert (response.status_code, response.json()["error"]) == (400, "invalid_grant")


def test_it_refuses_a_redirect_uri_that_is_not_registered(client: Client) -> None:
    response = requests.get(client.authorization_url(redirect_uri="http://localhost:5000/other"), timeout=10)

    assert response.status_code == 400
    assert "redirect_uri" in response.text


def test_it_tells_the_app_that_the_person_refused(client: Client) -> None:
    url = client.authorization_url(code_challenge="a" * 43, code_challenge_method="S256")

    answer = query_of(client.provider.sign_in(url, allow=False))

    assert (answer["error"], answer["state"]) == ("access_denied", "state-of-this-browser")


def test_it_answers_as_keap_to_a_live_access_token_only(client: Client) -> None:
    token = client.exchange(client.authorize()).json()["access_token"]

    alive, dead = client.user_info(token), client.user_info("made-up")

    assert alive.headers["x-keap-tenant-id"] == "xy987.infusionsoft.com"
    assert alive.json()["keap_id"] == "ann@example.com"
    assert (dead.status_code, dead.json()["fault"]["faultstring"]) == (401, "Invalid Access Token")


def test_it_rotates_refresh_tokens(client: Client) -> None:
    first = client.exchange(client.authorize()).json()

    second = client.refresh(first["refresh_token"])

    assert second.status_code == 200
    assert second.json()["refresh_token"] != first["refresh_token"]


def test_a_replayed_refresh_token_kills_the_grant(client: Client) -> None:
    first = client.exchange(client.authorize()).json()
    second = client.refresh(first["refresh_token"]).json()

    replayed = client.refresh(first["refresh_token"])
    successor = client.refresh(second["refresh_token"])

    assert (replayed.status_code, replayed.json()["error"]) == (400, "invalid_grant")
    assert (successor.status_code, successor.json()["error"]) == (400, "invalid_grant")
    assert client.user_info(second["access_token"]).status_code == 401


def test_its_log_tells_how_the_client_authenticated_and_holds_no_secret(client: Client) -> None:
    tokens = client.exchange(client.authorize()).json()
    client.refresh(tokens["refresh_token"])

    exchange, refresh = client.provider.log()[-2:]

    assert (exchange["grant_type"], exchange["auth_method"]) == ("authorization_code", "client_secret_post")
    assert (refresh["grant_type"], refresh["auth_method"]) == ("refresh_token", "client_secret_basic")
    for secret in (client.provider.client_secret, tokens["refresh_token"], client.verifier):
        assert secret not in str(client.provider.log())


def test_its_pages_ask_no_other_host_for_anything(client: Client, page: Page) -> None:
    hosts = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))

    page.goto(client.authorization_url(code_challenge="a" * 43, code_challenge_method="S256"))
    page.fill("[name=login]", "ann")
    page.fill("[name=password]", "any")
    page.click("button")
    page.wait_for_selector("[name=prompt][value=consent]", state="attached")

    assert hosts == {urlsplit(client.provider.base_url).netloc}
