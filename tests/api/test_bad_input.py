"""Whatever is wrong with a request: a 4xx in the one shape, nothing echoed, nothing changed."""

import json
import logging
from collections.abc import Callable
from io import BytesIO

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from keap_connect.api import accounts
from keap_connect.database import Base, db
from tests.api.fixtures import NewProgram, Program
from tests.support.engines import on_sqlite

pytestmark = on_sqlite

ACCOUNT = "/api/v1/accounts/1"
JSON = {"Content-Type": "application/json"}
QUERIES = (
    "limit=0", "limit=201", "limit=x", "limit=1_0", "limit=%2B1", "limit=-1", "limit=1.0", "limit=", "limit=%D9%A1",
    "limit=1&limit=2", "limit=99999999999", "cursor=-1", "cursor=2147483648", "cursor=abc", "state=nonsense", "state=",
    "q=", "q=%00", "q=a%0Ab", f"q={'x' * 101}", "tenant_id=a/b", "external_id=a%20b", f"external_id={'x' * 201}",
    "unknown=1", "Limit=1", "external_id=ok%0A",
)  # fmt: skip
TOKEN_QUERIES = ("min_validity=3601", "min_validity=-1", "min_validity=1.5", "min_validity=", "min_validity=60s", "x=1")
BODIES = {
    b"": 415,
    b"{": 400,
    b"[]": 400,
    b"null": 400,
    b'"text"': 400,
    b"{}{}": 400,
    b"\xff\xfe": 400,
    b'{"label": NaN}': 400,
    b'{"label": "a", "label": "b"}': 400,
    b'{"label": "a\\u0000b"}': 400,
    b'{"label": "\\ud800"}': 400,
    b'{"label": "a\\nb"}': 400,
    b'{"label": 7}': 400,
    b'{"label": ["x"]}': 400,
    b'{"label": ""}': 400,
    b'{"label": "' + b"x" * 201 + b'"}': 400,
    b'{"external_id": "a b"}': 400,
    b'{"external_id": "ok\\n"}': 400,
    b'{"state": "active"}': 400,
    b'{"canary-field": 1}': 400,
    b"[" * 30_000: 400,
    b'{"label": "' + b"x" * 70_000 + b'"}': 413,
}
IMPORTS = (
    {},
    {"access_token": ""},
    {"access_token": "a b"},
    {"access_token": "x" * 8193},
    {"access_token": "x", "expires_in": "5"},
    {"access_token": "x", "expires_in": True},
    {"access_token": "x", "expires_in": 1.5},
    {"access_token": "x", "expires_in": -1},
    {"access_token": "x", "expires_in": 10**400},
    {"access_token": "x", "kind": "password"},
    {"access_token": "x", "tenant_id": "ab123"},
    {"access_token": None},
)


@pytest.fixture
def everything(app: Flask, account_id: int) -> Callable[[], dict[str, object]]:
    """Give the function that reads all tables, but for when a key was last used."""

    def read() -> dict[str, object]:
        queries = {
            name: select(*(column for column in table.columns if column.name != "last_used_at"))
            for name, table in Base.metadata.tables.items()
        }
        with app.app_context(), db.engine.connect() as connection:
            return {name: connection.execute(query).all() for name, query in queries.items()}

    return read


def is_refusal(answer, status: int = 400) -> bool:
    """Say whether it is a refusal in the one shape."""
    body = answer.json()
    assert answer.status_code == status, (answer.status_code, body)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert set(body) == {"error", "error_description", "is_retryable", "request_id"}
    assert body["is_retryable"] is (status >= 500)
    assert "canary" not in answer.text
    return True


@pytest.mark.proves("R74", "R78")
def test_bad_query_strings_are_refused(program: Program, account_id: int):
    for query in QUERIES:
        assert is_refusal(program.get(f"/api/v1/accounts?{query}")), query
    for query in TOKEN_QUERIES:
        assert is_refusal(program.get(f"{ACCOUNT}/token?{query}")), query
    assert is_refusal(program.post(f"{ACCOUNT}/disconnect?force=1"))


@pytest.mark.proves("R74", "R78")
def test_bad_bodies_are_refused_and_change_nothing(program: Program, everything: Callable[[], dict[str, object]]):
    before = everything()

    for body, status in BODIES.items():
        assert is_refusal(program.call("PATCH", ACCOUNT, data=body, headers=JSON if body else {}), status), body[:40]
    for asked in IMPORTS:
        assert is_refusal(program.call("POST", "/api/v1/accounts", data=json.dumps(asked), headers=JSON)), asked
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json"):
        answer = program.call("PATCH", ACCOUNT, data=b'{"label": "x"}', headers={"Content-Type": kind})
        assert is_refusal(answer, 415), kind
    for path in ("refresh", "disconnect"):
        assert is_refusal(program.post(f"{ACCOUNT}/{path}", {"force": True}))
    assert is_refusal(program.post(f"{ACCOUNT}/token/rejected", {"fingerprint": "0" * 15 + "G"}))
    assert everything() == before


def test_a_body_in_chunks_has_the_same_limit(app: Flask, program: Program, account_id: int):
    def send(label: bytes):
        return app.test_client().patch(
            program.base_url + ACCOUNT,
            input_stream=BytesIO(b'{"label": "' + label + b'"}' + b" " * 70_000 * (label == b"long")),
            headers={**JSON, "Transfer-Encoding": "chunked", "Authorization": program.session.headers["Authorization"]},
            environ_overrides={"wsgi.input_terminated": True},
        )

    assert [send(label).status_code for label in (b"short", b"long")] == [200, 413]
    assert program.get(ACCOUNT).json()["label"] == "short"


def test_an_unknown_address_and_a_wrong_method_get_the_one_shape(program: Program, account_id: int):
    for path in ("/api/", "/api/v1", "/api/v2/accounts", "/api//v1/accounts", "/api/v1/accounts/", "/api/%00"):
        assert is_refusal(program.get(path), 404), path
    for method in ("DELETE", "PUT", "POST", "TRACE", "OPTIONS", "PROPFIND"):
        answer = program.call(method, f"{ACCOUNT}/token")
        assert is_refusal(answer, 405)
        assert answer.headers["Allow"] == "GET"
    assert program.call("HEAD", f"{ACCOUNT}/token").status_code == 405
    assert is_refusal(program.get("/api/v1/accounts", headers={"Host": "evil.example"}), 400)


@pytest.mark.proves("R89")
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OperationalError("SELECT canary", {}, Exception("canary")), (503, "temporarily_unavailable")),
        (RuntimeError("canary"), (500, "server_error")),
    ],
)
def test_what_nobody_foresaw_is_written_down_and_told_to_nobody(
    program: Program, monkeypatch, caplog: pytest.LogCaptureFixture, error: Exception, expected: tuple[int, str]
):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(accounts, "list_accounts_after", fail)
    answer = program.get("/api/v1/accounts")

    assert is_refusal(answer, expected[0])
    assert answer.json()["error"] == expected[1]
    assert f"{answer.json()['request_id']}: {type(error).__name__} at GET /api/v1/accounts" in caplog.text
    assert answer.headers.get("Retry-After") == ("5" if expected[0] == 503 else None)


@pytest.mark.proves("R78")
def test_every_error_has_an_id_of_its_own_that_is_in_the_log(
    program: Program, account_id: int, new_program: NewProgram, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    stranger = Program(program.app, None)
    answers = [
        stranger.get("/api/v1/accounts"),
        new_program("tokens:read").get("/api/v1/accounts"),
        program.get("/api/nothing"),
        program.call("DELETE", ACCOUNT),
        program.get("/api/v1/accounts?limit=0"),
        program.get("/api/v1/accounts/2"),
        program.get("/api/v1/accounts/2"),
    ]

    told = {answer.json()["request_id"]: answer.status_code for answer in answers}
    assert list(told.values()) == [401, 403, 404, 405, 400, 404, 404]
    for name, status in told.items():
        assert [f"({status}) at" in line for line in caplog.messages if line.startswith(f"{name}: ")] == [True]


@pytest.mark.proves("R78", "F68")
def test_a_key_in_a_path_is_not_in_the_log(program: Program, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    key = program.session.headers["Authorization"].partition(" ")[2]

    refused = [program.get(f"/api/v1/accounts/{key}/token"), program.get(f"/api/{key}")]

    assert [answer.status_code for answer in refused] == [401, 404]
    assert "/api/v1/accounts/..." in caplog.text
    assert key[-20:] not in caplog.text


def test_pages_keep_their_own_errors(program: Program):
    assert program.get("/nothing").headers["Content-Type"].startswith("text/html")
