"""Calls can be held inside the sandbox, before or after it acts; held calls block nobody else."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.sandbox.client import Client
from tests.support.sandbox import Sandbox


@pytest.mark.parametrize(("where", "state"), [("before", "live"), ("after", "used")])
def test_held_call_waits_before_or_after_rotating(
    client: Client, sandbox: Sandbox, pair: dict[str, str], where: str, state: str
):
    sandbox.hold("refresh", where)

    with ThreadPoolExecutor() as pool:
        call = pool.submit(client.refresh, pair["refresh_token"])
        sandbox.wait_held(1)
        held = sandbox.control("GET", "/held")
        tokens = sandbox.ledger()["tokens"]
        sandbox.release()
        answer = call.result()

    assert held == {"waiting": 1, "endpoints": {"refresh": 1}}
    assert next(one["state"] for one in tokens if one["kind"] == "refresh_token" and one["generation"] == 1) == state
    assert answer.status_code == 200


def test_release_ends_the_hold(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    sandbox.hold("token")
    sandbox.release()

    assert client.refresh(pair["refresh_token"], timeout=5).status_code == 200


def test_hold_leaves_other_endpoints_alone(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    sandbox.hold("exchange")

    assert client.refresh(pair["refresh_token"], timeout=5).status_code == 200


def test_wait_for_gives_up_after_its_timeout(sandbox: Sandbox):
    with pytest.raises(TimeoutError):
        sandbox.wait_held(1, timeout=0.05)


def test_reset_lets_held_calls_go(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    sandbox.hold("refresh")
    with ThreadPoolExecutor() as pool:
        call = pool.submit(client.refresh, pair["refresh_token"])
        sandbox.wait_held(1)
        sandbox.reset()

        assert call.result().status_code == 400


def test_200_held_calls_do_not_block_others(client: Client, sandbox: Sandbox):
    pairs = sandbox.grant(count=201)
    sandbox.hold("refresh")

    with ThreadPoolExecutor(200) as pool:
        calls = [pool.submit(client.refresh, pair["refresh_token"]) for pair in pairs[:200]]
        sandbox.wait_held(200, timeout=15)
        other = client.api(pairs[200]["access_token"], timeout=5)
        sandbox.release()
        answers = [call.result() for call in calls]

    assert other.status_code == 200
    assert {answer.status_code for answer in answers} == {200}
    assert sandbox.ledger()["totals"]["overlapping_presentations"] == 0
