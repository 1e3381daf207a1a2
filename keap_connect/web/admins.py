"""Who may come in: the list of admins, and what one admin may do about another, always with the password again."""

from flask import Blueprint, flash, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from keap_connect.access.admins import change_role, invite_admin, list_admins, remove_admin, view_admin
from keap_connect.access.passwords import issue_password_link
from keap_connect.access.sign_ins import end_sign_ins_by
from keap_connect.errors import AdminRefused, LastAdmin
from keap_connect.models import Role
from keap_connect.web.auth import Audience, open_to, signed_in_admin
from keap_connect.web.password_again import password_is_right

bp = Blueprint("admins", __name__, url_prefix="/admins")
PASSWORD_WRONG = "Your password is wrong. Nothing was changed."  # noqa: S105


@bp.route("", methods=["GET", "POST"])
@open_to(Audience.ADMIN)
def index() -> Response:
    """List all admins; make one more, and show the link by which they choose their password."""
    if request.method != "POST":
        return _list()
    email = request.form.get("email", "")
    role = Role.ADMIN if request.form.get("role") == Role.ADMIN else Role.VIEWER
    if not password_is_right():
        return _list({"password": PASSWORD_WRONG}, 401)
    try:
        return _show_link(email, invite_admin(email, role, signed_in_admin().email))
    except AdminRefused as refusal:
        return _list({"email": f"{refusal} Nothing was changed."}, 422)


@bp.route("/<int:admin_id>", methods=["GET", "POST"])
@open_to(Audience.ADMIN)
def show(admin_id: int) -> Response:
    """Show one admin, and do what was chosen about them."""
    if request.method != "POST":
        return _page(admin_id)
    if not password_is_right():
        return _page(admin_id, {"password": PASSWORD_WRONG}, 401)
    try:
        return _do(request.form.get("act", ""), admin_id)
    except LastAdmin as refusal:
        return _page(admin_id, {"act": f"{refusal} Nothing was changed."}, 422)


def _do(act: str, admin_id: int) -> Response:
    shown, actor = view_admin(admin_id), signed_in_admin().email
    if act == "link":
        return _show_link(shown.email, issue_password_link(shown.email, actor))
    if act == "remove":
        remove_admin(admin_id, actor)
        flash(f"{shown.email} may no longer come in.", "done")
        return redirect(url_for("admins.index"), code=303)
    if act == "end_sign_ins":
        end_sign_ins_by(actor, admin_id, shown.email)
        flash(f"All sign-ins of {shown.email} are ended.", "done")
    elif act in set(Role):
        change_role(admin_id, Role(act), actor)
        flash(f"{shown.email} now has the role {act}, and signs in anew.", "done")
    else:
        return _page(admin_id, {"act": "Choose what to do. Nothing was changed."}, 422)
    return redirect(url_for("admins.show", admin_id=admin_id), code=303)


def _list(errors: dict[str, str] | None = None, status: int = 200) -> Response:
    typed = request.form.to_dict()
    page = render_template("admins/index.html", admins=list_admins(), typed=typed, errors=errors or {})
    return make_response(page, status)


def _page(admin_id: int, errors: dict[str, str] | None = None, status: int = 200) -> Response:
    act = request.form.get("act", "")
    page = render_template("admins/show.html", shown=view_admin(admin_id), act=act, errors=errors or {})
    return make_response(page, status)


def _show_link(email: str, link: str) -> Response:
    return make_response(render_template("admins/link.html", email=email.strip().lower(), link=link))
