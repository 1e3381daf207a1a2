"""Invitations: made and decided by admins, seen by viewers without their links, used by customers without a sign-in."""

import re
from typing import Any

from flask import abort, flash, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from keap_connect.access.rate_limits import rate_limits
from keap_connect.clock import utc_now
from keap_connect.connect import confirming, invitations, invited
from keap_connect.connect import invitation_lists as lists
from keap_connect.errors import InvitationRefused, LinkGone
from keap_connect.models import LARGEST_ID, InvitationState
from keap_connect.services import services
from keap_connect.spreadsheet import csv_line
from keap_connect.web.accounts import LONGEST_SEARCH
from keap_connect.web.auth import Audience, Pages, actor, see_other
from keap_connect.web.browser_security import browser
from keap_connect.web.reconnect_links import show_gone
from keap_connect.web.rendering import as_download

bp = Pages("invitations", __name__)
SHOWN = 50


@bp.form("/i/<token>", Audience.ANYONE)
def use(token: str) -> Response:
    """Show who asks, and for whom, and redirect to Keap once the button is pressed. Neither uses the invitation up."""
    try:
        if request.method == "POST":
            rate_limits().count_started_flow(request.remote_addr)
            return redirect(invited.start_by_invitation(token, browser()), code=303)
        found = invited.open_link(token, is_seen=request.method == "GET")
    except LinkGone:
        return show_gone()
    if found.state == InvitationState.WAITING:
        return show_waiting(found.id, is_by_link=True)
    values = {"token": token, "invitation": found, "return_url": invited.return_link(found.id)}
    return make_response(render_template("connect/invitation.html", **values))


def show_waiting(invitation_id: int | None, *, is_by_link: bool = False) -> Response:
    """Say that somebody must confirm who connected; who only opens the link may be somebody else."""
    values = {"return_url": invited.return_link(invitation_id), "is_by_link": is_by_link}
    return make_response(render_template("connect/waiting.html", **values))


@bp.page("/invitations", Audience.VIEWER)
def index() -> str:
    text, state = request.args.get("q", "").strip()[:LONGEST_SEARCH], request.args.get("state", "")
    before = request.args.get("before", 0, type=int)
    if state not in {"", *InvitationState}:
        abort(404)
    found = lists.list_invitations(SHOWN, max(0, min(before, LARGEST_ID)), text=text, state=state)

    def list_url(**changed: Any) -> str:
        chosen: dict[str, Any] = {"q": text, "state": state, **changed}
        return url_for("invitations.index", **{name: value or None for name, value in chosen.items()})

    values = {"counts": lists.count_invitations(), "most": lists.MOST_COUNTED, "before": before, "list_url": list_url}
    return render_template("invitations/index.html", found=found, query=text, state=state, **values)


def _form() -> str:
    settings = services().settings
    values = {"usual_days": invitations.USUAL_DAYS, "longest_days": invitations.LONGEST_DAYS, "settings": settings}
    return render_template("invitations/new.html", typed=request.form, **values)


@bp.form("/invitations/new", Audience.ADMIN, _form)
def create() -> Response:
    typed = request.form
    valid_days = typed.get("valid_days", str(invitations.USUAL_DAYS)).strip()
    if not re.fullmatch("[0-9]{1,4}", valid_days):
        raise InvitationRefused("Enter a number of days.", "valid_days")
    wanted: dict[str, Any] = {name: typed.get(name) for name in lists.TEXTS}
    wanted |= {name: typed.get(name) == "1" for name in ("needs_confirmation", "is_mailed")}
    invitation = invitations.NewInvitation(**wanted, valid_days=int(valid_days))
    return _show_link(invitations.make_invitation(invitation, actor()))


def _file_form() -> str:
    values = {"most_lines": lists.MOST_LINES, "columns": lists.COLUMNS, "has_mail": services().settings.mail}
    return render_template("invitations/file.html", **values)


@bp.form("/invitations/file", Audience.ADMIN, _file_form, most_bytes=lists.MOST_BYTES)
def file() -> Response:
    """Invite everybody in a CSV file; the answer is a CSV file with their links, or the app mails them."""
    sent, is_mailed = request.files.get("file"), request.form.get("is_mailed") == "1"
    if sent is None or not sent.filename:
        raise InvitationRefused("Choose a file.", "file")
    made = lists.invite_many(sent.read(), actor(), is_mailed=is_mailed)
    if is_mailed:
        return see_other("invitations.index", f"Invitations made: {len(made)}. The mails are sent within minutes.")
    rows = [(one.row.id, one.row.label, one.row.external_id, one.row.email, one.url) for one in made]
    lines = map(csv_line, [("invitation", "label", "external_id", "email", "link"), *rows])
    return as_download(lines, f"invitations-{utc_now():%Y-%m-%d}")


@bp.page("/invitations/<int:invitation_id>", Audience.VIEWER)
def show(invitation_id: int) -> str:
    found = invitations.get_invitation(invitation_id)
    waiting = confirming.view_waiting(found.id) if found.state == InvitationState.WAITING else None
    values = {"waiting": waiting, "is_mailed": invitations.is_sent_by_mail(found)}
    return render_template("invitations/show.html", invitation=found, **values)


@bp.act("/invitations/<int:invitation_id>/change", Audience.ADMIN)
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
        return see_other("accounts.show", "Confirmed: the account is connected.", account_id=confirmed.account_id)
    elif act == "decline":
        waiting = confirming.view_waiting(invitation_id)
        declined = confirming.decline(invitation_id, actor())
        grant = "their account keeps its grant" if waiting and waiting.was_connected else "the grant is deleted"
        is_over = declined.state == InvitationState.EXPIRED
        flash(f"Declined: {grant}. The link {'has expired' if is_over else 'works again until it expires'}.", "done")
    else:
        abort(400)
    return see_other("invitations.show", invitation_id=invitation_id)


def _show_link(made: invitations.MadeInvitation) -> Response:
    if invitations.is_sent_by_mail(made.row):
        return see_other("invitations.show", "A mail with the link is sent within seconds.", invitation_id=made.row.id)
    return make_response(render_template("invitations/link.html", invitation=made.row, link=made.url))
