"""Faults below HTTP, seen through a plain socket: resets, lost answers, hangs, drips, bodies without end."""

import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import get_args
from urllib.parse import urlsplit

import pytest
import requests

from keap_connect.sandbox.fault_library import network
from tests.sandbox.client import Client, last_outcome, state_of
from tests.support.sandbox import Sandbox, basic


def send_refresh(sandbox: Sandbox, refresh_token: str) -> socket.socket:
    body = f"grant_type=refresh_token&refresh_token={refresh_token}"
    address = urlsplit(sandbox.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=10)
    connection.sendall(
        f"POST /token HTTP/1.1\r\nHost: sandbox\r\nAuthorization: {basic()}\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    return connection


def wait_for_state(sandbox: Sandbox, state: str) -> None:
    ends_at = time.monotonic() + 10
    while state_of(sandbox) != state:
        assert time.monotonic() < ends_at
        time.sleep(0.01)


@pytest.mark.parametrize(("name", "state"), [("reset_before", "live"), ("reset_after", "used")])
def test_reset_is_a_real_reset(sandbox: Sandbox, pair: dict[str, str], name: str, state: str):
    sandbox.fault(name)

    with send_refresh(sandbox, pair["refresh_token"]) as connection, pytest.raises(ConnectionResetError):
        connection.recv(1)

    assert state_of(sandbox) == state
    assert last_outcome(sandbox) == (f"fault:{name}", None)


def test_lost_answer_ends_the_connection_after_rotating(sandbox: Sandbox, pair: dict[str, str]):
    sandbox.fault("lost_answer")

    with send_refresh(sandbox, pair["refresh_token"]) as connection:
        assert connection.recv(1) == b""

    assert state_of(sandbox) == "used"


def test_framing_sends_a_whole_pair_each_time_in_another_wrong_way(sandbox: Sandbox, pair: dict[str, str]):
    sandbox.fault("framing")
    ways = get_args(network.Framing)[1:]
    refresh_token, heads = pair["refresh_token"], set()
    for _ in ways:
        with send_refresh(sandbox, refresh_token) as connection:
            answer = b""
            while not (found := re.search(rb'{"access_token".*?}', answer)):
                answer += connection.recv(65536)
        refresh_token = json.loads(found[0])["refresh_token"]
        heads.add(re.sub(rb"Date: .*", b"", answer[: found.start()]))

    # A length that is too long is one whether left open or not, and without token_type the length is right.
    assert len(ways) == 11
    assert len(heads) >= 7


def test_one_way_of_framing_can_be_chosen_and_no_other_than_the_known_ones(sandbox: Sandbox, pair: dict[str, str]):
    sandbox.fault("framing", way="early hints")

    with send_refresh(sandbox, pair["refresh_token"]) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 103 Early Hints")
    with pytest.raises(ValueError, match="way of framing has the wrong type"):
        sandbox.fault("framing", way="none")


@pytest.mark.parametrize(("rotate", "state"), [(False, "live"), (True, "used")])
def test_hang_never_answers_until_the_client_leaves(sandbox: Sandbox, pair: dict[str, str], rotate: bool, state: str):
    sandbox.fault("hang", rotate=rotate)

    with send_refresh(sandbox, pair["refresh_token"]) as connection:
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert last_outcome(sandbox) == ("in flight", None)
        wait_for_state(sandbox, state)


def test_hang_ends_after_its_seconds(sandbox: Sandbox, pair: dict[str, str]):
    sandbox.fault("hang", seconds=0.1)

    with send_refresh(sandbox, pair["refresh_token"]) as connection:
        assert connection.recv(1) == b""


@pytest.mark.parametrize(("where", "state"), [("after", "used"), ("before", "live")])
def test_slow_waits_after_or_before_acting(sandbox: Sandbox, pair: dict[str, str], where: str, state: str):
    sandbox.fault("slow", seconds=1, where=where)

    with send_refresh(sandbox, pair["refresh_token"]) as connection:
        wait_for_state(sandbox, state)
        assert last_outcome(sandbox) == ("in flight", None)
        assert connection.recv(15) == b"HTTP/1.1 200 OK"


def assert_drips(connection: socket.socket) -> bytes:
    """Read a little of what is sent at ten bytes a second; a busy machine may bundle some."""
    received = b""
    while len(received) < 4:
        received += connection.recv(65536)
    assert len(received) < 50
    return received


def test_drip_headers_sends_single_bytes_from_the_start(sandbox: Sandbox, pair: dict[str, str]):
    sandbox.fault("drip_headers", seconds_per_byte=0.1)

    with send_refresh(sandbox, pair["refresh_token"]) as connection:
        assert assert_drips(connection).startswith(b"HTTP")


def test_drip_body_sends_the_headers_at_once(sandbox: Sandbox, pair: dict[str, str]):
    sandbox.fault("drip_body", seconds_per_byte=0.1)

    with send_refresh(sandbox, pair["refresh_token"]) as connection:
        assert b"\r\n\r\n" in connection.recv(65536)
        assert_drips(connection)


def test_huge_body_is_valid_json_behind_its_blanks(client: Client, sandbox: Sandbox, pair: dict[str, str]):
    sandbox.fault("huge_body", megabytes=3)

    answer = client.refresh(pair["refresh_token"])

    assert len(answer.content) > 3_000_000
    assert "access_token" in answer.json()


def test_huge_body_says_100_megabytes(sandbox: Sandbox, pair: dict[str, str]):
    sandbox.fault("huge_body")

    with send_refresh(sandbox, pair["refresh_token"]) as connection:
        assert b"Content-Length: 100000" in connection.recv(4096)


def test_endless_body_goes_on(sandbox: Sandbox, pair: dict[str, str]):
    sandbox.fault("endless_body")

    with send_refresh(sandbox, pair["refresh_token"]) as connection:
        received = 0
        while received < 100_000:
            received += len(connection.recv(65536))

    assert received >= 100_000


def test_a_late_refusal_comes_after_its_time_and_a_grant_at_once(
    client: Client, sandbox: Sandbox, pair: dict[str, str]
):
    sandbox.fault("late_refusal", "refresh", seconds=30)
    granted = client.refresh(pair["refresh_token"])
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(client.refresh, pair["refresh_token"], timeout=0.5)

        assert granted.status_code == 200
        assert isinstance(late.exception(), requests.Timeout)
