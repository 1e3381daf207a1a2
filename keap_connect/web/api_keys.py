"""The API keys by which programs use the token API."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from flask import make_response, render_template, request
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response

from keap_connect.access import api_keys
from keap_connect.accounts.directory import list_accounts_after, title_accounts
from keap_connect.accounts.naming import find_account_id, read_typed_name
from keap_connect.clock import utc_now
from keap_connect.errors import AccountAmbiguous, AccountNotFound, FormRefused
from keap_connect.services import page_url
from keap_connect.web.auth import Audience, Pages, actor, check_password, see_other

bp = Pages("api_keys", __name__, url_prefix="/api-keys")
MOST_ENDED_KEYS, SHOWN_ACCOUNTS = 10, 10
LIFETIMES = {"30": "30 days", "90": "90 days", "365": "1 year", "": "Never"}
OVERLAPS = {"0": "At once", "1": "After 1 hour", "24": "After 1 day", "168": "After 7 days"}
# What a key with a scope may do, and a request that shows whether the key works.
SCOPES = {
    api_keys.Scope.TOKENS_READ: ("Get access tokens: what jobs need", "/api/v1/accounts/{}/token"),
    api_keys.Scope.ACCOUNTS_READ: ("See accounts and events", "/api/v1/accounts?limit=1"),
    api_keys.Scope.ACCOUNTS_WRITE: ("Rename, import, refresh and disconnect accounts", None),
    api_keys.Scope.METRICS_READ: ("Read /metrics: what monitoring needs", "/metrics"),
    api_keys.Scope.WEBHOOKS_READ: ("See webhooks and what they delivered", "/api/v1/webhooks"),
    api_keys.Scope.WEBHOOKS_WRITE: ("Add, change, test and remove webhooks", None),
}
USUAL_KEY = MultiDict({"scopes": api_keys.Scope.TOKENS_READ.value, "lifetime": "365"})


def _form() -> str:
    values = {
        "typed": request.form or USUAL_KEY,
        "meanings": {scope: meaning for scope, (meaning, _) in SCOPES.items()},
        "lifetimes": LIFETIMES,
    }
    return render_template("api_keys/create.html", **values)


@bp.page("", Audience.ADMIN)
def index() -> str:
    """Show the keys; of the expired and revoked ones, only the latest."""
    keys = api_keys.list_api_keys()
    ended = [key for key in keys if not key.is_usable]
    usable = [key for key in keys if key.is_usable]
    shown = usable + ended[:MOST_ENDED_KEYS]
    return render_template("api_keys/index.html", keys=shown, rotated=api_keys.list_rotated_ids(), **_names(shown))


@bp.form("/new", Audience.ADMIN, _form)
def create() -> Response:
    check_password()
    typed, lifetime = request.form, request.form.get("lifetime")
    if lifetime not in LIFETIMES:
        raise FormRefused("Choose how long the key lasts.", "lifetime")
    expires_at = utc_now() + timedelta(days=int(lifetime)) if lifetime else None
    name, scopes = typed.get("name", ""), typed.getlist("scopes")
    return _show_issued(api_keys.issue_api_key(name, scopes, actor(), expires_at, _account_ids()))


def _rotation(key_id: int) -> str:
    chosen = request.form.get("overlap", "24")
    key = api_keys.get_api_key(key_id)
    return render_template("api_keys/rotate.html", key=key, overlaps=OVERLAPS, chosen=chosen)


@bp.form("/<int:key_id>/rotate", Audience.ADMIN, _rotation)
def rotate(key_id: int) -> Response:
    check_password()
    hours = request.form.get("overlap", "")
    if hours not in OVERLAPS:
        raise FormRefused("Choose when the old key ends.", "overlap")
    return _show_issued(api_keys.rotate_api_key(key_id, timedelta(hours=int(hours)), actor()))


@bp.form("/<int:key_id>/revoke", Audience.ADMIN)
def revoke(key_id: int) -> Response | str:
    key = api_keys.get_api_key(key_id)
    if request.method != "POST":
        return render_template("api_keys/revoke.html", key=key)
    api_keys.revoke_api_key(key_id, actor())
    notice = f"The API key {key.name} is revoked: programs that use it are refused from now on."
    return see_other("api_keys.index", notice)


def _show_issued(issued: api_keys.IssuedKey) -> Response:
    """Show a new key, with a command that tries it."""
    key = issued.row
    path = next((path for scope, (_, path) in SCOPES.items() if path and scope in key.scopes), None)
    account_ids = key.account_ids or [account.id for account in list_accounts_after(0, 1).rows]
    account = account_ids[0] if account_ids else "ACCOUNT"  # there is none yet
    url = page_url(path.format(account)) if path else None
    return make_response(render_template("api_keys/issued.html", key=key, text=issued.text, url=url, **_names([key])))


def _names(keys: Iterable[api_keys.APIKeyView]) -> dict[str, Any]:
    ids = {one for key in keys for one in (key.account_ids or [])[:SHOWN_ACCOUNTS]}
    return {"titles": title_accounts(ids), "shown_accounts": SHOWN_ACCOUNTS}


def _account_ids() -> list[int] | None:
    names = [read_typed_name(word) for word in request.form.get("accounts", "").replace(",", " ").split()]
    try:
        ids = [find_account_id(name) for name in names if name]
    except (AccountNotFound, AccountAmbiguous) as problem:
        raise FormRefused(str(problem), "accounts") from problem
    if None in names:
        raise FormRefused("Enter accounts with commas between them, such as 7, ab123, external:acme.", "accounts")
    return ids or None
