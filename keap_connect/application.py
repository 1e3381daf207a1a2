"""create_app(): wiring only, top to bottom."""

import hashlib
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from flask import Flask
from werkzeug.routing import IntegerConverter

from keap_connect.access.rate_limits import RateLimits
from keap_connect.api.application import register_api
from keap_connect.cli import register_commands
from keap_connect.deployment import VERSION
from keap_connect.engine import connect_database
from keap_connect.events.hand_outs import attach_hand_out_log
from keap_connect.keap.transport import allow_loopback_http
from keap_connect.logs import name_request, start_logging
from keap_connect.refresh.clone_guard import keep_mark
from keap_connect.server.checks import prepare_to_serve
from keap_connect.services import attach_services, services
from keap_connect.settings import ROOT, Settings
from keap_connect.web import (
    accounts,
    admins,
    api_keys,
    audit,
    bulk,
    connect,
    documents,
    health,
    imports,
    invitations,
    jobs,
    notifications,
    profile,
    reconnect_links,
    setup,
    signin,
)
from keap_connect.web.auth import check_audience, current_admin, current_person, form_errors
from keap_connect.web.browser_security import protect_browsers, security_headers
from keap_connect.web.errors import show_errors
from keap_connect.web.network import ClientAddress, forget_client_address, note_client_address, refuse_unknown_host
from keap_connect.web.rendering import add_filters, compress_static_file


class PlainNumber(IntegerConverter):
    """A number in an address, in its one form: not 01, and no digits of other scripts."""

    regex = "[1-9][0-9]*"


def create_app(settings: Settings | None = None, *, serves: bool = True) -> Flask:
    """Build the application; tests pass their own settings.

    Args:
        serves: whether it will serve requests, so that the database is checked first.

    Raises SettingsError: the environment, or the database behind it, is not fit to start with.
    """
    settings = settings or Settings.from_env()
    start_logging(settings.log_level, settings.log_format)
    app = Flask("keap_connect", template_folder=ROOT / "templates", static_folder=ROOT / "static")
    app.config.from_mapping(flask_config(settings))
    app.url_map.converters["int"] = PlainNumber
    app.before_request(name_request)
    app.before_request(refuse_unknown_host)
    attach_services(app, settings)
    allow_loopback_http(settings.keap)
    connect_database(app, settings.database_url)
    keep_mark(app)
    attach_hand_out_log(app, settings)
    app.extensions["keap_connect_rate_limits"] = RateLimits(settings)
    app.before_request(note_client_address)
    app.teardown_request(forget_client_address)
    protect_browsers(app, settings)
    app.before_request(check_audience)
    register_pages(app)
    if app.debug and settings.sandbox_url:
        app.register_blueprint(documents.patterns)
    register_api(app, security_headers(settings))
    app.wsgi_app = ClientAddress(app.wsgi_app, settings)  # type: ignore[method-assign,assignment]
    register_commands(app)
    if serves:
        with app.app_context():
            prepare_to_serve(settings)
    return app


def flask_config(settings: Settings) -> dict[str, object]:
    """Return Flask's own settings. Its session cookie carries notices to the next page, and nothing else."""
    return {
        "SECRET_KEY": settings.secret_key,
        # Flask routes by this name, so that no Host header can break it; `refuse_unknown_host` checks the header.
        "SERVER_NAME": urlsplit(settings.public_url).netloc,
        "MAX_CONTENT_LENGTH": 64 * 1024,
        "SESSION_COOKIE_NAME": "__Host-notice" if settings.is_https else "notice",
        "SESSION_COOKIE_SECURE": settings.is_https,
        "SESSION_COOKIE_SAMESITE": "Lax",
        "SESSION_COOKIE_PATH": "/",
    }


def register_pages(app: Flask) -> None:
    pages = (connect, reconnect_links, signin, profile, accounts, admins, api_keys, audit, setup, imports, bulk, jobs)
    for page in (*pages, invitations, notifications, health, documents):
        app.register_blueprint(page.bp)
    for further in (jobs.exports, notifications.mail, setup.support, documents.well_known):
        app.register_blueprint(further)
    show_errors(app)
    add_filters(app)
    version_static_files(app)
    app.after_request(compress_static_file)

    @app.context_processor
    def who_and_where() -> dict[str, object]:
        settings = services().settings
        people = {"admin": current_admin(), "person": current_person()}
        where = {"sandbox_url": settings.sandbox_url, "is_by_invitation": settings.is_by_invitation}
        return {**people, **where, "service": settings.service, "version": VERSION, "errors": form_errors()}


def version_static_files(app: Flask) -> None:
    """Put a checksum into the address of each static file, so that browsers may keep it for good."""

    @cache
    def checksum(filename: str) -> str:
        path = Path(app.static_folder or "", filename)
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else "none"

    @app.url_defaults
    def add_checksum(endpoint: str, values: dict[str, object]) -> None:
        if endpoint == "static" and "filename" in values:
            values["v"] = checksum(str(values["filename"]))
