"""The app behind nginx, Caddy and HAProxy, with the settings that docs/proxies.md shows.

A client is known by its own address of the loopback network, which no proxy shares: 127.0.1.7 and the like.
"""

import json
import re
import shutil
import socket
import sqlite3
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from http.client import HTTPConnection, HTTPException
from itertools import count
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import trustme
import urllib3

from keap_connect.access.admins import create_admin
from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.accounts.credentials import new_account, replace_credential
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.connect.import_files import MOST_BYTES
from keap_connect.database import db, write_transaction
from keap_connect.keap.token_response import TokenResponse
from keap_connect.settings import Settings
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD, SECRET_KEY, TOKEN_KEY
from tests.keap.raw_server import RawServer, answering, http
from tests.support.drills import wait_until
from tests.support.proxies import HOST, KINDS, Kind, run_proxy
from tests.support.real_server import RealServer, real_server

Headers = Iterable[tuple[str, str]]
MOST_GUESSES = 61  # 30 in each of two minutes, and one
addresses = (f"127.0.{n // 200 + 1}.{n % 200 + 1}" for n in count())


@dataclass(frozen=True)
class Installation:
    """What all proxies stand in front of."""

    app_port: int
    database: Path
    audit_log: Path
    key: str
    environ: dict[str, str]

    def addresses_in_history(self, kind: str) -> set[str]:
        """Return the addresses of all events of a kind."""
        with closing(sqlite3.connect(self.database)) as connection:
            rows = connection.execute("SELECT details FROM account_event WHERE kind = ?", (kind,)).fetchall()
        return {json.loads(details)["address"] for (details,) in rows}


@pytest.fixture(scope="module")
def installation(
    empty_sqlite: Path, tmp_path_factory: pytest.TempPathFactory, ready_command: list[str]
) -> Iterator[Installation]:
    """Give one app for all proxies, with an admin, an API key and an account."""
    folder = tmp_path_factory.mktemp("installation")
    database = folder / "keap_connect.db"
    shutil.copy(empty_sqlite, database)
    environ = {
        "PUBLIC_URL": f"https://{HOST}",
        "TRUSTED_PROXIES": "1",
        "KEAP_CLIENT_ID": "our-client-id",
        "KEAP_CLIENT_SECRET": "canary-client-secret",
        "SECRET_KEY": SECRET_KEY,
        "TOKEN_KEYS": TOKEN_KEY,
        "DATABASE_URL": f"sqlite:///{database}",
        "INSTANCE_PATH": str(folder),
    }
    app = create_app(Settings.from_env(environ))
    with app.app_context():
        create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
        key = issue_api_key("jobs", [Scope.TOKENS_READ, Scope.METRICS_READ], "x").text
        with write_transaction() as session:
            granted = TokenResponse("an-access-token", "a-refresh-token", utc_now() + timedelta(days=1))
            replace_credential(new_account(session, "ab123", "1"), granted)
        db.engine.dispose()
    with real_server(environ, "serve", command=ready_command) as server:
        yield Installation(server.port, database, folder / "audit.log", key, environ)


@dataclass
class Client:
    """A program at an address of its own."""

    port: int
    tls: ssl.SSLContext
    address: str

    def __post_init__(self) -> None:
        self.cookies: dict[str, str] = {}
        self._connection = HTTPConnection(HOST, self.port)

    def close(self) -> None:
        """End its connection."""
        self._connection.close()

    def ask(
        self,
        path: str,
        headers: Headers = (),
        host: str = HOST,
        form: dict[str, str] | None = None,
        file: bytes | None = None,
    ) -> tuple[int, str]:
        """Send a request, on one connection as long as it lasts, and return status and body."""
        body, kind = urlencode(form or {}).encode(), "application/x-www-form-urlencoded"
        if form and file:
            body, kind = urllib3.encode_multipart_formdata({**form, "file": ("accounts.csv", file)})
        connection = self._connection
        if connection.sock is None:
            plain = socket.create_connection(("127.0.0.1", self.port), 30, source_address=(self.address, 0))
            connection.sock = self.tls.wrap_socket(plain, server_hostname=HOST if self.tls.check_hostname else None)
        connection.putrequest("POST" if form else "GET", path, skip_host=True)
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        own = [("Host", host), ("Cookie", cookie), ("Content-Length", str(len(body)))]
        for name, value in [*own, ("Content-Type", kind), *headers]:
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        self.location = answer.headers["Location"]
        for text in answer.headers.get_all("Set-Cookie", []):
            name, _, value = text.partition(";")[0].partition("=")
            self.cookies[name] = value
        return answer.status, answer.read().decode()

    def guess(self, headers: Headers) -> int:
        """Show a wrong key."""
        return self.ask("/api/v1/accounts", [("Authorization", "Bearer kc_guess"), *headers])[0]

    def press(self, page: str, action: str, headers: Headers = (), file: bytes | None = None, **typed: str) -> int:
        """Send a form with the token that a page gives, and perhaps a file; its answer is `page`."""
        token = re.findall(r'name="csrf_token" value="([^"]+)"', self.ask(page)[1])[0]
        own = [("Origin", f"https://{HOST}"), *headers]
        status, self.page = self.ask(action, own, form={"csrf_token": token, **typed}, file=file)
        return status


NewClient = Callable[[], Client]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Give the authority that the certificates of the proxies are from."""
    return trustme.CA()


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def proxy_port(
    request: pytest.FixtureRequest,
    installation: Installation,
    authority: trustme.CA,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[int]:
    """Give the port of each of the proxies."""
    kind: Kind = request.param
    if kind.program is None:
        pytest.skip(f"there is no {kind.name} here: install {kind.package}")
    ports = installation.app_port, installation.app_port
    with run_proxy(kind, authority, ports, tmp_path_factory.mktemp(kind.name)) as port:
        yield port


@pytest.fixture(scope="module")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())


@pytest.fixture
def new_client(proxy_port: int, tls: ssl.SSLContext) -> Iterator[NewClient]:
    """Give the function that makes a client of the proxy."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(closing(Client(proxy_port, tls, next(addresses))))


def forged(n: int) -> dict[str, Headers]:
    """Return the headers that name another address in each request, by the way they do it."""
    return {
        "plain": [("X-Forwarded-For", f"203.0.113.{n}")],
        "with ports": [("X-Forwarded-For", f"203.0.113.1:{n}, 203.0.113.2:{n}")],
        "IPv6": [("X-Forwarded-For", f"[2001:db8::{n:x}]:{n}")],
        "several lines": [("X-Forwarded-For", f"203.0.113.{n}"), ("X-Forwarded-For", f"203.0.114.{n}")],
        "quotation mark": [("X-Forwarded-For", f'"203.0.113.{n}')],
        # WSGI has one name for all four spellings; which one a plain WSGI server keeps depends on their order.
        "underscores": [(name, f"203.0.113.{n}") for name in ("X-Forwarded_For", "X_Forwarded_For", "X_Forwarded-For")],
        "other headers": [("Forwarded", f"for=203.0.113.{n}"), ("X-Real-IP", f"203.0.113.{n}")],
    }


@pytest.mark.proves("R98", "F94", "F66")
@pytest.mark.parametrize("way", forged(0))
def test_no_header_dodges_the_limit_of_wrong_keys(new_client: NewClient, way: str):
    guesser = new_client()

    statuses = [401]
    while statuses[-1] == 401 and len(statuses) <= MOST_GUESSES:
        statuses.append(guesser.guess(forged(len(statuses))[way]))

    assert statuses[-1] == 429
    assert new_client().guess(()) == 401  # another client is not held up


@pytest.mark.proves("R98", "F94", "F66")
def test_no_header_dodges_the_limit_of_sign_ins_and_the_history_names_the_client(
    new_client: NewClient, installation: Installation
):
    guesser, admin = new_client(), new_client()

    def guess(n: int) -> int:
        several = forged(n)["with ports"], forged(n)["several lines"], forged(n)["quotation mark"]
        typed = {"email": f"person{n}@example.com", "password": "x" * 12, "next": ""}
        return guesser.press("/signin", "/signin", several[n % 3], **typed)

    statuses = [guess(n) for n in range(21)]
    spoofing = [("X-Forwarded-For", "203.0.113.1")]
    admitted = admin.press("/signin", "/signin", spoofing, email=ADMIN_EMAIL, password=ADMIN_PASSWORD, next="")

    assert (statuses, admitted) == ([401] * 20 + [429], 303)
    assert guesser.address in installation.addresses_in_history("admin_sign_in_refused")
    assert admin.address in installation.addresses_in_history("admin_signed_in")
    for kind in ("admin_sign_in_refused", "admin_signed_in"):
        assert all(address.startswith("127.0.1.") for address in installation.addresses_in_history(kind))


@pytest.mark.proves("R98")
def test_the_audit_log_names_the_client(new_client: NewClient, installation: Installation):
    job = new_client()
    headers = [("Authorization", f"Bearer {installation.key}"), ("X-Forwarded-For", "203.0.113.1")]

    statuses = [job.ask("/api/v1/accounts/1/token", headers)[0] for _ in range(2)]

    lines = [json.loads(line) for line in installation.audit_log.read_text().splitlines()[-2:]]
    assert statuses == [200, 200]
    assert [line["address"] for line in lines] == [job.address] * 2


@pytest.mark.proves("R05", "F58")
def test_the_redirect_uri_is_that_of_the_public_url(new_client: NewClient):
    customer = new_client()
    headers = [("X-Forwarded-Host", "evil.example"), ("X-Forwarded-Proto", "http")]

    status = customer.press("/", "/connect", headers)

    assert status == 303
    assert parse_qs(urlsplit(customer.location).query)["redirect_uri"] == [f"https://{HOST}/callback"]


@pytest.mark.proves("R100", "F95")
@pytest.mark.parametrize("host", ["127.0.0.1", HOST.upper(), f"{HOST}."])
def test_probes_answer_by_address_in_capitals_and_with_a_trailing_dot(new_client: NewClient, host: str):
    prober = new_client()
    # Whoever asks by address sends no name for the certificate, and cannot check it.
    prober.tls = ssl.create_default_context()
    prober.tls.check_hostname, prober.tls.verify_mode = False, ssl.CERT_NONE

    assert [prober.ask(path, host=host) for path in ("/healthz", "/readyz")] == [(200, "ok\n"), (200, "ready\n")]


@pytest.mark.proves("R98", "R100", "R90")
@pytest.mark.parametrize("host", [HOST, "localhost", "127.0.0.1"])
def test_metrics_are_closed_without_a_key(new_client: NewClient, installation: Installation, host: str):
    stranger = new_client()

    assert stranger.ask("/metrics", host=host)[0] == 401
    assert stranger.ask("/metrics", [("X-Forwarded-For", "127.0.0.1")], host=host)[0] == 401
    assert stranger.ask("/metrics", [("Authorization", f"Bearer {installation.key}")], host=host)[0] == 200


@pytest.mark.proves("R100", "F95")
def test_probes_answer_without_a_host(installation: Installation):
    with socket.create_connection(("127.0.0.1", installation.app_port), 30) as line:
        line.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: line.recv(1000), b""))

    assert answer.startswith(b"HTTP/1.0 200")
    assert answer.endswith(b"ok\n")


def test_the_largest_file_to_import_gets_through(new_client: NewClient):
    admin = new_client()
    admin.press("/signin", "/signin", email=ADMIN_EMAIL, password=ADMIN_PASSWORD, next="")

    admin.press("/import/file", "/import/file", file=b"\xff".rjust(MOST_BYTES, b"\n"), choice="check")

    assert f"The file is not UTF-8 text: see line {MOST_BYTES}," in admin.page  # so the last byte arrived


# With two servers


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    if found.program is None:
        pytest.skip(f"there is no {found.name} here: install {found.package}")
    return found


@pytest.fixture(scope="module")
def servers(installation: Installation, ready_command: list[str]) -> Iterator[list[RealServer]]:
    """Give two servers; a test that restarts one puts the new one into its place."""
    environ = {**installation.environ, "API_RATE_PER_MINUTE": "0"}
    running = [RealServer(environ, [*ready_command, "serve"]) for _ in range(2)]
    try:
        for one in running:
            one.wait_until_it_listens()
        yield running
    finally:
        for one in running:
            one.process.terminate()
            one.process.wait()


@pytest.fixture
def shared_port(kind: Kind, servers: list[RealServer], authority: trustme.CA, tmp_path: Path) -> Iterator[int]:
    """Give the port of a proxy in front of the two servers."""
    with run_proxy(kind, authority, (servers[0].port, servers[1].port), tmp_path) as port:
        yield port


@pytest.mark.proves("R42")
def test_no_token_call_fails_while_one_server_after_the_other_is_restarted(
    shared_port: int,
    servers: list[RealServer],
    installation: Installation,
    tls: ssl.SSLContext,
    ready_command: list[str],
):
    statuses: list[int] = []
    failures: list[str] = []
    is_over = threading.Event()

    def call() -> None:
        with closing(Client(shared_port, tls, next(addresses))) as job:
            while not is_over.wait(0.01):  # what a call costs is not the point
                try:
                    token = job.ask("/api/v1/accounts/1/token", [("Authorization", f"Bearer {installation.key}")])
                    statuses.append(token[0])
                except (OSError, HTTPException) as problem:
                    failures.append(repr(problem))
                    return

    def wait_for_calls() -> None:
        before = len(statuses)
        wait_until(lambda: len(statuses) > before + 20 or bool(failures))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        wait_for_calls()
        for place, old in enumerate(list(servers)):
            assert old.end() == 0
            wait_for_calls()
            servers[place] = RealServer(old.environ, [*ready_command, "serve"], old.port)
            servers[place].wait_until_it_listens()
        wait_for_calls()
    finally:
        is_over.set()
        for caller in callers:
            caller.join()

    assert (set(statuses), failures) == ({200}, [])


def test_an_unanswered_get_is_repeated_at_the_other_server_and_a_post_is_not(
    kind: Kind, authority: trustme.CA, tls: ssl.SSLContext, tmp_path: Path
):
    def ask(form: dict[str, str] | None = None) -> int:
        with closing(Client(port, tls, next(addresses))) as client:
            return client.ask("/", form=form)[0]

    with (
        RawServer() as silent,
        RawServer(answering(http(b"{}"))) as well,
        run_proxy(kind, authority, (silent.port, well.port), tmp_path) as port,
    ):
        reads = [ask() for _ in range(4)]
        writes = [ask({"a": "b"}) for _ in range(4)]

    sent = [[request.split()[0] for request in server.requests] for server in (silent, well)]
    assert (reads, b"GET" in sent[0]) == ([200] * 4, True)
    assert (set(writes), [*sent[0], *sent[1]].count(b"POST")) == ({200, 502}, 4)
