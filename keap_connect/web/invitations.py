"""Invitations: the page of a link, without a sign-in here."""

from flask import Blueprint, make_response, redirect, render_template, request
from werkzeug.wrappers import Response

from keap_connect.access.rate_limits import rate_limits
from keap_connect.connect.invitations import open_link, return_link, start_by_invitation
from keap_connect.errors import LinkGone
from keap_connect.web.auth import Audience, open_to
from keap_connect.web.browser_security import browser
from keap_connect.web.reconnect_links import show_gone

bp = Blueprint("invitations", __name__)


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
    if found.state == "waiting":
        return show_waiting(found.id)
    values = {"token": token, "invitation": found, "return_url": return_link(found.id)}
    return make_response(render_template("connect/invitation.html", **values))


def show_waiting(invitation_id: int | None) -> Response:
    return make_response(render_template("connect/waiting.html", return_url=return_link(invitation_id)))
