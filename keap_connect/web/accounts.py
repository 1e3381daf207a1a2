"""The list of accounts and one account's page; `disconnect` also serves the customer whose account it is."""

from typing import Any

from flask import abort, flash, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from keap_connect import errors
from keap_connect.accounts.changes import change_account
from keap_connect.accounts.changes import disconnect as disconnect_account
from keap_connect.accounts.changes import erase as erase_account
from keap_connect.accounts.directory import list_accounts, view_account
from keap_connect.accounts.revealing import count_reveals, reveal_access_token
from keap_connect.accounts.search import Order
from keap_connect.accounts.state import KEYS, AccountState
from keap_connect.connect.flows import count_unfinished, list_failures, list_journeys
from keap_connect.connect.identifying import identify_pending
from keap_connect.connect.reconnect_links import MOST_LISTED, list_open_links
from keap_connect.events.search import Search, list_events
from keap_connect.health.examination import check_webhooks
from keap_connect.health.refreshing import read_refreshing
from keap_connect.keap.call_slots import keap_call_slot
from keap_connect.notifications.mail import find_last_failure
from keap_connect.refresh import alarms
from keap_connect.refresh.clone_guard import confirm_only_one
from keap_connect.refresh.serving import refresh_account
from keap_connect.services import page_url, services
from keap_connect.web.auth import Audience, Pages, actor, check_password, current_admin, may_act, see_other

bp = Pages("accounts", __name__, url_prefix="/accounts")
LONGEST_SEARCH = 100


def _list_page() -> str:
    query = request.args.get("q", "").strip()[:LONGEST_SEARCH]
    state = request.args.get("state", "")
    if state not in {"", *AccountState}:
        abort(404)
    order = Order.parse(request.args.get("sort", ""))

    def list_url(**changed: object) -> str:
        chosen = {"q": query, "state": state, "sort": order, **changed}
        values: dict[str, Any] = {name: str(value) or None for name, value in chosen.items()}
        return url_for("accounts.index", **values)

    return render_template(
        "accounts/index.html",
        found=list_accounts(query, state, order, request.args.get("after", ""), request.args.get("before", "")),
        query=query,
        state=state,
        order=order,
        list_url=list_url,
        start_url=page_url(url_for("connect.index")),
        unfinished=count_unfinished(),
        failures=list_failures(),
        refreshing=read_refreshing(),
        webhooks=list(check_webhooks()),
        has_mail=services().settings.mail is not None,
        mail_failure=find_last_failure(),
    )


@bp.page("", Audience.VIEWER)
def index() -> Response:
    """Show all accounts, what needs attention first; the address holds all that was chosen.

    The page requests itself every 15 seconds (static/js/live.js); while nothing has changed, the answer is a 304.
    """
    answer = make_response(_list_page())
    answer.add_etag()
    return answer.make_conditional(request)


@bp.page("/journeys", Audience.VIEWER)
def journeys() -> str:
    """Show who tried to connect lately, and how each attempt ended."""
    reference = request.args.get("reference", "").strip()
    found = list_journeys(reference)
    return render_template("accounts/journeys.html", journeys=found, failures=list_failures(), reference=reference)


@bp.act("/resume", Audience.ADMIN, _list_page)
def resume() -> Response:
    """Continue refreshing after an alarm, as a person decided who saw it."""
    name = request.form.get("name", "")
    if name == alarms.UNKNOWN_INSTANCE:  # if there is another copy after all, both present the same refresh tokens
        check_password("resume_password")
        confirm_only_one(actor())
    else:
        alarms.resume([name], actor())
    return see_other("accounts.index", "Refreshing continues.")


@bp.page("/<int:account_id>", Audience.VIEWER)
def show(account_id: int) -> str:
    account = view_account(account_id, with_tokens=True)
    before = request.args.get("before", type=int)
    return render_template(
        "accounts/show.html",
        account=account,
        names=request.form or {"label": account.label, "external_id": account.external_id},
        links=list_open_links(account_id),
        most_links=MOST_LISTED,
        history=list_events(Search(account_id=account_id), before),
        is_newest=before is None,
        refreshing=read_refreshing(),
        can_mail=services().settings.mails_customers and account.person_email,
    )


@bp.act("/<int:account_id>/names", Audience.ADMIN, show)
def name(account_id: int) -> Response:
    change_account(account_id, actor(), {field: request.form.get(field, "") for field in ("label", "external_id")})
    return see_other("accounts.show", "The names are saved.", account_id=account_id)


@bp.act("/<int:account_id>/refresh", Audience.ADMIN)
def refresh(account_id: int) -> Response:
    try:
        with keap_call_slot():
            refresh_account(account_id, actor())
        flash("Refreshed: new tokens are stored.", "done")
    except (errors.ReconnectRequired, errors.AccountDisconnected) as refusal:
        flash(f"A person must authorize again. {refusal}", "failed")
    except errors.ClientMisconfigured as refusal:
        flash(f"Keap refused this app's client id or secret; the account itself is fine. {refusal}", "failed")
    except errors.SealBroken as refusal:
        flash(f"The stored token does not open, so nothing was sent. {refusal}", "failed")
    except errors.NotRefreshable as refusal:
        flash(str(refusal), "attention")
    except errors.TemporarilyUnavailable as refusal:
        flash(f"Not refreshed; the tokens are kept. {refusal}", "attention")
    return see_other("accounts.show", account_id=account_id)


@bp.act("/<int:account_id>/complete", Audience.ADMIN)
def complete(account_id: int) -> Response:
    try:
        with keap_call_slot():
            account_id = identify_pending(account_id)
        flash("Keap has named the account. Its details are stored.", "done")
    except (errors.TemporarilyUnavailable, errors.TenantConflict, errors.SealBroken) as refusal:
        flash(str(refusal), "attention")
    return see_other("accounts.show", account_id=account_id)


def _way_back(account_id: int) -> str:
    return url_for("accounts.show", account_id=account_id) if current_admin() else url_for("connect.your_accounts")


def _disconnect_page(account_id: int) -> str:
    return render_template(
        "accounts/disconnect.html",
        account=view_account(account_id),
        cancel_url=_way_back(account_id),
        asks_password=may_act(),
        is_erasing=request.endpoint == "accounts.erase",
    )


@bp.form("/<int:account_id>/disconnect", Audience.OWNER, _disconnect_page)
def disconnect(account_id: int) -> Response:
    account = view_account(account_id)
    if may_act():  # a customer has no password here
        check_password()
    disconnect_account(account_id, actor())
    title = account.title if current_admin() else account.public_title
    if account.kind in KEYS:
        next_step = "Its key is deleted here. Delete it in Keap's API settings, too."
    else:
        next_step = (
            "Its tokens are deleted here. To withdraw the consent at Keap too, remove this application from "
            "Third-Party Authorized Applications in Keap's API settings."
        )
    flash(f"{title} is disconnected. {next_step}", "done")
    return redirect(_way_back(account_id), code=303)


@bp.form("/<int:account_id>/erase", Audience.ADMIN, _disconnect_page)
def erase(account_id: int) -> Response:
    account = view_account(account_id)
    check_password()
    erase_account(account_id, actor())
    notice = f"{account.title} is erased, with its history. Its consent at Keap stays until it is removed there."
    return see_other("accounts.index", notice)


def _reveal_page(account_id: int, revealed: str | None = None) -> str:
    return render_template(
        "accounts/access_token.html",
        account=view_account(account_id, with_tokens=True),
        reveals=count_reveals(account_id),
        revealed=revealed,
    )


@bp.form("/<int:account_id>/access-token", Audience.ADMIN, _reveal_page)
def access_token(account_id: int) -> Response:
    """Show the access token once; a form that was sent a second time shows nothing."""
    check_password()
    reveals_before = request.form.get("reveals", -1, type=int)
    try:
        revealed = reveal_access_token(account_id, actor(), reveals_before, request.remote_addr)
    except errors.AccountDisconnected as problem:
        raise errors.FormRefused(str(problem), "token") from problem
    except errors.SealBroken as problem:
        raise errors.FormRefused("The stored token does not open with any key of TOKEN_KEYS.", "token") from problem
    return make_response(_reveal_page(account_id, revealed=revealed))
