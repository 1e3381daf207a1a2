"""Protection of browsers: security headers, cookies, and the defence against forged requests (CSRF)."""

import hmac
import secrets
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Request, abort, current_app, g, request, url_for
from flask import Response as FlaskResponse
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from werkzeug.wrappers import Response

from keap_connect.access.rate_limits import rate_limits
from keap_connect.addresses import LOOPBACK_HOSTS
from keap_connect.errors import KeapConnectError
from keap_connect.server.front import REFUSAL
from keap_connect.services import keyed_hash, services
from keap_connect.settings import KEAP_HOSTS, Settings

ONE_YEAR_SECONDS = 365 * 86400
# Keap redirects the browser between its own hosts, and Chromium applies form-action to each of them.
KEAP_FORM_TARGETS = "https://*.infusionsoft.com https://*.keap.com https://*.thryv.com"


class ForgedRequest(KeapConnectError):
    """A request that changes something did not come from one of our own pages, or from one that is too old."""

    status, code = 403, "not_allowed"
    heading = "That form was too old"
    advice = "The page was open for long, or you signed in or out meanwhile. Go back, reload the page, and try again."


class CookiesMissing(ForgedRequest):
    """A form came without the cookie that its page set."""

    heading = "Your browser sent no cookie"
    advice = (
        "This site needs cookies to know that a form is yours. Allow them, go back, reload the page, and try again."
    )


def is_for_programs() -> bool:
    """Whether a request is for the token API or /metrics, which ask for API keys and ignore cookies."""
    return request.path.startswith("/api/") or request.path == "/metrics"


class PageSessions(SecureCookieSessionInterface):
    """Flask's session, on pages only."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        return None if is_for_programs() else super().open_session(app, request)


def protect_browsers(app: Flask, settings: Settings) -> None:
    """Check each request, and set the security headers on each answer, errors included."""
    headers = security_headers(settings)
    app.session_interface = PageSessions()
    app.request_class = RequestInMemory

    @app.before_request
    def check_request() -> None:
        if REFUSAL in request.environ:  # its page looks nobody up: the thread of all refusals waits for no database
            g.admin = g.person = None
        if request.routing_exception:  # the router answers 404 or 405, with the right methods
            return
        most_bytes = getattr(app.view_functions.get(request.endpoint or ""), "most_bytes", None)
        if most_bytes is not None:  # before a refusal, whose page names the limit
            request.max_content_length = most_bytes
        if refusal := request.environ.get(REFUSAL):
            raise refusal
        if is_for_programs():
            return
        # PostgreSQL stores no null character in a text. `request.values` would hide a field of the form behind the one
        # of the same name in the address.
        sent = [each for part in (request.args, request.form) for values in part.listvalues() for each in values]
        if "\0" in "".join([request.path, *sent]):
            abort(400)
        if request.method not in {"GET", "HEAD", "OPTIONS"} and not _is_one_click():
            try:
                _check_origin(settings.public_url)
                _check_token()
            except ForgedRequest:
                rate_limits().count_refused_form(request.remote_addr)
                raise

    @app.after_request
    def set_headers(response: FlaskResponse) -> FlaskResponse:
        for name, value in headers.items():
            response.headers.setdefault(name, value)
        if request.endpoint != "static" or response.status_code >= 400:
            response.headers.setdefault("Cache-Control", "no-store")
        elif response.status_code == 200 and request.full_path == url_for("static", **(request.view_args or {})):
            response.headers["Cache-Control"] = f"public, max-age={ONE_YEAR_SECONDS}, immutable"
        if "new_browser" in g:
            set_cookie(response, "browser", g.new_browser)
        return response

    app.jinja_env.globals["csrf_token"] = csrf_token


class RequestInMemory(Request):
    """Keeps uploaded files in memory. Werkzeug writes those above 500 kB to the disk, and they may hold tokens."""

    def _get_file_stream(self, *_sizes: object, **_about: object) -> BytesIO:
        return BytesIO()


def browser() -> str:
    """Return this browser's own random value, a new one if it has none. It binds a flow to its browser."""
    if "new_browser" in g:
        return str(g.new_browser)
    known = read_cookie("browser")
    if known is None:
        g.new_browser = known = secrets.token_urlsafe(32)
    return known


def csrf_token() -> str:
    """Return the token of the forms, bound to this browser and to the admin's sign-in."""
    # Not to the customer's sign-in, which begins at the end of a flow while another tab may still show a start page.
    return keyed_hash("csrf", browser(), read_cookie("admin") or "")


def read_cookie(name: str) -> str | None:
    """Return one of our cookies; None if it is missing or malformed."""
    value = request.cookies.get(_cookie_name(name), "")
    return value if 32 <= len(value) <= 100 and value.isascii() else None


def set_cookie(response: Response, name: str, value: str, lifetime_seconds: int | None = None) -> None:
    """Set a cookie that scripts cannot read. Without a lifetime it ends with the browser."""
    response.set_cookie(_cookie_name(name), value, max_age=lifetime_seconds, **_cookie_options())


def delete_cookie(response: Response, name: str) -> None:
    response.delete_cookie(_cookie_name(name), **_cookie_options())


def _cookie_options() -> dict[str, Any]:
    # Lax, not Strict: the callback, which comes from Keap, has to carry it.
    return {"secure": services().settings.is_https, "httponly": True, "samesite": "Lax", "path": "/"}


def forget_pages(response: Response) -> None:
    """Let the browser drop what it has kept of our pages, after a sign-out."""
    # Not "cookies": an admin and a customer may both be signed in here, and the browser stays known. Browsers obey it
    # over HTTPS and on loopback, and the app has no other addresses.
    response.headers["Clear-Site-Data"] = '"cache", "storage"'


def _cookie_name(name: str) -> str:
    return f"__Host-{name}" if services().settings.is_https else name


def _is_one_click() -> bool:
    """Whether this is the POST that List-Unsubscribe-Post of a mail announces (RFC 8058 section 3.2)."""
    view = current_app.view_functions.get(request.endpoint or "")
    return getattr(view, "takes_one_click", False) and request.form.get("List-Unsubscribe") == "One-Click"


def _check_origin(public_url: str) -> None:
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    # Our own pages have `Referrer-Policy: no-referrer` and so send `Origin: null`. Sec-Fetch-Site therefore decides
    # where it exists. Without it (Safari before 16.4), a missing Origin or `null` says nothing: the form's token alone
    # decides, and no other site can know it.
    if site not in {None, "same-origin"} or (site is None and origin not in {None, "null", public_url}):
        raise ForgedRequest("The request came from another site.")


def _check_token() -> None:
    sent = request.form.get("csrf_token", "")
    if sent and read_cookie("browser") is None:
        raise CookiesMissing("The form came without the cookie of its page.")
    if not hmac.compare_digest(sent.encode(), csrf_token().encode()):
        raise ForgedRequest("The form carries no valid token.")


def security_headers(settings: Settings) -> dict[str, str]:
    keap = urlsplit(settings.keap.authorize_url)
    targets = KEAP_FORM_TARGETS if keap.hostname in KEAP_HOSTS else f"{keap.scheme}://{keap.netloc}"
    headers = {
        "Content-Security-Policy": (
            "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
            f"form-action 'self' {targets}; base-uri 'none'; frame-ancestors 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    }
    if settings.is_https and urlsplit(settings.public_url).hostname not in LOOPBACK_HOSTS:
        headers["Strict-Transport-Security"] = f"max-age={ONE_YEAR_SECONDS}; includeSubDomains"
    return headers
