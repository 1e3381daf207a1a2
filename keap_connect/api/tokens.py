"""Operations on an account's tokens: get a valid one, report one that Keap refused, refresh, disconnect."""

import re
from functools import partial
from typing import Any

from flask import Response, request

from keap_connect.access.api_keys import APIKeyView, Scope
from keap_connect.access.rate_limits import rate_limits
from keap_connect.accounts.changes import disconnect as disconnect_account
from keap_connect.accounts.directory import AccountView, view_account
from keap_connect.api.operations import Operation, bp, current_key
from keap_connect.api.questions import PreferHeaders, Rejection, TokenQuery
from keap_connect.api.schemas import Account, RejectionTaken, Token
from keap_connect.events.hand_outs import record_hand_out
from keap_connect.refresh.serving import RefreshUnderWay, ServedToken, refresh_account, report_rejected, valid_token
from keap_connect.refresh.timing import PATIENCE_SECONDS
from keap_connect.server.front import WAITING, Waiting

ONE = "/v1/accounts/<account>"
LONGEST_PATIENCE_SECONDS = 25
WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,4})(?![0-9])", re.IGNORECASE)
reads, writes = partial(Operation, scope=Scope.TOKENS_READ), partial(Operation, scope=Scope.ACCOUNTS_WRITE)


@reads(
    "GET", f"{ONE}/token", "Get an access token that is valid now", Token(), query=TokenQuery(), headers=PreferHeaders()
)
def get_token(account_id: int, query: dict[str, Any]) -> dict[str, Any]:
    """Refreshes first if it must, and waits for a refresh that is under way. Without `min_validity` any unexpired
    token is returned, with a `warning` if it could not be refreshed. 409: a person must reconnect the account; trying
    again does not help. 503: nothing is lost; try again after `Retry-After` seconds."""
    key = current_key()
    waiting: Waiting | None = request.environ.get(WAITING)
    asked_at = waiting.since if waiting else None
    served = valid_token(account_id, key.actor, query.get("min_validity"), patience_seconds(), asked_at)
    return hand_out(served, key, request.remote_addr)


def hand_out(served: ServedToken, key: APIKeyView, address: str | None) -> dict[str, Any]:
    """Record the hand-out, and return the answer to a token call.

    Raises HandOutUnrecorded: the audit log cannot be written.
    """
    record_hand_out(served.account.id, served.fingerprint, key.actor, address, key.id)
    return served.as_answer()


@reads("POST", f"{ONE}/token/rejected", "Report that Keap refused an access token", RejectionTaken(), body=Rejection())
def report_token(account_id: int, body: dict[str, Any]) -> dict[str, bool]:
    """The current token is not returned again; the next call gets a new one. A report about an older token changes
    nothing."""
    rate_limits().count_rejection(account_id)
    return {"is_current": report_rejected(account_id, body["fingerprint"], current_key().actor)}


@writes("POST", f"{ONE}/refresh", "Refresh an account now", Account(), headers=PreferHeaders())
def refresh(account_id: int) -> AccountView:
    """Rarely needed: a call for a token refreshes if it must, and the worker refreshes ahead of time."""
    refresh_account(account_id, current_key().actor, patience_seconds())
    return view_account(account_id)


@writes("POST", f"{ONE}/disconnect", "Delete an account's tokens", Account())
def disconnect(account_id: int) -> AccountView:
    """The tokens are deleted at once. The account and its history stay, so that it can be connected again."""
    disconnect_account(account_id, current_key().actor)
    return view_account(account_id)


@bp.errorhandler(RefreshUnderWay)
def ask_again(refresh: RefreshUnderWay) -> Response:
    """Let the server call the app again after the refresh. It drops this answer."""
    request.environ[WAITING].wait(refresh.account_id, refresh.is_over, refresh.until)
    return Response(status=503)


def patience_seconds() -> float:
    """Return how long the caller wants to wait (`Prefer: wait=n`, RFC 7240 section 4.3)."""
    wanted = WAIT.search(request.headers.get("Prefer", ""))
    return min(int(wanted[1]), LONGEST_PATIENCE_SECONDS) if wanted else PATIENCE_SECONDS
