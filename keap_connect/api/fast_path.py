"""The fast path of the token call: answers before Flask is called, from one read of the key and the account.

It has no rules of its own, but calls the functions that the operation calls (auth.py, tokens.py). A request that they
refuse, or that needs a refresh or a write first, goes on to the operation. Every call reads both rows, so that a
revocation, a disconnect or a reconnect takes effect with the next call in every process.
"""

import json
import re
import threading
from collections.abc import Iterable
from contextvars import Context
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flask import Flask, Request

from keap_connect.access.api_keys import Scope, find_key_and_account, judge_api_key, parse_api_key
from keap_connect.access.rate_limits import rate_limits
from keap_connect.accounts.naming import parse_account_name
from keap_connect.accounts.schedule import is_use_noted
from keap_connect.api.auth import read_key
from keap_connect.api.operations import read_query
from keap_connect.api.questions import TokenQuery
from keap_connect.api.tokens import hand_out
from keap_connect.clock import utc_now
from keap_connect.errors import KeapConnectError
from keap_connect.refresh.serving import stored_token
from keap_connect.server.front import AT_ONCE, REFUSAL, NotAtOnce

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PATH = re.compile("/api/v1/accounts/([^/]+)/token")
TO_JSON = json.JSONEncoder(default=datetime.isoformat)


class TokenFastPath:
    """A WSGI layer around the app. `headers` are those of every answer of the app."""

    def __init__(self, app: Flask, headers: Iterable[tuple[str, str]]) -> None:
        self._app, self._wsgi_app = app, app.wsgi_app
        self._of_thread = threading.local()
        self._host = urlsplit(app.extensions["keap_connect"].settings.public_url).netloc
        self._headers = [("Content-Type", "application/json"), *headers, ("Cache-Control", "no-store")]

    def __call__(self, wsgi_environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        body = self._answer(wsgi_environ)
        if body is not None:
            start_response("200 OK", [*self._headers, ("Content-Length", str(len(body)))])
            return [body]
        if AT_ONCE in wsgi_environ:
            raise NotAtOnce
        return self._wsgi_app(wsgi_environ, start_response)

    def _answer(self, wsgi_environ: "WSGIEnvironment") -> bytes | None:
        path = PATH.fullmatch(wsgi_environ["PATH_INFO"])
        is_get = wsgi_environ["REQUEST_METHOD"] == "GET"
        if path is None or not is_get or wsgi_environ.get("HTTP_HOST") != self._host or REFUSAL in wsgi_environ:
            return None
        try:
            answer = self._context().run(answer_at_once, wsgi_environ, path[1])
        except KeapConnectError:
            return None
        return TO_JSON.encode(answer).encode() if answer else None

    def _context(self) -> Context:
        """Return the context of this thread, in which the app is current: a new one takes a tenth of a call's time."""
        if not hasattr(self._of_thread, "context"):
            self._of_thread.context = Context()
            self._of_thread.context.run(self._app.app_context().push)
        context: Context = self._of_thread.context
        return context


def answer_at_once(wsgi_environ: "WSGIEnvironment", account_name: str) -> dict[str, object] | None:
    """Return the answer, or None if something has to be written or sent first.

    Raises KeapConnectError: the operation refuses this request.
    """
    shown, now = parse_api_key(read_key(wsgi_environ.get("HTTP_AUTHORIZATION", ""))), utc_now()
    query = read_query(TokenQuery(), Request(wsgi_environ)) if wsgi_environ.get("QUERY_STRING") else {}
    rows = find_key_and_account(shown, *parse_account_name(account_name))
    if rows is None or not all(is_use_noted(row.last_used_at, now) for row in rows):
        return None
    key, account = judge_api_key(rows[0], shown), rows[1]
    key.require(Scope.TOKENS_READ)
    served = stored_token(account, query.get("min_validity")) if key.may_see(account.id) else None
    if served is None:
        return None
    address = wsgi_environ.get("REMOTE_ADDR")
    rate_limits().count_request(key.id, address)
    return hand_out(served, key, address)
