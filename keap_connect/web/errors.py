"""The one error page: what happened, what to do next, and a reference that is in the log."""

import logging
from http import HTTPStatus

from flask import Flask, g, make_response, render_template, request, url_for
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException, MethodNotAllowed, SecurityError
from werkzeug.wrappers import Response

from keap_connect.errors import (
    AccountNotFound,
    AdminNotFound,
    APIKeyNotFound,
    HandOutUnrecorded,
    KeapBusy,
    KeapConnectError,
    PasswordLinkGone,
    SealBroken,
    ServerBusy,
    TemporarilyUnavailable,
    TooManyAttempts,
    TooManyRequests,
)
from keap_connect.logs import write_down
from keap_connect.services import services
from keap_connect.web.auth import MayOnlyLook, PersonUnknown, current_admin, current_person
from keap_connect.web.browser_security import ForgedRequest

log = logging.getLogger(__name__)

WORDS = {
    400: ("That request was not understood", "Something in the address or the form is missing or wrong."),
    403: ("That is not allowed", "This browser may not do that."),
    404: ("There is nothing here", "The address is wrong, or what it showed is gone."),
    405: ("That is not how this address works", "Start from one of the pages instead."),
    408: ("That took too long", "The form did not arrive in time. Nothing was changed: go back, and send it again."),
    413: ("That was too much at once", "What was sent is larger than this app accepts."),
    429: ("Try again later", "That was too often. Nothing was checked, and nothing was changed."),
    500: ("Something went wrong here", "It is our fault and was written down. Nothing was lost; try again."),
    503: ("The database does not answer", "Nothing was changed. Try again in a minute."),
}
KEAP_BUSY = "Keap is busy, try again"
NOT_ASKED = "Many requests wait for Keap at the moment, so we have not sent yours yet. Nothing is lost."
LOADS_AGAIN = "This page tries again in {}. You can leave it open."
PRESS_AGAIN = "Wait {}, go back, and press the button again."
EXPLAINED = {
    AccountNotFound: (
        404,
        "There is no such account",
        "It may have been merged into another one, or never existed.",
    ),
    AdminNotFound: (404, "There is no such admin", "They may have been removed, or never existed."),
    PasswordLinkGone: (
        404,
        "This link does not work",
        "A link to choose a password works once, within a day, and a newer one ends it. Ask an admin, or whoever runs "
        "this app, for a new one.",
    ),
    MayOnlyLook: (
        403,
        "You may look, and not act",
        "Your role here is viewer. Ask an admin to do it, or to give you the role of an admin.",
    ),
    HandOutUnrecorded: (
        503,
        "The audit log cannot be written",
        "No token is shown while that is so. Ask who runs this app to look at AUDIT_LOG and the disk.",
    ),
    ServerBusy: (503, "Too many requests arrive at once", "Nothing was changed. Try again in a minute."),
    APIKeyNotFound: (404, "There is no such API key", "The address is wrong."),
    SealBroken: (
        500,
        "A stored secret does not open",
        "It was sealed with another key, or edited. It was left as it is, and other accounts are not affected.",
    ),
    ForgedRequest: (
        403,
        "That form was too old",
        "The page was open for long, or you signed in or out meanwhile. Go back, reload the page, and press again.",
    ),
    PersonUnknown: (
        403,
        "We do not know you in this browser",
        "Connect your Keap account again: that shows who you are, needs no password here, and changes nothing else.",
    ),
}


def show_errors(app: Flask) -> None:
    """Register one handler for each kind of error."""

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        heading, explanation = WORDS.get(status, (HTTPStatus(status).phrase, "Start from one of the pages instead."))
        page = _page(status, heading, explanation, error)
        if isinstance(error, MethodNotAllowed):
            page.headers["Allow"] = ", ".join(sorted(error.valid_methods or []))
        return page

    @app.errorhandler(SecurityError)
    def unknown_host(error: SecurityError) -> Response:
        settings = services().settings
        text = f"This app does not go by that host name. Reference: {write_down(log, request, 400, error)}\n"
        if not settings.is_loopback:
            return Response(text, 400, mimetype="text/plain")
        link = f'<p>Open <a href="{settings.public_url}">{settings.public_url}</a> instead.</p>\n'
        return Response(f"<!doctype html>\n<p>{text}</p>\n{link}", 400, mimetype="text/html")

    @app.errorhandler(KeapConnectError)
    def own_error(error: KeapConnectError) -> Response:
        status, heading, explanation = EXPLAINED.get(type(error), (500, *WORDS[500]))
        page = _page(status, heading, explanation, error)
        if isinstance(error, TemporarilyUnavailable):
            page.headers["Retry-After"] = str(error.retry_after_seconds)
        return page

    @app.errorhandler(TooManyAttempts)
    @app.errorhandler(TooManyRequests)
    def throttled(error: TooManyAttempts | TooManyRequests) -> Response:
        page = _page(429, WORDS[429][0], f"{error} Nothing was checked, and nothing was changed.", error)
        page.headers["Retry-After"] = str(error.retry_after_seconds)
        return page

    @app.errorhandler(KeapBusy)
    def keap_busy(error: KeapBusy) -> Response:
        seconds = error.retry_after_seconds
        wait = "1 second" if seconds == 1 else f"{seconds} seconds"
        if request.method == "GET":
            # The callback comes again by the browser's own address, so that the page does not have to hold its code.
            page = _page(503, KEAP_BUSY, f"{NOT_ASKED} {LOADS_AGAIN.format(wait)}", error, ("Try again", ""))
            page.headers["Refresh"] = str(seconds)
        else:
            page = _page(503, KEAP_BUSY, f"{NOT_ASKED} {PRESS_AGAIN.format(wait)}", error)
        page.headers["Retry-After"] = str(seconds)
        return page

    @app.errorhandler(OperationalError)
    @app.errorhandler(PoolTimeout)
    def database_error(error: Exception) -> Response:
        return _page(503, *WORDS[503], error)

    @app.errorhandler(Exception)
    def last_resort(error: Exception) -> Response:
        return _page(500, *WORDS[500], error)


def _page(
    status: int, heading: str, explanation: str, error: Exception, next_step: tuple[str, str] | None = None
) -> Response:
    reference = write_down(log, request, status, error)
    if _know_people(status):
        usual_step = "Go to the accounts", url_for("accounts.index")
    else:
        usual_step = "Go to the start page", url_for("connect.index")
    next_label, next_url = next_step or usual_step
    page = render_template(
        "error.html",
        status=status,
        heading=heading,
        explanation=explanation,
        next_label=next_label,
        next_url=next_url,
        reference=reference,
    )
    return make_response(page, status)


def _know_people(status: int) -> bool:
    """Let the page know who is signed in, unless the fault is ours: it must also come when the database does not."""
    try:
        if status < 500:
            current_person()
            return current_admin() is not None
    except (OperationalError, PoolTimeout):
        pass
    g.admin, g.person = None, None
    return False
