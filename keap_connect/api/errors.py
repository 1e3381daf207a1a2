"""The one shape of an error for everything under /api: code, sentence, whether to ask again, and its id in the log.

Source: RFC 6749 section 5.2 (the shape), RFC 6750 section 3 (401, 403 and their header).
"""

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus

from flask import Blueprint, Flask, Response, request
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException, MethodNotAllowed, SecurityError

from keap_connect.errors import (
    AccountDisconnected,
    AccountNotFound,
    APIKeyRefused,
    ClientMisconfigured,
    CredentialRefused,
    ExternalIdTaken,
    HandOutUnrecorded,
    ImportRefused,
    InsufficientScope,
    KeapConnectError,
    NameRefused,
    NotRefreshable,
    ReconnectRequired,
    TemporarilyUnavailable,
    TenantConflict,
    TooManyRequests,
)
from keap_connect.logs import write_down
from keap_connect.services import services

log = logging.getLogger(__name__)
API_PATH = "/api/"
REALM = 'Bearer realm="Keap Connect"'
STATUS_CODES = {
    400: "invalid_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "content_too_large",
    415: "unsupported_media_type",
}
# What a program cannot mend by asking differently: as things stand, it is so.
CONFLICTS: dict[type[KeapConnectError], str] = {
    ReconnectRequired: "reconnect_required",
    AccountDisconnected: "disconnected",
    ExternalIdTaken: "external_id_taken",
    CredentialRefused: "credential_refused",
    TenantConflict: "credential_refused",
    NotRefreshable: "not_refreshable",
}
WAIT_FOR_A_PERSON_SECONDS = 300


class RequestRefused(KeapConnectError):
    """The request breaks a rule of the API; the message says which, and never what was sent."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class KeyMissing(KeapConnectError):
    """There is no API key in the request."""


def answer_errors(bp: Blueprint) -> None:
    """Answer every error of an operation in the one shape."""
    bp.register_error_handler(KeapConnectError, own_error)
    bp.register_error_handler(HTTPException, http_error)
    bp.register_error_handler(OperationalError, database_error)
    bp.register_error_handler(PoolTimeout, database_error)
    bp.register_error_handler(Exception, last_resort)


def answer_lost_requests(app: Flask) -> None:
    """Answer in the same shape what leads nowhere under /api, before a page would."""

    @app.before_request
    def answer_what_no_route_takes() -> Response | None:
        problem = request.routing_exception
        return http_error(problem) if problem is not None and request.path.startswith(API_PATH) else None


def own_error(problem: KeapConnectError) -> Response:
    """Answer an error of our own tree."""
    if isinstance(problem, TemporarilyUnavailable | ClientMisconfigured | HandOutUnrecorded):
        seconds = getattr(problem, "retry_after_seconds", WAIT_FOR_A_PERSON_SECONDS)
        return _answer(problem, 503, "temporarily_unavailable", headers={"Retry-After": str(seconds)})
    if isinstance(problem, RequestRefused):
        return _answer(problem, problem.status, STATUS_CODES[problem.status])
    if isinstance(problem, AccountNotFound):
        return _answer(problem, 404, "not_found", "There is no such account.")
    if type(problem) in CONFLICTS:
        return _answer(problem, 409, CONFLICTS[type(problem)], reconnect_url=_way_out(problem))
    if isinstance(problem, ImportRefused):
        return _answer(problem, 409, CONFLICTS[CredentialRefused])
    if isinstance(problem, NameRefused):
        return _answer(problem, 400, STATUS_CODES[400])
    return _refusal_of_key(problem) or last_resort(problem)


def http_error(problem: HTTPException) -> Response:
    """Answer what Flask refuses by itself."""
    status = problem.code if problem.code in STATUS_CODES else 404 if (problem.code or 0) < 400 else problem.code or 500
    headers = {}
    if isinstance(problem, MethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(set(problem.valid_methods or []) - {"HEAD"}))
    code = STATUS_CODES.get(status, "server_error" if status >= 500 else "invalid_request")
    description = HTTPStatus(status).description or HTTPStatus(status).phrase
    if isinstance(problem, SecurityError):
        description = "This app does not go by that host name."
    return _answer(problem, status, code, description, headers=headers)


def database_error(problem: Exception) -> Response:
    """Say of a database that does not answer that it passes."""
    return _answer(
        problem, 503, "temporarily_unavailable", "The database does not answer.", headers={"Retry-After": "5"}
    )


def last_resort(problem: Exception) -> Response:
    """Answer what nobody foresaw; the log has its place, the answer only its reference."""
    return _answer(problem, 500, "server_error", "It is our fault and was written down.")


def _answer(
    problem: Exception,
    status: int,
    code: str,
    description: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    reconnect_url: str | None = None,
) -> Response:
    """Write the error down and build its answer, in the words of our own error if it has no others."""
    body = {
        "error": code,
        "error_description": str(problem) if description is None else description,
        "is_retryable": status in {408, 429} or status >= 500,
        "request_id": write_down(log, request, status, problem),
        **({"reconnect_url": reconnect_url} if reconnect_url else {}),
    }
    return Response(json.dumps(body), status, mimetype="application/json", headers=headers)


def _refusal_of_key(problem: KeapConnectError) -> Response | None:
    if isinstance(problem, KeyMissing):
        return _answer(problem, 401, "invalid_token", headers={"WWW-Authenticate": REALM})
    if isinstance(problem, APIKeyRefused):
        return _answer(problem, 401, "invalid_token", headers={"WWW-Authenticate": f'{REALM}, error="invalid_token"'})
    if isinstance(problem, InsufficientScope):
        challenge = f'{REALM}, error="insufficient_scope", scope="{problem.scope}"'
        return _answer(problem, 403, "insufficient_scope", headers={"WWW-Authenticate": challenge})
    if isinstance(problem, TooManyRequests):
        return _answer(problem, 429, "too_many_requests", headers={"Retry-After": str(problem.retry_after_seconds)})
    return None


def _way_out(problem: KeapConnectError) -> str | None:
    """Where a person can reconnect, if that would help."""
    account_id = (request.view_args or {}).get("account_id")
    if account_id is None or not isinstance(problem, ReconnectRequired | AccountDisconnected):
        return None
    return f"{services().settings.public_url}/reconnect/{account_id}"
