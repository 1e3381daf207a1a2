"""A granted pair is read once and for all: odd lifetimes, odd tokens, odd scopes."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keap_connect.keap.token_response import (
    DEFAULT_EXPIRES_IN_SECONDS,
    MOST_EXPIRES_IN_SECONDS,
    TokenResponse,
    expires_in_seconds,
    normalize_tenant_id,
)

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
A_WEEK = timedelta(days=7)

any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def body(**changes):
    return {
        "access_token": "the-access-token",
        "token_type": "bearer",
        "expires_in": 86399,
        "refresh_token": "the-refresh-token",
        "scope": "full|ab123.infusionsoft.com",
    } | changes


def granted(**changes):
    return TokenResponse.from_body(body(**changes), NOW)


@pytest.mark.proves("R22", "F12")
@settings(deadline=None, max_examples=500)
@given(any_json | st.integers().map(str) | st.floats().map(str))
@example(10**12)
@example(10**400)
@example("1" * 5000)
@example(-1)
@example(float("nan"))
@example(float("inf"))
def test_no_expires_in_crashes_or_ends_in_the_past_or_beyond_a_week(value):
    expires_at = granted(expires_in=value).expires_at

    assert NOW < expires_at <= NOW + A_WEEK


@pytest.mark.proves("R22", "F12")
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (86399, 86399),
        (86399.9, 86399),
        ("86399", 86399),
        (" 86399 ", 86399),
        ("8.6399e4", 86399),
        (1, 1),
        (10**12, MOST_EXPIRES_IN_SECONDS),
        ("1e400", MOST_EXPIRES_IN_SECONDS),
        (float("inf"), MOST_EXPIRES_IN_SECONDS),
        (10**400, DEFAULT_EXPIRES_IN_SECONDS),
        (None, DEFAULT_EXPIRES_IN_SECONDS),
        (0, DEFAULT_EXPIRES_IN_SECONDS),
        (0.5, DEFAULT_EXPIRES_IN_SECONDS),
        (-86399, DEFAULT_EXPIRES_IN_SECONDS),
        (float("-inf"), DEFAULT_EXPIRES_IN_SECONDS),
        (float("nan"), DEFAULT_EXPIRES_IN_SECONDS),
        ("", DEFAULT_EXPIRES_IN_SECONDS),
        ("a day", DEFAULT_EXPIRES_IN_SECONDS),
        (True, DEFAULT_EXPIRES_IN_SECONDS),
        ([86399], DEFAULT_EXPIRES_IN_SECONDS),
        ({"seconds": 86399}, DEFAULT_EXPIRES_IN_SECONDS),
    ],
)
def test_expires_in_is_read_or_falls_back_to_an_hour(value, seconds):
    assert expires_in_seconds(value) == seconds


def test_a_missing_expires_in_means_an_hour():
    without = {name: value for name, value in body().items() if name != "expires_in"}

    assert TokenResponse.from_body(without, NOW).expires_at == NOW + timedelta(hours=1)


@pytest.mark.parametrize("value", ["bearer", "Bearer", "BEARER", "bEaReR"])
def test_bearer_is_accepted_in_any_case(value):
    assert granted(token_type=value)


@pytest.mark.parametrize("value", ["mac", "DPoP", "bearer ", 1, ["bearer"]])
def test_any_other_token_type_is_no_grant(value):
    assert granted(token_type=value) is None


@pytest.mark.proves("R101", "F84")
@pytest.mark.parametrize("without", [{"token_type": None}, {"token_type": ""}, {}])
def test_a_grant_that_names_no_token_type_is_one_all_the_same(without):
    answer = {name: value for name, value in body().items() if name != "token_type"} | without

    assert TokenResponse.from_body(answer, NOW).access_token == "the-access-token"


tokens = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@settings(deadline=None)
@given(access_token=tokens, refresh_token=tokens)
@example("a" * 8192, "r" * 8192)
@example("é漢🔑" * 100, "\x00 \r\n")
def test_tokens_come_through_unchanged(access_token, refresh_token):
    over_the_wire = json.loads(json.dumps(body(access_token=access_token, refresh_token=refresh_token)))

    found = TokenResponse.from_body(over_the_wire, NOW)

    assert (found.access_token, found.refresh_token) == (access_token, refresh_token)


@pytest.mark.parametrize("value", [None, "", 12345, True, ["a"], {"a": "b"}, "lone \ud800 surrogate"])
def test_an_access_token_that_is_none_is_no_grant(value):
    assert granted(access_token=value) is None


@pytest.mark.parametrize("value", [12345, True, ["a"], {"a": "b"}, "lone \ud800 surrogate"])
def test_a_refresh_token_of_a_wrong_kind_is_no_grant(value):
    assert granted(refresh_token=value) is None


@pytest.mark.parametrize("without", [{"refresh_token": None}, {"refresh_token": ""}, {}])
def test_a_grant_without_refresh_token_is_one_all_the_same(without):
    answer = {name: value for name, value in body().items() if name != "refresh_token"} | without

    assert TokenResponse.from_body(answer, NOW).refresh_token is None


@pytest.mark.parametrize("value", ["server_error", {"code": 1}, 1, True])
def test_an_error_beside_tokens_is_no_grant(value):
    assert granted(error=value) is None


@pytest.mark.parametrize(
    ("scope", "tenant_id"),
    [
        ("full|ab123.infusionsoft.com", "ab123"),
        ("full|AB123.Infusionsoft.COM", "ab123"),
        ("full|ab123.keap.com", "ab123"),
        ("full|ab123", "ab123"),
        ("full| ab123.infusionsoft.com ", "ab123"),
        ("|ab123.infusionsoft.com", "ab123"),
        ("full", None),
        ("full|", None),
        ("ab123.infusionsoft.com", None),
        ("full|ab123|cd456", None),
        ("full|ab123.infusionsoft.com cd456.infusionsoft.com", None),
        ("full|../../etc", None),
        ("full|<script>", None),
        ("full|" + "a" * 64, None),
        ("full|ab123.evil.example", None),
        ("", None),
        (None, None),
        (["full|ab123.infusionsoft.com"], None),
    ],
)
def test_the_tenant_is_read_from_the_scope_or_not_at_all(scope, tenant_id):
    assert granted(scope=scope).tenant_id == tenant_id


@settings(deadline=None)
@given(any_json)
def test_no_scope_crashes_or_yields_an_odd_tenant(scope):
    tenant_id = granted(scope=scope).tenant_id

    assert tenant_id is None or (tenant_id.isascii() and tenant_id.replace("-", "").isalnum())


@pytest.mark.parametrize("scope", ["full\x00|ab123.infusionsoft.com", "full\ud800|ab123.infusionsoft.com"])
def test_a_scope_that_no_database_can_hold_costs_no_grant(scope):
    found = granted(scope=scope)

    assert found.tenant_id == "ab123"
    assert found.scope.encode().isascii()
    assert "\x00" not in found.scope


@pytest.mark.parametrize(
    "value", [None, 1, True, ["ab123"], "", " ", "-ab", "a b", "ab_123", "ab123.infusionsoft.com."]
)
def test_what_is_no_tenant_id_is_none(value):
    assert normalize_tenant_id(value) is None


def test_its_repr_shows_no_token():
    shown = repr(granted()) + str(granted())

    assert "the-access-token" not in shown
    assert "the-refresh-token" not in shown
    assert "ab123" in shown
