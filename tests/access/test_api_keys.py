"""API keys: shown once, stored as a hash, refused alike, revoked at once in every process."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from sqlalchemy import select

from keap_connect.access import api_keys
from keap_connect.access.api_keys import issue_api_key, list_api_keys, revoke_api_key, verify_api_key
from keap_connect.clock import utc_now
from keap_connect.database import read_session
from keap_connect.errors import APIKeyNotFound, APIKeyRefused, FormRefused, InsufficientScope
from keap_connect.models import AccountEvent, APIKey
from tests.accounts.granted import store_account
from tests.conftest import MovedClock
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.sandbox import Sandbox

BOTH = ["accounts:read", "tokens:read"]


@pytest.fixture(autouse=True)
def inside_the_app(app: Flask) -> Iterator[None]:
    with app.app_context():
        yield


def last_used(key_id: int) -> object:
    with read_session() as session:
        return session.scalar(select(APIKey.last_used_at).where(APIKey.id == key_id))


@pytest.mark.proves("R49", "R72")
def test_a_key_says_who_it_is_and_what_it_may_do(sandbox: Sandbox):
    account_id = store_account(sandbox)
    issued = issue_api_key("nightly sync", BOTH, "ann", account_ids=[account_id])

    key = verify_api_key(issued.text)

    assert re.fullmatch(r"kc_[0-9a-f]{16}_[0-9a-f]{56}", issued.text)
    assert (key.name, key.actor) == ("nightly sync", "API key 1 (nightly sync)")
    assert key.may_see(account_id)
    assert not key.may_see(account_id + 1)
    key.require("tokens:read")
    with pytest.raises(InsufficientScope) as refusal:
        key.require("accounts:write")
    assert refusal.value.scope == "accounts:write"


@pytest.mark.proves("R49")
def test_the_database_holds_no_usable_key():
    issued = issue_api_key("job", BOTH, "ann")
    secret = issued.text.rpartition("_")[2]

    with read_session() as session:
        stored = " ".join(str(value) for value in session.execute(select(APIKey.__table__)).one())
        told = " ".join(str(one.details) for one in session.scalars(select(AccountEvent)))

    assert issued.row.public_id in stored
    for part in (issued.text, secret, secret[:24], secret[24:48]):
        assert part not in stored + told + repr(issued)
    assert len({issue_api_key("job", BOTH, "x").text[3:19] for _ in range(20)}) == 20


@on_postgresql
@pytest.mark.proves("R49", "R71")
def test_malformed_unknown_revoked_and_expired_keys_are_refused_alike(clock: MovedClock):
    revoked, expiring = issue_api_key("a", BOTH, "x"), issue_api_key("b", BOTH, "x", utc_now() + timedelta(hours=1))
    good = issue_api_key("c", BOTH, "x")
    assert verify_api_key(expiring.text).name == "b"
    revoke_api_key(revoked.row.id, "x")
    clock.advance(hours=1)
    swapped = good.text[:19] + expiring.text[19:]
    last = "0" if good.text[-1] != "0" else "1"
    other = api_keys._new_text(good.row.public_id)  # the right public id, a right checksum, another secret

    said = set()
    for text in (revoked.text, expiring.text, swapped, other, good.text[:-1] + last, good.text.upper(), "", "kc_", "é"):
        with pytest.raises(APIKeyRefused) as refusal:
            verify_api_key(text)
        said.add(str(refusal.value))
    assert said == {"The API key is not valid."}
    assert verify_api_key(good.text).id == good.row.id


@on_postgresql
@pytest.mark.proves("R49", "F64")
def test_a_wrong_secret_is_compared_in_constant_time_also_when_there_is_no_such_key(monkeypatch: pytest.MonkeyPatch):
    issued = issue_api_key("job", BOTH, "x")
    compared = []
    monkeypatch.setattr(api_keys.hmac, "compare_digest", lambda *both: compared.append(both) or False)

    for text in (issued.text, api_keys._new_text("0" * 16)):
        with pytest.raises(APIKeyRefused):
            verify_api_key(text)

    assert len(compared) == 2
    assert compared[1][1] == api_keys.DUMMY_HASH


@pytest.mark.proves("R72")
def test_use_is_noted_once_an_hour(clock: MovedClock):
    issued = issue_api_key("job", BOTH, "x")
    assert last_used(issued.row.id) is None

    seen = []
    for minutes in (0, 59, 2):
        clock.advance(minutes=minutes)
        verify_api_key(issued.text)
        seen.append(last_used(issued.row.id))

    assert seen[0] == seen[1]
    assert seen[2] - seen[0] > timedelta(minutes=60)


@pytest.mark.proves("R72")
@on_sqlite
def test_a_key_revoked_by_one_process_is_refused_by_the_next_request_of_another(new_app: Callable[[], Flask]):
    issued = issue_api_key("job", BOTH, "x")
    with new_app().app_context():
        verify_api_key(issued.text)
    revoke_api_key(issued.row.id, "ann")

    with new_app().app_context(), pytest.raises(APIKeyRefused):
        verify_api_key(issued.text)


@pytest.mark.proves("R88")
@on_sqlite
def test_issue_and_revocation_stand_in_the_history_once():
    issued = issue_api_key("job", BOTH, "ann")
    revoke_api_key(issued.row.id, "ann")
    revoke_api_key(issued.row.id, "ann")

    with read_session() as session:
        kinds = list(session.scalars(select(AccountEvent.kind)))

    assert kinds == ["api_key_issued", "api_key_revoked"]
    assert [(one.is_usable, one.name) for one in list_api_keys()] == [(False, "job")]


@on_sqlite
@pytest.mark.parametrize(
    "wrong",
    [
        {"name": " "},
        {"name": "x" * 81},
        {"name": "two\nlines"},
        {"scopes": []},
        {"scopes": ["accounts:read", "everything"]},
        {"account_ids": []},
        {"account_ids": [7]},
        {"account_ids": [2**31]},
        {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)},
    ],
    ids=str,
)
def test_a_key_that_will_not_do_is_not_made(wrong: dict[str, object]):
    with pytest.raises(FormRefused):
        issue_api_key(**{"name": "job", "scopes": BOTH, "actor": "x", **wrong})

    assert list_api_keys() == []


@on_sqlite
@pytest.mark.parametrize("key_id", [1, 2**31])
def test_a_key_that_is_not_there_cannot_be_revoked(key_id: int):
    with pytest.raises(APIKeyNotFound):
        revoke_api_key(key_id, "x")
