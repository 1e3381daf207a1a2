"""Every fault once: what the client sees, and whether the token was spent."""

import json
import re
from pathlib import Path

import pytest
import requests

from tests.sandbox.client import Client, error_code, last_outcome, query_of, state_of
from tests.support.sandbox import Sandbox, new_browser

ERROR_ANSWERS = {
    "html_503": (503, "<html"),
    "json_500": (500, '"server_error"'),
    "gateway_504": (504, "<html"),
    "html_400": (400, "malformed or illegal request"),
    "html_403": (403, "<html"),
    "bot_filter_403": (403, "security check"),
    "developer_inactive_403": (403, "<h1>403 Developer Inactive</h1>"),
    "unauthorized_401_plain": (401, "Unauthorized"),
    "unable_to_authenticate_401": (401, "Unable to authenticate username and password"),
    "invalid_client_401": (401, "Invalid client identifier"),
    "client_id_not_approved_fault": (401, "client_id_not_approved"),
    "rate_limited_quota_429": (429, '"Quota Exceeded"'),
    "rate_limited_spike_429": (429, "policies.ratelimit.SpikeArrestViolation"),
    "rate_limited_fault_429": (429, "policies.ratelimit.QuotaViolation"),
    "refused_although_valid": (400, "Invalid Refresh Token"),
    "status": (503, ""),
}


@pytest.mark.parametrize("name", ERROR_ANSWERS)
def test_error_answer_spends_nothing(client: Client, sandbox: Sandbox, pair: dict[str, str], name: str):
    status, words = ERROR_ANSWERS[name]
    sandbox.fault(name, first=1)

    answer = client.refresh(pair["refresh_token"])

    assert answer.status_code == status
    assert words in answer.text
    assert last_outcome(sandbox) == (f"fault:{name}", status)
    assert client.refresh(pair["refresh_token"]).status_code == 200


def test_status_takes_body_headers_and_retry_after(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    sandbox.fault(
        "status", status=418, body="tea", content_type="text/plain", headers={"X-Pot": "round"}, retry_after=7
    )

    answer = client.refresh(pair["refresh_token"])

    assert (answer.status_code, answer.text) == (418, "tea")
    assert (answer.headers["X-Pot"], answer.headers["Retry-After"]) == ("round", "7")


def test_gateway_504_after_rotation_has_spent_the_token(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    sandbox.fault("gateway_504_after_rotation")

    assert client.refresh(pair["refresh_token"]).status_code == 504
    assert state_of(sandbox) == "used"


def without(*names: str) -> object:
    return lambda body: isinstance(body, dict) and not set(names) & set(body) and "token_type" in body


BODY_FAULTS = {
    "ok_list": lambda body: isinstance(body, list) and "access_token" in body[0],
    "ok_error_field": lambda body: set(body) == {"error", "error_description"},
    "ok_null_tokens": lambda body: body["access_token"] is None and body["refresh_token"] is None,
    "missing_access_token": without("access_token"),
    "missing_refresh_token": without("refresh_token"),
    "missing_scope": without("scope"),
    "other_tenant_in_scope": lambda body: body["scope"] == "full|zz999.infusionsoft.com",
    "odd_expires_in": without("expires_in"),
    "long_tokens": lambda body: len(body["access_token"]) == len(body["refresh_token"]) == 8192,
    "wrong_token_type": lambda body: body["token_type"] == "mac",
}


@pytest.mark.parametrize("name", BODY_FAULTS)
@pytest.mark.parametrize("rotate", [True, False])
def test_wrong_body_comes_with_200_and_rotates_as_told(
    client: Client, sandbox: Sandbox, pair: dict[str, str], name: str, rotate: bool
):
    sandbox.fault(name, rotate=rotate)

    answer = client.refresh(pair["refresh_token"])

    assert answer.status_code == 200
    assert BODY_FAULTS[name](json.loads(answer.text))
    assert state_of(sandbox) == ("used" if rotate else "live")


@pytest.mark.parametrize("value", ["86399", 0, -1, 10**12, None, [1], 1.5])
def test_expires_in_can_be_any_json_value(client: Client, sandbox: Sandbox, pair: dict[str, str], value: object):
    sandbox.fault("odd_expires_in", value=value)

    assert client.refresh(pair["refresh_token"]).json()["expires_in"] == value


@pytest.mark.parametrize("unicode", [False, True])
def test_long_tokens_work(client: Client, sandbox: Sandbox, pair: dict[str, str], unicode: bool):
    sandbox.fault("long_tokens", first=1, unicode=unicode)
    long = client.refresh(pair["refresh_token"]).json()

    assert long["refresh_token"].isascii() is not unicode
    assert client.refresh(long["refresh_token"]).status_code == 200


def test_ok_html_and_ok_empty(client: Client, sandbox: Sandbox):
    first, second = sandbox.grant(count=2)
    sandbox.fault("ok_html", calls=[1])
    sandbox.fault("ok_empty", calls=[2])

    html, empty = client.refresh(first["refresh_token"]), client.refresh(second["refresh_token"])

    assert html.headers["Content-Type"].startswith("text/html")
    assert (html.status_code, empty.status_code, empty.text) == (200, 200, "")


def test_ok_wrong_charset_cannot_be_decoded_as_it_says(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    sandbox.fault("ok_wrong_charset")

    answer = client.refresh(pair["refresh_token"])

    assert "access_token" not in answer.text
    assert "access_token" in json.loads(answer.content)


def test_truncated_body_is_shorter_than_its_length(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    sandbox.fault("ok_truncated")

    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        client.refresh(pair["refresh_token"])
    assert state_of(sandbox) == "used"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_leads_where_it_is_told_or_in_a_circle(
    client: Client, sandbox: Sandbox, pair: dict[str, str], status: int
):
    sandbox.fault("redirect", calls=[1], status=status, location="https://elsewhere.example.com/token")
    sandbox.fault("redirect", calls=[2], status=status)

    elsewhere, circle = client.refresh(pair["refresh_token"]), client.refresh(pair["refresh_token"])

    assert (elsewhere.status_code, elsewhere.headers["Location"]) == (status, "https://elsewhere.example.com/token")
    assert circle.headers["Location"] == f"{sandbox.url}/token"


# The REST API


def test_tenant_header_can_differ_or_be_missing(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    sandbox.fault("tenant_header_differs", "api", calls=[1], tenant_id="qq111")
    sandbox.fault("missing_tenant_header", "api", calls=[2])

    first, second = client.api(pair["access_token"]), client.api(pair["access_token"])

    assert first.headers["x-keap-tenant-id"] == "qq111.infusionsoft.com"
    assert "x-keap-tenant-id" not in second.headers


def test_missing_tenant_id_in_user_info(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    sandbox.fault("missing_tenant_id", "userinfo")

    assert "tenant_id" not in client.api(pair["access_token"]).json()


def test_good_access_token_can_be_refused_once(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    sandbox.fault("refused_although_valid", "api", first=1)

    assert error_code(client.api(pair["access_token"])) == "keymanagement.service.invalid_access_token"
    assert client.api(pair["access_token"]).status_code == 200


# The way back to the client

CALLBACKS = {
    "denied_after_allow": {"error", "error_description", "error_uri", "state"},
    "callback_without_state": {"code", "scope"},
    "callback_empty_state": {"code", "scope", "state"},
    "callback_without_code": {"scope", "state"},
    "callback_server_error": {"error", "error_description", "error_uri", "state"},
    "callback_duplicate_params": {"code", "scope", "state"},
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_callback_fault(client: Client, sandbox: Sandbox, name: str):
    sandbox.fault(name, "authorize")

    callback = sandbox.consent(client.authorization_url())

    query = query_of(callback)
    assert set(query) == CALLBACKS[name]
    assert callback.count("state=") == {"callback_without_state": 0, "callback_duplicate_params": 2}.get(name, 1)
    assert query.get("state") == {"callback_without_state": None, "callback_empty_state": ""}.get(name, "s-1")
    assert query.get("error") == {"denied_after_allow": "access_denied", "callback_server_error": "server_error"}.get(
        name
    )


def test_never_calls_back_lands_in_account_central(client: Client, sandbox: Sandbox):
    sandbox.fault("never_calls_back", "authorize")

    assert sandbox.consent(client.authorization_url()) == "/app/central/home"


def test_page_faults_reach_the_decision(client: Client, sandbox: Sandbox):
    sandbox.fault("html_503", "authorize")

    with sandbox.signed_in() as browser:
        decision = {"tenant_id": "ab123", "decision": "allow"}
        answer = browser.post(client.authorization_url(), decision, allow_redirects=False, timeout=10)

    assert answer.status_code == 503


# Whose turn it is


@pytest.mark.parametrize(
    ("schedule", "hit"),
    [({"calls": [1, 3]}, [1, 3]), ({"first": 2}, [1, 2]), ({"every": 2}, [2, 4]), ({}, [1, 2, 3, 4])],
)
def test_schedule_chooses_the_calls(client: Client, sandbox: Sandbox, schedule: dict[str, object], hit: list[int]):
    sandbox.fault("json_500", **schedule)

    statuses = [client.refresh("unknown").status_code for _ in range(4)]

    assert [number for number, status in enumerate(statuses, 1) if status == 500] == hit


def test_token_means_both_grants_and_refresh_only_one(client: Client, sandbox: Sandbox):
    number = sandbox.fault("json_500", "refresh")
    assert client.exchange("unknown").status_code == 400
    assert client.refresh("unknown").status_code == 500

    sandbox.control("DELETE", f"/faults/{number}")
    sandbox.fault("json_500", "token")

    assert client.exchange("unknown").status_code == 500
    assert client.refresh("unknown").status_code == 500


def test_faults_add_up(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    sandbox.fault("missing_scope")
    sandbox.fault("wrong_token_type")

    body = client.refresh(pair["refresh_token"]).json()

    assert "scope" not in body
    assert body["token_type"] == "mac"
    assert last_outcome(sandbox)[0] == "fault:missing_scope+wrong_token_type"


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"endpoint": "nowhere", "fault": "html_503"}, "endpoint"),
        ({"endpoint": "token", "fault": "unheard_of"}, "fault"),
        ({"endpoint": "api", "fault": "missing_scope"}, "not for api"),
        ({"endpoint": "token", "fault": "slow", "secnods": 5}, "secnods"),
        ({"endpoint": "token", "fault": "slow", "seconds": "5"}, "wrong type"),
        ({"endpoint": "token", "fault": "slow", "first": 0}, "from 1"),
        ({"endpoint": "token", "fault": "slow", "first": 1, "every": 2}, "one of"),
    ],
)
def test_impossible_fault_is_refused_with_a_reason(sandbox: Sandbox, body: dict[str, object], word: str):
    with pytest.raises(ValueError, match=word):
        sandbox.control("POST", "/faults", body)


def test_faults_are_listed_and_removed(sandbox: Sandbox):
    number = sandbox.fault("slow", "api", seconds=2, every=3)
    assert sandbox.control("GET", "/faults") == [
        {"id": number, "endpoint": "api", "fault": "slow", "every": 3, "seconds": 2, "calls_seen": 0}
    ]

    sandbox.control("DELETE", f"/faults/{number}")
    sandbox.fault("html_503")
    sandbox.clear_faults()

    assert sandbox.state()["faults"] == []


def test_every_fault_has_a_test_here(sandbox: Sandbox):
    with new_browser() as browser:
        page = browser.get(f"{sandbox.url}/sandbox", timeout=10).text
    choice = re.search(r'<select name="fault">.*?</select>', page, re.DOTALL)
    offered = set(re.findall(r'value="(\w+)"', choice[0]))

    source = "".join(file.read_text() for file in Path(__file__).parent.glob("test_faults*.py"))
    assert len(offered) > 45
    assert {name for name in offered if f'"{name}"' not in source} == set()
