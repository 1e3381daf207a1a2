"""The Python client for jobs against a scripted Keap Connect and a scripted Keap, over real sockets."""

import asyncio
import io
import json
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests

from keap_connect_client import (
    AccountNotFound,
    KeapConnect,
    KeapConnectError,
    KeyRefused,
    NotKeap,
    ReconnectRequired,
    RequestRefused,
    TemporarilyUnavailable,
)
from keap_connect_client.token import fingerprint_of
from tests.support.scripted import Answer, Asked, Scripted, scripted
from tests.support.server import free_port

KEY = "kc_canary-key-of-a-job"
TOKENS = ["canary-token-1", "canary-token-2", "canary-token-3"]


@dataclass
class Stage:
    """Hands out one token after the other as they are reported; Keap accepts those in `good`."""

    connect_server: Scripted
    keap_server: Scripted
    connect: KeapConnect
    good: set[str]
    expires_in: int | None = 3600
    reported: list[str] = field(default_factory=list)

    def token_api(self, asked: Asked) -> Answer:
        if asked.bearer != KEY:
            return 401, {"error": "invalid_token", "error_description": "No such key."}
        if asked.path.endswith("/token/rejected"):
            self.reported.append(json.loads(asked.body)["fingerprint"])
            return 200, {}
        return 200, served(TOKENS[len(self.reported)], self.expires_in)

    def keap(self, asked: Asked) -> Answer:
        return (200, {"body": asked.body.decode()}) if asked.bearer in self.good else (401, {"fault": "expired"})

    @property
    def url(self) -> str:
        return f"{self.keap_server.url}/crm/rest/v2/contacts"


def served(access_token: str, expires_in: int | None = 3600) -> dict[str, object]:
    return {
        "state": "active",
        "access_token": access_token,
        "token_type": "bearer",
        "expires_in": expires_in,
        "expires_at": "2026-11-25T12:00:00+00:00" if expires_in else None,
        "tenant_id": "ab123",
        "fingerprint": fingerprint_of(access_token),
    }


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Give both servers and a client."""
    with scripted(lambda _: (500, {})) as connect_server, scripted(lambda _: (500, {})) as keap_server:
        connect = KeapConnect(connect_server.url, KEY, timeout_seconds=5)
        built = Stage(connect_server, keap_server, connect, {TOKENS[0]})
        connect_server.script, keap_server.script = built.token_api, built.keap
        yield built


# One call for a token


def test_a_token_is_asked_for_by_the_contract_and_hides_itself(stage: Stage):
    token = stage.connect.token("external:acme", min_validity_seconds=600)
    plain = stage.connect.token(7)
    stage.connect.token("tenant:ab123")

    assert stage.connect_server.paths() == [
        "GET /api/v1/accounts/external:acme/token?min_validity=600",
        "GET /api/v1/accounts/7/token",
        "GET /api/v1/accounts/tenant:ab123/token",
    ]
    assert (token.access_token, token.tenant_id, token.warning) == (TOKENS[0], "ab123", None)
    assert (plain.expires_in, plain.lasts(3500), plain.lasts(3700)) == (3600, True, False)
    assert "canary" not in repr(token) + repr(stage.connect) + repr(stage.connect.cached(7))


def test_a_token_that_never_expires_lasts(stage: Stage):
    stage.expires_in = None

    token = stage.connect.token(7)

    assert (token.expires_in, token.expires_at, token.lasts(10**9)) == (None, None, True)


@pytest.mark.parametrize(
    ("answer", "kind", "facts"),
    [
        (
            (409, {"error": "reconnect_required", "error_description": "Dead.", "reconnect_url": "https://c/r/x"}),
            ReconnectRequired,
            {"reconnect_url": "https://c/r/x", "is_disconnected": False},
        ),
        ((409, {"error": "disconnected"}), ReconnectRequired, {"reconnect_url": None, "is_disconnected": True}),
        ((503, {"error": "x"}, {"Retry-After": "7"}), TemporarilyUnavailable, {"retry_after_seconds": 7}),
        ((429, {"error": "x"}, {"Retry-After": "9"}), TemporarilyUnavailable, {"retry_after_seconds": 9}),
        ((408, {"error": "request_timeout"}), TemporarilyUnavailable, {"retry_after_seconds": 30}),
        ((502, {}, {"Content-Type": "text/html"}), TemporarilyUnavailable, {"retry_after_seconds": 30}),
        ((401, {"error": "invalid_token", "request_id": "1f3a"}), KeyRefused, {"request_id": "1f3a"}),
        ((403, {"error": "insufficient_scope"}), KeyRefused, {"request_id": None}),
        ((404, {"error": "not_found"}), AccountNotFound, {}),
        ((400, {"error": "invalid_request"}), RequestRefused, {}),
        ((307, {}, {"Location": "http://127.0.0.1:1/"}), RequestRefused, {}),
        ((200, {"state": "active"}), KeapConnectError, {}),
    ],
)
def test_each_answer_without_a_token_has_its_exception(
    stage: Stage, answer: Answer, kind: type[KeapConnectError], facts: dict[str, object]
):
    stage.connect_server.script = lambda _: answer

    with pytest.raises(KeapConnectError) as refusal:
        stage.connect.token(7)

    assert type(refusal.value) is kind
    assert {name: getattr(refusal.value, name) for name in facts} == facts
    assert str(refusal.value).endswith("(request 1f3a)") is ("request_id" in answer[1])
    assert "canary" not in "".join(traceback.format_exception(refusal.value))


def test_a_reconnect_link_is_made_by_the_contract(stage: Stage):
    stage.connect_server.script = lambda _: (201, {"url": "https://c/r/x", "expires_at": "2026-12-02T12:00:00+00:00"})

    assert stage.connect.reconnect_link("external:acme") == "https://c/r/x"
    assert stage.connect_server.paths() == ["POST /api/v1/accounts/external:acme/reconnect-links"]


def test_a_keap_connect_that_is_away_is_a_matter_of_time():
    away = KeapConnect(f"http://127.0.0.1:{free_port()}", KEY)

    with pytest.raises(TemporarilyUnavailable) as refusal:
        away.token(7)

    assert "canary" not in "".join(traceback.format_exception(refusal.value))


def test_the_key_goes_by_a_safe_line_only_and_a_netrc_does_not_replace_it(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    assert stage.connect.token(7).access_token == TOKENS[0]
    for url in ("http://connect.example.com", "connect.example.com", "ftp://localhost"):
        with pytest.raises(ValueError, match="https"):
            KeapConnect(url, KEY)
    with pytest.raises(ValueError, match="API key"):
        KeapConnect(stage.connect_server.url, "two\nlines")
    with pytest.raises(RequestRefused):
        stage.connect.token("external:../../admin")


# Calls to Keap. Each way of calling returns the status and what Keap read.

Call = Callable[[Stage, bytes], tuple[int, Any]]


def by_requests(stage: Stage, content: bytes) -> tuple[int, Any]:
    with requests.Session() as session:
        session.auth = stage.connect.requests_auth(7)
        answer = session.post(stage.url, data=content, timeout=5)
    return answer.status_code, answer.json()


def by_httpx(stage: Stage, content: bytes) -> tuple[int, Any]:
    with httpx.Client(auth=stage.connect.httpx_auth(7), trust_env=False) as client:
        answer = client.post(stage.url, content=content)
    return answer.status_code, answer.json()


def by_async_httpx(stage: Stage, content: bytes) -> tuple[int, Any]:
    async def call() -> httpx.Response:
        async with httpx.AsyncClient(auth=stage.connect.httpx_auth(7), trust_env=False) as client:
            return await client.post(stage.url, content=content)

    with ThreadPoolExecutor(1) as pool:  # this thread may have a loop already: that of the browser's tests
        answer = pool.submit(asyncio.run, call()).result()
    return answer.status_code, answer.json()


every_way = pytest.mark.parametrize("call", [by_requests, by_httpx, by_async_httpx])


@every_way
def test_a_token_is_fetched_once_and_kept(stage: Stage, call: Call):
    answers = [call(stage, b"{}") for _ in range(3)]

    assert answers == [(200, {"body": "{}"})] * 3
    assert stage.connect_server.paths() == ["GET /api/v1/accounts/7/token"]


@every_way
def test_a_token_that_is_about_to_expire_is_asked_for_again(stage: Stage, call: Call):
    stage.expires_in = 59

    call(stage, b"")
    call(stage, b"")

    assert stage.connect_server.paths() == ["GET /api/v1/accounts/7/token"] * 2


@every_way
def test_a_refused_token_is_reported_and_the_call_is_made_once_more(stage: Stage, call: Call):
    call(stage, b"")
    stage.good = {TOKENS[1]}

    answer = call(stage, b'{"a": 1}')

    assert answer == (200, {"body": '{"a": 1}'})
    assert stage.reported == [fingerprint_of(TOKENS[0])]
    assert [asked.bearer for asked in stage.keap_server.asked] == [TOKENS[0], TOKENS[0], TOKENS[1]]


@every_way
def test_keap_refusing_the_fresh_token_too_ends_it(stage: Stage, call: Call):
    stage.good = set()

    first, second = call(stage, b""), call(stage, b"")

    assert (first[0], second[0]) == (401, 401)
    assert len(stage.reported) == 1
    assert len(stage.keap_server.asked) == 3


@every_way
def test_no_token_goes_to_anybody_but_keap(stage: Stage, call: Call):
    for url in ("https://example.com/", "http://api.infusionsoft.com/", "https://api.keap.com.example.com/"):
        stage.keap_server.url = url.rstrip("/")

        with pytest.raises(NotKeap):
            call(stage, b"")

    assert stage.connect_server.asked == []


@every_way
def test_what_keap_connect_says_reaches_the_job(stage: Stage, call: Call):
    stage.connect_server.script = lambda _: (409, {"error": "reconnect_required", "reconnect_url": "https://c/r/x"})

    with pytest.raises(ReconnectRequired) as refusal:
        call(stage, b"")

    assert refusal.value.reconnect_url == "https://c/r/x"
    assert stage.keap_server.asked == []


def test_a_redirect_to_another_host_carries_no_token_and_its_401_is_no_report(stage: Stage):
    with scripted(lambda _: (401, {})) as elsewhere:
        other = elsewhere.url.replace("127.0.0.1", "localhost")
        stage.keap_server.script = lambda _: (302, {}, {"Location": other})

        plain = requests.get(stage.url, auth=stage.connect.requests_auth(7), timeout=5)
        by_httpx = httpx.get(stage.url, auth=stage.connect.httpx_auth(7), trust_env=False, follow_redirects=True)

    assert (plain.status_code, by_httpx.status_code) == (401, 401)
    assert [asked.bearer for asked in elsewhere.asked] == ["", ""]
    assert stage.reported == []


def test_a_file_is_sent_again_from_its_place_and_a_stream_is_not_sent_half(stage: Stage):
    stage.good = {TOKENS[1]}
    file = io.BytesIO(b"skipped and sent")
    file.seek(12)

    sent = requests.post(stage.url, data=file, auth=stage.connect.requests_auth(7), timeout=5)
    stage.good = {TOKENS[2]}
    stage.connect.cached(7)._replaced_at = None
    stream = requests.post(stage.url, data=iter([b"a"]), auth=stage.connect.requests_auth(7), timeout=5)

    assert (sent.status_code, sent.json()) == (200, {"body": "sent"})
    assert (stream.status_code, len(stage.reported)) == (401, 2)


def test_a_token_that_still_holds_is_used_while_keap_connect_is_away(stage: Stage):
    stage.expires_in = 50
    by_requests(stage, b"")
    stage.connect_server.script = lambda _: (503, {})

    assert by_requests(stage, b"")[0] == 200


def test_many_threads_ask_and_report_once(stage: Stage):
    by_requests(stage, b"")
    stage.good = {TOKENS[1]}
    ready = threading.Barrier(8)
    statuses = []

    def work() -> None:
        ready.wait()
        statuses.append(by_requests(stage, b"")[0])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert statuses == [200] * 8
    assert stage.reported == [fingerprint_of(TOKENS[0])]
    assert len(stage.connect_server.asked) == 3
