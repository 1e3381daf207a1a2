"""The express lane: answers the call that is made thousands of times before Flask is even asked.

Only the plainest case: a right key, a token that holds, nothing to refresh, to note or to warn of. Whatever is not
plainly so goes on to the operation itself, which knows all cases; both give the same answer. Each call reads key and
account anew, so that a revocation, a disconnect or a reconnect is obeyed by the next call in every process.
"""

import json
import re
from collections.abc import Iterable
from threading import Lock
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flask import Flask

from keap_connect.access.api_keys import VerifiedKey, read_api_key
from keap_connect.access.glance import Facts, Glances, holds, may_have_token
from keap_connect.access.rate_limits import RateLimits
from keap_connect.accounts.credentials import fingerprint
from keap_connect.accounts.naming import EXTERNAL, EXTERNAL_ID_CHARACTERS, LONGEST_NAME
from keap_connect.clock import utc_now
from keap_connect.errors import APIKeyRefused, HandOutUnrecorded, SealBroken, TemporarilyUnavailable, TooManyRequests
from keap_connect.events.hand_outs import HandOutLog
from keap_connect.models import LARGEST_ID
from keap_connect.refresh.timing import REFRESH_WHEN_LEFT_SECONDS
from keap_connect.server.front import AT_ONCE, REFUSAL, NotAtOnce
from keap_connect.services import Services

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

EXTERNAL_ID = f"{EXTERNAL_ID_CHARACTERS}{{1,{LONGEST_NAME}}}"
PATH = re.compile(f"/api/v1/accounts/(?:([1-9][0-9]{{0,9}})|{EXTERNAL}({EXTERNAL_ID}))/token")
QUERY = re.compile(r"(?:min_validity=([0-9]{1,3}|[12][0-9]{3}|3[0-5][0-9]{2}|3600))?")
REFUSALS = (APIKeyRefused, SealBroken, TooManyRequests, HandOutUnrecorded, TemporarilyUnavailable)


class ExpressLane:
    """A WSGI layer around an app. `headers` are those that every answer of the app carries."""

    def __init__(self, app: Flask, headers: Iterable[tuple[str, str]]) -> None:
        self._go_on = app.wsgi_app
        self._runtime: Services = app.extensions["keap_connect"]
        self._auditor: HandOutLog = app.extensions["keap_connect_audit"]
        self._rate_limits: RateLimits = app.extensions["keap_connect_rate_limits"]
        self._glances = Glances(app)
        # A read of SQLite lasts 3 microseconds: threads that interrupt each other in it lose more than they win. One
        # of PostgreSQL waits for the network.
        self._turn = Lock() if self._runtime.settings.database_url.startswith("sqlite") else None
        self._host = urlsplit(self._runtime.settings.public_url).netloc
        self._headers = [("Content-Type", "application/json"), *headers, ("Cache-Control", "no-store")]

    def __call__(self, wsgi_environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer, or let the app answer."""
        body = self._answer(wsgi_environ)
        if body is None:
            if AT_ONCE in wsgi_environ:
                raise NotAtOnce
            return self._go_on(wsgi_environ, start_response)
        start_response("200 OK", [*self._headers, ("Content-Length", str(len(body)))])
        return [body]

    def _answer(self, wsgi_environ: "WSGIEnvironment") -> bytes | None:
        path = PATH.fullmatch(wsgi_environ["PATH_INFO"])
        if path is None or wsgi_environ["REQUEST_METHOD"] != "GET" or wsgi_environ.get("HTTP_HOST") != self._host:
            return None
        if REFUSAL in wsgi_environ:
            return None
        query = QUERY.fullmatch(wsgi_environ.get("QUERY_STRING", ""))
        kind, _, text = wsgi_environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        account: int | str = int(path[1]) if path[1] else path[2]
        if query is None or kind != "Bearer" or (isinstance(account, int) and account > LARGEST_ID):
            return None
        seconds = int(query[1]) if query[1] else int(REFRESH_WHEN_LEFT_SECONDS)
        if self._turn and not self._turn.acquire(blocking=AT_ONCE not in wsgi_environ):
            return None
        try:
            return self._hand_out(text, account, seconds, wsgi_environ.get("REMOTE_ADDR") or "unknown")
        except REFUSALS:
            return None  # the operation says so in its words
        finally:
            if self._turn:
                self._turn.release()

    def _hand_out(self, text: str, account: int | str, seconds: int, address: str) -> bytes | None:
        shown, now = read_api_key(text), utc_now()
        facts = self._glances.look(shown, account)
        if facts is None or not may_have_token(facts, shown, now) or not holds(facts, seconds, now):
            return None
        sealed, expires_at = facts.access_token_sealed, facts.access_token_expires_at
        if sealed is None or expires_at is None:
            return None
        access_token = self._runtime.cipher.open(sealed, "account", facts.id, "access_token")
        name, key = fingerprint(access_token), _key_of(facts)
        self._rate_limits.count_request(key.id, address)
        self._auditor.record(facts.id, name, key.actor, address, key.id)
        answer = {
            "state": "active",
            "access_token": access_token,
            "token_type": "bearer",
            "expires_in": int((expires_at - now).total_seconds()),
            "expires_at": expires_at.isoformat(),
            "tenant_id": facts.tenant_id,
            "fingerprint": name,
        }
        return json.dumps(answer).encode()


def _key_of(facts: Facts) -> VerifiedKey:
    return VerifiedKey(facts.key_id, facts.key_name, frozenset(), None)
