"""Signing in and out: password, second factor where it is on, and a new password for the person who has a link."""

from flask import make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from keap_connect.access.passwords import get_owner_of_link, redeem_password_link, verify_password
from keap_connect.access.second_factor import begin_second_step, find_waiting, finish_second_step
from keap_connect.access.sign_ins import end_sign_in, sign_in_admin
from keap_connect.access.sign_ins import sign_out as end_session
from keap_connect.errors import WrongPassword
from keap_connect.models import Admin
from keap_connect.web.auth import Audience, Pages, know_browser, local_path, see_other
from keap_connect.web.browser_security import delete_cookie, forget_pages, read_cookie, set_cookie

# The first name that is found counts: most browsers also claim to be those below them.
BROWSERS = {
    "Edg": "Edge",
    "OPR/": "Opera",
    "SamsungBrowser": "Samsung Internet",
    "Firefox/": "Firefox",
    "FxiOS": "Firefox",
    "CriOS": "Chrome",
    "Chrome/": "Chrome",
    "Safari/": "Safari",
}
SYSTEMS = {
    "iPhone": "iPhone",
    "iPad": "iPad",
    "Android": "Android",
    "Windows": "Windows",
    "Mac OS X": "Mac",
    "CrOS": "ChromeOS",
    "Linux": "Linux",
}
bp = Pages("signin", __name__)
SECOND_STEP = "second-step"


def name_browser(user_agent: str) -> str:
    """Return words like "Firefox on Windows"; unknown parts are not guessed."""
    browser = next((name for mark, name in BROWSERS.items() if mark in user_agent), "Another browser")
    system = next((name for mark, name in SYSTEMS.items() if mark in user_agent), None)
    return f"{browser} on {system}" if system else browser


def _password_page() -> str:
    return render_template("signin/password.html", next_path=_next_path(), email=_email())


def _code_page() -> Response | str:
    if find_waiting(read_cookie(SECOND_STEP)) is None:
        notice = "Enter your password first. The code has to follow within five minutes."
        return see_other("signin.sign_in", notice, "attention", next=_next_path())
    return render_template("signin/code.html", next_path=_next_path())


def _new_password_page(token: str) -> str:
    owner = get_owner_of_link(token)
    return render_template("signin/new_password.html", token=token, owner=owner)


@bp.form("/signin", Audience.ANYONE, _password_page)
def sign_in() -> Response:
    """Check e-mail and password; a new session replaces the one before it."""
    code = request.form.get("sign_in_code", "").strip()[:100]
    admin = verify_password(_email(), request.form.get("password", ""), _address(), read_cookie("device"), code)
    if admin is None:
        raise WrongPassword("E-mail or password is wrong.")
    if admin.totp_on_at is None:
        return _start_session(admin)
    answer = see_other("signin.second_step", next=_next_path())
    set_cookie(answer, SECOND_STEP, begin_second_step(admin))
    if code:  # others may have used up the admin's wrong codes, too
        know_browser(answer, admin)
    return answer


@bp.form("/signin/code", Audience.ANYONE, _code_page)
def second_step() -> Response:
    token = read_cookie(SECOND_STEP)
    admin = find_waiting(token)
    if admin is None:
        return make_response(_code_page())
    code = request.form.get("code", "")[:100]
    if not finish_second_step(admin, token, code, read_cookie("device")):
        raise WrongPassword("That code is wrong, or was used already. Wait for the next one.", "code")
    return _start_session(admin)


@bp.form("/new-password/<token>", Audience.ANYONE, _new_password_page)
def new_password(token: str) -> Response:
    """Set the password that the holder of a link chose; they sign in with it afterwards, second factor included.

    Opening the link uses nothing up: mail programs and browsers open links ahead of people.
    """
    redeem_password_link(token, request.form.get("new_password", ""), _address())
    return see_other("signin.sign_in", "Your password is set. Sign in with it.")


@bp.act("/signout", Audience.ANYONE)
def sign_out() -> Response:
    end_session(read_cookie("admin"))
    answer = see_other("signin.sign_in")
    delete_cookie(answer, "admin")
    forget_pages(answer)
    return answer


def _start_session(admin: Admin) -> Response:
    end_sign_in(read_cookie("admin"))
    answer = redirect(_next_path() or url_for("accounts.index"), code=303)
    set_cookie(answer, "admin", sign_in_admin(admin, _address(), name_browser(request.user_agent.string)))
    know_browser(answer, admin)
    if read_cookie(SECOND_STEP):
        delete_cookie(answer, SECOND_STEP)
    return answer


def _next_path() -> str | None:
    return local_path(request.values.get("next", ""))


def _email() -> str:
    return request.form.get("email", "")[:254]


def _address() -> str:
    return request.remote_addr or "unknown"
