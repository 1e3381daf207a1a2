"""Runs the sandbox as a program of its own and plays people and tests against it over HTTP."""

import base64
import json
import re
import signal
import subprocess
import sys
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import requests

CLIENT_ID = "sandboxclientid00000000000000001"
CLIENT_SECRET = "sandboxsecret001"

ANN, BEN, CLEO, DORA, EVE, FINN = 4236128, 4236129, 4236130, 4236131, 4236132, 4236133
PERSON_IDS = {
    "ann.lee@example.com": ANN,
    "ben.ortiz@example.com": BEN,
    "cleo.marsh@example.com": CLEO,
    "dora.quist@example.com": DORA,
    "eve.stone@example.com": EVE,
    "finn.hale@example.com": FINN,
}

REPOSITORY = Path(__file__).parents[2]
READY = re.compile(r"Sandbox listening on (http://\S+):(\d+)")
TIMEOUT_SECONDS = 30


class Sandbox:
    """A running sandbox. Start it with `Sandbox.start(store)`, best in a `with` block."""

    def __init__(self, store: Path, *arguments: str) -> None:
        self.store = store
        self._arguments = arguments
        self._port = 0
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    @classmethod
    def start(cls, store: Path, *arguments: str) -> Self:
        """Start the program on a free loopback port and wait until it says that it is ready."""
        sandbox = cls(store, *arguments)
        sandbox._launch()
        return sandbox

    def _launch(self) -> None:
        command = [sys.executable, "-m", "keap_connect.sandbox", "--port", str(self._port)]
        command += ["--store", str(self.store), *self._arguments]
        self._process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        line = self._process.stdout.readline()
        ready = READY.match(line)
        if ready is None:
            raise RuntimeError(f"The sandbox did not start (exit code {self._process.wait()}).")
        self.url, self._port = f"{ready[1]}:{ready[2]}", int(ready[2])

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> int:
        """End the program and return its exit code; `SIGKILL` ends it without a goodbye."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(with_signal)
        code = process.wait(timeout=TIMEOUT_SECONDS)
        process.stdout.close()
        return code

    def restart(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """Stop and start again on the same port, with the same store."""
        self.stop(with_signal)
        self._launch()

    @property
    def port(self) -> int:
        return self._port

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # The control API

    def control(self, method: str, path: str, body: object = None, **query: Any) -> Any:
        """Call `/sandbox/api` and return the JSON answer; a refusal is an error."""
        seconds = TIMEOUT_SECONDS + query.get("timeout", 0)  # for so long it waits before it answers
        named = {name: value for name, value in query.items() if value is not None}
        headers = {"Content-Type": "application/json"}
        # Not by requests, which takes five times the processor time, for one in three requests of all tests.
        with closing(HTTPConnection(urlsplit(self.url).netloc, timeout=seconds)) as connection:
            text = None if body is None else json.dumps(body)
            connection.request(method, f"/sandbox/api{path}?{urlencode(named)}", text, headers)
            answer = connection.getresponse()
            content = answer.read()
        if answer.status >= 400:
            raise ValueError(f"{method} {path}: {answer.status} {content.decode()}")
        return json.loads(content) if content else None

    def state(self) -> dict[str, Any]:
        return self.control("GET", "/state")

    def reset(self) -> None:
        self.control("POST", "/reset")

    def fault(self, name: str, endpoint: str = "token", **parameters: object) -> int:
        """Set a fault; `calls`, `first` or `every` choose the calls. Returns its number."""
        return self.control("POST", "/faults", {"endpoint": endpoint, "fault": name, **parameters})["id"]

    def clear_faults(self) -> None:
        self.control("DELETE", "/faults")

    def switch(self, **values: object) -> dict[str, Any]:
        return self.control("PATCH", "/switches", values)

    def advance(self, seconds: float) -> None:
        self.control("POST", "/clock", {"advance_seconds": seconds})

    def ledger(self, tenant_id: str | None = None) -> dict[str, Any]:
        return self.control("GET", "/ledger", tenant_id=tenant_id)

    def clear_ledger(self) -> None:
        self.control("DELETE", "/ledger")

    def hold(self, endpoint: str, where: str = "before") -> None:
        """Let matching calls wait inside the sandbox, before or after it acts on them."""
        self.control("POST", "/hold", {"endpoint": endpoint, "where": where})

    def wait_held(self, number: int, timeout: float = 60) -> int:
        """Wait until so many calls are held; returns how many there are."""
        waiting = self.control("GET", "/held", wait_for=number, timeout=timeout)["waiting"]
        if waiting < number:
            raise TimeoutError(f"{waiting} instead of {number} calls are held after {timeout} seconds.")
        return waiting

    def release(self) -> None:
        self.control("POST", "/release")

    def grant(
        self, tenant_id: str = "ab123", person_id: int = ANN, count: int = 1, client_id: str = CLIENT_ID
    ) -> list[dict[str, Any]]:
        """Issue pairs without clicks; tenants that do not exist are made up (letters, then digits)."""
        body = {"tenant_id": tenant_id, "person_id": person_id, "client_id": client_id, "count": count}
        return self.control("POST", "/grants", body)["grants"]

    def withdraw(self, tenant_id: str, person_id: int | None = None, client_id: str | None = None) -> int:
        body = {"tenant_id": tenant_id, "person_id": person_id, "client_id": client_id}
        return self.control("POST", "/withdraw", body)["withdrawn"]

    def rename(self, tenant_id: str, name: str) -> None:
        self.control("PATCH", f"/tenants/{tenant_id}", {"name": name})

    def add_app(self, client_id: str, client_secret: str, redirect_uris: list[str] | None = None) -> None:
        body = {"client_id": client_id, "client_secret": client_secret, "redirect_uris": redirect_uris or []}
        self.control("POST", "/apps", body)

    # Playing a person, without a browser

    def signed_in(self, person: str = "ann.lee@example.com") -> requests.Session:
        """A browser's cookies after signing in as one of the made-up people."""
        browser = new_browser()
        browser.post(
            f"{self.url}/app/signin",
            data={"person_id": PERSON_IDS[person]},
            allow_redirects=False,
            timeout=TIMEOUT_SECONDS,
        )
        return browser

    def make_key(
        self, kind: str = "personal_access_token", person: str = "ann.lee@example.com", tenant: str = "ab123"
    ) -> str:
        """Make a key in a Keap app's API Settings; returns it as the page shows it."""
        with self.signed_in(person) as browser:
            url = f"{self.url}/app/central/{tenant}/api-settings"
            return _shown(browser.post(url, {"kind": kind}, timeout=TIMEOUT_SECONDS).text, "key")

    def generate_token(self, person: str = "ann.lee@example.com", tenant: str = "ab123") -> tuple[str, str]:
        """Generate a token on the API Access page; returns access token and refresh token, "" where none is shown."""
        form = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        with self.signed_in(person) as browser:
            page = browser.post(f"{self.url}/app/central/{tenant}/api-access", form, timeout=TIMEOUT_SECONDS).text
        return _shown(page, "access_token"), _shown(page, "refresh_token")

    def consent(
        self, authorization_url: str, person: str = "ann.lee@example.com", tenant: str = "ab123", allow: bool = True
    ) -> str:
        """Sign in, pick a tenant, press Allow or Deny; returns the callback URL without following it.

        The page with these buttons is not loaded: a request that it refuses is refused alike when they are pressed.
        """
        decision = {"tenant_id": tenant, "decision": "allow" if allow else "deny"}
        with self.signed_in(person) as browser:
            answer = browser.post(authorization_url, decision, allow_redirects=False, timeout=TIMEOUT_SECONDS)
        if "Location" not in answer.headers:
            raise ValueError(f"The sandbox did not redirect: {answer.status_code} {answer.text}")
        return answer.headers["Location"]


def _shown(page: str, name: str) -> str:
    found = re.search(rf'data-name="{name}">([\w-]+)<', page)
    return found[1] if found else ""


def new_browser() -> requests.Session:
    """An empty cookie jar that goes straight to the sandbox, whatever proxy the environment names."""
    browser = requests.Session()
    browser.trust_env = False
    return browser


def basic(client_id: str = CLIENT_ID, client_secret: str = CLIENT_SECRET) -> str:
    """The `Authorization` value of a client (RFC 6749 section 2.3.1)."""
    return "Basic " + base64.b64encode(f"{client_id}:{client_secret}".encode()).decode()
