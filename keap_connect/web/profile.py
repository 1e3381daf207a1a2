"""An admin's own page: password, two-factor authentication, and where they are signed in."""

import segno
from flask import flash, make_response, redirect, render_template, request, url_for
from markupsafe import Markup
from werkzeug.wrappers import Response

from keap_connect.access import second_factor
from keap_connect.access.mail_choices import choose_mails
from keap_connect.access.passwords import change_password
from keap_connect.access.sign_ins import end_other_sign_ins, end_sign_in_of, list_sign_ins
from keap_connect.errors import FormRefused
from keap_connect.models import Admin
from keap_connect.services import services
from keap_connect.web.auth import Audience, Pages, check_password, know_browser, needs_second_factor, signed_in_admin
from keap_connect.web.browser_security import read_cookie

bp = Pages("profile", __name__, url_prefix="/profile")


def _page(errors: dict[str, str] | None = None) -> str:
    admin = signed_in_admin()
    return render_template(
        "profile/show.html",
        recovery_codes=second_factor.count_recovery_codes(admin),
        sign_ins=list_sign_ins(admin.id, read_cookie("admin")),
        needs_second_factor=needs_second_factor(),
        is_second_factor_required=services().settings.requires_two_factor,
        has_mail=services().settings.mail is not None,
        errors=errors or {},
    )


def _second_factor_page(errors: dict[str, str] | None = None) -> Response | str:
    admin = signed_in_admin()
    seed = second_factor.waiting_seed(admin)
    if seed is None:
        return _back()
    code = segno.make(second_factor.enrolment_uri(admin, seed), error="m", micro=False)
    picture = Markup(code.svg_inline(omitsize=True, svgclass="qr", lineclass=None, light="#fff"))  # noqa: S704
    return render_template("profile/second_factor.html", seed=seed, picture=picture, errors=errors or {})


@bp.page("", Audience.VIEWER)
def show() -> str:
    return _page()


@bp.act("/password", Audience.VIEWER, _page)
def password() -> Response:
    """Change the password; the other sign-ins end if the form says so."""
    check_password()
    admin = signed_in_admin()
    change_password(admin, request.form.get("new_password", ""))
    if request.form.get("end_others"):
        end_other_sign_ins(admin, read_cookie("admin"))
    flash("Your new password is set.", "done")
    answer = _back()
    know_browser(answer, admin)
    return answer


@bp.act("/second-factor/new", Audience.VIEWER, _page)
def prepare() -> Response:
    check_password("factor_password")
    second_factor.prepare(signed_in_admin())
    return redirect(url_for("profile.switch_on"), code=303)


@bp.form("/second-factor", Audience.VIEWER, _second_factor_page)
def switch_on() -> Response:
    """Turn it on when a code proves that the phone has the seed, and show the recovery codes, once."""
    admin = signed_in_admin()
    if second_factor.waiting_seed(admin) is None:
        return _back()
    return _show_recovery_codes(second_factor.switch_on(admin, request.form.get("code", "")[:100]))


@bp.act("/second-factor/off", Audience.VIEWER, _page)
def switch_off() -> Response:
    if services().settings.requires_two_factor:
        raise FormRefused(
            "Two-factor authentication is required here, so it stays on. For another phone, ask the operator: "
            "./keap-connect admins reset-password --second-factor-off",
            "code",
        )
    admin = _check_both_factors()
    if admin is None:
        return _back()
    second_factor.switch_off(admin, admin.email)
    flash("Two-factor authentication is off.", "done")
    return _back()


@bp.act("/recovery-codes", Audience.VIEWER, _page)
def recovery_codes() -> Response:
    admin = _check_both_factors()
    if admin is None:
        return _back()
    return _show_recovery_codes(second_factor.make_recovery_codes(admin))


@bp.act("/mails", Audience.ADMIN)
def mails() -> Response:
    choose_mails(signed_in_admin().id, request.form.getlist("mails"))
    flash("Your choice is saved.", "done")
    return _back()


@bp.act("/sign-ins/end", Audience.VIEWER)
def end_sign_ins() -> Response:
    admin, ref = signed_in_admin(), request.form.get("ref", "")
    if ref:
        end_sign_in_of(admin.id, ref)
        flash("That browser is signed out.", "done")
    else:
        end_other_sign_ins(admin, read_cookie("admin"))
        flash("All your other browsers are signed out.", "done")
    return _back()


def _check_both_factors() -> Admin | None:
    """Check password and code again, and return the admin; None if two-factor authentication is off."""
    check_password("factor_password")
    admin = signed_in_admin()
    if admin.totp_on_at is None:
        return None
    second_factor.use_code(admin, request.form.get("code", "")[:100])
    return admin


def _show_recovery_codes(codes: list[str]) -> Response:
    return make_response(render_template("profile/recovery_codes.html", codes=codes))


def _back() -> Response:
    return redirect(url_for("profile.show"), code=303)
