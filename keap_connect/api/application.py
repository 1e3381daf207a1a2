"""Adds the API to the app."""

from collections.abc import Mapping

from flask import Flask

from keap_connect.api import accounts, documentation, events, metrics, tokens
from keap_connect.api.auth import guard_operations
from keap_connect.api.errors import answer_errors, answer_lost_requests
from keap_connect.api.fast_path import TokenFastPath
from keap_connect.api.operations import bp
from keap_connect.server.front import AT_ONCE
from keap_connect.settings import Settings

DECLARING = (accounts, tokens, events, documentation)  # importing them declares their operations
guard_operations(bp)
answer_errors(bp)


def register_api(app: Flask) -> None:
    """Let programs in under /api and at /metrics."""
    answer_lost_requests(app)
    app.register_blueprint(bp)
    app.register_blueprint(metrics.bp)


def add_fast_path(app: Flask, headers: Mapping[str, str]) -> None:
    """Answer most token calls before Flask; `headers` are those of every answer."""
    settings: Settings = app.extensions["keap_connect"].settings
    # No thread is needed where a token call only reads and writes files. Another server, or the reader of a pipe, may
    # keep it waiting.
    is_local = settings.database_url.startswith("sqlite") and settings.rate_limit_storage == "memory://"
    app.extensions[AT_ONCE] = is_local and settings.audit_log is not None
    app.wsgi_app = TokenFastPath(app, headers.items())  # type: ignore[method-assign,assignment]
