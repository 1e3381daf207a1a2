"""Settings: the API keys that programs come in with."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from flask import Blueprint, flash, make_response, redirect, render_template, request, url_for
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response

from keap_connect.access.api_keys import Scope, get_api_key, issue_api_key, list_api_keys, revoke_api_key
from keap_connect.clock import utc_now
from keap_connect.errors import APIKeyUnfit
from keap_connect.web.auth import Audience, current_admin, open_to
from keap_connect.web.password_again import password_is_right

bp = Blueprint("api_keys", __name__, url_prefix="/api-keys")
MOST_SHOWN_OVER = 10
LIFETIMES = {"30": "30 days", "90": "90 days", "365": "A year", "": "No end"}
MEANINGS = {
    Scope.TOKENS_READ: "Get access tokens: what jobs need",
    Scope.ACCOUNTS_READ: "See accounts and events",
    Scope.ACCOUNTS_WRITE: "Rename, import, refresh and disconnect accounts",
    Scope.METRICS_READ: "Read /metrics: what monitoring needs",
}


@dataclass(frozen=True)
class Wish:
    """The form of a new key, as it was filled in."""

    scopes: list[str]
    lifetime: str
    name: str = ""
    accounts: str = ""

    @classmethod
    def from_form(cls, form: MultiDict[str, str]) -> "Wish":
        """Read it."""
        lifetime, name, accounts = (form.get(field, "") for field in ("lifetime", "name", "accounts"))
        return cls(form.getlist("scopes"), lifetime, name, accounts)

    def expires_at(self) -> datetime | None:
        """Return when the key ends.

        Raises:
            APIKeyUnfit: none of the lifetimes was chosen.
        """
        if self.lifetime not in LIFETIMES:
            raise APIKeyUnfit("Choose how long the key lasts.")
        return utc_now() + timedelta(days=int(self.lifetime)) if self.lifetime else None

    def account_ids(self) -> list[int] | None:
        """Return the ids, written with commas or blanks between them; none means all accounts.

        Raises:
            APIKeyUnfit: they are no ids.
        """
        words = self.accounts.replace(",", " ").split()
        if not all(re.fullmatch("[0-9]{1,10}", word) for word in words):
            raise APIKeyUnfit("Name accounts by their ids, with commas between them, such as 7, 12.")
        return [int(word) for word in words] or None


@bp.get("")
@open_to(Audience.ADMIN)
def index() -> str:
    """Show the keys, never their secret part; of those that are over, the latest."""
    keys = list_api_keys()
    over = [key for key in keys if not key.is_usable]
    return render_template("api_keys/index.html", keys=[key for key in keys if key.is_usable] + over[:MOST_SHOWN_OVER])


@bp.route("/new", methods=["GET", "POST"])
@open_to(Audience.ADMIN)
def create() -> Response:
    """Ask for everything that a key is, then show it, once."""
    if request.method != "POST":
        return _form(Wish([Scope.TOKENS_READ], "365"))
    wish = Wish.from_form(request.form)
    try:
        if not password_is_right():
            return _form(wish, {"password": "The password is wrong."}, 401)
        issued = issue_api_key(wish.name, wish.scopes, _actor(), wish.expires_at(), wish.account_ids())
    except APIKeyUnfit as problem:
        return _form(wish, {"form": str(problem)}, 400)
    return make_response(render_template("api_keys/issued.html", key=issued.row, text=issued.text))


@bp.route("/<int:key_id>/revoke", methods=["GET", "POST"])
@open_to(Audience.ADMIN)
def revoke(key_id: int) -> Response | str:
    """Ask once more, then refuse the key from now on."""
    key = get_api_key(key_id)
    if request.method != "POST":
        return render_template("api_keys/revoke.html", key=key)
    revoke_api_key(key_id, _actor())
    flash(f"The API key {key.name} is revoked: programs that use it are refused from now on.", "done")
    return redirect(url_for("api_keys.index"), code=303)


def _form(wish: Wish, errors: dict[str, str] | None = None, status: int = 200) -> Response:
    words = errors or {}
    page = render_template("api_keys/create.html", wish=wish, errors=words, meanings=MEANINGS, lifetimes=LIFETIMES)
    return make_response(page, status)


def _actor() -> str:
    admin = current_admin()
    return admin.email if admin else "nobody"
