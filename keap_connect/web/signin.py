"""The admin's way in and out: password, second factor where it is on, and a new password for whoever holds a link."""

from flask import Blueprint, flash, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from keap_connect.access.known_browsers import LIFETIME_SECONDS, remember_browser
from keap_connect.access.passwords import get_owner_of_link, redeem_password_link, verify_password
from keap_connect.access.second_factor import begin_second_step, find_waiting, finish_second_step
from keap_connect.access.sign_ins import end_sign_in, sign_in_admin
from keap_connect.access.sign_ins import sign_out as end_session
from keap_connect.errors import PasswordRefused
from keap_connect.models import Admin
from keap_connect.web.auth import Audience, local_path, open_to
from keap_connect.web.browser_security import delete_cookie, read_cookie, set_cookie
from keap_connect.web.browser_words import name_browser

bp = Blueprint("signin", __name__)
SECOND_STEP = "second-step"


@bp.route("/signin", methods=["GET", "POST"])
@open_to(Audience.ANYONE)
def sign_in() -> Response:
    """Ask for e-mail and password; a new session replaces whatever was there."""
    next_path = local_path(request.values.get("next", ""))
    if request.method != "POST":
        return _form(next_path)
    email = request.form.get("email", "")[:254]
    admin = verify_password(email, request.form.get("password", ""), _address(), read_cookie("device"))
    if admin is None:
        return _form(next_path, email, "E-mail or password is wrong.", 401)
    if admin.totp_on_at is None:
        return _welcome(admin, next_path)
    answer = redirect(url_for("signin.second_step", next=next_path), code=303)
    set_cookie(answer, SECOND_STEP, begin_second_step(admin))
    return answer


@bp.route("/signin/code", methods=["GET", "POST"])
@open_to(Audience.ANYONE)
def second_step() -> Response:
    """Ask whoever knew the password for the second factor."""
    next_path = local_path(request.values.get("next", ""))
    ticket = read_cookie(SECOND_STEP)
    admin = find_waiting(ticket)
    if admin is None:
        flash("Give your password first; the code has to follow within five minutes.", "attention")
        return redirect(url_for("signin.sign_in", next=next_path), code=303)
    if request.method != "POST":
        return _code_form(next_path)
    code = request.form.get("code", "")[:100]
    if not finish_second_step(admin, ticket, code, read_cookie("device"), _address()):
        return _code_form(next_path, "That code is wrong, or was used already. Wait for the next one.", 401)
    return _welcome(admin, next_path)


@bp.route("/new-password/<ticket>", methods=["GET", "POST"])
@open_to(Audience.ANYONE)
def new_password(ticket: str) -> Response:
    """Let whoever holds the link choose a password; they sign in with it afterwards, second factor included.

    Opening the link uses nothing up: mail programs and browsers open links ahead of people.
    """
    if request.method != "POST":
        return _password_form(ticket)
    try:
        redeem_password_link(ticket, request.form.get("new_password", ""), _address())
    except PasswordRefused as refusal:
        return _password_form(ticket, str(refusal), 422)
    flash("Your new password is stored. Sign in with it.", "done")
    return redirect(url_for("signin.sign_in"), code=303)


@bp.post("/signout")
@open_to(Audience.ANYONE)
def sign_out() -> Response:
    """End the admin's session, on the server and in the browser."""
    end_session(read_cookie("admin"))
    answer = redirect(url_for("signin.sign_in"), code=303)
    delete_cookie(answer, "admin")
    # Not "cookies": a customer may be signed in here too, and the device stays known. Browsers take it by HTTPS and
    # on loopback, which is where the app is reached anyway.
    answer.headers["Clear-Site-Data"] = '"cache", "storage"'
    return answer


def _welcome(admin: Admin, next_path: str | None) -> Response:
    end_sign_in(read_cookie("admin"))
    answer = redirect(next_path or url_for("accounts.index"), code=303)
    set_cookie(answer, "admin", sign_in_admin(admin, _address(), name_browser(request.user_agent.string)))
    set_cookie(answer, "device", remember_browser(admin), LIFETIME_SECONDS)
    if read_cookie(SECOND_STEP):
        delete_cookie(answer, SECOND_STEP)
    return answer


def _address() -> str:
    return request.remote_addr or "unknown"


def _form(next_path: str | None, email: str = "", error: str | None = None, status: int = 200) -> Response:
    page = render_template("signin/password.html", next_path=next_path or "", email=email, error=error)
    return make_response(page, status)


def _code_form(next_path: str | None, error: str | None = None, status: int = 200) -> Response:
    return make_response(render_template("signin/code.html", next_path=next_path or "", error=error), status)


def _password_form(ticket: str, error: str | None = None, status: int = 200) -> Response:
    email = get_owner_of_link(ticket).email
    return make_response(render_template("signin/new_password.html", ticket=ticket, email=email, error=error), status)
