"""The same requests through the front and through plain WSGI get the same answers, also over TLS."""

import re
import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPMessage, HTTPResponse
from pathlib import Path

import pytest
import trustme

from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.application import create_app
from keap_connect.database import db
from keap_connect.settings import Settings
from tests.accounts.granted import store_account
from tests.conftest import SECRET_KEY, TOKEN_KEY
from tests.support.real_server import OTHER, RealServer, real_server
from tests.support.sandbox import Sandbox
from tests.support.server import free_port

# What differs from request to request: references, form tokens, cookies, times, and how long a token still lasts.
PASSING = re.compile(
    r'"request_id": "[0-9a-f]{8}"|<code>[0-9a-f]{8}</code>|Reference: [0-9a-f]{8}'
    r'|name="csrf_token" value="[^"]*"|browser=[\w-]+|"expires_in": \d+'
)
FORM = "Content-Type: application/x-www-form-urlencoded\r\n"
KEY = "Authorization: Bearer KEY\r\n"
# Name: (request line without the version, further headers, body).
REQUESTS = {
    "a page": ("GET /", "", ""),
    "a page's head": ("HEAD /", "", ""),
    "a query": ("GET /signin?next=/accounts&x=%C3%A4+%ff", "", ""),
    "a path of two slashes": ("GET //evil.example/x", "", ""),
    "a path with a slash in it": ("GET /r%2fabc", "", ""),
    "a path beyond ASCII": ("GET /r/%C3%A4", "", ""),
    "a path that is no text": ("GET /r/%ff", "", ""),
    "a path with a null": ("GET /r/%00", "", ""),
    "a whole URL": ("GET http://HOST/healthz", "", ""),
    "a foreign URL": ("GET http://evil.example/accounts", "", ""),
    "a method that no page has": ("DELETE /signin", "", ""),
    "what a page allows": ("OPTIONS /signin", "", ""),
    "nothing there": ("GET /nothing-there", "", ""),
    "a static file": ("GET /static/css/tokens.css", "", ""),
    "a static file's head": ("HEAD /static/css/tokens.css", "", ""),
    "a static file again": ("GET /static/css/tokens.css", "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n", ""),
    "a part of a static file": ("GET /static/css/tokens.css", "Range: bytes=0-9\r\n", ""),
    "two cookies": ("GET /accounts", "Cookie: browser=x\r\nCookie: admin=y\r\n", ""),
    "a header twice": ("GET /api/v1/accounts", "Prefer: wait=1\r\nPrefer: wait=2\r\n" + KEY, ""),
    "a header beyond ASCII": ("GET /healthz", "X-Name: ä\r\n", ""),
    "a cookie beyond ASCII": ("GET /accounts", "Cookie: browser=x; other=été\r\n", ""),
    "a query beyond ASCII": ("GET /signin?é", "", ""),
    "no key, from a proxy that is none": ("GET /metrics", "X-Forwarded-For: ä, 1.2.3.4\r\n", ""),
    "a form without its token": ("POST /signin", FORM, "email=a&password=b"),
    "a form of another site": ("POST /connect", FORM + "Origin: https://evil.example\r\n", "a=b"),
    "a length twice": ("POST /signin", FORM + "Content-Length: 3\r\n", "a=b"),
    "a type twice": ("POST /signin", FORM + FORM, "a=b"),
    "a host twice": ("GET /healthz", "Host: second.example\r\n", ""),
    "a form without a body": ("POST /connect", FORM, ""),
    "too much": ("POST /signin", FORM, "a" * 70_000),
    "a document": ("GET /api/openapi.json", "", ""),
    "no key": ("GET /api/v1/accounts", "", ""),
    "a wrong key": ("GET /api/v1/accounts", "Authorization: Bearer kc_guess\r\n", ""),
    "a key": ("GET /api/v1/accounts", KEY, ""),
    "a token": ("GET /api/v1/accounts/1/token", KEY, ""),
    "a token's head": ("HEAD /api/v1/accounts/1/token", KEY, ""),
    "JSON": ("PATCH /api/v1/accounts/1", KEY + "Content-Type: application/json\r\n", '{"label": "Ärger"}'),
    "no JSON": ("PATCH /api/v1/accounts/1", KEY + "Content-Type: text/plain\r\n", "label"),
    "half a JSON": ("PATCH /api/v1/accounts/1", KEY + "Content-Type: application/json\r\n", "{"),
    "nothing in the API": ("POST /api/v1/nothing", KEY, "{}"),
}


class Pair:
    """The same app behind two servers, under one public name."""

    def __init__(self, shipped: RealServer, other: RealServer, key: str, ca: trustme.CA | None) -> None:
        self.shipped, self.other, self._key = shipped, other, key
        self._tls = ssl.create_default_context() if ca else None
        if ca and self._tls:
            ca.configure_trust(self._tls)

    def ask(self, server: RealServer, line: str, headers: str, body: str) -> tuple[int, str, bytes, HTTPMessage]:
        """Send one request over a connection of its own; return status, reason, body and headers."""
        line = line.replace("HOST", server.host)
        headers = headers.replace("KEY", self._key)
        length = f"Content-Length: {len(body.encode())}\r\n" if body or line.startswith("POST") else ""
        head = f"{line} HTTP/1.1\r\nHost: {server.host}\r\n{headers}{length}Connection: close\r\n\r\n"
        with self._connect(server) as connection:
            with suppress(OSError):  # what is too much is refused, and the connection closed, before all of it is sent
                connection.sendall((head + body).encode())
            answer = HTTPResponse(connection, method=line.split()[0])
            answer.begin()
            return answer.status, answer.reason, answer.read(), answer.headers

    def _connect(self, server: RealServer) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        return self._tls.wrap_socket(connection, server_hostname="localhost") if self._tls else connection


@pytest.fixture(scope="module", params=["http", "https"])
def pair(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    sandbox_process: Sandbox,
    empty_sqlite: Path,
    ready_command: list[str],
) -> Iterator[Pair]:
    """Give both servers, on one database with one account."""
    sandbox_process.reset()
    folder = tmp_path_factory.mktemp("pair")
    url = f"sqlite:///{shutil.copy(empty_sqlite, folder / 'keap_connect.db')}"
    environ = {
        "PUBLIC_URL": f"{request.param}://localhost:{free_port()}",
        "SECRET_KEY": SECRET_KEY,
        "TOKEN_KEYS": TOKEN_KEY,
        "DATABASE_URL": url,
        "INSTANCE_PATH": str(folder / "instance"),
        "KEAP_AUTHORIZE_URL": f"{sandbox_process.url}/app/oauth/authorize",
        "KEAP_TOKEN_URL": f"{sandbox_process.url}/token",
        "KEAP_API_URL": f"{sandbox_process.url}/crm/rest",
    }
    app = create_app(Settings.from_env(environ))
    with app.app_context():
        store_account(sandbox_process)
        key = issue_api_key("pair", list(Scope), "x").text
        db.engine.dispose()
    ca = trustme.CA() if request.param == "https" else None
    ours, theirs = certificate_options(ca, folder) if ca else ((), ())
    with (
        real_server(environ, "serve", *ours, command=ready_command) as shipped,
        real_server(environ, *theirs, command=OTHER) as other,
    ):
        yield Pair(shipped, other, key, ca)


def certificate_options(ca: trustme.CA, folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return how each of the two servers is given its certificate."""
    leaf = ca.issue_cert("localhost")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(leaf.cert_chain_pems[0].bytes())
    leaf.private_key_pem.write_to_path(key)
    return (
        ("--certificate", str(certificate), "--key", str(key)),
        ("--ssl-certificate", str(certificate), "--ssl-keyfile", str(key)),
    )


@pytest.mark.proves("R97")
def test_each_request_is_answered_alike(pair: Pair):
    differing = {}
    for name, request in REQUESTS.items():
        ours, theirs = (told(pair.ask(server, *request)) for server in (pair.shipped, pair.other))
        if ours != theirs:
            differing[name] = (ours, theirs)

    assert differing == {}


def told(answer: tuple[int, str, bytes, HTTPMessage]) -> tuple[int, str, str, list[tuple[str, str]]]:
    """Return what must be the same: all but the time of the answer, and what is made anew for each."""
    status, reason, body, headers = answer
    named = [(name.lower(), PASSING.sub("", value)) for name, value in headers.items() if name.lower() != "date"]
    # What `Allow` lists is a set, in any order.
    ordered = [(name, ", ".join(sorted(value.split(", "))) if name == "allow" else value) for name, value in named]
    return status, reason, PASSING.sub("", body.decode(errors="replace")), sorted(ordered)
