"""The one shape of an error under /api and /metrics: code, sentence, whether to try again, and its id in the log.

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

from keap_connect import counters, errors
from keap_connect.logs import write_down
from keap_connect.services import page_url

log = logging.getLogger(__name__)
PATHS = ("/api/", "/metrics")
REALM = 'Bearer realm="Keap Connect"'
STATUS_CODES = {
    400: "invalid_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "content_too_large",
    415: "unsupported_media_type",
}


class RequestRefused(errors.KeapConnectError):
    """The request breaks a rule of the API; the message says which, and never what was sent."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status, self.code = status, STATUS_CODES[status]


class KeyMissing(errors.APIKeyRefused):
    """There is no API key in the request."""


def answer_errors(bp: Blueprint) -> None:
    bp.register_error_handler(errors.KeapConnectError, own_error)
    bp.register_error_handler(HTTPException, http_error)
    bp.register_error_handler(OperationalError, database_error)
    bp.register_error_handler(PoolTimeout, database_error)
    bp.register_error_handler(Exception, last_resort)


def answer_lost_requests(app: Flask) -> None:
    """Answer requests under /api and /metrics that no route takes, before the error page would."""

    @app.before_request
    def answer_what_no_route_takes() -> Response | None:
        problem = request.routing_exception
        return http_error(problem) if problem is not None and request.path.startswith(PATHS) else None


def own_error(problem: errors.KeapConnectError) -> Response:
    if problem.status == 500:
        return last_resort(problem)
    headers = _challenge(problem)
    if problem.retry_after_seconds is not None:
        headers["Retry-After"] = str(problem.retry_after_seconds)
    # The messages of these two may name an account that this key may not see.
    description = str(problem)
    if isinstance(problem, errors.AccountNotFound):
        description = f"{problem.heading}."
    elif isinstance(problem, errors.ExternalIdTaken):
        description = str(errors.ExternalIdTaken())
    return _answer(problem, problem.status, problem.code, description, headers, **_reconnect_url(problem))


def http_error(problem: HTTPException) -> Response:
    given = problem.code or 0
    status = given if given >= 400 else 404  # a redirect to another path
    headers = {}
    if isinstance(problem, MethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(set(problem.valid_methods or []) - {"HEAD"}))
    code = STATUS_CODES.get(status, "server_error" if status >= 500 else "invalid_request")
    description = HTTPStatus(status).description or HTTPStatus(status).phrase
    if status == 413:
        description = f"The request is too large: at most {request.max_content_length} bytes are accepted."
    if isinstance(problem, SecurityError):
        description = "The app is not available under this host name."
    return _answer(problem, status, code, description, headers)


def database_error(problem: Exception) -> Response:
    headers = {"Retry-After": "5"}
    return _answer(problem, 503, "temporarily_unavailable", "The database does not answer.", headers)


def last_resort(problem: Exception) -> Response:
    """Answer an error that nobody foresaw. The log has its traceback, the answer only its reference."""
    return _answer(problem, 500, "server_error", "It is our fault and is in our log.")


def _answer(
    problem: Exception, status: int, code: str, description: str, headers: Mapping[str, str] | None = None, **more: str
) -> Response:
    """Log the error, count it if it kept a job from its token, and build its answer."""
    if request.endpoint == "api.get_token" and (status == 409 or status >= 500):
        counters.count("token_errors", code)
    body = {
        "error": code,
        "error_description": description,
        "is_retryable": status in {408, 429} or status >= 500,
        "request_id": write_down(log, request, status, problem),
        **more,
    }
    return Response(json.dumps(body), status, mimetype="application/json", headers=headers)


def _challenge(problem: errors.KeapConnectError) -> dict[str, str]:
    """Return the header that says what is wrong with the API key (RFC 6750 section 3)."""
    if isinstance(problem, errors.InsufficientScope):
        scope = f', scope="{problem.scope}"' if problem.scope else ""
        return {"WWW-Authenticate": f'{REALM}, error="{problem.code}"{scope}'}
    if isinstance(problem, KeyMissing):
        return {"WWW-Authenticate": REALM}
    return {"WWW-Authenticate": f'{REALM}, error="{problem.code}"'} if isinstance(problem, errors.APIKeyRefused) else {}


def _reconnect_url(problem: errors.KeapConnectError) -> dict[str, str]:
    """Return the page where a person can reconnect the account, if that would help."""
    account_id = (request.view_args or {}).get("account_id")
    if account_id is None or not isinstance(problem, errors.ReconnectRequired | errors.AccountDisconnected):
        return {}
    return {"reconnect_url": page_url(f"/reconnect/{account_id}")}
