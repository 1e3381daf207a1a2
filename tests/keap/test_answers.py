"""What Keap was seen to answer, and what each answer means for the grant."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keap_connect.keap.answers import (
    MOST_RETRY_AFTER_SECONDS,
    Answer,
    GrantType,
    Verdict,
    classify,
    cut,
    no_answer,
    retry_after_seconds,
)

CODE, REFRESH = GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN
GRANTED, REFUSED = Verdict.GRANTED, Verdict.REFUSED_FOR_GOOD
MISCONFIGURED, LATER = Verdict.CLIENT_MISCONFIGURED, Verdict.TRY_LATER
ROTATED, SAFE = True, False  # may Keap have spent what we sent, although we hold nothing new?

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PAIR = {
    "access_token": "A" * 28,
    "token_type": "bearer",
    "expires_in": 86399,
    "refresh_token": "R" * 32,
    "scope": "full|ab123.infusionsoft.com",
}
HTML_400 = (
    "<!DOCTYPE html><html><title>Error 400 (Bad Request)!!1</title>Your client has issued a malformed request.</html>"
)


def keap(error, description=None):
    """Keap's own shape."""
    return {"error": error} | ({"error_description": description} if description else {})


def apigee(error_code, error):
    """The stock shape of the gateway's OAuth policies."""
    return {"ErrorCode": error_code, "Error": error}


def fault(sentence, error_code):
    """The gateway's envelope."""
    return {"fault": {"faultstring": sentence, "detail": {"errorcode": error_code}}}


def judged(grant_type, status, body, retry_after=None):
    content = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return classify(grant_type, Answer(status, content, retry_after), NOW)


DEAD_GRANTS = [
    (400, keap("invalid_grant", "Invalid refresh token")),
    (400, keap("invalid_request", "Invalid Refresh Token")),
    (400, keap("invalid_request", "INVALID REFRESH TOKEN")),
    (400, keap("invalid_request", "refresh_token is expired")),
    (400, keap("invalid_request", "Refresh Token expired")),
    (400, keap("invalid_request", "Refresh token not approved")),
    (400, keap("invalid_request", "The refresh-token was revoked")),
    (400, keap("invalid_grant")),
    (400, keap("Invalid_Grant", "No")),
    (400, keap("invalid_grant", "The refresh token is invalid, expired, revoked, or was issued to another client.")),
    (400, apigee("invalid_request", "Invalid Refresh Token")),
    (400, apigee("invalid_grant", "refresh token expired")),
    (400, fault("Invalid Refresh Token", "keymanagement.service.invalid_refresh_token")),
    (400, fault("Refresh Token expired", "keymanagement.service.refresh_token_expired")),
    (400, fault("Refresh Token not approved", "keymanagement.service.refresh_token_not_approved")),
]
REFUSED_CODES = [
    (400, keap("invalid_grant", "Authorization code is invalid")),
    (400, keap("invalid_request", "Invalid redirect_uri")),
    (400, keap("invalid_request", "response_type or grant_type is required")),
    (400, apigee("invalid_request", "Invalid Authorization Code")),
    (400, apigee("invalid_request", "Required param : redirect_uri")),
    (400, apigee("invalid_request", "Invalid redirect_uri : https://app.example/callback")),
]
NAMING_THE_CLIENT = [
    (400, keap("invalid_client", "Invalid client identifier")),
    (400, keap("invalid_grant", "Invalid client identifier")),
    (400, keap("unauthorized_client")),
    (403, keap("invalid_client", "Invalid client identifier")),
    (401, keap("invalid_client", "Invalid client identifier")),
    (401, keap("invalid_grant", "Unable to authenticate username and password")),
    (401, keap("invalid_grant", "Invalid refresh token")),
    (401, apigee("invalid_client", "Invalid client id : abc. ClientId is Invalid")),
    (401, apigee("invalid_client", "ClientId is Invalid")),
    (401, fault("Client ID is not approved", "keymanagement.service.invalid_client-client_id_not_approved")),
    (401, fault("Invalid access token", "oauth.v2.InvalidAccessToken")),
    (401, fault("Access Token expired", "keymanagement.service.access_token_expired")),
]
# Ours to mend as well, but nothing that is well-formed says that the token was not spent.
BARE_REFUSALS = [
    (401, "Unauthorized"),
    (401, ""),
    (401, HTML_400),
    (403, "<h1>403 Developer Inactive</h1>"),
    (403, "<H1>403 DEVELOPER INACTIVE</H1>"),
]
SLOW_DOWNS = [
    (429, {"code": "429", "message": "Quota Exceeded", "status": "Request Throttled", "details": None}),
    (429, fault("Spike arrest violation. Allowed rate : MessageRate{}", "policies.ratelimit.SpikeArrestViolation")),
    (429, fault("Rate limit quota violation. Identifier : client", "policies.ratelimit.QuotaViolation")),
    (429, keap("invalid_grant", "Invalid refresh token")),
    (429, HTML_400),
    (429, ""),
]
TROUBLES = [
    (500, keap("server_error", "An error occurred")),
    (500, keap("invalid_grant", "Invalid refresh token")),
    (502, "<html>Bad Gateway</html>"),
    (503, "<html>Down for maintenance</html>"),
    (503, keap("invalid_client", "Invalid client identifier")),
    (504, "<html>Gateway Timeout</html>"),
    (504, ""),
    (408, keap("invalid_request", "Invalid Refresh Token")),
    (400, HTML_400),
    (400, ""),
    (400, "Invalid Refresh Token"),
    (403, "<html><h1>403 Forbidden</h1>Please complete the security check.</html>"),
    (404, {"message": "Resource not found"}),
    (302, ""),
    (307, keap("invalid_grant", "Invalid refresh token")),
]
# Neither the grant nor the client is named, so nobody is to blame; a well-formed error means that nothing was spent.
OTHER_ERRORS = [
    (400, keap("invalid_request", "Required param : refresh_token")),
    (400, keap("invalid_request", "response_type or grant_type is required")),
    (400, keap("unsupported_grant_type")),
    (403, keap("access_denied", "Forbidden")),
    (403, keap("invalid_grant", "Invalid refresh token")),
    (403, fault("Forbidden", "policies.raisefault.Forbidden")),
    (404, fault("Unable to identify proxy for host", "messaging.adaptors.http.flow.ApplicationNotFound")),
]
UNUSABLE_GRANTS = [
    (200, "<html>Please sign in.</html>"),
    (200, ""),
    (200, "null"),
    (200, "[]"),
    (200, [PAIR]),
    (200, '"a string"'),
    (200, json.dumps(PAIR)[:-20]),
    (200, b"\xff\xfe\xff"),
    (200, "[" * 100_000),
    (200, '{"expires_in": 1' + "0" * 5_000 + "}"),
    (200, {}),
    (200, keap("server_error", "An error occurred")),
    (200, PAIR | {"error": "server_error"}),
    (200, PAIR | {"access_token": None, "refresh_token": None}),
    (200, PAIR | {"access_token": ""}),
    (200, PAIR | {"access_token": 12345}),
    (200, PAIR | {"access_token": ["a"]}),
    (200, PAIR | {"refresh_token": 12345}),
    (200, PAIR | {"token_type": "mac"}),
    (200, {name: PAIR[name] for name in PAIR if name != "access_token"}),
    (204, ""),
]


def cases(*parts):
    return [pytest.param(*case, *rest, id=f"{case[0]}-{str(case[1])[:60]}") for table, *rest in parts for case in table]


@pytest.mark.proves("F07")
@pytest.mark.parametrize(
    ("status", "body", "verdict", "may_have_rotated"),
    cases(
        (DEAD_GRANTS, REFUSED, SAFE),
        (NAMING_THE_CLIENT, MISCONFIGURED, SAFE),
        (BARE_REFUSALS, MISCONFIGURED, ROTATED),
        (SLOW_DOWNS, LATER, SAFE),
        (TROUBLES, LATER, ROTATED),
        (OTHER_ERRORS, LATER, SAFE),
        (UNUSABLE_GRANTS, LATER, ROTATED),
    ),
)
def test_an_answer_to_a_refresh_means_what_the_table_says(status, body, verdict, may_have_rotated):
    classified = judged(REFRESH, status, body)

    assert (classified.verdict, classified.may_have_rotated) == (verdict, may_have_rotated)
    assert classified.token_response is None
    assert classified.was_sent
    assert classified.reason.endswith(".")


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    cases(
        (DEAD_GRANTS, REFUSED),
        (REFUSED_CODES, REFUSED),
        (NAMING_THE_CLIENT, MISCONFIGURED),
        (BARE_REFUSALS, MISCONFIGURED),
        (SLOW_DOWNS, LATER),
        (TROUBLES, LATER),
        (UNUSABLE_GRANTS, LATER),
    ),
)
def test_an_answer_to_a_code_exchange_means_what_the_table_says(status, body, verdict):
    classified = judged(CODE, status, body)

    assert classified.verdict is verdict
    assert classified.token_response is None


@pytest.mark.parametrize("grant_type", GrantType)
@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize(
    "change", [{}, {"token_type": "BeArEr"}, {"token_type": None}, {"id_token": "x", "endOfLife": 1}, {"error": None}]
)
def test_a_usable_pair_is_granted(grant_type, status, change):
    classified = judged(grant_type, status, PAIR | change)

    assert classified.verdict is GRANTED
    assert classified.token_response.access_token == PAIR["access_token"]
    assert classified.token_response.refresh_token == PAIR["refresh_token"]
    assert classified.token_response.expires_at == NOW + timedelta(seconds=86399)


@settings(deadline=None)
@given(status=st.integers(100, 599), body=st.binary(max_size=300), grant_type=st.sampled_from(GrantType))
def test_no_odd_answer_is_a_grant_or_ends_one(status, body, grant_type):
    classified = judged(grant_type, status, body)

    assert classified.verdict in {LATER, MISCONFIGURED}


odd_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "error_description", "ErrorCode", "Error", "fault", "detail", "errorcode"]), inner
        )
    ),
    max_leaves=10,
)


@settings(deadline=None)
@given(status=st.integers(200, 599), body=odd_json)
def test_any_json_gets_a_verdict_and_one_printable_line(status, body):
    classified = judged(REFRESH, status, body)

    assert classified.reason.isprintable()
    assert len(classified.reason) < 500


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("7", 7),
        (" 120 ", 120),
        ("3600", 3600),
        ("3601", MOST_RETRY_AFTER_SECONDS),
        ("9" * 5000, MOST_RETRY_AFTER_SECONDS),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MOST_RETRY_AFTER_SECONDS),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("١٢", None),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999999999", None),
        ("Mon, 01 Jan 2024 00:00:00 +9999", None),
    ],
)
def test_retry_after_is_read_or_ignored_never_a_crash(value, seconds):
    assert retry_after_seconds(value) == seconds


def test_retry_after_as_a_date_counts_from_now(clock):
    clock.advance(days=-3)
    in_ten_minutes = datetime.now(UTC) - timedelta(days=3) + timedelta(minutes=10)

    assert retry_after_seconds(format_datetime(in_ten_minutes, usegmt=True)) == pytest.approx(600, abs=5)


@settings(deadline=None)
@given(
    st.text(max_size=60) | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,9} \d\d:\d\d:\d\d [+-]?\w{1,30}")
)
def test_no_retry_after_leads_out_of_the_hour(value):
    seconds = retry_after_seconds(value)

    assert seconds is None or 0 <= seconds <= MOST_RETRY_AFTER_SECONDS


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_travels_with_the_classification(status):
    assert judged(REFRESH, status, "", retry_after="42").retry_after_seconds == 42


@pytest.mark.parametrize(("was_sent", "may_have_rotated"), [(True, True), (False, False)])
def test_a_call_without_an_answer_is_outcome_unknown_only_once_it_was_written(was_sent, may_have_rotated):
    classified = no_answer("The line was cut.", was_sent=was_sent)

    assert classified.verdict is LATER
    assert (classified.was_sent, classified.may_have_rotated) == (was_sent, may_have_rotated)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\r\nlines\x00 and\x1b[31m red", "two lines and [31m red"),
        ("\u202eright to left", "right to left"),
        ("lone \ud800 surrogate", "lone surrogate"),
        ("x" * 500, "x" * 199 + "…"),
    ],
)
def test_words_from_outside_become_one_short_printable_line(text, shown):
    assert cut(text) == shown


def test_the_reason_quotes_keap_and_stays_short():
    classified = judged(REFRESH, 400, keap("invalid_request", "Invalid Refresh Token " + "<script>" * 500))

    assert classified.reason.startswith("Keap answered 400 (invalid_request: Invalid Refresh Token")
    assert len(classified.reason) < 300
