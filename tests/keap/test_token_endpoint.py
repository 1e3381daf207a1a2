"""Exchanging and refreshing against the sandbox, under every fault it can play at the token endpoint."""

import json
from datetime import timedelta
from functools import partial
from urllib.parse import parse_qs, urlsplit

import pytest

from keap_connect.clock import utc_now
from keap_connect.keap import transport
from keap_connect.keap.answers import Verdict
from keap_connect.keap.authorization import new_authorization_request
from keap_connect.keap.token_endpoint import exchange_code, refresh
from keap_connect.sandbox.fault_library import FAULTS
from keap_connect.settings import KeapSettings
from tests.support.sandbox import CLIENT_ID, CLIENT_SECRET

GRANTED, REFUSED = Verdict.GRANTED, Verdict.REFUSED_FOR_GOOD
MISCONFIGURED, LATER = Verdict.CLIENT_MISCONFIGURED, Verdict.TRY_LATER
ROTATED, SAFE = True, False

# What each fault of the sandbox means, and whether Keap may have spent what we sent.
OUTCOMES = {
    "html_503": (LATER, ROTATED),
    "json_500": (LATER, ROTATED),
    "gateway_504": (LATER, ROTATED),
    "gateway_504_after_rotation": (LATER, ROTATED),
    "html_400": (LATER, ROTATED),
    "html_403": (LATER, ROTATED),
    "bot_filter_403": (LATER, ROTATED),
    "status": (LATER, ROTATED),
    "redirect": (LATER, ROTATED),
    "developer_inactive_403": (MISCONFIGURED, ROTATED),
    "unauthorized_401_plain": (MISCONFIGURED, ROTATED),
    "unable_to_authenticate_401": (MISCONFIGURED, SAFE),
    "invalid_client_401": (MISCONFIGURED, SAFE),
    "client_id_not_approved_fault": (MISCONFIGURED, SAFE),
    "rate_limited_quota_429": (LATER, SAFE),
    "rate_limited_spike_429": (LATER, SAFE),
    "rate_limited_fault_429": (LATER, SAFE),
    "refused_although_valid": (REFUSED, SAFE),
    "ok_html": (LATER, ROTATED),
    "ok_empty": (LATER, ROTATED),
    "ok_truncated": (LATER, ROTATED),
    "ok_list": (LATER, ROTATED),
    "ok_error_field": (LATER, ROTATED),
    "ok_null_tokens": (LATER, ROTATED),
    "ok_wrong_charset": (GRANTED, SAFE),
    "missing_access_token": (LATER, ROTATED),
    "missing_refresh_token": (GRANTED, SAFE),
    "missing_scope": (GRANTED, SAFE),
    "other_tenant_in_scope": (GRANTED, SAFE),
    "odd_expires_in": (GRANTED, SAFE),
    "long_tokens": (GRANTED, SAFE),
    "wrong_token_type": (LATER, ROTATED),
    "framing": (GRANTED, SAFE),
    "late_refusal": (GRANTED, SAFE),
    "slow": (LATER, ROTATED),
    "hang": (LATER, ROTATED),
    "reset_before": (LATER, ROTATED),
    "reset_after": (LATER, ROTATED),
    "lost_answer": (LATER, ROTATED),
    "drip_headers": (LATER, ROTATED),
    "drip_body": (LATER, ROTATED),
    "huge_body": (LATER, ROTATED),
    "endless_body": (LATER, ROTATED),
}

UNTIL_THE_DEADLINE = {"slow", "hang", "drip_headers", "drip_body", "endless_body"}


@pytest.fixture
def keap(sandbox):
    return keap_at(sandbox.url, CLIENT_ID, CLIENT_SECRET)


def keap_at(url, client_id, client_secret, **changes):
    return KeapSettings(
        client_id=client_id,
        client_secret=client_secret,
        authorize_url=f"{url}/app/oauth/authorize",
        token_url=f"{url}/token",
        api_url=f"{url}/crm/rest",
        redirect_uri="http://localhost:5000/callback",
        **changes,
    )


def code_in(callback_url):
    return parse_qs(urlsplit(callback_url).query)["code"][0]


@pytest.fixture
def ask(request, sandbox, keap):
    """Give the function that presents a good code or a good refresh token."""
    if request.param == "exchange":
        code = code_in(sandbox.consent(new_authorization_request(keap).url))
        return partial(exchange_code, keap, code)
    return partial(refresh, keap, sandbox.grant()[0]["refresh_token"])


both_grants = pytest.mark.parametrize("ask", ["exchange", "refresh"], indirect=True)


def test_the_table_knows_every_fault_of_the_token_endpoint():
    assert {name for name, fault in FAULTS.items() if "token" in fault.endpoints} == set(OUTCOMES)


@both_grants
@pytest.mark.parametrize("name", OUTCOMES)
def test_each_fault_of_the_token_endpoint_is_judged(sandbox, ask, monkeypatch, name):
    if name in UNTIL_THE_DEADLINE:
        monkeypatch.setattr(transport, "DEADLINE_SECONDS", 0.6)
    sandbox.fault(name)

    classified = ask()

    assert (classified.verdict, classified.may_have_rotated) == OUTCOMES[name], classified.reason
    assert classified.was_sent
    assert (classified.token_response is not None) is (classified.verdict is GRANTED)
    assert sandbox.ledger()["totals"]["token_calls"] == 1


@both_grants
def test_a_good_answer_is_granted(sandbox, ask):
    before = utc_now()

    classified = ask()
    after = utc_now()

    assert classified.verdict is GRANTED
    granted = classified.token_response
    assert (len(granted.access_token), len(granted.refresh_token)) == (28, 32)
    assert (granted.scope, granted.tenant_id) == ("full|ab123.infusionsoft.com", "ab123")
    assert before <= granted.expires_at - timedelta(seconds=86399) <= after


def test_a_token_lives_from_the_moment_it_was_asked_for(sandbox, keap):
    sandbox.switch(token_delay_seconds=1)
    before = utc_now()

    granted = refresh(keap, sandbox.grant()[0]["refresh_token"]).token_response

    assert granted.expires_at - before < timedelta(seconds=86399.9)


@pytest.mark.parametrize("wording", ["invalid_request", "invalid_grant"])
def test_a_used_refresh_token_is_refused_for_good_in_either_wording(sandbox, keap, wording):
    sandbox.switch(refresh_wording=wording)
    refresh_token = sandbox.grant()[0]["refresh_token"]
    refresh(keap, refresh_token)

    assert refresh(keap, refresh_token).verdict is REFUSED


def test_a_used_code_is_refused_for_good(sandbox, keap):
    code = code_in(sandbox.consent(new_authorization_request(keap).url))
    exchange_code(keap, code)

    assert exchange_code(keap, code).verdict is REFUSED


@pytest.mark.parametrize("present", [exchange_code, refresh])
def test_a_wrong_client_secret_is_our_own_trouble(sandbox, present):
    keap = keap_at(sandbox.url, CLIENT_ID, "another-secret")

    assert present(keap, sandbox.grant()[0]["refresh_token"]).verdict is MISCONFIGURED


def test_refreshing_authenticates_by_basic_alone(sandbox, keap):
    sandbox.switch(body_credentials_on_refresh=False)

    assert refresh(keap, sandbox.grant()[0]["refresh_token"]).verdict is GRANTED


@both_grants
def test_retry_after_of_a_busy_keap_is_told(sandbox, ask):
    sandbox.fault("rate_limited_quota_429", retry_after="77")

    assert ask().retry_after_seconds == 77


@pytest.mark.parametrize("unicode", [False, True])
@both_grants
def test_tokens_of_8_kilobytes_come_through_unchanged_and_work(sandbox, keap, ask, unicode):
    sandbox.fault("long_tokens", first=1, unicode=unicode)

    granted = ask().token_response

    assert (len(granted.access_token), len(granted.refresh_token)) == (8192, 8192)
    assert refresh(keap, granted.refresh_token).verdict is GRANTED


@pytest.mark.parametrize("status", [400, 403, 500])
def test_a_refusal_that_echoes_our_secrets_is_scrubbed(sandbox, keap, status):
    presented = ["the-presented-code", CLIENT_SECRET, "the-code-verifier"]
    body = json.dumps({"error": "invalid_request", "error_description": " ".join(presented)})
    sandbox.fault("status", status=status, body=body)

    exchanged = exchange_code(keap, "the-presented-code", "the-code-verifier")
    refreshed = refresh(keap, "the-presented-code")

    assert not [secret for secret in presented if secret in repr(exchanged)]
    assert not [secret for secret in presented[:2] if secret in repr(refreshed)]


@pytest.mark.proves("R18")
def test_an_independent_server_accepts_a_secret_of_odd_signs_in_body_and_header(oidc_provider):
    server = oidc_provider
    keap = keap_at(server.base_url, server.client_id, server.client_secret, uses_pkce=True)
    request = new_authorization_request(keap)
    code = code_in(server.sign_in(request.url))

    exchanged = exchange_code(keap, code, request.code_verifier)
    refreshed = refresh(keap, exchanged.token_response.refresh_token)

    assert refreshed.verdict is GRANTED
    assert refreshed.token_response.refresh_token != exchanged.token_response.refresh_token


@pytest.mark.proves("R04")
@pytest.mark.parametrize("verifier", [None, "a-wrong-verifier-" + "x" * 40])
def test_an_independent_server_refuses_a_wrong_verifier(oidc_provider, verifier):
    server = oidc_provider
    keap = keap_at(server.base_url, server.client_id, server.client_secret, uses_pkce=True)
    code = code_in(server.sign_in(new_authorization_request(keap).url))

    assert exchange_code(keap, code, verifier).verdict is REFUSED
