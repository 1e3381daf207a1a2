"""Showing an access token: the password again, shown once, nothing left behind in the browser."""

from flask import make_response, render_template, request
from werkzeug.wrappers import Response

from keap_connect.accounts.directory import view_account
from keap_connect.accounts.revealing import RevealedToken, count_reveals, reveal_access_token
from keap_connect.errors import AccountDisconnected, FormRefused, SealBroken
from keap_connect.web.auth import Audience, Pages, actor, check_password

bp = Pages("reveal", __name__)


def _page(account_id: int, errors: dict[str, str] | None = None, revealed: RevealedToken | None = None) -> str:
    return render_template(
        "accounts/access_token.html",
        account=view_account(account_id, with_tokens=True),
        reveals=count_reveals(account_id),
        revealed=revealed,
        errors=errors or {},
    )


@bp.form("/accounts/<int:account_id>/access-token", Audience.ADMIN, _page)
def access_token(account_id: int) -> Response:
    """Show the access token once; a form that was sent a second time shows nothing."""
    check_password()
    reveals_before = request.form.get("reveals", -1, type=int)
    try:
        revealed = reveal_access_token(account_id, actor(), reveals_before, request.remote_addr)
    except AccountDisconnected as problem:
        raise FormRefused(str(problem), "token") from problem
    except SealBroken as problem:
        raise FormRefused("The stored token does not open with any key of TOKEN_KEYS.", "token") from problem
    return make_response(_page(account_id, revealed=revealed))
