"""Webhooks over the API: a secret is shown once, deliveries in pages, and what cannot be done is refused in words."""

import pytest
from flask import Flask

from keap_connect.api.schemas import WebhookMessage, WebhookTest
from keap_connect.database import write_transaction
from keap_connect.events.history import ANNOUNCED, Actor, EventKind, record
from tests.api.fixtures import Program
from tests.support.engines import on_sqlite

pytestmark = on_sqlite
HOOK = {"url": "https://example.com/hook?key=x", "types": ["account.at_risk"]}


@pytest.mark.proves("R80", "R81")
def test_a_secret_is_shown_when_it_is_made_and_never_again(program: Program):
    made = program.call("POST", "/api/v1/webhooks", json=HOOK)
    changed = program.call("PATCH", "/api/v1/webhooks/1", json={"name": "CRM", "types": None})
    rotated = program.call("PATCH", "/api/v1/webhooks/1", json={"rotate_secret": True})
    (shown,) = program.get("/api/v1/webhooks").json()["webhooks"]

    assert (made.status_code, made.json()["name"], made.json()["types"]) == (201, "example.com", ["account.at_risk"])
    first, second = made.json()["secret"], rotated.json()["secret"]
    assert first.startswith("whsec_")
    assert second.startswith("whsec_")
    assert first != second
    assert "secret" not in changed.json() | shown
    assert (shown["url"], shown["name"], shown["types"], shown["is_on"]) == (HOOK["url"], "CRM", None, True)
    assert shown["old_secret_until"]


@pytest.mark.parametrize("types", [["x"], ["account.at_risk", "y", "x"]])
def test_a_type_that_does_not_exist_is_refused_with_those_that_do(program: Program, types: list[str]):
    said = program.call("POST", "/api/v1/webhooks", json={**HOOK, "types": types}).json()["error_description"]

    assert said.startswith("types: Must be one of: account.connected, ")
    assert said.count("Must be one of") == 1


def test_deliveries_come_in_pages_and_can_be_sent_again(app: Flask, program: Program):
    program.call("POST", "/api/v1/webhooks", json={"url": HOOK["url"]})
    with app.app_context(), write_transaction() as session:
        for account_id in (1, 2, 3):
            record(session, EventKind.RECOVERED, account_id, Actor.SYSTEM)
    path = "/api/v1/webhooks/1/deliveries"

    first = program.get(f"{path}?limit=2").json()
    second = program.get(f"{path}?limit=2&cursor={first['next_cursor']}").json()

    assert [one["account_id"] for one in first["deliveries"] + second["deliveries"]] == [3, 2, 1]
    assert second["next_cursor"] is None
    assert program.get(f"{path}?status=sent").json()["deliveries"] == []
    one = first["deliveries"][0]
    assert (one["status"], one["answer"], one["kind"]) == ("waiting", None, "account.recovered")
    assert WebhookMessage().validate(one["payload"]) == {}
    assert program.call("POST", f"{path}/{one['id']}/redeliver").status_code == 202
    assert WebhookTest().validate(program.call("POST", "/api/v1/webhooks/1/test").json()["payload"]) == {}
    assert program.call("POST", f"{path}/99/redeliver").json()["error"] == "not_found"
    program.call("POST", "/api/v1/webhooks", json={"url": HOOK["url"]})
    of_another = program.call("POST", f"/api/v1/webhooks/2/deliveries/{one['id']}/redeliver")
    assert (of_another.status_code, of_another.json()["error"]) == (404, "not_found")
    program.call("PATCH", "/api/v1/webhooks/1", json={"is_on": False})
    for act in (f"{path}/{one['id']}/redeliver", "/api/v1/webhooks/1/test"):
        assert program.call("POST", act).json()["error"] == "webhook_off"
    assert {one["status"] for one in program.get(path).json()["deliveries"]} == {"cancelled"}


def test_the_document_describes_each_type_of_message(program: Program):
    document = program.get("/api/openapi.json").json()

    assert list(document["webhooks"]) == [*ANNOUNCED, "webhook.test"]
    data = document["components"]["schemas"]["WebhookData"]["properties"]
    assert {"unused", "refused", "mass_refusal"} <= set(data["reason"]["enum"])
