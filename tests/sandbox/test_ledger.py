"""The ledger proves what was issued and presented, without showing a secret."""

import hashlib
import json

from tests.sandbox.client import Client
from tests.support.sandbox import ANN, CLIENT_ID, Sandbox


def fingerprint(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()[:16]


def test_ledger_tells_the_life_of_a_grant(client: Client, sandbox: Sandbox):
    code = client.consent()["code"]
    first = client.exchange(code).json()
    second = client.refresh(first["refresh_token"]).json()
    client.api(second["access_token"])
    client.refresh(first["refresh_token"])

    ledger = sandbox.ledger()

    secrets = [code, first["access_token"], first["refresh_token"], second["access_token"], second["refresh_token"]]
    tokens = {token["fingerprint"]: token for token in ledger["tokens"]}
    assert [tokens[fingerprint(one)]["generation"] for one in secrets] == [0, 1, 1, 2, 2]
    assert [tokens[fingerprint(one)]["state"] for one in secrets] == ["used", "live", "used", "live", "live"]
    assert {(one["tenant_id"], one["person_id"], one["client_id"], one["grant_id"]) for one in tokens.values()} == {
        ("ab123", ANN, CLIENT_ID, 1)
    }
    assert [(one["number"], one["kind"], one["outcome"], one["status"]) for one in ledger["presentations"]] == [
        (1, "code", "granted", 200),
        (2, "refresh_token", "granted", 200),
        (3, "access_token", "ok", 200),
        (4, "refresh_token", "refused", 400),
    ]
    assert ledger["presentations"][2]["path"] == "/crm/rest/v2/oauth/connect/userinfo"
    assert ledger["totals"] == {
        "token_calls": 3,
        "exchanges": 1,
        "refreshes": 2,
        "refresh_tokens_presented_more_than_once": 1,
        "overlapping_presentations": 0,
        "peak_token_calls_per_second": ledger["totals"]["peak_token_calls_per_second"],
    }
    assert 1 <= ledger["totals"]["peak_token_calls_per_second"] <= 3


def test_ledger_holds_no_secret(client: Client, sandbox: Sandbox):
    pair = sandbox.grant()[0]
    client.refresh(pair["refresh_token"])
    client.api(pair["access_token"])

    ledger = json.dumps(sandbox.ledger())

    assert fingerprint(pair["refresh_token"]) in ledger
    assert pair["refresh_token"] not in ledger
    assert pair["access_token"] not in ledger


def test_ledger_of_one_tenant(client: Client, sandbox: Sandbox):
    for tenant_id in ("ab123", "cd456"):
        client.refresh(sandbox.grant(tenant_id)[0]["refresh_token"])

    ledger = sandbox.ledger("cd456")

    assert {token["tenant_id"] for token in ledger["tokens"]} == {"cd456"}
    assert [one["number"] for one in ledger["presentations"]] == [2]
    assert ledger["totals"]["refreshes"] == 1


def test_expired_and_revoked_tokens_say_so(sandbox: Sandbox):
    sandbox.grant("ab123")
    sandbox.grant("cd456")
    sandbox.withdraw("cd456")
    sandbox.advance(86399)

    states = {(one["tenant_id"], one["kind"]): one["state"] for one in sandbox.ledger()["tokens"]}

    assert states == {
        ("ab123", "access_token"): "expired",
        ("ab123", "refresh_token"): "live",
        ("cd456", "access_token"): "revoked",
        ("cd456", "refresh_token"): "revoked",
    }


def test_cleared_ledger_keeps_the_tokens(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    client.refresh(pair["refresh_token"])

    sandbox.clear_ledger()

    assert sandbox.ledger()["presentations"] == []
    assert len(sandbox.ledger()["tokens"]) == 4
    assert client.refresh(pair["refresh_token"]).status_code == 400


def test_call_without_a_token_counts_too(client: Client, sandbox: Sandbox):
    client.token({})

    assert sandbox.ledger()["presentations"][0]["kind"] == "none"
    assert sandbox.ledger()["totals"]["token_calls"] == 1
