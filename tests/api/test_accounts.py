"""Accounts and their events for programs: pages that stay right while rows change, names, and imports done once."""

import pytest
from flask import Flask
from sqlalchemy import delete

from keap_connect.accounts.directory import get_account
from keap_connect.clock import utc_now
from keap_connect.database import write_transaction
from keap_connect.events.history import EventKind, record
from keap_connect.models import Account
from tests.accounts.granted import store_account
from tests.api.fixtures import NewProgram, Program
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.sandbox import BEN, CLEO, Sandbox

ACCOUNTS = "/api/v1/accounts"


@pytest.fixture
def three(app: Flask, sandbox: Sandbox) -> list[int]:
    """Give three accounts."""
    with app.app_context():
        return [
            store_account(sandbox, business_name="Acme Plumbing", external_id="acme"),
            store_account(sandbox, tenant_id="cd456", person_id=BEN, label="Bright 100%"),
            store_account(sandbox, tenant_id="ef789", person_id=CLEO, refused_at=utc_now()),
        ]


def ids(answer) -> list[int]:
    return [one["id"] for one in answer.json()["accounts"]]


def test_a_list_can_be_narrowed(program: Program, three: list[int]):
    one, two, three_ = three
    found = {
        query: ids(program.get(f"{ACCOUNTS}{query}"))
        for query in (
            "", "?state=active", "?state=reconnect_required", "?q=acme+plumb", "?q=100%25", "?q=nothing",
            "?tenant_id=CD456.infusionsoft.com", "?external_id=acme", "?state=active&q=bright",
        )
    }  # fmt: skip

    assert list(found.values()) == [[one, two, three_], [one, two], [three_], [one], [two], [], [two], [one], [two]]


def test_pages_stay_right_while_rows_change(app: Flask, program: Program, sandbox: Sandbox, three: list[int]):
    first = program.get(f"{ACCOUNTS}?limit=2")
    with app.app_context():
        with write_transaction() as session:
            session.execute(delete(Account).where(Account.id == three[0]))
        late = store_account(sandbox, tenant_id="gh012", person_id=BEN)
    second = program.get(f"{ACCOUNTS}?limit=2&cursor={first.json()['next_cursor']}")

    assert ids(first) == three[:2]
    assert ids(second) == [three[2], late]
    assert second.json()["next_cursor"] is None
    assert ids(program.get(f"{ACCOUNTS}?cursor=2147483647")) == []


@pytest.mark.proves("R73")
def test_an_account_shows_its_state_its_next_step_and_no_token(app: Flask, program: Program, three: list[int]):
    body = program.get(f"{ACCOUNTS}/external:acme").json()

    assert (body["id"], body["tenant_id"], body["state"]) == (three[0], "ab123", "active")
    assert body["next_step"] == "Nothing to do: the connection is kept alive automatically."
    assert body["connected_at"].endswith("+00:00")
    assert not {"access_token_masked", "refresh_token_masked", "generation"} & set(body)


@pytest.mark.proves("R106")
def test_a_tenant_names_its_account_if_it_is_the_only_one_that_the_key_may_see(
    app: Flask, program: Program, new_program: NewProgram, sandbox: Sandbox, three: list[int]
):
    path = f"{ACCOUNTS}/tenant:AB123"
    alone = program.get(path)
    with app.app_context():
        second = store_account(sandbox, person_id=BEN)
    answers = [program.get(path), program.get(f"{path}/token"), program.get("/api/v1/events?account=tenant:ab123")]
    restricted = new_program(account_ids=[second, three[1]])

    assert (alone.status_code, alone.json()["id"]) == (200, three[0])
    assert [(one.status_code, one.json()["error"]) for one in answers] == [(409, "account_ambiguous")] * 3
    assert f"[{three[0]}, {second}]" in answers[0].json()["error_description"]
    assert restricted.get(f"{path}/token").status_code == 200
    assert restricted.get(path).json()["id"] == second
    assert [program.get(f"{ACCOUNTS}/{name}").status_code for name in ("tenant:zz999", "tenant:", "ab123")] == [404] * 3


def test_names_are_changed_taken_away_and_never_given_twice(program: Program, three: list[int]):
    path = f"{ACCOUNTS}/{three[1]}"
    taken = program.call("PATCH", path, json={"external_id": "acme"})
    label = program.call("PATCH", path, json={"label": "  Harbor  "}).json()
    both = program.call("PATCH", path, json={"label": None, "external_id": "b:1"}).json()
    nothing = program.call("PATCH", path, json={})

    assert (taken.status_code, taken.json()["error"]) == (409, "external_id_taken")
    assert (label["label"], label["external_id"]) == ("Harbor", None)
    assert (both["label"], both["external_id"]) == (None, "b:1")
    assert nothing.status_code == 200
    told = [one for one in program.get("/api/v1/events").json()["events"] if one["kind"].endswith("_changed")]
    assert [one["sentence"] for one in told] == [
        "The label was changed from “Bright 100%” to “Harbor”.",
        "The label was changed from “Harbor” to none.",
        "The external id was changed from none to “b:1”.",
    ]
    assert told[0]["actor"].startswith("API key ")


def test_events_are_told_once_each_and_none_is_passed_over(app: Flask, program: Program, three: list[int]):
    for account_id in three:
        program.post(f"{ACCOUNTS}/{account_id}/disconnect")

    seen, cursor, more = [], 0, True
    while more:
        page = program.get(f"/api/v1/events?limit=2&cursor={cursor}").json()
        seen += page["events"]
        cursor, more = page["next_cursor"], page["has_more"]
    again = program.get(f"/api/v1/events?cursor={cursor}").json()
    program.call("PATCH", f"{ACCOUNTS}/{three[0]}", json={"label": "x"})
    later = program.get(f"/api/v1/events?cursor={cursor}").json()["events"]

    assert [(one["kind"], one["account_id"]) for one in seen] == [("disconnected", each) for each in three]
    assert again == {"events": [], "next_cursor": cursor, "has_more": False}
    assert [one["kind"] for one in later] == ["label_changed"]


@pytest.mark.proves("R88")
def test_events_say_from_where_and_are_narrowed_to_an_account_or_a_kind(
    app: Flask, new_program: NewProgram, three: list[int]
):
    program, other = new_program(address="10.0.0.7"), new_program(account_ids=three[1:])
    program.call("PATCH", f"{ACCOUNTS}/{three[0]}", json={"label": "Harbor"})
    for account_id in three:
        program.post(f"{ACCOUNTS}/{account_id}/disconnect")

    def told(asker: Program, query: str) -> list[tuple[str, int]]:
        events = asker.get(f"/api/v1/events?{query}").json()["events"]
        assert {one["address"] for one in events} <= {"10.0.0.7"}
        return [(one["kind"], one["account_id"]) for one in events]

    of_one = [("label_changed", three[0]), ("disconnected", three[0])]
    assert told(program, "account=external:acme") == told(program, f"account={three[0]}") == of_one
    assert told(program, "kind=label_changed") == of_one[:1]
    assert told(other, "kind=disconnected") == [("disconnected", each) for each in three[1:]]
    for asker, account in ((program, "999"), (program, "external:nobody"), (other, "external:acme")):
        assert asker.get(f"/api/v1/events?account={account}").status_code == 404


@on_postgresql
def test_no_event_is_passed_over_that_commits_late(app: Flask, program: Program, account_id: int):
    with app.app_context(), write_transaction() as slow:
        record(slow, EventKind.REFRESHED, account_id, "system")
        slow.flush()
        with write_transaction() as quick:
            record(quick, EventKind.DISCONNECTED, account_id, "system")
        meanwhile = program.get("/api/v1/events").json()

    afterwards = program.get(f"/api/v1/events?cursor={meanwhile['next_cursor']}").json()
    assert meanwhile["events"] == []
    assert [one["kind"] for one in afterwards["events"]] == ["refreshed", "disconnected"]


def pair(sandbox: Sandbox) -> dict[str, object]:
    """Return a pair that was granted elsewhere, as an import takes it."""
    granted = sandbox.grant("cd456", BEN)[0]
    return {name: granted[name] for name in ("access_token", "refresh_token", "expires_in")}


def test_an_import_is_checked_at_keap_and_stored(app: Flask, program: Program, sandbox: Sandbox):
    granted = pair(sandbox)

    answer = program.post(ACCOUNTS, {**granted, "external_id": "bright", "label": "Bright"})
    token = program.get(f"{ACCOUNTS}/external:bright/token").json()

    assert answer.status_code == 201
    assert (answer.json()["tenant_id"], answer.json()["label"]) == ("cd456", "Bright")
    assert token["access_token"] == granted["access_token"]
    assert granted["refresh_token"] not in answer.text


def test_an_import_that_keap_does_not_know_changes_nothing(app: Flask, program: Program, account_id: int):
    answer = program.post(ACCOUNTS, {"access_token": "canary-unknown", "refresh_token": "canary-too"})

    assert (answer.status_code, answer.json()["error"]) == (409, "credential_refused")
    assert "canary" not in answer.text
    assert len(ids(program.get(ACCOUNTS))) == 1


@on_sqlite
def test_a_pair_whose_access_token_has_expired_is_refreshed_when_a_program_asks(program: Program, sandbox: Sandbox):
    granted = pair(sandbox) | {"external_id": "bright"}
    sandbox.advance(25 * 3600)

    answer = program.post(ACCOUNTS, granted)
    token = program.get(f"{ACCOUNTS}/external:bright/token")

    assert (answer.status_code, answer.json()["is_pending"], answer.json()["state"]) == (201, True, "active")
    assert "its first refresh shows whether its refresh token works" in answer.json()["next_step"]
    assert (token.status_code, token.json()["access_token"] != granted["access_token"]) == (200, True)


def test_an_import_that_is_sent_twice_makes_one_account(program: Program, new_program: NewProgram, sandbox: Sandbox):
    asked = {**pair(sandbox), "external_id": "bright"}

    first = program.post(ACCOUNTS, asked)
    again = program.post(ACCOUNTS, asked)
    another_program = new_program().post(ACCOUNTS, asked)

    assert [one.status_code for one in (first, again, another_program)] == [201, 201, 201]
    assert first.json() == again.json() == another_program.json()
    assert len(ids(program.get(ACCOUNTS))) == 1


@on_sqlite
def test_a_pair_takes_the_place_of_one_that_works_only_where_that_is_meant(
    app: Flask, program: Program, sandbox: Sandbox
):
    program.post(ACCOUNTS, pair(sandbox))

    refused = program.post(ACCOUNTS, pair(sandbox))
    replaced = program.post(ACCOUNTS, {**pair(sandbox), "replace": True})

    assert (refused.status_code, replaced.status_code) == (409, 201)
    assert "connected already, and works" in refused.json()["error_description"]


@on_sqlite
def test_a_personal_access_token_is_kept_as_what_it_is(app: Flask, program: Program, sandbox: Sandbox):
    asked = {"access_token": pair(sandbox)["access_token"], "kind": "personal_access_token"}

    refused = program.post(ACCOUNTS, asked)
    account_id = program.post(ACCOUNTS, {**asked, "unusual_key": True}).json()["id"]

    assert (refused.status_code, "begin with KeapAK" in refused.json()["error_description"]) == (409, True)
    assert program.get(f"{ACCOUNTS}/{account_id}/token").json()["expires_in"] is None
    with app.app_context():
        assert get_account(account_id).kind == "personal_access_token"
