"""The customer's pages: start, callback, result, the decision about another tenant, and "Your accounts"."""

import logging

from flask import Response, abort, flash, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from keap_connect.access.rate_limits import rate_limits
from keap_connect.access.sign_ins import end_sign_in, is_of_another, sign_in_person, sign_out
from keap_connect.accounts.directory import list_accounts_of, view_account
from keap_connect.connect.callback import connect_pending, discard_pending, find_result, open_pending, receive_callback
from keap_connect.connect.endings import Ending
from keap_connect.connect.flows import FlowRefused, ending_of, forget_results, start_flow
from keap_connect.connect.invited import return_link
from keap_connect.errors import AccountNotFound
from keap_connect.keap.authorization import AuthorizationResponse
from keap_connect.logs import reference
from keap_connect.models import AuthorizationFlow
from keap_connect.services import services
from keap_connect.web.auth import Audience, Pages, current_person, see_other, welcome_person
from keap_connect.web.browser_security import browser, delete_cookie, forget_pages, read_cookie, set_cookie
from keap_connect.web.ending_words import WORDS
from keap_connect.web.invitations import show_waiting

bp = Pages("connect", __name__)
log = logging.getLogger(__name__)
SPECULATIVE_HEADERS = ("Sec-Purpose", "Purpose", "X-Purpose", "X-Moz")


@bp.page("/", Audience.ANYONE)
def index() -> str:
    return render_template(_start_page())


@bp.form("/connect", Audience.ANYONE)
def start() -> AnyResponse | str:
    """Redirect to Keap; GET shows the button, so that no link can start anything."""
    if request.method != "POST":
        return render_template(_start_page())
    if services().settings.is_by_invitation:
        return make_response(render_template(_start_page()), 403)
    rate_limits().count_started_flow(request.remote_addr)
    return redirect(start_flow(browser()), code=303)


@bp.form("/reconnect/<int:account_id>", Audience.OWNER)
def reconnect(account_id: int) -> AnyResponse | str:
    """Start again for one account; a grant of another tenant never changes it."""
    account = view_account(account_id)
    if request.method != "POST":
        return render_template("connect/reconnect.html", account=account)
    rate_limits().count_started_flow(request.remote_addr)
    return redirect(start_flow(browser(), reconnects_account_id=account.id), code=303)


@bp.page("/callback", Audience.ANYONE, provide_automatic_options=False)
def callback() -> AnyResponse:
    """Receive the authorization response, once, and redirect to an address without code and state."""
    if request.method != "GET":
        abort(405, valid_methods=["GET"])
    purposes = [request.headers.get(name, "").lower() for name in SPECULATIVE_HEADERS]
    if any("prefetch" in purpose or "preview" in purpose for purpose in purposes):
        return Response(status=204)
    response = AuthorizationResponse.from_query(request.args.to_dict(flat=False))
    if response.state:  # without one, nothing is looked up
        rate_limits().count_callback(request.remote_addr)
    try:
        ref = receive_callback(response, read_cookie("browser"))
    except FlowRefused as refused:
        # Only in the log: strangers could fill the history with it.
        log.warning("A callback was refused (%s) from %s.", refused.ending.value, request.remote_addr)
        return see_other("connect.ended", code=refused.ending.value)
    return see_other("connect.result", ref=ref)


@bp.page("/connect/ended/<code>", Audience.ANYONE)
def ended(code: str) -> AnyResponse:
    """Show an ending that belongs to no flow of this browser; the address contains the ending and nothing else."""
    if code not in WORDS or (WORDS[code].status == 200 and code not in {Ending.DENIED, Ending.KEAP_ERROR}):
        abort(404)
    log.info("%s: %s saw the ending %s.", reference.get(), request.remote_addr, code)
    return _show_ending(Ending(code))


@bp.page("/connect/<ref>", Audience.ANYONE)
def result(ref: str) -> AnyResponse:
    """Show how a flow of this browser ended, or that it is still running."""
    flow = _get_flow(ref)
    ending = ending_of(flow)
    if ending is None:
        return make_response(render_template("connect/result.html"), {"Refresh": "2"})
    if ending is Ending.DECISION_PENDING:
        return _show_pending(flow)
    if ending is Ending.CONFIRMATION_PENDING:
        return show_waiting(flow.invitation_id)
    session_id = sign_in_person(flow) if ending.is_success else None
    if session_id is None:
        return _show_ending(ending, flow)
    end_sign_in(read_cookie("person"))
    welcome_person(session_id)
    answer = _show_ending(ending, flow)
    set_cookie(answer, "person", session_id)
    return answer


@bp.act("/connect/<ref>/confirm", Audience.ANYONE)
def confirm(ref: str) -> AnyResponse:
    """Decide about a grant for another Keap account than the one to reconnect."""
    flow = _get_flow(ref)
    if request.form.get("choice") == "connect" and not services().settings.is_by_invitation:
        connect_pending(flow)
    elif request.form.get("choice") == "discard":
        discard_pending(flow)
    else:
        abort(400)
    return see_other("connect.result", ref=ref)


@bp.page("/your-accounts", Audience.ANYONE)
def your_accounts() -> str:
    return render_template("connect/your_accounts.html", accounts=list_accounts_of(current_person()))


@bp.act("/your-accounts/sign-out", Audience.ANYONE)
def forget_me() -> AnyResponse:
    sign_out(read_cookie("person"))
    forget_results(read_cookie("browser"))
    flash("You are signed out here. Your Keap accounts stay connected.", "done")
    answer = see_other("connect.index")
    delete_cookie(answer, "person")
    forget_pages(answer)
    return answer


def _start_page() -> str:
    return "connect/by_invitation.html" if services().settings.is_by_invitation else "connect/start.html"


def _get_flow(ref: str) -> AuthorizationFlow:
    flow = find_result(ref, read_cookie("browser"))
    if flow is None:
        abort(404)
    return flow


def _show_ending(ending: Ending, flow: AuthorizationFlow | None = None) -> AnyResponse:
    words = WORDS[ending]
    account = view_account(flow.account_id) if flow and flow.account_id and ending.is_success else None
    is_open = flow is not None and ending is not Ending.LINK_GONE
    # The worker asks Keap again, and this page then says how that ended.
    link = request.path if ending is Ending.IDENTITY_PENDING else url_for("connect.your_accounts")
    page = render_template(
        "connect/result.html",
        ending=words,
        next_url=_again_url(flow if is_open else None) if words.next_is_post else link,
        account=account,
        with_person=flow is not None and not is_of_another(flow),
        return_url=return_link(flow.invitation_id) if flow and ending.is_success else None,
        keap_said=flow.keap_said if flow else None,
        reference=None if ending.is_success else flow.ref if flow else reference.get(),
    )
    return make_response(page, words.status)


def _again_url(flow: AuthorizationFlow | None) -> str | None:
    """Return where a POST starts the flow again, for the same account; None if only an invitation would help."""
    if flow and (flow.reconnect_link_id or flow.invitation_id):
        return url_for("reconnect_links.again", ref=flow.ref)
    if flow and flow.reconnects_account_id:
        return url_for("connect.reconnect", account_id=flow.reconnects_account_id)
    return None if services().settings.is_by_invitation else url_for("connect.start")


def _show_pending(flow: AuthorizationFlow) -> AnyResponse:
    """Ask what to do with the other account. A reconnect link does not show which account it is for."""
    grant = open_pending(flow)
    if grant is None or flow.account_id is None:
        raise AccountNotFound("The account to reconnect is gone.")
    page = render_template(
        "connect/confirm.html",
        ref=flow.ref,
        account=None if flow.reconnect_link_id else view_account(flow.account_id),
        found=grant.identity,
        again_url=_again_url(flow),
        until=flow.pending_until,
    )
    return make_response(page)
