"""The clock can be moved, and every lifetime obeys it."""

import pytest

from tests.sandbox.client import Client, error_code
from tests.support.sandbox import Sandbox

DAY = 86400


@pytest.mark.parametrize(("seconds", "status"), [(9 * 60, 200), (10 * 60, 400)])
def test_code_lives_ten_minutes(client: Client, sandbox: Sandbox, seconds: int, status: int):
    code = client.consent()["code"]

    sandbox.advance(seconds)

    assert client.exchange(code).status_code == status


@pytest.mark.parametrize(("seconds", "status"), [(86390, 200), (86399, 401)])
def test_access_token_lives_86399_seconds(
    client: Client, sandbox: Sandbox, pair: dict[str, str], seconds: int, status: int
):
    sandbox.advance(seconds)

    assert client.api(pair["access_token"]).status_code == status


@pytest.mark.parametrize(("seconds", "status"), [(45 * DAY - 60, 200), (45 * DAY, 400)])
def test_unused_refresh_token_lives_45_days(
    client: Client, sandbox: Sandbox, pair: dict[str, str], seconds: int, status: int
):
    sandbox.advance(seconds)

    assert client.refresh(pair["refresh_token"]).status_code == status


def test_refresh_starts_the_45_days_anew(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    sandbox.advance(44 * DAY)
    second = client.refresh(pair["refresh_token"]).json()

    sandbox.advance(44 * DAY)

    assert client.refresh(second["refresh_token"]).status_code == 200


def test_issued_lifetime_can_be_chosen(client: Client, sandbox: Sandbox):
    sandbox.switch(issue_expires_in=60)
    pair = sandbox.grant()[0]
    assert pair["expires_in"] == 60

    sandbox.advance(60)

    assert error_code(client.api(pair["access_token"])) == "keymanagement.service.access_token_expired"


def test_clock_moves_both_ways_and_to_an_offset(sandbox: Sandbox):
    sandbox.advance(100)
    sandbox.advance(-40)
    assert sandbox.state()["clock_offset_seconds"] == 60

    answer = sandbox.control("POST", "/clock", {"offset_seconds": -5})

    assert answer["clock_offset_seconds"] == -5
