"""The call this is all about: a valid token, or a typed answer that says what to do instead."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from flask import Flask
from sqlalchemy import update

from keap_connect.accounts.credentials import fingerprint, open_access_token
from keap_connect.accounts.directory import get_account
from keap_connect.clock import utc_now
from keap_connect.database import write_transaction
from keap_connect.models import Account
from tests.accounts.granted import store_account
from tests.api.fixtures import Program
from tests.conftest import MovedClock
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.sandbox import BEN, Sandbox
from tests.support.visitor import Visitor

TOKEN = "/api/v1/accounts/1/token"


def stored_token(app: Flask, account_id: int = 1) -> str | None:
    with app.app_context():
        return open_access_token(get_account(account_id))


def change(app: Flask, account_id: int = 1, **facts: object) -> None:
    """Set columns of an account."""
    with app.app_context(), write_transaction() as session:
        session.execute(update(Account).where(Account.id == account_id).values(**facts))


def refreshes(sandbox: Sandbox) -> int:
    """Count what was presented to the token endpoint."""
    return sum(call["path"] == "/token" for call in sandbox.ledger()["presentations"])


@pytest.mark.proves("R73", "R74", "R75")
def test_a_token_that_holds_is_handed_out_at_once(app: Flask, program: Program, sandbox: Sandbox, account_id: int):
    sandbox.clear_ledger()
    before = utc_now()
    answer = program.get(TOKEN)
    after = utc_now()
    body = answer.json()

    assert answer.status_code == 200
    assert list(body) == [
        "state", "access_token", "token_type", "expires_in", "expires_at", "tenant_id", "fingerprint",
    ]  # fmt: skip
    assert (body["state"], body["token_type"], body["tenant_id"]) == ("active", "bearer", "ab123")
    assert body["access_token"] == stored_token(app)
    assert body["fingerprint"] == fingerprint(body["access_token"])
    assert 86_000 < body["expires_in"] < 86_400
    answered_at = datetime.fromisoformat(body["expires_at"]) - timedelta(seconds=body["expires_in"])
    assert before <= answered_at <= after + timedelta(seconds=1)  # `expires_in` is whole seconds
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Type"] == "application/json"
    assert refreshes(sandbox) == 0


@pytest.mark.proves("R75")
def test_a_token_that_does_not_last_is_refreshed_first(program: Program, sandbox: Sandbox, clock, account_id: int):
    before = program.get(TOKEN).json()
    clock.advance(hours=23.5)

    unasked = program.get(TOKEN).json()
    asked = program.get(f"{TOKEN}?min_validity=3600").json()

    assert unasked["access_token"] == before["access_token"]
    assert asked["access_token"] != before["access_token"]
    assert asked["expires_in"] > 3600
    assert refreshes(sandbox) == 1


@pytest.mark.proves("R75", "F01")
def test_while_keap_is_down_a_valid_token_is_served_with_a_warning_and_a_longer_one_is_not(
    app: Flask, program: Program, sandbox: Sandbox, account_id: int
):
    sandbox.fault("html_503")
    change(app, access_token_expires_at=utc_now() + timedelta(seconds=40))

    served, refused = program.get(TOKEN), program.get(f"{TOKEN}?min_validity=60")
    change(app, access_token_expires_at=utc_now() - timedelta(seconds=1))
    expired = program.get(TOKEN)

    assert served.status_code == 200
    assert served.json()["warning"]
    for answer in (refused, expired):
        assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.headers["Cache-Control"] == "no-store"


@on_sqlite
@pytest.mark.proves("R75")
@pytest.mark.parametrize("is_up", [True, False])
def test_around_its_expiry_a_token_is_as_good_as_it_is_said_to_be(
    app: Flask, program: Program, sandbox: Sandbox, account_id: int, is_up: bool
):
    if not is_up:
        sandbox.fault("html_503")
    for left in (-86400, -1, 0, 3, 40, 63, 597, 603):
        for wanted in (None, 0, 60, 600):
            change(app, access_token_expires_at=utc_now() + timedelta(seconds=left))
            query = "" if wanted is None else f"?min_validity={wanted}"
            answer = program.get(f"{TOKEN}{query}", headers={"Prefer": "wait=0"})

            must_hold = left > max(wanted or 0, 1)
            assert answer.status_code == (200 if is_up or must_hold else 503), (left, wanted)
            if answer.status_code == 200:
                assert answer.json()["expires_in"] >= (wanted or 0), (left, wanted)
                assert datetime.fromisoformat(answer.json()["expires_at"]) > utc_now()
            else:
                assert "access_token" not in answer.text
                assert int(answer.headers["Retry-After"]) > 0


@on_sqlite
def test_a_dead_grant_serves_its_last_token_and_then_sends_a_person(app: Flask, program: Program, account_id: int):
    change(app, refused_at=utc_now(), failure_reason="Keap said no.")

    last = program.get(TOKEN).json()
    change(app, access_token_expires_at=utc_now() - timedelta(seconds=1))
    dead = program.get(TOKEN)
    program.post("/api/v1/accounts/1/disconnect")
    gone = program.get(TOKEN)

    assert last["state"] == "reconnect_required"
    assert "authorize again" in last["warning"]
    assert (dead.status_code, dead.json()["error"]) == (409, "reconnect_required")
    assert (gone.status_code, gone.json()["error"]) == (409, "disconnected")
    assert dead.json()["reconnect_url"] == gone.json()["reconnect_url"] == f"{program.base_url}/reconnect/1"


@on_sqlite
@pytest.mark.proves("R15")
def test_a_job_sends_the_customer_a_link_that_brings_the_account_back_once(
    app: Flask, program: Program, account_id: int, new_visitor: Callable[[], Visitor]
):
    program.post("/api/v1/accounts/1/disconnect")
    customer, late = new_visitor(), new_visitor()

    made = program.post("/api/v1/accounts/1/reconnect-links")
    path = made.json()["url"].removeprefix(program.base_url)
    customer.connect(action=path, page=path)
    again = late.get(path)

    assert (made.status_code, made.headers["Cache-Control"]) == (201, "no-store")
    assert path.startswith("/r/")
    assert datetime.fromisoformat(made.json()["expires_at"]) - utc_now() > timedelta(days=6)
    assert program.get(TOKEN).json()["state"] == "active"
    assert again.status_code == 404
    events = program.get("/api/v1/events").json()["events"]
    (told,) = (one for one in events if one["kind"] == "reconnect_link_made")
    assert told["actor"].startswith("API key ")


@on_sqlite
def test_a_key_that_does_not_expire_says_so(app: Flask, program: Program, account_id: int):
    change(app, kind="personal_access_token", access_token_expires_at=None)

    body = program.get(TOKEN).json()

    assert (body["expires_in"], body["expires_at"]) == (None, None)


@on_sqlite
def test_an_account_is_found_by_its_external_id(app: Flask, program: Program, sandbox: Sandbox, account_id: int):
    with app.app_context():
        other = store_account(sandbox, tenant_id="cd456", person_id=BEN, external_id="acme:7.a_b-c")

    assert program.get("/api/v1/accounts/external:acme:7.a_b-c/token").json()["access_token"] == stored_token(
        app, other
    )
    for name in (
        "external:nobody",
        "external:",
        "external:a%20b",
        "0",
        "2147483648",
        "9" * 5000,
        "-1",
        "1.0",
        "%D9%A1",
    ):
        answer = program.get(f"/api/v1/accounts/{name}/token")
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found"), name


@on_postgresql
@pytest.mark.proves("R76", "F10")
def test_a_reported_token_is_replaced_once_and_a_stale_report_changes_nothing(
    program: Program, sandbox: Sandbox, account_id: int
):
    refused = program.get(TOKEN).json()

    first = program.post(f"{TOKEN}/rejected", {"fingerprint": refused["fingerprint"]}).json()
    with ThreadPoolExecutor(4) as pool:
        fresh = {one.json()["access_token"] for one in pool.map(lambda _: program.get(TOKEN), range(4))}
    stale = program.post(f"{TOKEN}/rejected", {"fingerprint": refused["fingerprint"]}).json()

    assert (first, stale) == ({"is_current": True}, {"is_current": False})
    assert len(fresh) == 1
    assert fresh != {refused["access_token"]}
    assert program.get(TOKEN).json()["access_token"] in fresh
    assert refreshes(sandbox) == 1


@on_sqlite
@pytest.mark.proves("R76")
def test_a_job_that_reports_every_token_is_stopped(program: Program, sandbox: Sandbox, account_id: int):
    statuses = []
    for _ in range(8):
        name = program.get(TOKEN).json()["fingerprint"]
        statuses.append(program.post(f"{TOKEN}/rejected", {"fingerprint": name}).status_code)

    assert statuses == [200] * 6 + [429] * 2
    assert program.get(TOKEN).status_code == 200


def test_refresh_gets_a_new_pair_whatever_the_age(app: Flask, program: Program, account_id: int):
    before = stored_token(app)

    answer = program.post("/api/v1/accounts/1/refresh")

    assert answer.json()["refreshed_at"] is not None
    assert stored_token(app) != before


@on_sqlite
def test_a_disconnect_and_a_reconnect_are_obeyed_by_the_next_request(
    app: Flask, program: Program, sandbox: Sandbox, new_visitor
):
    visitor = new_visitor()
    visitor.connect()
    before = program.get(TOKEN).json()["access_token"]
    program.post("/api/v1/accounts/1/disconnect")
    gone = program.get(TOKEN).status_code
    visitor.connect()

    assert gone == 409
    assert program.get(TOKEN).json()["access_token"] == stored_token(app) != before


@on_sqlite
@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [(None, 10), ("wait=3", 3), ("respond-async, WAIT = 0; x", 0), ("wait=25", 25), ("wait=600", 25), ("await=3", 10)],
)
def test_a_program_says_how_long_it_will_wait(
    program: Program, account_id: int, monkeypatch: pytest.MonkeyPatch, prefer: str | None, seconds: int
):
    waited = []
    monkeypatch.setattr("keap_connect.api.tokens.refresh_account", lambda *given: waited.append(given[2]))

    program.post("/api/v1/accounts/1/refresh", headers={"Prefer": prefer} if prefer else {})

    assert waited == [seconds]


@on_sqlite
@pytest.mark.proves("F28", "R27")
def test_who_will_not_wait_for_a_refresh_under_way_is_told_at_once(
    program: Program, sandbox: Sandbox, clock: MovedClock, account_id: int
):
    clock.advance(hours=24)
    sandbox.hold("token")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(program.get, TOKEN)
        sandbox.wait_held(1)
        impatient = program.get(TOKEN, headers={"Prefer": "wait=0"})
        sandbox.release()

    assert (impatient.status_code, impatient.json()["error"]) == (503, "temporarily_unavailable")
    assert first.result().status_code == 200


@on_sqlite
def test_the_account_counts_as_in_use(app: Flask, program: Program, account_id: int):
    program.get(TOKEN)

    with app.app_context():
        account = get_account(account_id)
    assert account.last_used_at is not None
    assert account.next_refresh_at < account.access_token_expires_at


@on_sqlite
@pytest.mark.proves("F103")
def test_a_stored_token_that_does_not_open_is_no_reason_to_try_again(
    app: Flask, program: Program, account_id: int, caplog: pytest.LogCaptureFixture
):
    sealed = bytearray(get_sealed(app))
    sealed[-1] ^= 1
    change(app, access_token_sealed=bytes(sealed))
    caplog.clear()

    answer = program.get(TOKEN)

    assert (answer.status_code, answer.json()["error"], answer.json()["is_retryable"]) == (409, "unreadable", False)
    (line,) = [record for record in caplog.records if "SealBroken" in record.getMessage()]
    assert (TOKEN in line.getMessage(), line.exc_info) == (True, None)
    assert program.get(TOKEN).status_code == 409
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("The token of account 1 cannot be used: account:1:access_token does not open")


def get_sealed(app: Flask) -> bytes:
    with app.app_context():
        return get_account(1).access_token_sealed or b""
