"""Adds the token API and /metrics to the app."""

from collections.abc import Mapping

from flask import Flask

from keap_connect.api import accounts, documentation, invitations, metrics, tokens, webhooks
from keap_connect.api.auth import check_key
from keap_connect.api.errors import answer_errors, answer_lost_requests
from keap_connect.api.fast_path import TokenFastPath
from keap_connect.api.operations import bp
from keap_connect.server.front import AT_ONCE
from keap_connect.settings import Settings

DECLARING = (accounts, tokens, invitations, webhooks, documentation)  # importing them declares their operations
bp.before_request(check_key)
answer_errors(bp)


def register_api(app: Flask, headers: Mapping[str, str]) -> None:
    """Add them, and the fast path, whose answers have the `headers` of every answer."""
    answer_lost_requests(app)
    app.register_blueprint(bp)
    app.register_blueprint(metrics.bp)
    settings: Settings = app.extensions["keap_connect"].settings
    # A token call that only reads and writes files needs no thread. It may have to wait for another server, or for the
    # reader of a pipe.
    is_local = settings.sqlite_file and settings.rate_limit_storage == "memory://"
    app.extensions[AT_ONCE] = bool(is_local and settings.audit_log)
    app.wsgi_app = TokenFastPath(app, headers.items())  # type: ignore[method-assign,assignment]
