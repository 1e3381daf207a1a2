"""Single use of codes and refresh tokens, and what a second use does."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.sandbox.client import Client
from tests.support.sandbox import Sandbox


def test_refresh_token_works_once(client: Client, pair: dict[str, str]):
    first = client.refresh(pair["refresh_token"])
    second = client.refresh(pair["refresh_token"])

    assert (first.status_code, second.status_code) == (200, 400)
    assert client.refresh(first.json()["refresh_token"]).status_code == 200


def test_exactly_one_of_20_parallel_presentations_wins(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    sandbox.hold("refresh")
    with ThreadPoolExecutor(20) as pool:
        calls = [pool.submit(client.refresh, pair["refresh_token"]) for _ in range(20)]
        sandbox.wait_held(20)
        sandbox.release()
        answers = [call.result() for call in calls]

    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 19
    totals = sandbox.ledger()["totals"]
    assert totals["overlapping_presentations"] == 20
    assert totals["refresh_tokens_presented_more_than_once"] == 1
    assert len([token for token in sandbox.ledger()["tokens"] if token["generation"] == 2]) == 2


def test_code_works_once(client: Client):
    code = client.consent()["code"]

    first, second = client.exchange(code), client.exchange(code)

    assert first.status_code == 200
    assert second.json() == {"error": "invalid_grant", "error_description": "Authorization code is invalid"}
    assert client.refresh(first.json()["refresh_token"]).status_code == 200


def test_replayed_refresh_token_ends_the_family_only_behind_the_switch(
    client: Client, sandbox: Sandbox, pair: dict[str, str]
):
    sandbox.switch(family_revocation=True)
    successor = client.refresh(pair["refresh_token"]).json()

    client.refresh(pair["refresh_token"])

    assert client.refresh(successor["refresh_token"]).status_code == 400
    assert client.api(successor["access_token"]).status_code == 401


def test_replayed_code_ends_the_grant_only_behind_the_switch(client: Client, sandbox: Sandbox):
    sandbox.switch(family_revocation=True)
    code = client.consent()["code"]
    tokens = client.exchange(code).json()

    client.exchange(code)

    assert client.refresh(tokens["refresh_token"]).status_code == 400


def test_previous_access_token_lives_on_unless_switched(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    second = client.refresh(pair["refresh_token"]).json()
    assert client.api(pair["access_token"]).status_code == 200

    sandbox.switch(old_access_token_dies_on_refresh=True)
    third = client.refresh(second["refresh_token"]).json()

    assert client.api(second["access_token"]).status_code == 401
    assert client.api(third["access_token"]).status_code == 200


def test_without_rotation_the_refresh_token_stays_and_is_not_sent(
    client: Client, sandbox: Sandbox, pair: dict[str, str]
):
    sandbox.switch(rotation=False)

    answers = [client.refresh(pair["refresh_token"]).json() for _ in range(2)]

    assert all("access_token" in answer and "refresh_token" not in answer for answer in answers)


def test_second_consent_leaves_the_first_alive_unless_switched(client: Client, sandbox: Sandbox):
    first = client.exchange(client.consent()["code"]).json()
    second = client.exchange(client.consent()["code"]).json()
    assert client.api(first["access_token"]).status_code == 200

    sandbox.switch(second_consent_kills_first=True)
    third = client.exchange(client.consent()["code"]).json()

    states = [client.api(tokens["access_token"]).status_code for tokens in (first, second, third)]
    assert states == [401, 401, 200]


def test_second_consent_of_another_person_kills_nothing(client: Client, sandbox: Sandbox):
    sandbox.switch(second_consent_kills_first=True)
    ann = client.exchange(client.consent("ann.lee@example.com")["code"]).json()

    client.exchange(client.consent("ben.ortiz@example.com")["code"])

    assert client.api(ann["access_token"]).status_code == 200


def test_a_used_refresh_token_works_until_a_newer_one_is_used(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    sandbox.switch(old_refresh_token_works="until the new one is used", family_revocation=True)
    lost = client.refresh(pair["refresh_token"]).json()
    again = client.refresh(pair["refresh_token"]).json()

    assert again["refresh_token"] != lost["refresh_token"]
    assert client.refresh(again["refresh_token"]).status_code == 200
    assert client.refresh(pair["refresh_token"]).status_code == 400


@pytest.mark.parametrize(("seconds", "status"), [(290, 200), (310, 400)])
def test_a_used_refresh_token_works_for_300_seconds(
    client: Client, sandbox: Sandbox, pair: dict[str, str], seconds: int, status: int
):
    sandbox.switch(old_refresh_token_works="for 300 seconds", family_revocation=True)
    client.refresh(pair["refresh_token"])
    client.refresh(pair["refresh_token"])  # a second use does not make it work longer
    sandbox.advance(seconds)

    assert client.refresh(pair["refresh_token"]).status_code == status
