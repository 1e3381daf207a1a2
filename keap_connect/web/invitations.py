"""Invitations: made and decided by admins, seen by viewers without their links, used by customers without a sign-in."""

from flask import Blueprint, abort, flash, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from keap_connect.access.rate_limits import rate_limits
from keap_connect.connect import confirming, invitations
from keap_connect.connect.invitations import (
    LONGEST_DAYS,
    USUAL_DAYS,
    MadeInvitation,
    NewInvitation,
    open_link,
    return_link,
    start_by_invitation,
)
from keap_connect.errors import InvitationRefused, LinkGone
from keap_connect.models import LARGEST_ID, InvitationState
from keap_connect.services import services
from keap_connect.web.auth import Audience, actor, open_to
from keap_connect.web.browser_security import browser
from keap_connect.web.forms import form
from keap_connect.web.reconnect_links import show_gone

bp = Blueprint("invitations", __name__)
SHOWN = 50
TEXTS = ("label", "external_id", "email", "note", "return_url", "expected_tenant_id")


@bp.route("/i/<token>", methods=["GET", "POST"])
@open_to(Audience.ANYONE)
def use(token: str) -> Response:
    """Show who asks, and for whom, and redirect to Keap once the button is pressed. Neither uses the invitation up."""
    try:
        if request.method == "POST":
            rate_limits().count_started_flow(request.remote_addr)
            return redirect(start_by_invitation(token, browser()), code=303)
        found = open_link(token, is_seen=request.method == "GET")
    except LinkGone:
        return show_gone()
    if found.state == InvitationState.WAITING:
        return show_waiting(found.id)
    values = {"token": token, "invitation": found, "return_url": return_link(found.id)}
    return make_response(render_template("connect/invitation.html", **values))


def show_waiting(invitation_id: int | None) -> Response:
    return make_response(render_template("connect/waiting.html", return_url=return_link(invitation_id)))


@bp.get("/invitations")
@open_to(Audience.VIEWER)
def index() -> str:
    state, before = request.args.get("state", ""), request.args.get("before", 0, type=int)
    if state not in {"", *InvitationState}:
        abort(404)
    rows, older = invitations.list_invitations(SHOWN, max(0, min(before, LARGEST_ID)), state or None)
    values = {"state": state, "states": list(InvitationState), "before": before, "older": older}
    return render_template("invitations/index.html", invitations=rows, **values)


def _form(errors: dict[str, str] | None = None) -> str:
    values = {"usual_days": USUAL_DAYS, "longest_days": LONGEST_DAYS, "has_return": services().settings.return_origins}
    return render_template("invitations/new.html", typed=request.form, errors=errors or {}, **values)


@bp.route("/invitations/new", methods=["GET", "POST"])
@open_to(Audience.ADMIN)
@form(_form)
def create() -> Response:
    typed = request.form
    valid_days = typed.get("valid_days", USUAL_DAYS, type=int)
    if valid_days is None:
        raise InvitationRefused("Enter a number of days.", "valid_days")
    texts = {name: typed.get(name) for name in TEXTS}
    needs_confirmation = typed.get("needs_confirmation") == "1"
    wanted = NewInvitation(**texts, needs_confirmation=needs_confirmation, valid_days=valid_days)
    return _show_link(invitations.make_invitation(wanted, actor()))


@bp.get("/invitations/<int:invitation_id>")
@open_to(Audience.VIEWER)
def show(invitation_id: int) -> str:
    found = invitations.get_invitation(invitation_id)
    waiting = confirming.view_waiting(found.id) if found.state == InvitationState.WAITING else None
    return render_template("invitations/show.html", invitation=found, waiting=waiting)


@bp.post("/invitations/<int:invitation_id>/change")
@open_to(Audience.ADMIN)
def change(invitation_id: int) -> Response:
    act = request.form.get("act")
    invitations.get_invitation(invitation_id)
    if act == "resend":
        return _show_link(invitations.resend(invitation_id, actor()))
    if act == "withdraw":
        invitations.withdraw(invitation_id, actor())
        flash("The invitation is withdrawn, and its link no longer works.", "done")
    elif act == "confirm":
        confirmed = confirming.confirm(invitation_id, actor())
        flash("Confirmed: the account is connected.", "done")
        return redirect(url_for("accounts.show", account_id=confirmed.account_id), code=303)
    elif act == "decline":
        confirming.decline(invitation_id, actor())
        flash("Declined: the grant is deleted. The link works again until it expires.", "done")
    else:
        abort(400)
    return redirect(url_for("invitations.show", invitation_id=invitation_id), code=303)


def _show_link(made: MadeInvitation) -> Response:
    return make_response(render_template("invitations/link.html", invitation=made.row, link=made.url))
