"""A body is waited for by a few threads and for a short time (F70)."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from flask import Flask

from keap_connect.settings import Settings
from keap_connect.web import slow_bodies
from tests.faults.conftest import until

Begin = Callable[..., socket.socket]
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def begin(app: Flask, settings: Settings) -> Iterator[Begin]:
    """Give the function that sends a request to a path, but not the end of its body."""
    with ExitStack() as opened:

        def begin(path: str, body: bytes = b"a") -> socket.socket:
            client = opened.enter_context(socket.create_connection(("127.0.0.1", settings.port), timeout=30))
            head = f"POST {path} HTTP/1.1\r\nHost: localhost:{settings.port}\r\nContent-Length: 5\r\n"
            client.sendall(head.encode() + b"Content-Type: application/x-www-form-urlencoded\r\n\r\n" + body)
            return client

        yield begin


@pytest.mark.proves("F70")
@pytest.mark.parametrize("path", ["/signin", "/api/v1/accounts"])
def test_a_body_that_does_not_end_is_given_up(begin: Begin, monkeypatch: pytest.MonkeyPatch, path: str):
    monkeypatch.setattr(slow_bodies, "BODY_SECONDS", 0.1)

    assert status_of(begin(path)) == 408


@pytest.mark.proves("F70")
@pytest.mark.parametrize("path", ["/signin", "/api/v1/accounts"])
def test_beyond_eight_of_them_one_hears_so_at_once_and_whole_ones_get_in_again_later(
    begin: Begin, caplog: pytest.LogCaptureFixture, path: str
):
    slow = [begin(path) for _ in range(slow_bodies.BODIES_AT_ONCE)]

    until(lambda: slow_bodies._turns._value == 0)
    refused = status_of(begin(path))
    for client in slow:
        client.sendall(b"bcde")
    answers = [status_of(client) for client in slow]
    again = status_of(begin(path, b"abcde"))

    assert refused == 503
    assert "Traceback" not in caplog.text
    assert {*answers, again} == {403 if path == "/signin" else 401}


def status_of(client: socket.socket) -> int:
    """Return the status of the answer."""
    return int(client.recv(100).split()[1])
