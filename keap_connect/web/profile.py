"""An admin's own page: password, two-factor authentication, and where they are signed in."""

import segno
from flask import make_response, render_template, request
from markupsafe import Markup
from werkzeug.wrappers import Response

from keap_connect.access import second_factor, sign_ins
from keap_connect.access.mail_choices import choose_mails
from keap_connect.access.passwords import change_password
from keap_connect.errors import FormRefused
from keap_connect.models import Admin
from keap_connect.services import services
from keap_connect.web.auth import (
    Audience,
    Pages,
    check_password,
    know_browser,
    needs_second_factor,
    see_other,
    signed_in_admin,
)
from keap_connect.web.browser_security import read_cookie

bp = Pages("profile", __name__, url_prefix="/profile")


@bp.page("", Audience.VIEWER)
def show() -> str:
    admin = signed_in_admin()
    return render_template(
        "profile/show.html",
        recovery_codes=second_factor.count_recovery_codes(admin),
        sign_ins=sign_ins.list_sign_ins(admin.id, read_cookie("admin")),
        needs_second_factor=needs_second_factor(),
        is_second_factor_required=services().settings.requires_two_factor,
        has_mail=services().settings.mail is not None,
    )


def _second_factor_page() -> Response | str:
    admin = signed_in_admin()
    seed = second_factor.waiting_seed(admin)
    if seed is None:
        return see_other("profile.show")
    code = segno.make(second_factor.enrolment_uri(admin, seed), error="m", micro=False)
    picture = Markup(code.svg_inline(omitsize=True, svgclass="qr", lineclass=None, light="#fff"))  # noqa: S704
    return render_template("profile/second_factor.html", seed=seed, picture=picture)


@bp.act("/password", Audience.VIEWER, show)
def password() -> Response:
    """Change the password; the other sign-ins end if the form says so."""
    check_password()
    admin = signed_in_admin()
    change_password(admin, request.form.get("new_password", ""))
    if request.form.get("end_others"):
        sign_ins.end_sign_ins(admin.id, admin.email, admin.email, read_cookie("admin"))
    answer = see_other("profile.show", "Your new password is set.")
    know_browser(answer, admin)
    return answer


@bp.act("/second-factor/new", Audience.VIEWER, show)
def prepare() -> Response:
    check_password("factor_password")
    second_factor.prepare(signed_in_admin())
    return see_other("profile.switch_on")


@bp.form("/second-factor", Audience.VIEWER, _second_factor_page)
def switch_on() -> Response:
    """Turn it on when a code proves that the phone has the seed, and show the recovery codes, once."""
    admin = signed_in_admin()
    if second_factor.waiting_seed(admin) is None:
        return see_other("profile.show")
    return _show_recovery_codes(second_factor.switch_on(admin, request.form.get("code", "")[:100]))


@bp.act("/second-factor/off", Audience.VIEWER, show)
def switch_off() -> Response:
    if services().settings.requires_two_factor:
        raise FormRefused(
            "Two-factor authentication is required here, so it stays on. For another phone, ask the operator: "
            "./keap-connect admins reset-password --second-factor-off",
            "code",
        )
    admin = _check_both_factors()
    if admin is None:
        return see_other("profile.show")
    second_factor.switch_off(admin, admin.email)
    return see_other("profile.show", "Two-factor authentication is off.")


@bp.act("/recovery-codes", Audience.VIEWER, show)
def recovery_codes() -> Response:
    admin = _check_both_factors()
    if admin is None:
        return see_other("profile.show")
    return _show_recovery_codes(second_factor.make_recovery_codes(admin))


@bp.act("/mails", Audience.ADMIN)
def mails() -> Response:
    choose_mails(signed_in_admin().id, request.form.getlist("mails"))
    return see_other("profile.show", "Your choice is saved.")


@bp.act("/sign-ins/end", Audience.VIEWER)
def end_sign_ins() -> Response:
    admin, ref = signed_in_admin(), request.form.get("ref", "")
    if ref:
        sign_ins.end_sign_in_of(admin.id, ref)
        return see_other("profile.show", "That browser is signed out.")
    sign_ins.end_sign_ins(admin.id, admin.email, admin.email, read_cookie("admin"))
    return see_other("profile.show", "All your other browsers are signed out.")


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
