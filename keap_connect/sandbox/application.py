"""Puts the sandbox together: one Flask application with its own pages, look and rules."""

from pathlib import Path
from urllib.parse import urlsplit

from flask import Flask, Response, render_template, request
from werkzeug.exceptions import HTTPException

from keap_connect.sandbox.account_central import account_central_pages
from keap_connect.sandbox.answers import error_body, json_response
from keap_connect.sandbox.api_settings import api_settings_pages
from keap_connect.sandbox.apps import RedirectURIMode
from keap_connect.sandbox.authorization import authorization_pages
from keap_connect.sandbox.authorization_server import KeapAuthorizationServer
from keap_connect.sandbox.clock import apart, iso
from keap_connect.sandbox.control_api import control_api
from keap_connect.sandbox.control_pages import control_pages
from keap_connect.sandbox.rest_api import rest_api
from keap_connect.sandbox.sign_in import sign_in_pages
from keap_connect.sandbox.token_endpoint import token_endpoint
from keap_connect.sandbox.world import World

# Chromium applies form-action to the redirect after Allow and all that follow: any web address may be next.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "form-action 'self' http: https:"
)

WORDS = {
    400: ("That was not understood", "Something in the address or the form is missing or wrong."),
    403: ("That is not allowed", "This form came from another site, or is too old."),
    404: ("There is nothing here", "The sandbox has no such page."),
    405: ("That is not how this address works", "Start from one of the sandbox's pages instead."),
}


def create_sandbox(store_path: Path, redirect_uri_mode: RedirectURIMode = RedirectURIMode.ALLOW_LOCALHOST) -> Flask:
    """Build the application around one store. Raises sqlite3.Error: the store cannot be opened or written."""
    app = Flask(__name__)
    world = World(store_path, redirect_uri_mode)
    app.extensions["sandbox_world"] = world
    app.extensions["sandbox_authorization_server"] = KeapAuthorizationServer(world)
    for blueprint in (
        authorization_pages,
        sign_in_pages,
        token_endpoint,
        rest_api,
        account_central_pages,
        api_settings_pages,
        control_api,
        control_pages,
    ):
        app.register_blueprint(blueprint)
    app.before_request(refuse_other_sites)
    app.after_request(add_security_headers)
    app.register_error_handler(HTTPException, show_error)
    app.jinja_env.filters |= {
        "iso": iso,
        "day_and_minute": lambda text: text[:16].replace("T", " "),
        "day_and_second": lambda text: text[:19].replace("T", " "),
        "apart": apart,
    }
    return app


def refuse_other_sites() -> tuple[str, int] | None:
    """Let no other site press a button here through somebody's browser."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return None
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    is_ours = site in ("same-origin", "none") if site else origin is None or urlsplit(origin).netloc == request.host
    return None if is_ours else ("Another site may not do this.\n", 403)


def add_security_headers(answer: Response) -> Response:
    if answer.mimetype == "text/html":
        answer.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        answer.headers.setdefault("Referrer-Policy", "same-origin")
        answer.headers.setdefault("Cache-Control", "no-store")
    answer.headers.setdefault("X-Content-Type-Options", "nosniff")
    return answer


def show_error(error: HTTPException) -> Response | tuple[str, int]:
    """Say what went wrong: JSON for programs, a page for people."""
    status = error.code or 500
    title, usual = WORDS.get(status, (error.name, error.name))
    sentence = usual if error.description in {None, type(error).description} else str(error.description)
    if request.path.startswith("/sandbox/api/"):
        return json_response(error_body(error.name.lower().replace(" ", "_"), sentence), status)
    return render_template("message.html", title=title, sentence=sentence), status
