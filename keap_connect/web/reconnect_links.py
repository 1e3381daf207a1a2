"""Reconnect links: created and revoked by an admin, used by anyone who has one, without a sign-in here."""

from flask import flash, make_response, redirect, render_template, request
from werkzeug.wrappers import Response

from keap_connect.access.rate_limits import rate_limits
from keap_connect.accounts.directory import view_account
from keap_connect.connect import reconnect_links as links
from keap_connect.connect.flows import find_flow
from keap_connect.connect.invited import start_by_invitation_again
from keap_connect.errors import AccountNotFound, LinkGone, MailNotNeeded
from keap_connect.web.auth import Audience, Pages, actor, see_other
from keap_connect.web.browser_security import browser, read_cookie

bp = Pages("reconnect_links", __name__)


@bp.act("/accounts/<int:account_id>/reconnect-links", Audience.ADMIN)
def create(account_id: int) -> Response:
    """Send a link by mail, or show it once."""
    if request.form.get("how") != "mail":
        values = {"account": view_account(account_id), "made": links.make_link(account_id, actor())}
        return make_response(render_template("accounts/reconnect_link.html", **values))
    try:
        flash(f"A mail with the link is sent to {links.mail_link(account_id, actor())} within seconds.", "done")
    except MailNotNeeded as reason:
        flash(f"No mail was sent. {reason}", "attention")
    return see_other("accounts.show", account_id=account_id)


@bp.act("/accounts/<int:account_id>/reconnect-links/<int:link_id>/revoke", Audience.ADMIN)
def revoke(account_id: int, link_id: int) -> Response:
    links.revoke_link(account_id, link_id, actor())
    return see_other("accounts.show", "The reconnect link is revoked and no longer works.", account_id=account_id)


@bp.form("/r/<token>", Audience.ANYONE)
def use(token: str) -> Response:
    """Show the button, and redirect to Keap once it is pressed; opening the link starts nothing."""
    try:
        if request.method == "POST":
            rate_limits().count_started_flow(request.remote_addr)
            return redirect(links.start_by_link(token, browser()), code=303)
        links.check_link(token)
    except (LinkGone, AccountNotFound):  # the latter was erased at this moment
        return show_gone()
    return make_response(render_template("connect/by_link.html", token=token))


@bp.act("/connect/<ref>/again", Audience.ANYONE)
def again(ref: str) -> Response:
    """Let a person whose link ended in a refusal at Keap use it again."""
    flow = find_flow(ref, read_cookie("browser"))
    if flow is None:
        raise AccountNotFound("This browser has no such flow.")
    rate_limits().count_started_flow(request.remote_addr)
    try:
        start_again = links.start_by_link_again if flow.invitation_id is None else start_by_invitation_again
        return redirect(start_again(flow, browser()), code=303)
    except (LinkGone, AccountNotFound):
        return show_gone()


def show_gone() -> Response:
    return make_response(render_template("connect/link_gone.html"), 404)
