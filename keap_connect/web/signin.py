"""The admin's way in and out."""

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from keap_connect.access.admins import verify_password
from keap_connect.access.sign_ins import end_sign_in, sign_in_admin
from keap_connect.access.sign_ins import sign_out as end_session
from keap_connect.errors import TooManyAttempts
from keap_connect.web.browser_security import delete_cookie, read_cookie, set_cookie
from keap_connect.web.door import Audience, local_path, open_to

bp = Blueprint("signin", __name__)


@bp.route("/signin", methods=["GET", "POST"])
@open_to(Audience.ANYONE)
def sign_in() -> Response:
    """Ask for e-mail and password; a new session replaces whatever was there."""
    next_path = local_path(request.values.get("next", ""))
    if request.method != "POST":
        return _form(next_path)
    email = request.form.get("email", "")[:254]
    try:
        admin = verify_password(email, request.form.get("password", ""), request.remote_addr or "unknown")
    except TooManyAttempts as refusal:
        answer = _form(next_path, email, str(refusal), 429)
        answer.headers["Retry-After"] = str(refusal.retry_after_seconds)
        return answer
    if admin is None:
        return _form(next_path, email, "E-mail or password is wrong.", 401)
    end_sign_in(read_cookie("admin"))
    answer = redirect(next_path or url_for("accounts.index"), code=303)
    set_cookie(answer, "admin", sign_in_admin(admin))
    return answer


@bp.post("/signout")
@open_to(Audience.ANYONE)
def sign_out() -> Response:
    """End the admin's session, on the server and in the browser."""
    end_session(read_cookie("admin"))
    answer = redirect(url_for("signin.sign_in"), code=303)
    delete_cookie(answer, "admin")
    return answer


def _form(next_path: str | None, email: str = "", error: str | None = None, status: int = 200) -> Response:
    page = render_template("signin.html", next_path=next_path or "", email=email, error=error)
    return make_response(page, status)
