"""Showing an access token: the password again, one look, nothing left behind in the browser."""

from flask import Blueprint, make_response, render_template, request
from werkzeug.wrappers import Response

from keap_connect.accounts.directory import view_account
from keap_connect.accounts.revealing import RevealedToken, count_reveals, reveal_access_token
from keap_connect.errors import AccountDisconnected, FormUsed, SealBroken
from keap_connect.web.auth import Audience, actor, open_to
from keap_connect.web.password_again import password_is_right

bp = Blueprint("reveal", __name__)


@bp.route("/accounts/<int:account_id>/access-token", methods=["GET", "POST"])
@open_to(Audience.ADMIN)
def access_token(account_id: int) -> Response:
    """Ask for the password again, then show the access token once; the same form does not do it twice."""
    if request.method != "POST":
        return _page(account_id)
    try:
        if not password_is_right():
            return _page(account_id, error="This is not your password. Nothing was shown.", status=403)
        reveals_before = request.form.get("reveals", -1, type=int)
        revealed = reveal_access_token(account_id, actor(), reveals_before, request.remote_addr)
        return _page(account_id, revealed=revealed)
    except FormUsed:
        return _page(account_id, error="The token was shown already. Enter your password to see it again.", status=409)
    except AccountDisconnected as refused:
        return _page(account_id, problem=str(refused), status=409)
    except SealBroken:
        return _page(account_id, problem="The stored token does not open with any key of TOKEN_KEYS.", status=409)


def _page(
    account_id: int,
    *,
    revealed: RevealedToken | None = None,
    error: str | None = None,
    problem: str | None = None,
    status: int = 200,
) -> Response:
    page = render_template(
        "accounts/access_token.html",
        account=view_account(account_id, with_tokens=True),
        reveals=count_reveals(account_id),
        revealed=revealed,
        error=error,
        problem=problem,
    )
    return make_response(page, status)
