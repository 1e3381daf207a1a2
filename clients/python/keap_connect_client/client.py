"""The client: one call for a valid token, one to report a refused one, and a cache for each account."""

import re
import threading
import time
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from keap_connect_client.cache import CachedToken
from keap_connect_client.errors import (
    AccountNotFound,
    KeapConnectError,
    KeyRefused,
    ReconnectRequired,
    RequestRefused,
    TemporarilyUnavailable,
)
from keap_connect_client.hosts import LOOPBACK_HOSTS
from keap_connect_client.requests_auth import RequestsAuth
from keap_connect_client.token import Token

if TYPE_CHECKING:
    from keap_connect_client.httpx_auth import HttpxAuth

ACCOUNT = re.compile(r"[0-9]{1,10}|external:[A-Za-z0-9._:-]{1,200}|tenant:[A-Za-z0-9][A-Za-z0-9.-]{0,62}")
API_KEY = re.compile(r"[\x21-\x7e]+")
RETRY_AFTER_SECONDS = 30
NOT_THE_API = "The answer is not one of Keap Connect's token API."


class KeapConnect:
    """Speaks to one Keap Connect with one API key; safe to share between threads.

    Args:
        url: its address, https (http on loopback only).
        api_key: with the scope `tokens:read`.
        timeout_seconds: for connecting, and for each wait on an answer. Keap Connect itself waits 10 s for a refresh.

    Raises:
        ValueError: the address or the key has not the form of one.
    """

    def __init__(self, url: str, api_key: str, *, timeout_seconds: float = 30.0) -> None:
        parts = urlsplit(url)
        if parts.hostname is None or not (
            parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS)
        ):
            raise ValueError("the address of Keap Connect must start with https://")
        if not API_KEY.fullmatch(api_key):
            raise ValueError("the API key is empty or holds blanks")
        self.url = url.rstrip("/")
        self._key = _Key(api_key)
        self._timeout_seconds = timeout_seconds
        self._threads = threading.local()
        self._lock = threading.Lock()
        self._cached: dict[str, CachedToken] = {}

    def __repr__(self) -> str:
        """Name the address, never the key."""
        return f"KeapConnect({self.url!r})"

    def token(self, account: int | str, *, min_validity_seconds: int | None = None) -> Token:
        """Ask for a token that is valid now, and for `min_validity_seconds` when given (0 to 3600).

        Nothing is cached here: a revoked key and a disconnected account count from the next call on.

        Args:
            account: its id, `external:` and the id that you gave it, or `tenant:ab123` where that has one account.

        Raises:
            TemporarilyUnavailable: there is none right now, or Keap Connect cannot be reached; nothing is lost.
            ReconnectRequired: a person must connect the account again.
            AccountNotFound, KeyRefused, RequestRefused: the request cannot succeed as it is.
        """
        query = {} if min_validity_seconds is None else {"min_validity": str(min_validity_seconds)}
        asked_at = time.monotonic()
        answer = self._ask("GET", f"{_path(account)}/token", query=query)
        try:
            return Token.from_answer(answer, asked_at)
        except (KeyError, ValueError):
            raise KeapConnectError(NOT_THE_API) from None

    def report_rejected(self, account: int | str, fingerprint: str) -> None:
        """Say that Keap refused the token of this fingerprint, so that it is not handed out again.

        Raises:
            KeapConnectError: the same errors as `token`.
        """
        self._ask("POST", f"{_path(account)}/token/rejected", document={"fingerprint": fingerprint})

    def reconnect_link(self, account: int | str) -> str:
        """Make a link to send to the customer, who reconnects by it without a login: once, within seven days.

        Each call makes another one, so call it when the account is first found lost. The key needs `accounts:write`.

        Raises:
            KeapConnectError: the same errors as `token`.
        """
        answer = self._ask("POST", f"{_path(account)}/reconnect-links")
        if not isinstance(answer.get("url"), str):
            raise KeapConnectError(NOT_THE_API)
        return str(answer["url"])

    def cached(self, account: int | str) -> CachedToken:
        """Return the shared cache of one account's token."""
        with self._lock:
            fetch, report = partial(self.token, account), partial(self.report_rejected, account)
            return self._cached.setdefault(_path(account), CachedToken(fetch, report))

    def requests_auth(self, account: int | str) -> RequestsAuth:
        """Return what authorizes calls to Keap made with `requests`: `session.auth = …`."""
        return RequestsAuth(self.cached(account))

    def httpx_auth(self, account: int | str) -> "HttpxAuth":
        """Return what authorizes calls to Keap made with `httpx`, which has to be installed: `Client(auth=…)`."""
        from keap_connect_client.httpx_auth import HttpxAuth  # noqa: PLC0415

        return HttpxAuth(self.cached(account))

    def _ask(
        self, method: str, path: str, *, query: dict[str, str] | None = None, document: dict[str, str] | None = None
    ) -> dict[str, object]:
        try:
            answer = self._session().request(
                method,
                f"{self.url}/api/v1/accounts/{path}",
                params=query,
                json=document,
                headers={"Accept": "application/json"},
                auth=self._key,
                timeout=self._timeout_seconds,
                allow_redirects=False,  # the key goes to this address and to no other
            )
        except requests.RequestException as problem:
            raise TemporarilyUnavailable(
                f"Keap Connect cannot be reached ({type(problem).__name__}).", RETRY_AFTER_SECONDS
            ) from None
        try:
            content = answer.json() if answer.content else {}
        except ValueError:
            content = {}
        found: dict[str, object] = content if isinstance(content, dict) else {}
        if not answer.ok or answer.is_redirect:
            refusal = _refusal(answer, found)
            refusal.request_id = str(found["request_id"]) if "request_id" in found else None
            raise refusal
        return found

    def _session(self) -> requests.Session:
        """Give each thread its own, since those of `requests` are not made to be shared."""
        session: requests.Session | None = getattr(self._threads, "session", None)
        if session is None:
            session = self._threads.session = requests.Session()
        return session


class _Key(AuthBase):
    """Puts the key on a request; as a header alone, a .netrc would replace it."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._api_key}"
        return request


def _path(account: int | str) -> str:
    name = str(account)
    if not ACCOUNT.fullmatch(name):
        raise RequestRefused("An account is named by its id, by external: and your own id, or by tenant: and Keap's.")
    return name


def _refusal(answer: requests.Response, found: dict[str, object]) -> KeapConnectError:
    """Return what an answer without a token means."""
    status = answer.status_code
    word = str(found.get("error", ""))
    message = str(found.get("error_description") or f"Keap Connect answered {status}.")
    if status == 409 and word in {"reconnect_required", "disconnected"}:
        url = found.get("reconnect_url")
        return ReconnectRequired(message, url if isinstance(url, str) else None, word == "disconnected")
    if status in {408, 429} or status >= 500:  # those that the API calls retryable
        wait = answer.headers.get("Retry-After", "")
        return TemporarilyUnavailable(message, int(wait) if wait.isdecimal() else RETRY_AFTER_SECONDS)
    if status in {401, 403}:
        return KeyRefused(message)
    return AccountNotFound(message) if status == 404 else RequestRefused(message)
