"""Checks the API key before an operation runs; a route that is not declared is open to nobody.

The key is accepted in the Authorization header only: cookies do not count, and a key in the URL is refused, since logs
keep URLs (RFC 6750 sections 2.3 and 5.3).
"""

import logging
import re

from flask import g, request
from werkzeug.exceptions import MethodNotAllowed

from keap_connect.access.api_keys import verify_api_key
from keap_connect.access.rate_limits import rate_limits
from keap_connect.api.errors import KeyMissing
from keap_connect.api.operations import OPERATIONS
from keap_connect.errors import APIKeyRefused, InsufficientScope
from keap_connect.server.front import WAITING

log = logging.getLogger(__name__)
KEY_BEGINS = re.compile(r"kc_([0-9a-f]{16})_[0-9a-f]{8}")
KEY_NAMES = {"api_key", "apikey", "api-key", "access_token", "authorization", "key", "token"}
KEY_IN_URL = "An API key does not belong in a URL, where logs keep it. Send it in a header, and revoke this one."
OPEN_TO_ANYONE = {"api.openapi", "api.reference", "api.reference_of_group"}


def check_key() -> None:
    if request.endpoint in OPEN_TO_ANYONE:
        return
    declared = OPERATIONS.get(request.endpoint or "")
    if declared is None:
        raise InsufficientScope("none")
    if request.method == "HEAD":
        raise MethodNotAllowed(["GET"])  # else a hand-out would be recorded, and the token goes nowhere
    require_key(declared.scope)


def require_key(scope: str) -> None:
    """Check that the request has an API key with this scope, and count the request.

    Raises:
        KeyMissing, APIKeyRefused: it has none, or one that is not valid.
        InsufficientScope: its key lacks the scope.
        TooManyRequests: its key, or its client address, sends too many.
    """
    try:
        _refuse_key_in_url()
        g.api_key = verify_api_key(read_key(request.headers.get("Authorization", "")))
    except (APIKeyRefused, KeyMissing):
        rate_limits().count_wrong_key(request.remote_addr)
        raise
    if WAITING not in request.environ or not request.environ[WAITING].is_asked_again:
        rate_limits().count_request(g.api_key.id, request.remote_addr)
    g.api_key.require(scope)


def read_key(authorization: str) -> str:
    """Return the text of the API key in the header Authorization. Raises KeyMissing."""
    kind, _, text = authorization.partition(" ")
    if kind.lower() != "bearer" or not text.strip():
        raise KeyMissing("Send an API key in the header Authorization: Bearer.")
    return text.strip()


def _refuse_key_in_url() -> None:
    shown = KEY_BEGINS.search("&".join([request.path, *request.args.values()]))
    if shown:
        log.warning("An API key came in a URL, from %s: revoke the one with the id %s.", request.remote_addr, shown[1])
    if shown or KEY_NAMES & {name.lower() for name in request.args}:
        raise KeyMissing(KEY_IN_URL)
