"""The state of an account, its cause and the moment of its next change follow from the facts in its row."""

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from keap_connect.accounts.search import MOST_URGENT_FIRST
from keap_connect.accounts.state import (
    NEXT_STEPS,
    AccountState,
    Cause,
    Ours,
    is_outcome_unknown,
    next_step_of,
    reasons_of,
    standing_of,
    state_of,
)
from keap_connect.models import Account, CredentialKind
from keap_connect.settings import ROOT

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR, DAY, TICK = timedelta(hours=1), timedelta(days=1), timedelta(microseconds=1)
ACTIVE, AT_RISK = AccountState.ACTIVE, AccountState.AT_RISK
RECONNECT_REQUIRED, DISCONNECTED = AccountState.RECONNECT_REQUIRED, AccountState.DISCONNECTED

HEALTHY = {
    "kind": CredentialKind.OAUTH,
    "failures": 0,
    "refusals": 0,
    "refresh_token_issued_at": NOW - DAY,
    "access_token_expires_at": NOW + HOUR,
    "next_refresh_at": NOW + HOUR,
    "client_id": "c",
    "token_url": "t",
}
OURS = Ours("c", "t")
ENDED = {"access_token_expires_at": NOW - HOUR}
LATE = timedelta(minutes=10)


def account(**facts):
    return Account(**HEALTHY | facts)


STATES = [
    ({}, ACTIVE),
    ({"kind": CredentialKind.SERVICE_ACCOUNT_KEY, "access_token_expires_at": None}, ACTIVE),
    ({"kind": CredentialKind.ACCESS_TOKEN_ONLY, "refresh_token_issued_at": None}, ACTIVE),
    ({"failures": 2, "failed_at": NOW}, ACTIVE),
    ({"failures": 3, "failed_at": NOW}, AT_RISK),
    ({"attempted_at": NOW}, ACTIVE),
    ({"attempted_at": NOW - timedelta(seconds=60) + TICK}, ACTIVE),
    ({"attempted_at": NOW - timedelta(seconds=60)}, AT_RISK),
    ({"outcome_unknown_since": NOW}, AT_RISK),
    ({"outcome_unknown_since": NOW, "attempted_at": NOW}, AT_RISK),
    ({"access_token_expires_at": NOW + TICK}, ACTIVE),
    ({"access_token_expires_at": NOW}, ACTIVE),
    ({**ENDED, "next_refresh_at": NOW + DAY}, ACTIVE),
    ({**ENDED, "next_refresh_at": NOW - LATE + TICK}, ACTIVE),
    ({**ENDED, "next_refresh_at": NOW - LATE}, AT_RISK),
    ({**ENDED, "failures": 1, "failed_at": NOW - LATE}, AT_RISK),
    ({"client_id": "another"}, AT_RISK),
    ({"token_url": "another"}, AT_RISK),
    ({"client_id": "another", "kind": CredentialKind.PERSONAL_ACCESS_TOKEN}, ACTIVE),
    ({"refresh_token_issued_at": NOW - 35 * DAY + TICK}, ACTIVE),
    ({"refresh_token_issued_at": NOW - 35 * DAY}, AT_RISK),
    ({"refresh_token_issued_at": NOW - 45 * DAY + TICK}, AT_RISK),
    ({"refresh_token_issued_at": NOW - 45 * DAY}, RECONNECT_REQUIRED),
    ({"refused_at": NOW}, RECONNECT_REQUIRED),
    ({"refused_at": NOW, "outcome_unknown_since": NOW, "failures": 9}, RECONNECT_REQUIRED),
    ({"kind": CredentialKind.ACCESS_TOKEN_ONLY, "access_token_expires_at": NOW}, RECONNECT_REQUIRED),
    ({"kind": CredentialKind.SERVICE_ACCOUNT_KEY, "access_token_expires_at": NOW}, RECONNECT_REQUIRED),
    ({"kind": CredentialKind.PERSONAL_ACCESS_TOKEN, "access_token_expires_at": NOW}, RECONNECT_REQUIRED),
    ({"disconnected_at": NOW}, DISCONNECTED),
    ({"disconnected_at": NOW, "refused_at": NOW, "outcome_unknown_since": NOW}, DISCONNECTED),
]


@pytest.mark.parametrize(("facts", "state"), STATES)
def test_the_state_follows_from_the_facts(facts, state):
    assert state_of(account(**facts), NOW, OURS) is state


def test_the_state_stays_until_the_moment_at_which_it_is_said_to_change():
    facts = {
        "kind": [CredentialKind.OAUTH, CredentialKind.ACCESS_TOKEN_ONLY],
        "refresh_token_issued_at": [None, NOW - DAY, NOW - 35 * DAY + TICK, NOW - 45 * DAY + HOUR],
        "access_token_expires_at": [None, NOW - HOUR, NOW + TICK, NOW + DAY],
        "next_refresh_at": [None, NOW - LATE + TICK, NOW + HOUR],
        "failures": [0, 2],
        "failed_at": [NOW - LATE, NOW],
        "attempted_at": [None, NOW, NOW - timedelta(seconds=30), NOW - timedelta(seconds=61)],
    }
    for mixture in product(*facts.values()):
        one = account(**dict(zip(facts, mixture, strict=True)))
        now = standing_of(one, NOW, OURS)
        moments = sorted(
            {
                NOW + TICK,
                NOW + timedelta(seconds=30),
                NOW + LATE,
                NOW + HOUR,
                NOW + HOUR + LATE,
                NOW + DAY,
                NOW + 50 * DAY,
            }
        )
        for moment in moments:
            if now.changes_at is None or moment < now.changes_at:
                then = standing_of(one, moment, OURS)
                assert (then.state, then.cause) == (now.state, now.cause), (mixture, moment)
        assert now.changes_at is None or now.changes_at > NOW


@pytest.mark.parametrize(
    ("facts", "cause"),
    [
        ({"failures": 3, "failed_at": NOW}, Cause.REFRESHES_FAIL),
        ({"outcome_unknown_since": NOW}, Cause.OUTCOME_UNKNOWN),
        ({**ENDED, "next_refresh_at": NOW - LATE}, Cause.OVERDUE),
        ({"client_id": "another", "failures": 3}, Cause.OTHER_REGISTRATION),
        ({"refresh_token_issued_at": NOW - 35 * DAY}, Cause.UNUSED),
        ({"refresh_token_issued_at": NOW - 45 * DAY}, Cause.AGED_OUT),
        ({"refused_at": NOW}, Cause.REFUSED),
        ({"refused_at": NOW, "outcome_unknown_since": NOW}, Cause.ANSWER_LOST),
        ({"kind": CredentialKind.ACCESS_TOKEN_ONLY, "access_token_expires_at": NOW}, Cause.TOKEN_EXPIRED),
        ({"kind": CredentialKind.SERVICE_ACCOUNT_KEY, "access_token_expires_at": NOW}, Cause.KEY_REFUSED),
        ({"disconnected_at": NOW}, None),
        ({}, None),
    ],
)
def test_each_cause_follows_from_its_facts(facts, cause):
    assert standing_of(account(**facts), NOW, OURS).cause is cause


@pytest.mark.parametrize(("facts", "state"), STATES)
def test_whatever_is_not_active_says_why_and_what_to_do(facts, state):
    reasons = reasons_of(account(**facts), NOW, OURS)

    assert bool(reasons) is (state is not ACTIVE)
    assert all(reason.endswith(".") for reason in reasons)
    assert NEXT_STEPS[state].endswith(".")


def test_a_refusal_that_is_to_be_confirmed_is_said_to_be_tried_once_more():
    step = next_step_of(account(refusals=1, tenant_id="ab123", keap_user_id="1"), ACTIVE, OURS)

    assert "tried again in a minute" in step
    assert "Nothing to do:" in next_step_of(account(refusals=0, tenant_id="ab123", keap_user_id="1"), ACTIVE, OURS)


def test_every_state_has_a_next_step():
    assert set(NEXT_STEPS) == set(AccountState)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"failures": 4, "failure_reason": "Keap answered 503."}, "The last 4 refreshes failed. Keap answered 503."),
        ({"outcome_unknown_since": NOW}, "no usable answer came. Keap may have replaced the token; it is tried again."),
        ({**ENDED, "next_refresh_at": NOW - DAY}, "The access token has expired and was not refreshed yet."),
        ({"client_id": "another"}, "It was connected with another client id or token URL"),
        (
            {"refresh_token_issued_at": NOW - 36 * DAY},
            "Fewer than 10 of the 45 days of an unused refresh token are left.",
        ),
        ({"refresh_token_issued_at": NOW - 46 * DAY}, "The grant aged out"),
        ({"refused_at": NOW, "failure_reason": "Invalid."}, "Keap refused the refresh token for good. Invalid."),
        (
            {"refused_at": NOW, "outcome_unknown_since": NOW},
            "Our own last attempt with it was at 2026-11-23 12:00:00 UTC",
        ),
        ({"disconnected_at": NOW}, "It was disconnected on request."),
        (
            {"kind": CredentialKind.ACCESS_TOKEN_ONLY, "access_token_expires_at": NOW},
            "The access token has expired, and there is no refresh token.",
        ),
        (
            {"kind": CredentialKind.SERVICE_ACCOUNT_KEY, "access_token_expires_at": NOW},
            "A job reported that Keap refuses the Service Account Key.",
        ),
    ],
)
def test_the_reason_is_told_in_a_plain_sentence(facts, words):
    assert words in " ".join(reasons_of(account(**facts), NOW, OURS))


def test_what_cannot_be_refreshed_gets_one_reason_and_steps_of_its_own():
    known = {"tenant_id": "ab123", "keap_user_id": "1", "refresh_token_issued_at": None}
    for kind in set(CredentialKind) - {CredentialKind.OAUTH}:
        ended = account(kind=kind, access_token_expires_at=NOW, **known)

        assert len(reasons_of(ended, NOW, OURS)) == 1
        assert "mport another" in next_step_of(ended, RECONNECT_REQUIRED, OURS)
        assert "kept alive" not in next_step_of(account(kind=kind, **known), ACTIVE, OURS)
        assert next_step_of(ended, DISCONNECTED, OURS) == NEXT_STEPS[DISCONNECTED]


def test_the_outcome_of_an_attempt_under_way_is_not_unknown_yet():
    assert not is_outcome_unknown(account(attempted_at=NOW - timedelta(seconds=30)), NOW)
    assert is_outcome_unknown(account(attempted_at=NOW - timedelta(seconds=61)), NOW)


@pytest.mark.parametrize("state", AccountState)
def test_a_state_is_its_own_word(state):
    assert str(state) == state.value == state.name.lower()


def test_the_list_has_a_place_for_each_state():
    assert sorted(MOST_URGENT_FIRST) == sorted(AccountState)


@pytest.mark.parametrize(
    ("place", "form"),
    [
        ("templates/macros/ui.html", '"{}": "'),
        ("templates/connect/your_accounts.html", '"{}": '),
        ("static/css/components.css", ".badge-{},"),
    ],
)
def test_each_state_has_words_for_admins_and_customers_and_a_badge(place: str, form: str):
    text = (ROOT / place).read_text(encoding="utf-8")

    assert [state for state in AccountState if form.format(state) not in text] == []
