"""Who may sign in: the list of admins, and what one admin may do about another, always with the password again."""

from flask import flash, make_response, render_template, request
from werkzeug.wrappers import Response

from keap_connect.access import admins
from keap_connect.access.passwords import issue_password_link
from keap_connect.access.sign_ins import end_sign_ins
from keap_connect.errors import FormRefused
from keap_connect.models import Role
from keap_connect.services import services
from keap_connect.web.auth import Audience, Pages, actor, check_password, see_other

bp = Pages("admins", __name__, url_prefix="/admins")


def _list_page() -> str:
    values = {"admins": admins.list_admins(), "has_mail": services().settings.mail, "days": admins.INVITED_FOR.days}
    return render_template("admins/index.html", typed=request.form, **values)


def _page(admin_id: int) -> str:
    values = {"shown": admins.view_admin(admin_id), "has_mail": services().settings.mail}
    return render_template("admins/show.html", **values)


@bp.form("", Audience.ADMIN, _list_page)
def index() -> Response:
    """Invite an admin, and mail or show the link by which they choose their password."""
    check_password()
    email, is_mailed = request.form.get("email", ""), request.form.get("is_mailed") == "1"
    role = Role.ADMIN if request.form.get("role") == Role.ADMIN else Role.VIEWER
    link = admins.invite_admin(email, role, actor(), is_mailed=is_mailed)
    return _say_mailed(email) if is_mailed else _show_link(email, link, admins.INVITED_FOR.days)


@bp.form("/<int:admin_id>", Audience.ADMIN, _page)
def show(admin_id: int) -> Response:
    check_password()
    shown, act = admins.view_admin(admin_id), request.form.get("act", "")
    if act in {"invite", "mail"}:
        link = admins.invite_again(admin_id, actor(), is_mailed=act == "mail")
        return _say_mailed(shown.email) if act == "mail" else _show_link(shown.email, link, admins.INVITED_FOR.days)
    if act == "withdraw":
        admins.withdraw_invitation(admin_id, actor())
        return see_other("admins.index", f"The invitation of {shown.email} is withdrawn, and its link no longer works.")
    if act == "link" and shown.invited_by is None:  # an invitation has its own link
        return _show_link(shown.email, issue_password_link(shown.email, actor()), days=1)
    if act == "remove":
        admins.remove_admin(admin_id, actor())
        return see_other("admins.index", f"{shown.email} is removed and can no longer sign in.")
    if act == "end_sign_ins":
        end_sign_ins(admin_id, shown.email, actor())
        flash(f"{shown.email} is signed out everywhere.", "done")
    elif act in set(Role):
        admins.change_role(admin_id, Role(act), actor())
        flash(f"{shown.email} now has the role {act} and has to sign in again.", "done")
    else:
        raise FormRefused("Press one of the buttons.", "act")
    return see_other("admins.show", admin_id=admin_id)


def _show_link(email: str, link: str, days: int) -> Response:
    return make_response(render_template("admins/link.html", email=email.strip().lower(), link=link, days=days))


def _say_mailed(email: str) -> Response:
    return see_other("admins.index", f"A mail with the link goes to {email.strip().lower()} within seconds.")
