"""The admin's dashboard and one account's page; `disconnect` also serves the customer whose account it is."""

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from keap_connect.accounts.directory import disconnect as disconnect_account
from keap_connect.accounts.directory import list_accounts, view_account
from keap_connect.accounts.history import Actor, list_events
from keap_connect.accounts.state import AccountState
from keap_connect.errors import (
    AccountDisconnected,
    ClientMisconfigured,
    ReconnectRequired,
    SealBroken,
    TemporarilyUnavailable,
    TenantConflict,
)
from keap_connect.onboarding.completing import complete_account
from keap_connect.onboarding.flows import count_unfinished
from keap_connect.refreshing.brakes import list_alarms
from keap_connect.refreshing.serving import refresh_account
from keap_connect.runtime import runtime
from keap_connect.web.door import Audience, current_admin, open_to
from keap_connect.worker.heartbeat import list_workers

bp = Blueprint("accounts", __name__, url_prefix="/accounts")
LONGEST_SEARCH = 100


@bp.get("")
@open_to(Audience.ADMIN)
def index() -> str:
    """Show all accounts, what needs attention first."""
    query = request.args.get("q", "").strip()[:LONGEST_SEARCH]
    state = request.args.get("state", "")
    state = state if state in set(AccountState) else ""
    found = list_accounts(query, state, request.args.get("page", 1, type=int))

    def page_url(number: int) -> str:
        return url_for("accounts.index", q=query or None, state=state or None, page=number if number > 1 else None)

    return render_template(
        "accounts/index.html",
        accounts=found.accounts,
        counts=found.counts,
        total=found.total,
        page=found.page,
        pages=found.pages,
        query=query,
        state=state,
        page_url=page_url,
        start_url=runtime().settings.public_url + url_for("connect.index"),
        unfinished=count_unfinished(),
        workers=list_workers(),
        alarms=list_alarms(),
    )


@bp.get("/<int:account_id>")
@open_to(Audience.ADMIN)
def show(account_id: int) -> str:
    """Show one account with masked tokens and its history."""
    account = view_account(account_id, with_tokens=True)
    return render_template("accounts/show.html", account=account, events=list_events(account_id))


@bp.post("/<int:account_id>/refresh")
@open_to(Audience.ADMIN)
def refresh(account_id: int) -> Response:
    """Refresh now, and say plainly how it went."""
    try:
        refresh_account(account_id, _actor())
        flash("Refreshed: new tokens are stored.", "done")
    except (ReconnectRequired, AccountDisconnected) as refusal:
        flash(f"A person must authorize again. {refusal}", "failed")
    except ClientMisconfigured as refusal:
        flash(f"Keap refused this app's client id or secret; the account itself is fine. {refusal}", "failed")
    except SealBroken as refusal:
        flash(f"The stored token does not open, so nothing was sent. {refusal}", "failed")
    except TemporarilyUnavailable as refusal:
        flash(f"Not refreshed; the tokens are kept. {refusal}", "attention")
    return redirect(url_for("accounts.show", account_id=account_id), code=303)


@bp.post("/<int:account_id>/complete")
@open_to(Audience.ADMIN)
def complete(account_id: int) -> Response:
    """Ask Keap again whose account this is."""
    try:
        account_id = complete_account(account_id)
        flash("The details are filled in.", "done")
    except (TemporarilyUnavailable, TenantConflict, SealBroken) as refusal:
        flash(str(refusal), "attention")
    return redirect(url_for("accounts.show", account_id=account_id), code=303)


@bp.route("/<int:account_id>/disconnect", methods=["GET", "POST"])
@open_to(Audience.OWNER)
def disconnect(account_id: int) -> Response | str:
    """Ask once more, then forget the tokens."""
    account = view_account(account_id)
    back = url_for("accounts.show", account_id=account_id) if current_admin() else url_for("connect.your_accounts")
    if request.method != "POST":
        return render_template("accounts/disconnect.html", account=account, cancel_url=back)
    disconnect_account(account_id, _actor())
    flash(
        f"{account.title if current_admin() else account.public_title} is disconnected; its tokens are forgotten here. "
        "To withdraw the consent at Keap too, remove this app in Keap's API settings.",
        "done",
    )
    return redirect(back, code=303)


def _actor() -> str:
    admin = current_admin()
    return admin.email if admin else Actor.CUSTOMER
