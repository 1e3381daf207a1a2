"""create_app(): wiring only, top to bottom."""

import hashlib
import logging
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import click
from flask import Flask
from flask.cli import ScriptInfo
from werkzeug.middleware.proxy_fix import ProxyFix

from keap_connect.access.admins import create_admin
from keap_connect.api.application import open_express_lane, register_api
from keap_connect.audit.hand_outs import keep_audit
from keap_connect.cli import register_commands
from keap_connect.database import connect_database
from keap_connect.deployment import check_deployment
from keap_connect.keap.transport import allow_loopback_http
from keap_connect.logs import start_logging
from keap_connect.runtime import equip, runtime
from keap_connect.settings import Settings
from keap_connect.web import accounts, api_keys, connect, health, metrics, signin
from keap_connect.web.browser_security import protect_browsers, security_headers
from keap_connect.web.door import current_admin, current_person, guard_pages
from keap_connect.web.errors import show_errors
from keap_connect.web.template_filters import add_filters
from keap_connect.worker.instance import check_instance

ROOT = Path(__file__).parent.parent
log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None, *, serves: bool | None = None) -> Flask:
    """Build the application; tests pass their own settings.

    Args:
        serves: whether it will serve requests, so that the database must be ready. By default, when it is not built
            for a command of `flask`: `db upgrade` must run before the database is ready.

    Raises:
        SettingsError: the environment, or the database behind it, is not fit to start with.
    """
    settings = settings or Settings.from_env()
    start_logging(settings.log_level)
    app = Flask("keap_connect", template_folder=ROOT / "templates", static_folder=ROOT / "static")
    app.config.from_mapping(flask_config(settings))
    equip(app, settings)
    allow_loopback_http(settings.keap)
    connect_database(app, settings.database_url)
    keep_audit(app, settings)
    protect_browsers(app, settings)
    guard_pages(app)
    register_pages(app)
    register_api(app, settings)
    open_express_lane(app, security_headers(settings))
    proxies = settings.trusted_proxies
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=0, x_host=0)  # type: ignore[method-assign]
    register_commands(app)
    if serves is None:
        # Granian's own command is one of click's too, so it has to be a command of `flask`.
        command = click.get_current_context(silent=True)
        serves = command is None or command.find_object(ScriptInfo) is None
    if serves:
        with app.app_context():
            prepare_to_serve(settings)
    return app


def flask_config(settings: Settings) -> dict[str, object]:
    """Return Flask's own settings. Its session cookie carries notices to the next page, and nothing else."""
    return {
        "SECRET_KEY": settings.secret_key,
        "TRUSTED_HOSTS": [urlsplit(settings.public_url).netloc],
        "MAX_CONTENT_LENGTH": 64 * 1024,
        "SESSION_COOKIE_NAME": "__Host-notice" if settings.is_https else "notice",
        "SESSION_COOKIE_SECURE": settings.is_https,
        "SESSION_COOKIE_SAMESITE": "Lax",
        "SESSION_COOKIE_PATH": "/",
    }


def register_pages(app: Flask) -> None:
    """Add the pages, and what all templates may use."""
    for blueprint in (connect.bp, signin.bp, accounts.bp, api_keys.bp, health.bp, metrics.bp):
        app.register_blueprint(blueprint)
    show_errors(app)
    add_filters(app)
    version_static_files(app)

    @app.context_processor
    def who_and_where() -> dict[str, object]:
        sandbox_url = runtime().settings.sandbox_url
        return {"admin": current_admin(), "person": current_person(), "sandbox_url": sandbox_url}


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


def prepare_to_serve(settings: Settings) -> None:
    """Check the database, say what the operator should know, and make the first admin if one is named."""
    for warning in check_deployment():
        log.warning(warning)
    check_instance()
    if settings.admin_email and settings.admin_password:
        create_admin(settings.admin_email, settings.admin_password, only_first=True)
