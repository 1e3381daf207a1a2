"""The front refuses what does not fit in the app's own words, and frees a thread as soon as its answer is there."""

import asyncio
import itertools
import json
import logging
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPResponse, IncompleteRead
from pathlib import Path
from types import SimpleNamespace

import pytest
from flask import Flask, Response, request, stream_with_context
from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from granian.server.embed import Server
from sqlalchemy import event

from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.database import db
from keap_connect.refresh import serving
from keap_connect.server import front as front_module
from keap_connect.server.front import Front
from keap_connect.settings import Settings
from keap_connect.web.auth import Audience
from tests.accounts.granted import store_account
from tests.faults.conftest import until
from tests.support.engines import on_sqlite
from tests.support.sandbox import Sandbox

pytestmark = on_sqlite
LARGE_BYTES = 3_000_000
FORM = "POST /signin HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\n"
JSON = "POST /api/v1/accounts HTTP/1.1\r\nContent-Type: application/json\r\n"


class Fronted:
    """The app behind the front on a port of its own, in this process, so that a test can look into it."""

    def __init__(self, app: Flask, folder: Path, port: int, host: str) -> None:
        self.app, self.front = app, Front(app, folder)
        self._port, self._host = port, host
        self._opened = ExitStack()
        self._loop = asyncio.new_event_loop()
        options = {"http": HTTPModes.http1, "websockets": False, "log_level": LogLevels.critical}
        self._server = Server(self.front, port=port, interface=Interfaces.ASGINL, **options)
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._server.serve(),))

    def start(self) -> None:
        """Take connections."""
        self._thread.start()
        until(self._listens)

    def stop(self) -> None:
        """Close all connections, and end."""
        self._opened.close()
        self._loop.call_soon_threadsafe(self._server.stop)
        self._thread.join()
        self._loop.close()

    def send(self, request: str) -> socket.socket:
        """Send a request, or the begin of one; the Host header is filled in."""
        client = self._opened.enter_context(socket.create_connection(("127.0.0.1", self._port), timeout=60))
        line, _, rest = request.partition("\r\n")
        client.sendall(f"{line}\r\nHost: {self._host}\r\n{rest}".encode())
        return client

    def ask(self, request: str) -> SimpleNamespace:
        """Send a request and return its answer."""
        return answer_to(self.send(request))

    def finish(self, seconds: float) -> bool:
        """Wait until the app has answered what it was given."""
        return asyncio.run_coroutine_threadsafe(self.front.finish(seconds), self._loop).result()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0


def answer_to(client: socket.socket) -> SimpleNamespace:
    """Read an answer to its end."""
    answer = HTTPResponse(client)
    answer.begin()
    return SimpleNamespace(status=answer.status, headers=answer.headers, body=answer.read().decode())


@pytest.fixture
def gate() -> threading.Event:
    """Give what the view /waits waits for."""
    return threading.Event()


@pytest.fixture
def called() -> list[str]:
    """Give the paths of the views below that were called."""
    return []


@pytest.fixture
def fronted(
    settings: Settings, gate: threading.Event, called: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fronted]:
    """Give the app with views that wait, have a large answer, or fail half-way."""
    app = create_app(settings)

    def add(path: str, answer: Callable[[], Iterator[bytes]]) -> None:
        def view() -> Response:
            called.append(path)
            return Response(answer(), mimetype="text/plain")

        view.audience = Audience.ANYONE
        app.add_url_rule(path, path, view)

    def waits() -> Iterator[bytes]:
        gate.wait(60)
        yield b"waited"

    def large() -> Iterator[bytes]:
        yield from [b"x" * 100_000] * (LARGE_BYTES // 100_000)

    def fails() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("half-way")

    def endless() -> Iterator[bytes]:
        yield from itertools.repeat(b"x" * 100_000, 100_000)

    def headers() -> Iterator[bytes]:
        yield f"Host X-Real={request.headers['X-Real']}".encode() if len(request.headers) == 2 else b"more"

    add("/headers", stream_with_context(headers))
    add("/waits", waits)
    add("/large", large)
    add("/large-and-waits", lambda: itertools.chain(large(), waits()))
    add("/endless", endless)
    add("/fails", fails)
    add("/large-and-fails", lambda: itertools.chain(large(), fails()))
    running = Fronted(app, tmp_path, settings.port, settings.public_url.removeprefix("http://"))
    running.start()
    yield running
    gate.set()
    running.stop()
    with app.app_context():
        db.engine.dispose()


REFUSALS = {
    "too slow": (408, "Content-Length: 9\r\n\r\nemail=", "request_timeout"),
    "too large, in chunks": (
        413,
        f"Transfer-Encoding: chunked\r\n\r\n11170\r\n{'a' * 70_000}\r\n",
        "content_too_large",
    ),
    "too large": (413, "Content-Length: 99999999\r\n\r\n", "content_too_large"),
}


@pytest.mark.proves("F70", "F77", "R97")
@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_body_that_does_not_fit_is_refused_as_the_app_refuses(
    fronted: Fronted, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, refusal: tuple[int, str, str]
):
    status, rest, code = refusal
    monkeypatch.setattr(front_module, "BODY_SECONDS", 0.1)
    caplog.set_level(logging.INFO)

    page, document = fronted.ask(FORM + rest), fronted.ask(JSON + rest)

    assert (page.status, document.status) == (status, status)
    assert "<h1>" in page.body
    assert page.headers["Content-Security-Policy"] == document.headers["Content-Security-Policy"]
    told = json.loads(document.body)
    assert told["error"] == code
    assert f"{told['request_id']}: " in caplog.text
    assert f"({status}) at POST /api/v1/accounts from 127.0.0.1" in caplog.text


@pytest.mark.proves("R97", "F33")
@pytest.mark.parametrize("path", ["/signin", "/nowhere"])
def test_a_refusal_asks_the_database_nothing(fronted: Fronted, monkeypatch: pytest.MonkeyPatch, path: str):
    """One thread writes all of them, and a database that hangs would hold it for half a minute each time."""
    asked: list[str] = []
    with fronted.app.app_context():
        event.listen(db.engine, "before_cursor_execute", lambda _connection, _cursor, sql, *_: asked.append(sql))
    cookies = "; ".join(f"{name}={'a' * 43}" for name in ("admin", "person"))
    form = FORM.replace("/signin", path)

    assert fronted.ask(f"{form}Cookie: {cookies}\r\nContent-Length: 99999999\r\n\r\n").status in {404, 413}

    assert asked == []


@pytest.mark.proves("R97")
def test_more_requests_than_may_wait_hear_so_at_once(
    fronted: Fronted, gate: threading.Event, called: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(front_module, "QUEUE", 1 - front_module.THREADS)  # one request in all
    waiting = fronted.send("GET /waits HTTP/1.1\r\n\r\n")
    until(lambda: called)

    page, document = fronted.ask("GET / HTTP/1.1\r\n\r\n"), fronted.ask("GET /api/v1/accounts HTTP/1.1\r\n\r\n")
    gate.set()

    assert (page.status, document.status) == (503, 503)
    assert page.headers["Retry-After"] == document.headers["Retry-After"] == "10"
    assert json.loads(document.body)["error"] == "temporarily_unavailable"
    assert answer_to(waiting).body == "waited"
    assert fronted.ask("GET / HTTP/1.1\r\n\r\n").status == 200


@pytest.mark.proves("R97")
def test_a_request_that_gets_no_thread_in_time_is_refused_and_one_that_has_a_thread_is_not(
    fronted: Fronted, gate: threading.Event, called: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(front_module, "QUEUE_SECONDS", 0.1)
    waiting = [fronted.send("GET /waits HTTP/1.1\r\n\r\n") for _ in range(front_module.THREADS)]
    until(lambda: len(called) == front_module.THREADS)

    refused = fronted.ask("GET /waits HTTP/1.1\r\n\r\n")
    gate.set()

    assert (refused.status, refused.headers["Retry-After"]) == (503, "10")
    assert {answer_to(client).body for client in waiting} == {"waited"}
    assert len(called) == front_module.THREADS


@pytest.mark.proves("R97")
def test_a_token_that_holds_is_handed_out_while_all_threads_are_busy(
    fronted: Fronted, sandbox: Sandbox, called: list[str]
):
    with fronted.app.app_context():
        account_id = store_account(sandbox)
        key = issue_api_key("jobs", [Scope.TOKENS_READ], "x").text
    asked = f"GET /api/v1/accounts/{account_id}/token HTTP/1.1\r\nAuthorization: Bearer {key}\r\n\r\n"
    assert fronted.ask(asked).status == 200  # the first call notes that key and account are in use
    for _ in range(front_module.THREADS):
        fronted.send("GET /waits HTTP/1.1\r\n\r\n")
    until(lambda: len(called) == front_module.THREADS)

    answer = fronted.ask(asked)

    assert json.loads(answer.body)["token_type"] == "bearer"
    assert answer.headers["Content-Security-Policy"]


@pytest.mark.proves("R97")
def test_bodies_share_a_bounded_memory_and_the_oldest_makes_room(fronted: Fronted, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(front_module, "ARRIVING_BYTES", 5000)
    first = fronted.send(FORM + "Content-Length: 4000\r\n\r\n" + "a" * 3999)
    until(lambda: fronted.front._arriving_bytes == 3999)

    second = fronted.ask(FORM + "Content-Length: 4000\r\n\r\n" + "a" * 4000)

    assert second.status == 403
    assert answer_to(first).status == 408
    assert fronted.front._arriving_bytes == 0


@pytest.mark.proves("R97")
def test_only_the_page_for_files_takes_more_than_a_form(fronted: Fronted):
    sent = f"Content-Length: 100000\r\n\r\n{'a' * 100_000}"

    assert fronted.ask(FORM + sent).status == 413
    assert fronted.ask(FORM.replace("/signin", "/import/file") + sent).status == 403


def test_a_body_in_chunks_is_read_like_any_other(fronted: Fronted):
    answer = fronted.ask(JSON + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")

    assert answer.status == 401


@pytest.mark.proves("R97")
@pytest.mark.parametrize("head", ["Content-Length: 9\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"])
def test_half_a_body_of_a_client_that_left_reaches_no_view(fronted: Fronted, called: list[str], head: str):
    client = fronted.send(f"POST /waits HTTP/1.1\r\n{head}")
    until(lambda: fronted.front._arriving_bytes)
    client.shutdown(socket.SHUT_WR)

    assert client.recv(100)[9:12] in {b"", b"400", b"500"}
    assert called == []


@pytest.mark.proves("F83")
def test_a_request_that_is_not_complete_when_the_process_ends_is_refused(fronted: Fronted):
    late = fronted.send(FORM + "Content-Length: 9\r\n\r\nhalf")
    until(lambda: fronted.front._arriving_bytes)

    assert fronted.finish(seconds=1) is True

    assert answer_to(late).status == 503
    assert fronted.ask(FORM + "Content-Length: 9\r\n\r\nhalfwhole").status == 503


@pytest.mark.proves("F83")
def test_the_end_waits_for_readers_of_large_answers(fronted: Fronted, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules[__name__], "LARGE_BYTES", 30_000_000)  # more than the sockets hold
    reading = fronted.send("GET /large HTTP/1.1\r\n\r\n")
    until(lambda: fronted.front._sending and not fronted.front._writing)

    assert fronted.finish(seconds=0.05) is False
    assert answer_to(reading).body == "x" * LARGE_BYTES
    assert fronted.finish(seconds=60) is True


@pytest.mark.proves("F70")
def test_a_large_answer_arrives_while_it_is_made_and_waits_for_slow_readers_in_a_file(
    fronted: Fronted, gate: threading.Event, tmp_path: Path
):
    not_reading = [fronted.send("GET /large HTTP/1.1\r\n\r\n") for _ in range(front_module.THREADS + 4)]

    assert fronted.ask("GET / HTTP/1.1\r\n\r\n").status == 200
    reading = HTTPResponse(fronted.send("GET /large-and-waits HTTP/1.1\r\n\r\n"))
    reading.begin()
    first = reading.read(900_000)
    assert fronted.finish(seconds=0.05) is False
    gate.set()

    assert first + reading.read() == b"x" * LARGE_BYTES + b"waited"
    assert fronted.finish(seconds=60) is True
    assert answer_to(not_reading[0]).body == "x" * LARGE_BYTES
    assert not any(path.is_file() and path.stat().st_size > 1_000_000 for path in tmp_path.rglob("*"))


@pytest.mark.proves("F70")
def test_a_client_that_stops_reading_is_cut_off(fronted: Fronted, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(front_module, "STALLED_SECONDS", 0.1)
    client = fronted.send("GET /endless HTTP/1.1\r\n\r\n")

    until(lambda: fronted.front._writing)
    until(lambda: not fronted.front._writing)  # the app stops, too
    with pytest.raises(IncompleteRead):
        answer_to(client)


def test_an_answer_that_fails_half_way_does_not_look_complete(fronted: Fronted):
    assert fronted.ask("GET /fails HTTP/1.1\r\n\r\n").status == 500
    assert fronted.ask("GET /large-and-fails HTTP/1.0\r\n\r\n").status == 500
    assert fronted.ask("GET /large HTTP/1.0\r\n\r\n").headers["Content-Length"] == str(LARGE_BYTES)
    with pytest.raises(IncompleteRead):
        fronted.ask("GET /large-and-fails HTTP/1.1\r\n\r\n")


@pytest.mark.proves("F83")
def test_it_says_whether_the_app_has_finished(fronted: Fronted, gate: threading.Event, called: list[str]):
    fronted.send("GET /waits HTTP/1.1\r\n\r\n")
    until(lambda: "/waits" in called)

    assert fronted.finish(seconds=0.05) is False
    gate.set()
    assert fronted.finish(seconds=60) is True


@pytest.mark.proves("F83", "R42")
def test_a_caller_that_waits_when_the_process_ends_begins_no_refresh(
    fronted: Fronted, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    """Else the process would be killed before Keap answers, and the new pair would be lost."""
    monkeypatch.setattr(serving, "_places", threading.BoundedSemaphore(1))
    with fronted.app.app_context():
        key = issue_api_key("jobs", [Scope.TOKENS_READ], "x").text
        ids = [store_account(sandbox, tenant, access_token_expires_at=utc_now()) for tenant in ("ab123", "cd456")]
    waits = f"Authorization: Bearer {key}\r\nPrefer: wait=25\r\n\r\n"
    sandbox.hold("refresh")
    first = fronted.send(f"GET /api/v1/accounts/{ids[0]}/token HTTP/1.1\r\n{waits}")
    sandbox.wait_held(1)
    second = fronted.send(f"GET /api/v1/accounts/{ids[1]}/token HTTP/1.1\r\n{waits}")
    until(lambda: fronted.front._waiting)

    assert fronted.finish(seconds=0) is False
    sandbox.release()

    assert answer_to(first).status == 200
    refused = answer_to(second)
    assert (refused.status, "ending" in json.loads(refused.body)["error_description"]) == (503, True)
    assert len([one for one in sandbox.ledger()["presentations"] if one["kind"] == "refresh_token"]) == 1
    assert fronted.finish(seconds=60) is True


@pytest.mark.proves("R97")
def test_a_caller_beyond_those_who_may_wait_without_a_thread_hears_so_at_once(
    fronted: Fronted, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(front_module, "MOST_WAITING", 1)
    monkeypatch.setattr(serving, "_places", threading.BoundedSemaphore(1))
    with fronted.app.app_context():
        key = issue_api_key("jobs", [Scope.TOKENS_READ], "x").text
        account_id = store_account(sandbox, access_token_expires_at=utc_now())
    asked = (
        f"GET /api/v1/accounts/{account_id}/token HTTP/1.1\r\nAuthorization: Bearer {key}\r\nPrefer: wait=25\r\n\r\n"
    )
    sandbox.hold("refresh")
    refreshes = fronted.send(asked)
    sandbox.wait_held(1)
    waits = fronted.send(asked)
    until(lambda: fronted.front._waiting == 1)

    one_too_many = fronted.send(asked)
    until(lambda: fronted.front._waiting > 1 or select.select([one_too_many], [], [], 0)[0])

    assert fronted.front._waiting == 1
    sandbox.release()
    assert [answer_to(one).status for one in (refreshes, waits, one_too_many)] == [200, 200, 503]


@pytest.mark.proves("F94", "R98")
def test_a_header_that_wsgi_could_take_for_another_one_is_dropped(fronted: Fronted):
    answer = fronted.ask("GET /headers HTTP/1.1\r\nX_Forwarded_For: 1.1.1.1\r\nX-Real: 1\r\nX-Real: 2\r\n\r\n")

    assert answer.body == "Host X-Real=1,2"
