"""The one shape of an error, `error` and `error_description`, for everything under /api.

Source: RFC 6749 section 5.2 (the shape), RFC 6750 section 3 (401, 403 and their header).
"""

import json
import logging
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import quote

from flask import Blueprint, Flask, Response, request
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from keap_connect.errors import (
    AccountDisconnected,
    AccountNotFound,
    APIKeyRefused,
    ClientMisconfigured,
    CredentialRefused,
    ExternalIdTaken,
    HandOutUnrecorded,
    ImportConflict,
    ImportRefused,
    InsufficientScope,
    KeapConnectError,
    NameRefused,
    NotRefreshable,
    ReconnectRequired,
    TemporarilyUnavailable,
    TenantConflict,
)
from keap_connect.runtime import runtime

log = logging.getLogger(__name__)
API_PATH = "/api/"
REALM = 'Bearer realm="Keap Connect"'
STATUS_CODES = {
    400: "invalid_request",
    404: "not_found",
    405: "method_not_allowed",
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
    ImportConflict: "import_conflict",
}
WAIT_FOR_A_PERSON_SECONDS = 300


class RequestRefused(KeapConnectError):
    """The request breaks a rule of the API; the message says which, and never what was sent."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class KeyMissing(KeapConnectError):
    """There is no API key in the request."""


class TooManyRequests(KeapConnectError):
    """This key or this address comes too often."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__("Too many requests. Come back later.")
        self.retry_after_seconds = retry_after_seconds


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


def error_answer(
    status: int,
    error: str,
    description: str,
    headers: Mapping[str, str] | None = None,
    reconnect_url: str | None = None,
) -> Response:
    """Build an error."""
    body = {"error": error, "error_description": description}
    if reconnect_url is not None:
        body["reconnect_url"] = reconnect_url
    return Response(json.dumps(body), status, mimetype="application/json", headers=headers)


def own_error(error: KeapConnectError) -> Response:
    """Answer an error of our own tree."""
    if isinstance(error, TemporarilyUnavailable | ClientMisconfigured | HandOutUnrecorded):
        seconds = getattr(error, "retry_after_seconds", WAIT_FOR_A_PERSON_SECONDS)
        return error_answer(503, "temporarily_unavailable", str(error), {"Retry-After": str(seconds)})
    if isinstance(error, RequestRefused):
        return error_answer(error.status, STATUS_CODES[error.status], str(error))
    if isinstance(error, AccountNotFound):
        return error_answer(404, "not_found", "There is no such account.")
    if type(error) in CONFLICTS:
        return error_answer(409, CONFLICTS[type(error)], str(error), reconnect_url=_way_out(error))
    if isinstance(error, ImportRefused):
        return error_answer(409, CONFLICTS[CredentialRefused], str(error))
    if isinstance(error, NameRefused):
        return error_answer(400, STATUS_CODES[400], str(error))
    return _refusal_of_key(error) or last_resort(error)


def http_error(error: HTTPException) -> Response:
    """Answer what Flask refuses by itself."""
    status = error.code if error.code in STATUS_CODES else 404 if (error.code or 0) < 400 else error.code or 500
    headers = {}
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(set(error.valid_methods or []) - {"HEAD"}))
    code = STATUS_CODES.get(status, "server_error" if status >= 500 else "invalid_request")
    return error_answer(status, code, HTTPStatus(status).description or HTTPStatus(status).phrase, headers)


def database_error(error: Exception) -> Response:
    """Say of a database that does not answer that it passes."""
    _write_down(error)
    return error_answer(503, "temporarily_unavailable", "The database does not answer.", {"Retry-After": "5"})


def last_resort(error: Exception) -> Response:
    """Answer what nobody foresaw; the log has its place, the answer only its reference."""
    return error_answer(500, "server_error", f"It is our fault and was written down. Reference: {_write_down(error)}")


def _refusal_of_key(error: KeapConnectError) -> Response | None:
    if isinstance(error, KeyMissing):
        return error_answer(401, "invalid_token", str(error), {"WWW-Authenticate": REALM})
    if isinstance(error, APIKeyRefused):
        return error_answer(401, "invalid_token", str(error), {"WWW-Authenticate": f'{REALM}, error="invalid_token"'})
    if isinstance(error, InsufficientScope):
        challenge = f'{REALM}, error="insufficient_scope", scope="{error.scope}"'
        return error_answer(403, "insufficient_scope", str(error), {"WWW-Authenticate": challenge})
    if isinstance(error, TooManyRequests):
        headers = {"Retry-After": str(error.retry_after_seconds)}
        return error_answer(429, "too_many_requests", str(error), headers)
    return None


def _way_out(error: KeapConnectError) -> str | None:
    """Where a person can reconnect, if that would help."""
    account_id = (request.view_args or {}).get("account_id")
    if account_id is None or not isinstance(error, ReconnectRequired | AccountDisconnected):
        return None
    return f"{runtime().settings.public_url}/reconnect/{account_id}"


def _write_down(error: Exception) -> str:
    """Log an error of ours with its place, and return its reference."""
    reference = secrets.token_hex(4)
    where = quote(f"{request.method} {request.path}"[:200], safe="/ ")
    log.error("%s: %s at %s", reference, type(error).__name__, where, exc_info=error)
    return reference
