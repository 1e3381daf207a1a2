"""Who gets in: the key in its header and nothing else, by scope, by account, and not too often."""

import logging
import re
from datetime import timedelta

import pytest
import requests
from flask import Flask
from limits import RateLimitItemPerMinute

from keap_connect.access import rate_limits
from keap_connect.access.api_keys import _new_text, issue_api_key, list_api_keys, revoke_api_key
from keap_connect.accounts.credentials import open_refresh_token
from keap_connect.accounts.directory import get_account
from keap_connect.api.operations import OPERATIONS
from keap_connect.clock import utc_now
from keap_connect.connect.endings import Ending
from keap_connect.connect.invitations import NewInvitation, make_invitation
from keap_connect.database import write_transaction
from keap_connect.events.history import EventKind, record
from keap_connect.notifications.endpoints import add_endpoint, send_test
from tests.accounts.granted import store_account
from tests.api.fixtures import NewProgram, Program
from tests.conftest import MovedClock
from tests.support.engines import on_sqlite
from tests.support.sandbox import BEN, Sandbox
from tests.support.visitor import Visitor
from tests.web.direct import send

pytestmark = on_sqlite

FINGERPRINT = {"fingerprint": "0" * 16}
IMPORT = {"access_token": "unknown"}
# operation -> method, path below /api/v1, body, scope, what it answers to a key that may
INVENTORY = {
    "api.list_accounts": ("GET", "/accounts", None, "accounts:read", 200),
    "api.show_account": ("GET", "/accounts/{account}", None, "accounts:read", 200),
    "api.list_events": ("GET", "/events", None, "accounts:read", 200),
    "api.update_account": ("PATCH", "/accounts/{account}", {"label": "x"}, "accounts:write", 200),
    "api.create_reconnect_link": ("POST", "/accounts/{account}/reconnect-links", None, "accounts:write", 201),
    "api.import_account": ("POST", "/accounts", IMPORT, "accounts:write", 409),
    "api.refresh": ("POST", "/accounts/{account}/refresh", None, "accounts:write", 200),
    "api.get_token": ("GET", "/accounts/{account}/token", None, "tokens:read", 200),
    "api.report_token": ("POST", "/accounts/{account}/token/rejected", FINGERPRINT, "tokens:read", 200),
    "api.list_webhooks": ("GET", "/webhooks", None, "webhooks:read", 200),
    "api.add_webhook": ("POST", "/webhooks", {"url": "https://example.com/"}, "webhooks:write", 201),
    "api.update_webhook": ("PATCH", "/webhooks/1", {"name": "x"}, "webhooks:write", 200),
    "api.test_webhook": ("POST", "/webhooks/1/test", None, "webhooks:write", 202),
    "api.list_deliveries": ("GET", "/webhooks/1/deliveries", None, "webhooks:read", 200),
    "api.redeliver": ("POST", "/webhooks/1/deliveries/1/redeliver", None, "webhooks:write", 202),
    "api.remove_webhook": ("DELETE", "/webhooks/1", None, "webhooks:write", 200),
    "api.list_invitations": ("GET", "/invitations", None, "accounts:read", 200),
    "api.create_invitation": ("POST", "/invitations", {"label": "x"}, "accounts:write", 201),
    "api.show_invitation": ("GET", "/invitations/1", None, "accounts:read", 200),
    "api.resend_invitation": ("POST", "/invitations/1/resend", None, "accounts:write", 200),
    "api.confirm_invitation": ("POST", "/invitations/1/confirm", None, "accounts:write", 409),
    "api.decline_invitation": ("POST", "/invitations/1/decline", None, "accounts:write", 409),
    "api.withdraw_invitation": ("DELETE", "/invitations/1", None, "accounts:write", 200),
    "api.disconnect": ("POST", "/accounts/{account}/disconnect", None, "accounts:write", 200),
}
ABOUT_ONE = [name for name, (_, path, *_) in INVENTORY.items() if "{account}" in path]


def told(answer: requests.Response) -> dict[str, object]:
    """Return what an error says, but for the id that each request has of its own."""
    return {name: value for name, value in answer.json().items() if name != "request_id"}


def ask(program: Program, name: str, account: object = 1, **options: object):
    """Call an operation."""
    method, path, body, *_ = INVENTORY[name]
    return program.call(method, "/api/v1" + path.format(account=account), json=body, **options)


def add_webhook(app: Flask) -> None:
    """Add webhook 1, with delivery 1."""
    with app.app_context():
        add_endpoint("https://example.com/", None, None, "x")
        send_test(1)


def test_every_operation_declares_its_scope_and_stands_in_the_inventory(app: Flask):
    routes = {rule.endpoint for rule in app.url_map.iter_rules() if rule.rule.startswith("/api/")}

    assert {name: declared.scope for name, declared in OPERATIONS.items()} == {n: r[3] for n, r in INVENTORY.items()}
    assert routes == {*INVENTORY, "api.openapi", "api.reference", "api.reference_of_group"}


def test_an_operation_that_declares_nothing_is_open_to_nobody(app: Flask, program: Program, monkeypatch):
    monkeypatch.delitem(OPERATIONS, "api.list_accounts")

    assert program.get("/api/v1/accounts").status_code == 403


@pytest.mark.proves("R57", "R71", "R72")
@pytest.mark.parametrize("scope", ["accounts:read", "accounts:write", "tokens:read", "webhooks:read", "webhooks:write"])
def test_a_key_may_do_what_its_scope_says_and_nothing_else(
    app: Flask, new_program: NewProgram, account_id: int, scope: str
):
    add_webhook(app)
    with app.app_context():
        make_invitation(NewInvitation(), "x")
    program = new_program(scope)

    answers = {name: ask(program, name) for name in INVENTORY}

    expected = {name: status if needed == scope else 403 for name, (*_, needed, status) in INVENTORY.items()}
    assert {name: answer.status_code for name, answer in answers.items()} == expected
    for name, answer in answers.items():
        if answer.status_code == 403:
            assert answer.json()["error"] == "insufficient_scope"
            assert f'error="insufficient_scope", scope="{INVENTORY[name][3]}"' in answer.headers["WWW-Authenticate"]


@pytest.mark.proves("R73", "R74")
def test_no_answer_holds_a_refresh_token_or_our_own_secrets_and_none_is_kept(
    app: Flask, program: Program, account_id: int
):
    add_webhook(app)
    secrets = {app.extensions["keap_connect"].settings.keap.client_secret}
    answers = []
    for name in ["api.get_token", "api.refresh", *INVENTORY]:
        with app.app_context():
            secrets.add(open_refresh_token(get_account(account_id)) or "none")
        answers.append(ask(program, name))
    kept = [answer.headers["Cache-Control"] for answer in answers if answer.headers["Cache-Control"] != "no-store"]
    answers += [program.get(path) for path in ("/api/openapi.json", "/api/docs", "/api/docs/tokens", "/metrics")]

    told = "".join(answer.text for answer in answers)
    assert len(secrets) >= 4
    assert [secret for secret in secrets if secret in told] == []
    assert kept == []


@pytest.mark.proves("R72", "R106", "F67")
def test_a_foreign_account_looks_like_a_missing_one(
    app: Flask, new_program: NewProgram, sandbox: Sandbox, account_id: int
):
    with app.app_context():
        mine = store_account(sandbox, tenant_id="cd456", person_id=BEN, external_id="mine")
    program = new_program(account_ids=[mine])

    for name in ABOUT_ONE:
        foreign, missing = ask(program, name, account_id), ask(program, name, 999)
        assert (foreign.status_code, told(foreign)) == (missing.status_code, told(missing)) == (404, told(missing))
        assert foreign.headers == missing.headers
    assert [one["id"] for one in program.get("/api/v1/accounts").json()["accounts"]] == [mine]
    ask(program, "api.update_account", "external:mine")
    ask(new_program(), "api.update_account", account_id)
    assert {one["account_id"] for one in program.get("/api/v1/events").json()["events"]} == {mine}
    of_all = [name for name, (_, path, *_) in INVENTORY.items() if "webhook" in path or "invitation" in path]
    assert {ask(program, name).status_code for name in of_all} == {403}
    refused = ask(program, "api.import_account")
    assert refused.status_code == 403
    assert refused.json()["error_description"] == "This API key is only for some accounts, so it cannot import."
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="Keap Connect", error="insufficient_scope"'


@pytest.mark.proves("R106")
def test_events_of_an_account_say_nothing_of_those_that_the_key_may_not_see(
    app: Flask, new_program: NewProgram, account_id: int
):
    says = {
        EventKind.OTHER_TENANT_CHOSEN: {"tenant_id": "zz999"},
        EventKind.OTHER_TENANT_ANSWERED: {"tenant_id": "zz999"},
        EventKind.OTHER_PERSON_UPDATED: {"person": "Zoe"},
        EventKind.MOVED_HERE: {"from_account": 999},
        EventKind.MOVED_AWAY: {"to_account": 999},
        EventKind.EXTERNAL_ID_NOT_SET: {"holder": "account 999 has it", "external_id": "own", "invitation": 1},
        EventKind.DETAILS_FILLED_IN: {"tenant_id": "ab123", "person": "Ann"},
        EventKind.NEWER_STAYED: {"from_account": account_id},
        EventKind.RECONNECT_FAILED: {
            "ending": Ending.TENANT_CONFLICT,
            "reason": "Keap names two different accounts. Keap named two accounts for one grant: ab123 and zz999.",
        },
    }
    with app.app_context(), write_transaction() as session:
        for kind, details in says.items():
            record(session, kind, account_id, "system", **details)

    def sentences(**restriction: list[int]) -> str:
        events = new_program(**restriction).get("/api/v1/events?limit=200").json()["events"]
        return " ".join(one["sentence"] for one in events if one["kind"] in set(says))

    restricted, free = sentences(account_ids=[account_id]), sentences()
    assert re.findall("999|Zoe", restricted) == []
    assert "gives the external id own, which was not set: another account has it." in restricted
    assert "details: ab123, Ann." in restricted
    assert f"stored as account {account_id} before" in restricted
    assert "did not succeed. Keap names two different accounts." in restricted
    assert len(re.findall("999|Zoe", free)) == 8


@pytest.mark.proves("R106")
def test_a_taken_external_id_does_not_say_whose_it_is(
    app: Flask, new_program: NewProgram, sandbox: Sandbox, account_id: int
):
    with app.app_context():
        store_account(sandbox, tenant_id="cd456", person_id=BEN, external_id="taken")
    program = new_program(account_ids=[account_id])

    refused = program.call("PATCH", f"/api/v1/accounts/{account_id}", json={"external_id": "taken"})

    assert (refused.status_code, refused.json()["error"]) == (409, "external_id_taken")
    assert refused.json()["error_description"] == "Another account has this external id already."


@pytest.mark.proves("R71")
def test_unknown_revoked_and_expired_keys_get_one_answer(app: Flask, clock: MovedClock, account_id: int):
    with app.app_context():
        expiring = issue_api_key("a", ["accounts:read"], "x", expires_at=utc_now() + timedelta(hours=1))
        revoked = issue_api_key("b", ["accounts:read"], "x")
        revoke_api_key(revoked.row.id, "x")
    clock.advance(hours=2)
    unknown = _new_text("0" * 16)

    answers = [Program(app, text).get("/api/v1/accounts") for text in (expiring.text, revoked.text, unknown, "x y")]

    assert [(one.status_code, told(one)) for one in answers] == [(401, told(answers[0]))] * 4
    assert told(answers[0])["error"] == "invalid_token"
    assert 'error="invalid_token"' in answers[0].headers["WWW-Authenticate"]


@pytest.mark.proves("R71")
@pytest.mark.parametrize("sent", [None, "Basic YTpi", "Bearer", "Bearer ", "Token abc"])
def test_without_a_key_the_answer_says_how_to_show_one(app: Flask, sent: str | None):
    program = Program(app, None)
    if sent is not None:
        program.session.headers["Authorization"] = sent

    for name in INVENTORY:
        answer = ask(program, name)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="Keap Connect"'


@pytest.mark.proves("R70", "F64")
@pytest.mark.parametrize("query", ["api_key={}", "access_token={}", "q={}", "key=x", "Authorization=Bearer+{}"])
def test_a_key_in_the_url_is_refused_and_reported(
    program: Program, query: str, caplog: pytest.LogCaptureFixture, app: Flask
):
    text = program.session.headers["Authorization"].removeprefix("Bearer ")

    with_header = program.get(f"/api/v1/accounts?{query.format(text)}")
    without = Program(app, None).get(f"/api/v1/accounts?{query.format(text)}")

    assert (with_header.status_code, without.status_code) == (401, 401)
    assert "revoke" in with_header.json()["error_description"]
    if "{}" in query:
        assert f"revoke the one with the id {text[3:19]}" in caplog.text
    assert text not in caplog.text


@pytest.mark.proves("R70")
def test_cookies_let_nobody_in(admin: Visitor, account_id: int):
    for name, (method, path, body, *_) in INVENTORY.items():
        answer = send(admin, method, "/api/v1" + path.format(account=account_id), json=body)
        assert answer.status_code == 401, name
        assert "Set-Cookie" not in answer.headers


def test_a_key_is_no_way_into_the_pages(program: Program, account_id: int):
    assert program.get("/accounts").status_code == 303
    assert program.post(f"/accounts/{account_id}/disconnect").status_code == 403


def test_no_form_token_is_asked_for_and_no_other_site_is_let_in(program: Program, account_id: int):
    answer = program.post("/api/v1/accounts/1/disconnect", headers={"Origin": "https://evil.example"})
    asked = program.call("OPTIONS", "/api/v1/accounts", headers={"Origin": "https://evil.example"})

    assert answer.status_code == 200
    assert asked.status_code == 405
    assert not [name for name in {**answer.headers, **asked.headers} if name.lower().startswith("access-control")]


@pytest.mark.proves("R77")
@pytest.mark.parametrize("environ", [{"API_RATE_PER_MINUTE": "3"}], indirect=True)
def test_a_key_over_its_rate_waits_and_another_goes_on(new_program: NewProgram, account_id: int):
    busy, calm = new_program(), new_program(address="10.0.0.7")

    answers = [busy.get("/api/v1/accounts") for _ in range(5)]

    assert [one.status_code for one in answers] == [200, 200, 200, 429, 429]
    assert answers[-1].json()["error"] == "too_many_requests"
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    assert calm.get("/api/v1/accounts").status_code == 200
    assert new_program().get("/api/v1/accounts").status_code == 429  # another key from the same address


@pytest.mark.proves("R77", "F64", "F66")
def test_wrong_keys_are_throttled_by_address_and_right_ones_still_get_in(app: Flask, program: Program, monkeypatch):
    monkeypatch.setattr(rate_limits, "WRONG_KEYS_PER_MINUTE", RateLimitItemPerMinute(5))
    guess = Program(app, "kc_guess")

    spoofed = [guess.get("/api/v1/accounts", headers={"X-Forwarded-For": f"10.0.0.{n}"}) for n in range(7)]

    assert [one.status_code for one in spoofed] == [401] * 5 + [429] * 2
    assert "Retry-After" in spoofed[-1].headers
    assert Program(app, "kc_guess", address="10.9.9.9").get("/api/v1/accounts").status_code == 401
    assert program.get("/api/v1/accounts").status_code == 200


@pytest.mark.parametrize("environ", [{"RATE_LIMIT_STORAGE": "redis://127.0.0.1:1"}], indirect=True)
def test_requests_pass_when_the_storage_of_the_rates_fails(program: Program, caplog: pytest.LogCaptureFixture):
    assert program.get("/api/v1/accounts").status_code == 200
    assert "The rate limit storage fails" in caplog.text


@pytest.mark.proves("R86", "F68")
def test_no_key_and_no_token_stands_in_the_log(program: Program, account_id: int, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    text = program.session.headers["Authorization"].removeprefix("Bearer ")
    token = ask(program, "api.get_token").json()["access_token"]
    ask(program, "api.refresh")
    Program(program_app(program), text[:-1]).get("/api/v1/accounts")

    assert re.search(r"kc_[0-9a-f]{16}_[0-9a-f]", caplog.text) is None
    assert token not in caplog.text


def program_app(program: Program) -> Flask:
    """Return the app that a program calls."""
    return program.session.get_adapter(program.base_url)._client.application


def test_last_use_of_a_key_is_noted(app: Flask, program: Program):
    program.get("/api/v1/accounts")

    with app.app_context():
        assert list_api_keys()[0].last_used_at is not None
