"""`POST /token` answers as Keap does: fields, forms and errors (RFC 6749 sections 4.1.3, 5 and 6)."""

import re

import pytest

from tests.sandbox.client import Client
from tests.support.sandbox import CLIENT_ID, CLIENT_SECRET, Sandbox, basic, new_browser


def assert_is_token_response(body: dict[str, object], tenant_id: str = "ab123") -> None:
    assert list(body) == ["access_token", "token_type", "expires_in", "refresh_token", "scope"]
    assert re.fullmatch(r"[A-Za-z0-9]{28}", str(body["access_token"]))
    assert re.fullmatch(r"[A-Za-z0-9]{32}", str(body["refresh_token"]))
    assert (body["token_type"], body["expires_in"]) == ("bearer", 86399)
    assert body["scope"] == f"full|{tenant_id}.infusionsoft.com"


def test_code_is_exchanged_for_a_pair_in_keaps_form(client: Client):
    answer = client.exchange(client.consent(tenant="cd456")["code"])

    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert_is_token_response(answer.json(), "cd456")


def test_exchange_accepts_basic_and_both_at_once(client: Client):
    form = {"grant_type": "authorization_code", "redirect_uri": "http://localhost:5999/callback"}

    only_basic = client.token(form | {"code": client.consent()["code"]}, with_basic=True)
    both = form | {"code": client.consent()["code"], "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}

    assert only_basic.status_code == 200
    assert client.token(both, with_basic=True).status_code == 200


def test_refresh_answers_with_the_same_form(client: Client, pair: dict[str, str]):
    answer = client.refresh(pair["refresh_token"])

    assert answer.status_code == 200
    assert_is_token_response(answer.json())


def test_refresh_accepts_credentials_in_the_body_only_behind_the_switch(
    client: Client, sandbox: Sandbox, pair: dict[str, str]
):
    form = {"grant_type": "refresh_token", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}

    accepted = client.token(form | {"refresh_token": pair["refresh_token"]})
    sandbox.switch(body_credentials_on_refresh=False)
    refused = client.token(form | {"refresh_token": accepted.json()["refresh_token"]})

    assert accepted.status_code == 200
    assert refused.status_code == 401
    assert client.refresh(accepted.json()["refresh_token"]).status_code == 200


def test_json_body_is_refused_with_keaps_words(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    body = {"grant_type": "refresh_token", "refresh_token": pair["refresh_token"]}

    with new_browser() as browser:
        url = f"{sandbox.url}/token"
        answer = browser.post(url, json=body, headers={"Authorization": basic()}, timeout=10)

    assert answer.status_code == 400
    assert answer.json() == {"error": "invalid_request", "error_description": "response_type or grant_type is required"}


GOOD_CODE = "the code that was just issued"
ERRORS = [
    ({"grant_type": None}, 400, "invalid_request", "response_type or grant_type is required"),
    ({"grant_type": "client_credentials"}, 400, "unsupported_grant_type", None),
    ({"code": "wrong123"}, 400, "invalid_grant", "Authorization code is invalid"),
    ({"code": None}, 400, "invalid_request", "Missing code parameter."),
    ({"redirect_uri": "https://example.com/"}, 400, "invalid_request", "Invalid redirect_uri"),
    ({"redirect_uri": None}, 400, "invalid_request", "Required param : redirect_uri"),
    ({"client_secret": "wrong"}, 401, "invalid_client", "Invalid client identifier"),
    ({"client_id": "unknown"}, 401, "invalid_client", "Invalid client identifier"),
]


@pytest.mark.parametrize(("changes", "status", "error", "description"), ERRORS)
def test_exchange_error(client: Client, changes: dict[str, str], status: int, error: str, description: str | None):
    answer = client.exchange(**({"code": client.consent()["code"]} | changes))

    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert answer.json().get("error_description") == description


def test_refused_exchange_does_not_spend_the_code(client: Client):
    code = client.consent()["code"]

    client.exchange(code, client_secret="wrong")

    assert client.exchange(code).status_code == 200


def test_code_is_bound_to_the_client_that_asked(client: Client, sandbox: Sandbox):
    sandbox.add_app("other", "othersecret")

    answer = client.exchange(client.consent()["code"], client_id="other", client_secret="othersecret")

    assert answer.json()["error_description"] == "Authorization code is invalid"


def test_refresh_token_is_bound_to_the_client_that_got_it(client: Client, sandbox: Sandbox):
    sandbox.add_app("other", "othersecret")
    other = sandbox.grant(client_id="other")[0]

    assert client.refresh(other["refresh_token"]).status_code == 400


@pytest.mark.parametrize(
    ("wording", "body"),
    [
        ("invalid_request", {"error": "invalid_request", "error_description": "Invalid Refresh Token"}),
        ("invalid_grant", {"error": "invalid_grant", "error_description": "Invalid refresh token"}),
    ],
)
def test_dead_refresh_token_is_refused_in_the_chosen_wording(
    client: Client, sandbox: Sandbox, wording: str, body: dict[str, str]
):
    sandbox.switch(refresh_wording=wording)

    answer = client.refresh("nobodyhasthis")

    assert (answer.status_code, answer.json()) == (400, body)


def test_access_token_is_no_refresh_token(client: Client, pair: dict[str, str]):
    assert client.refresh(pair["access_token"]).status_code == 400


def test_disabled_app_gets_neither_grant(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    code = client.consent()["code"]
    sandbox.switch(app_disabled=True)

    assert client.exchange(code).json()["error"] == "invalid_client"
    assert client.refresh(pair["refresh_token"]).status_code == 401


def test_parameters_in_the_query_string_are_refused(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    form = {"grant_type": "refresh_token", "refresh_token": pair["refresh_token"]}

    with new_browser() as browser:
        url = f"{sandbox.url}/token"
        answer = browser.post(f"{url}?x=|", form, headers={"Authorization": basic()}, timeout=10)

    assert answer.status_code == 400
    assert client.refresh(pair["refresh_token"]).status_code == 200
