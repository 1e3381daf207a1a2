"""The fast path gives the same answers as the operation, and leaves all that is not a token at hand to it."""

import json
from collections.abc import Callable
from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from keap_connect.access.api_keys import revoke_api_key
from keap_connect.accounts.changes import disconnect
from keap_connect.api import fast_path, tokens
from keap_connect.clock import utc_now
from keap_connect.database import db, write_transaction
from keap_connect.models import Account, APIKey
from tests.accounts.granted import store_account
from tests.api.fixtures import NewProgram, Program
from tests.support.engines import on_sqlite
from tests.support.sandbox import BEN, Sandbox

PATH = "/api/v1/accounts/1/token"
LATELY = utc_now() - timedelta(hours=1)


@pytest.fixture
def asked_slowly(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give the accounts that the operation itself was asked for."""
    seen: list[int] = []
    real = tokens.valid_token
    monkeypatch.setattr(
        tokens, "valid_token", lambda account_id, *rest: seen.append(account_id) or real(account_id, *rest)
    )
    return seen


def set_columns(app: Flask, table: type, **values: object) -> None:
    with app.app_context(), write_transaction() as session:
        session.execute(update(table).values(**values))


# Name: (what is asked for, the facts of the account)
SERVED = {
    "active": (PATH, {}),
    "with a validity": (f"{PATH}?min_validity=3600", {}),
    "by its external id": ("/api/v1/accounts/external:acme/token", {}),
    "a dead grant": (PATH, {"refused_at": LATELY}),
    "an aged grant": (PATH, {"refresh_token_issued_at": LATELY - timedelta(days=46)}),
    "an attempt of unknown outcome": (PATH, {"attempted_at": LATELY, "outcome_unknown_since": LATELY}),
    "failed refreshes": (PATH, {"failures": 3, "failed_at": LATELY, "failure_reason": "Keap was silent."}),
    "only an access token": (PATH, {"kind": "access_token_only", "refresh_token_sealed": None}),
    "a key": (PATH, {"kind": "personal_access_token", "access_token_expires_at": None}),
}


@pytest.mark.parametrize("case", SERVED)
def test_both_ways_give_the_same_answer(
    app: Flask, program: Program, account_id: int, asked_slowly: list[int], case: str
):
    path, facts = SERVED[case]
    set_columns(app, Account, external_id="acme", last_used_at=None, **facts)
    slow = program.get(path)  # notes that key and account are in use
    fast = program.get(path)

    assert asked_slowly == [account_id]
    assert (fast.status_code, fast.headers) == (slow.status_code, {**slow.headers, **length_of(fast)})
    assert {**fast.json(), "expires_in": 0} == {**slow.json(), "expires_in": 0}
    assert (fast.json()["expires_in"] is None) == (slow.json()["expires_in"] is None)
    assert list(fast.json()) == list(slow.json())
    lines = app.extensions["keap_connect"].settings.audit_log.read_text().splitlines()
    assert [json.loads(line)["actor"] for line in lines] == ["API key 1 (job)"] * 2


def length_of(answer) -> dict[str, str]:
    """Return the one header that the seconds which pass may change."""
    return {"Content-Length": answer.headers["Content-Length"]}


HOUR = timedelta(hours=1)
NOT_PLAIN = {
    "a revoked key": (lambda app: revoke_api_key(1, "x"), 401),
    "an expired key": (lambda app: set_columns(app, APIKey, expires_at=utc_now() - HOUR), 401),
    "another scope": (lambda app: set_columns(app, APIKey, scopes="accounts:read accounts:write"), 403),
    "another account": (lambda app: set_columns(app, APIKey, account_ids=[2]), 404),
    "no account": (lambda app: set_columns(app, APIKey, account_ids=[]), 404),
    "a key not used lately": (lambda app: set_columns(app, APIKey, last_used_at=utc_now() - 2 * HOUR), 200),
    "a disconnect": (lambda app: disconnect(1, "x"), 409),
    "an expired token": (lambda app: set_columns(app, Account, access_token_expires_at=utc_now() - HOUR), 200),
    "a seal that does not open": (lambda app: set_columns(app, Account, access_token_sealed=b"x" * 60), 409),
    "an API key in the query": (lambda app: None, 401, "?min_validity=1&api_key=x"),
    "an unknown parameter": (lambda app: None, 400, "?x=1"),
    "too long a validity": (lambda app: None, 400, "?min_validity=3601"),
    "a parameter twice": (lambda app: None, 400, "?min_validity=1&min_validity=2"),
    "an account not asked for lately": (lambda app: set_columns(app, Account, last_used_at=utc_now() - 2 * HOUR), 200),
}


# Each on one database; those where a row changes that the statement of the fast path joins, on both.
ON_BOTH = ("a revoked key", "another account", "a disconnect", "an expired token")


@pytest.mark.proves("R72", "R75")
@pytest.mark.parametrize(
    ("database_url", "case"),
    [("sqlite", case) for case in NOT_PLAIN] + [("postgresql", case) for case in ON_BOTH],
    indirect=["database_url"],
)
def test_what_is_not_plain_is_seen_by_the_next_call(
    app: Flask, program: Program, account_id: int, monkeypatch: pytest.MonkeyPatch, case: str
):
    assert [program.get(PATH).status_code for _ in range(2)] == [200, 200]
    change, status, query = (*NOT_PLAIN[case], "")[:3]
    handed: list[bytes | None] = []
    real = fast_path.TokenFastPath._answer
    monkeypatch.setattr(fast_path.TokenFastPath, "_answer", lambda *given: handed.append(real(*given)) or handed[-1])

    with app.app_context():
        change(app)
    answer = program.get(PATH + query)

    assert handed == [None]
    assert answer.status_code == status


def test_the_list_of_a_key_is_read_on_both_databases(
    app: Flask, new_program: NewProgram, sandbox: Sandbox, account_id: int, asked_slowly: list[int]
):
    with app.app_context():
        other = store_account(sandbox, tenant_id="cd456", person_id=BEN)
    program = new_program("tokens:read", account_ids=[other])

    statuses = [program.get(f"/api/v1/accounts/{each}/token").status_code for each in (other, other, account_id)]

    assert statuses == [200, 200, 404]
    assert asked_slowly == [other]


def fail(error: Exception) -> Callable[..., None]:
    """Return a function that fails as a database or a disk does."""

    def failing(*_: object) -> None:
        raise error

    return failing


@on_sqlite
def test_a_database_that_does_not_answer_is_left_to_the_operation(
    app: Flask, program: Program, account_id: int, asked_slowly: list[int], monkeypatch: pytest.MonkeyPatch
):
    program.get(PATH)
    with app.app_context():
        db.engine.dispose()  # also closes the connections of the fast path
    monkeypatch.setattr(
        "keap_connect.plain_reads.PlainReads._connect", fail(OperationalError("It is down.", None, OSError()))
    )

    assert program.get(PATH).status_code == 200
    assert len(asked_slowly) == 2


@pytest.mark.proves("R79")
@on_sqlite
def test_no_token_leaves_by_the_fast_path_unrecorded(
    program: Program, account_id: int, monkeypatch: pytest.MonkeyPatch
):
    program.get(PATH)
    monkeypatch.setattr("keap_connect.events.hand_outs.os.write", fail(OSError(28, "No space left on device")))

    answer = program.get(PATH)

    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
