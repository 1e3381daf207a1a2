"""The whole journey at DEBUG, failures included: no secret stands in a log, an answer or the database."""

import base64
import html
import json
import logging
import os
import signal
import sqlite3
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, quote_plus, urlsplit

import pytest
import requests
import sqlalchemy
from sqlalchemy import select

from keap_connect.accounts.credentials import open_access_token, open_refresh_token
from keap_connect.application import create_app
from keap_connect.connect.callback import open_pending
from keap_connect.connect.flows import open_code_verifier
from keap_connect.database import Base, db, read_session
from keap_connect.models import Account, AuthorizationFlow
from keap_connect.settings import Settings
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD, SECRET_KEY, TOKEN_KEY
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.visitor import Visitor

ROOT = Path(__file__).parent.parent
CLIENT_ID, CLIENT_SECRET = "canary-client-id", "canary-client-secret-0123456789"
DATABASE_PASSWORD = "canary-database-password"
WRONG_PASSWORD = "canary wrong password of nobody"
START_TIMEOUT_SECONDS = 60


class Canaries:
    """The secrets that the journey has seen so far, and a search for them in every dress they may wear."""

    def __init__(self) -> None:
        self.secrets = {
            CLIENT_SECRET: "client secret",
            DATABASE_PASSWORD: "database password",
            SECRET_KEY: "secret key",
            TOKEN_KEY: "token key",
            ADMIN_PASSWORD: "password",
            WRONG_PASSWORD: "wrong password",
        }

    def add(self, kind: str, *secrets: str | None) -> None:
        self.secrets |= dict.fromkeys(filter(None, secrets), kind)

    def found_in(self, content: str | bytes, *besides: str) -> set[str]:
        """Return the kinds of secrets in a text; `besides` names kinds that may be there."""
        text = content.decode("utf-8", "replace") if isinstance(content, bytes) else content
        return {
            kind
            for secret, kind in self.secrets.items()
            if kind not in besides and any(dress in text for dress in dresses(secret))
        }


def dresses(secret):
    encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
    return {secret, quote(secret), quote_plus(secret), html.escape(secret), json.dumps(secret)[1:-1], encoded}


@pytest.fixture
def canaries():
    return Canaries()


@pytest.fixture
def environ(environ, sandbox):
    """Use a client whose secret is a canary, PKCE, and a password in the address of the database."""
    sandbox.add_app(CLIENT_ID, CLIENT_SECRET)
    sandbox.switch(pkce=True)
    url = environ["DATABASE_URL"].replace("//postgres@", f"//postgres:{DATABASE_PASSWORD}@")
    return environ | {
        "KEAP_CLIENT_ID": CLIENT_ID,
        "KEAP_CLIENT_SECRET": CLIENT_SECRET,
        "KEAP_PKCE": "on",
        "DATABASE_URL": url,
    }


class Journey:
    """A customer and an admin doing everything there is to do, watched."""

    def __init__(self, base_url, sandbox, inside, canaries):
        self.sandbox, self.inside, self.canaries = sandbox, inside, canaries
        self.answers = []
        self.customer, self.admin = self._visitor(base_url), self._visitor(base_url)

    def _visitor(self, base_url):
        visitor = Visitor(base_url, self.sandbox)
        visitor.session.hooks["response"].append(lambda answer, **_: self.answers.append(answer))
        return visitor

    def consent(self, action="/connect", page="/", **choices):
        """Set out and decide at Keap; return the callback URL and the code in it."""
        authorization_url = self.customer.set_out(action, page)
        self.canaries.add("state", *parse_qs(urlsplit(authorization_url).query)["state"])
        with self.inside(), read_session() as session:
            flow = session.scalars(select(AuthorizationFlow).order_by(AuthorizationFlow.id.desc())).first()
            verifier = open_code_verifier(flow)
        assert verifier
        self.canaries.add("verifier", verifier)
        callback_url = self.sandbox.consent(authorization_url, **choices)
        code = parse_qs(urlsplit(callback_url).query).get("code", [None])[0]
        self.canaries.add("code", code)
        return callback_url, code, verifier

    def learn_what_is_stored(self):
        """Note the tokens that the app holds now, and the cookies."""
        with self.inside(), read_session() as session:
            for account in session.scalars(select(Account)):
                self.canaries.add("token", open_access_token(account), open_refresh_token(account))
            for flow in session.scalars(select(AuthorizationFlow)):
                held = open_pending(flow)
                if held:
                    self.canaries.add("token", held.token_response.access_token, held.token_response.refresh_token)
        for visitor in (self.customer, self.admin):
            cookies = visitor.session.cookies
            self.canaries.add("cookie", *(one.value for one in cookies if one.name != "notice"))

    def echo(self, endpoint, *secrets):
        body = json.dumps({"error": "invalid_request", "error_description": f"You sent {' and '.join(secrets)}."})
        self.sandbox.fault("status", endpoint, status=400, body=body, first=1)

    def connect(self):
        callback_url, *_ = self.consent(tenant="ab123")
        self.customer.get(callback_url)
        assert "is connected" in self.customer.text
        self.learn_what_is_stored()

    def be_denied(self):
        callback_url, *_ = self.consent(allow=False)
        self.customer.get(callback_url)
        assert "access denied" in self.customer.text

    def hear_our_secrets_echoed(self):
        callback_url, code, verifier = self.consent()
        self.echo("exchange", code, verifier, CLIENT_SECRET)
        self.customer.get(callback_url)
        assert "did not accept" in self.customer.text

    def come_with_a_forged_state(self):
        self.canaries.add("code", "canary-forged-code")
        self.canaries.add("state", "canary-forged-state")
        self.customer.get("/callback?code=canary-forged-code&state=canary-forged-state")
        assert self.customer.page.status_code == 400

    def reconnect_another_tenant(self):
        callback_url, *_ = self.consent("/reconnect/1", "/reconnect/1", tenant="cd456")
        self.customer.get(callback_url)
        self.learn_what_is_stored()
        self.customer.press(f"{urlsplit(self.customer.page.url).path}/confirm", choice="connect")
        self.learn_what_is_stored()

    def sign_in(self):
        self.admin.sign_in(ADMIN_EMAIL, WRONG_PASSWORD)
        assert self.admin.page.status_code == 401
        self.admin.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)
        assert self.admin.page.status_code == 200, self.admin.text
        self.learn_what_is_stored()

    def refresh(self):
        self.admin.get("/accounts/1")
        self.admin.press("/accounts/1/refresh")
        assert "new tokens are stored" in self.admin.text
        self.learn_what_is_stored()
        with self.inside(), read_session() as session:
            refresh_token = open_refresh_token(session.get_one(Account, 1))
        self.echo("refresh", refresh_token, CLIENT_SECRET)
        self.admin.press("/accounts/1/refresh")
        assert "You sent [secret] and [secret]" in self.admin.text
        self.admin.get("/accounts")

    def disconnect(self):
        self.admin.get("/accounts/1/disconnect")
        self.admin.press("/accounts/1/disconnect", password=ADMIN_PASSWORD)
        assert "deleted" in self.admin.text

    def walk(self):
        self.connect()
        self.be_denied()
        self.hear_our_secrets_echoed()
        self.come_with_a_forged_state()
        self.reconnect_another_tenant()
        self.sign_in()
        self.refresh()
        self.customer.get("/your-accounts")
        self.customer.get("/nowhere?token=canary")

    def assert_no_secret_in_answers(self):
        assert len(self.answers) > 25
        for answer in self.answers:
            where = f"{answer.request.method} {answer.url}"
            # The way to Keap carries the state, in its header and in the page for browsers that do not follow it.
            leads_to_keap = answer.headers.get("Location", "").startswith(f"{self.sandbox.url}/app/oauth/authorize")
            on_its_way = ["state"] if leads_to_keap else []
            assert self.canaries.found_in(answer.content, *on_its_way) == set(), where
            for name, value in answer.headers.items():
                may_hold = {"location": on_its_way, "set-cookie": ["cookie"]}.get(name.lower(), [])
                assert self.canaries.found_in(value, *may_hold) == set(), f"{name} of {where}"


@pytest.fixture
def journey(app, settings, sandbox, canaries):
    return Journey(settings.public_url, sandbox, app.app_context, canaries)


@pytest.fixture
def log_of_the_app(caplog):
    """Give the function that returns what the app wrote, without the tests' own requests and their server's log."""
    caplog.set_level(logging.DEBUG)
    formatter = logging.Formatter()

    def log():
        records = [
            one for one in caplog.get_records("call") if one.threadName != "MainThread" and one.name != "werkzeug"
        ]
        return "\n".join(map(formatter.format, records))

    return log


def everything_in(database_url):
    """Return all that a thief of the database would hold: its files as they are, or all rows of all tables."""
    if database_url.startswith("sqlite"):
        path = Path(database_url.removeprefix("sqlite:///"))
        files = [file.read_bytes() for file in path.parent.glob(f"{path.name}*")]
        with sqlite3.connect(path) as connection:
            dump = "\n".join(connection.iterdump())
        return b"".join(files) + dump.encode()
    engine = sqlalchemy.create_engine(database_url)
    with engine.connect() as connection:
        rows = [connection.execute(select(table)).all() for table in Base.metadata.sorted_tables]
    engine.dispose()
    cells = [cell for table in rows for row in table for cell in row]
    return b"\n".join(bytes(cell) if isinstance(cell, bytes | memoryview) else str(cell).encode() for cell in cells)


@pytest.mark.proves("R44", "R86", "F68", "F71")
@pytest.mark.usefixtures("admin")
def test_the_journey_leaves_no_secret_behind(journey, canaries, environ, log_of_the_app):
    journey.walk()
    stolen = everything_in(environ["DATABASE_URL"])
    journey.disconnect()

    log = log_of_the_app()
    assert canaries.found_in(log) == set()
    journey.assert_no_secret_in_answers()
    assert canaries.found_in(stolen) == set()
    # The searches look at the right things.
    assert {"code", "state", "verifier", "cookie", "token"} <= set(canaries.secrets.values())
    assert "POST /token" in log
    assert b"ann.lee@example.com" in stolen


@pytest.mark.proves("F68")
@on_sqlite
@pytest.mark.parametrize(
    "breaks", ["keap_connect.connect.matching.match_grant", "keap_connect.web.connect.find_result"]
)
def test_an_unforeseen_error_tells_a_reference_and_no_secret(journey, canaries, monkeypatch, log_of_the_app, breaks):
    def crash(*_, **__):
        raise LookupError("nobody foresaw this")

    callback_url, *_ = journey.consent()
    monkeypatch.setattr(breaks, crash)

    journey.customer.get(callback_url)
    journey.learn_what_is_stored()

    assert journey.customer.page.status_code == 500
    assert "foresaw" not in journey.customer.page.text
    log = log_of_the_app()
    assert "nobody foresaw this" in log
    assert canaries.found_in(log) == set()
    reference = log.partition(": LookupError")[0].rpartition("\n")[2]
    assert len(reference) == 8
    assert reference in journey.customer.text


@pytest.mark.proves("R86")
@on_postgresql
def test_a_real_server_at_debug_prints_no_secret(environ, sandbox, canaries, tmp_path, ready_command):
    app = create_app(Settings.from_env(environ), serves=False)
    output = tmp_path / "output"
    with serving(environ | {"ADMIN_EMAIL": ADMIN_EMAIL, "ADMIN_PASSWORD": ADMIN_PASSWORD}, output, ready_command):
        journey = Journey(environ["PUBLIC_URL"], sandbox, app.app_context, canaries)
        journey.walk()
        journey.disconnect()
    with app.app_context():
        db.engine.dispose()

    printed = output.read_text()
    assert canaries.found_in(printed) == set()
    journey.assert_no_secret_in_answers()
    for line in ("POST /token", "DEBUG"):
        assert line in printed


@contextmanager
def serving(environ, output, command):
    """Run the server that ships, as loud as can be, until the end of the block."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*command, "serve"], cwd=ROOT, env=os.environ | environ, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        ends = time.monotonic() + START_TIMEOUT_SECONDS
        while not answers(environ["PUBLIC_URL"]):
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < ends, output.read_text()
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def answers(url):
    try:
        return requests.get(f"{url}/healthz", timeout=5).ok
    except requests.ConnectionError:
        return False


@pytest.mark.parametrize("dress", range(6))
def test_the_search_finds_a_secret_in_every_dress(canaries, dress):
    secret = 'a "secret" & more/é'
    canaries.add("planted", secret)

    assert canaries.found_in(f"x{sorted(dresses(secret))[dress]}y".encode()) == {"planted"}
    assert canaries.found_in("nothing here") == set()
