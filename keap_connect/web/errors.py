"""The one error page: what happened, what to do next, and a reference that is in the log."""

import logging
from http import HTTPStatus

from flask import Flask, g, make_response, render_template, request, url_for
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException, MethodNotAllowed, SecurityError
from werkzeug.wrappers import Response

from keap_connect.errors import KeapBusy, KeapConnectError
from keap_connect.logs import write_down
from keap_connect.services import services
from keap_connect.web.auth import current_admin, current_person

log = logging.getLogger(__name__)

WORDS = {
    400: ("That request was not understood", "Something in the address or the form is missing or wrong."),
    403: ("That is not allowed", "This browser may not do that."),
    404: ("There is nothing here", "The address is wrong, or what it showed is gone."),
    405: ("That is not how this address works", "Start from one of the pages instead."),
    408: ("That took too long", "The form did not arrive in time. Nothing was changed: go back, and send it again."),
    413: ("That was too large", "This app accepts at most {most} kB here. Nothing was changed."),
    429: ("Try again later", "There were too many requests. Nothing was changed."),
    500: ("Something went wrong here", "It is our fault and is in our log. Nothing was lost; try again."),
    503: ("The database does not answer", "Nothing was changed. Try again in a minute."),
}
LOADS_AGAIN = "This page tries again in {}. You can leave it open."
PRESS_AGAIN = "Wait {}, go back, and press the button again."


def show_errors(app: Flask) -> None:
    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        heading, explanation = WORDS.get(status, (HTTPStatus(status).phrase, WORDS[405][1]))
        explanation = explanation.format(most=(request.max_content_length or 0) // 1024)
        page = _page(status, heading, explanation, error)
        if isinstance(error, MethodNotAllowed):
            page.headers["Allow"] = ", ".join(sorted(error.valid_methods or []))
        return page

    @app.errorhandler(SecurityError)
    def unknown_host(error: SecurityError) -> Response:
        settings = services().settings
        # Without a style sheet, which this host name has not either, and without looking up who asks. A stranger does
        # not learn the right name.
        page = app.jinja_env.get_template("unknown_host.html").render(
            public_url=settings.public_url if settings.is_loopback else None,
            reference=write_down(log, request, 400, error),
        )
        return make_response(page, 400)

    @app.errorhandler(KeapConnectError)
    def own_error(error: KeapConnectError) -> Response:
        if not error.heading:
            return last_resort(error)
        return _own_page(error, error.advice.format(error))

    @app.errorhandler(KeapBusy)
    def keap_busy(error: KeapBusy) -> Response:
        seconds = error.retry_after_seconds
        wait = "1 second" if seconds == 1 else f"{seconds} seconds"
        if request.method != "GET":
            return _own_page(error, f"{error.advice} {PRESS_AGAIN.format(wait)}")
        # The browser requests its own address again, so the page need not contain the code of a callback.
        page = _own_page(error, f"{error.advice} {LOADS_AGAIN.format(wait)}", ("Try again", ""))
        page.headers["Refresh"] = str(seconds)
        return page

    @app.errorhandler(OperationalError)
    @app.errorhandler(PoolTimeout)
    def database_error(error: Exception) -> Response:
        return _page(503, *WORDS[503], error)

    @app.errorhandler(Exception)
    def last_resort(error: Exception) -> Response:
        return _page(500, *WORDS[500], error)


def _own_page(error: KeapConnectError, explanation: str, next_step: tuple[str, str] | None = None) -> Response:
    page = _page(error.status, error.heading, explanation, error, next_step)
    if error.retry_after_seconds is not None:
        page.headers["Retry-After"] = str(error.retry_after_seconds)
    return page


def _page(
    status: int, heading: str, explanation: str, error: Exception, next_step: tuple[str, str] | None = None
) -> Response:
    reference = write_down(log, request, status, error)
    home = ("Go to the start page", url_for("connect.index"))
    if _admin_is_known(status):
        home = ("Go to the accounts", url_for("accounts.index"))
    label, url = next_step or home
    values = {"status": status, "heading": heading, "explanation": explanation, "reference": reference}
    return make_response(render_template("error.html", next_label=label, next_url=url, **values), status)


def _admin_is_known(status: int) -> bool:
    """Look up who is signed in, unless the fault is ours: the page must appear without the database, too."""
    try:
        if status < 500:
            current_person()
            return current_admin() is not None
    except (OperationalError, PoolTimeout):
        pass
    g.admin, g.person = None, None
    return False
