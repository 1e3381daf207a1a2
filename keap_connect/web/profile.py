"""An admin's own page: password, second factor, and where they are signed in."""

from collections.abc import Callable
from functools import wraps

from flask import Blueprint, flash, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from keap_connect.access import second_factor
from keap_connect.access.passwords import change_password
from keap_connect.access.sign_ins import end_other_sign_ins, end_sign_in_of, list_sign_ins
from keap_connect.errors import CodeRefused, PasswordRefused
from keap_connect.web.auth import Audience, open_to, signed_in_admin
from keap_connect.web.browser_security import read_cookie
from keap_connect.web.password_again import password_is_right
from keap_connect.web.qr_code import draw_qr_code

bp = Blueprint("profile", __name__, url_prefix="/profile")


def _with_password(field: str) -> Callable[[Callable[[], Response]], Callable[[], Response]]:
    """Do something only when the password was given once more, in the field of this id; else say there why not."""

    def decorate(act: Callable[[], Response]) -> Callable[[], Response]:
        @wraps(act)
        def ask() -> Response:
            if password_is_right():
                return act()
            return _page({field: "That password is wrong. Nothing was changed."}, 401)

        return ask

    return decorate


@bp.get("")
@open_to(Audience.VIEWER)
def show() -> Response:
    """Show what can be changed, and the sign-ins that are open."""
    return _page()


@bp.post("/password")
@open_to(Audience.VIEWER)
@_with_password("password")
def password() -> Response:
    """Change the password; the other sign-ins end unless they are to go on."""
    admin = signed_in_admin()
    try:
        change_password(admin, request.form.get("new_password", ""))
    except PasswordRefused as refusal:
        return _page({"new_password": f"{refusal} Nothing was changed."}, 422)
    if request.form.get("end_others"):
        end_other_sign_ins(admin, read_cookie("admin"))
    flash("Your new password is stored.", "done")
    return _back()


@bp.post("/second-factor/new")
@open_to(Audience.VIEWER)
@_with_password("factor_password")
def prepare() -> Response:
    """Make a seed, and go on to show it."""
    second_factor.prepare(signed_in_admin())
    return redirect(url_for("profile.switch_on"), code=303)


@bp.route("/second-factor", methods=["GET", "POST"])
@open_to(Audience.VIEWER)
def switch_on() -> Response:
    """Show the seed until a code of it proves that the phone has it."""
    admin = signed_in_admin()
    seed = second_factor.waiting_seed(admin)
    if seed is None:
        return _back()
    error = None
    if request.method == "POST":
        try:
            codes = second_factor.switch_on(admin, request.form.get("code", "")[:100])
            return make_response(render_template("profile/recovery_codes.html", codes=codes))
        except CodeRefused as refusal:
            error = str(refusal)
    side, path = draw_qr_code(second_factor.enrolment_uri(admin, seed))
    page = render_template("profile/second_factor.html", seed=seed, side=side, path=path, error=error)
    return make_response(page, 422 if error else 200)


@bp.post("/second-factor/off")
@open_to(Audience.VIEWER)
@_with_password("factor_password")
def switch_off() -> Response:
    """Switch the second factor off."""
    admin = signed_in_admin()
    second_factor.switch_off(admin, admin.email)
    flash("The second factor is off.", "done")
    return _back()


@bp.post("/recovery-codes")
@open_to(Audience.VIEWER)
@_with_password("factor_password")
def recovery_codes() -> Response:
    """Make new recovery codes and show them, this once."""
    admin = signed_in_admin()
    if admin.totp_on_at is None:
        return _back()
    codes = second_factor.make_recovery_codes(admin)
    return make_response(render_template("profile/recovery_codes.html", codes=codes))


@bp.post("/sign-ins/end")
@open_to(Audience.VIEWER)
def end_sign_ins() -> Response:
    """End one of one's own sign-ins, or all others."""
    admin = signed_in_admin()
    ref = request.form.get("ref", "")
    if ref:
        end_sign_in_of(admin.id, ref)
        flash("That sign-in is ended.", "done")
    else:
        end_other_sign_ins(admin, read_cookie("admin"))
        flash("All your other sign-ins are ended.", "done")
    return _back()


def _page(errors: dict[str, str] | None = None, status: int = 200) -> Response:
    admin = signed_in_admin()
    page = render_template(
        "profile/show.html",
        recovery_codes=second_factor.count_recovery_codes(admin),
        sign_ins=list_sign_ins(admin.id, read_cookie("admin")),
        errors=errors or {},
    )
    return make_response(page, status)


def _back() -> Response:
    return redirect(url_for("profile.show"), code=303)
