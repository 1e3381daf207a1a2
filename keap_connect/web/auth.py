"""Pages, and who may use them: each view says for whom it is open; one that does not is closed to everybody."""

from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import Any

from flask import Blueprint, abort, current_app, flash, g, make_response, redirect, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.wrappers import Response

from keap_connect.access.passwords import verify_again
from keap_connect.access.rate_limits import KNOWN_FOR_SECONDS, remember_browser
from keap_connect.access.sign_ins import find_admin, find_person
from keap_connect.accounts.directory import list_accounts_of
from keap_connect.errors import AccountNotFound, FormRefused, KeapConnectError, WrongPassword
from keap_connect.events.history import Actor
from keap_connect.models import Admin, Role, SignIn
from keap_connect.services import services
from keap_connect.web.browser_security import is_for_programs, read_cookie, set_cookie

View = Callable[..., ResponseReturnValue]
Page = Callable[..., ResponseReturnValue]
Decorator = Callable[[View], View]


class Audience(StrEnum):
    ANYONE = "anyone"
    VIEWER = "viewer"  # an admin of any role: pages that only show, and the admin's own profile
    ADMIN = "admin"  # an admin who may act
    OWNER = "owner"  # an admin who may act, or the customer whose account is in the URL


class PersonUnknown(KeapConnectError):
    """The page is for customers, and this browser has no customer's sign-in."""

    status, code = 403, "not_allowed"
    heading = "You are not signed in"
    advice = (
        "Connect your Keap account again: that shows who you are, needs no password here, and changes nothing else."
    )


class ViewerRefused(KeapConnectError):
    """A viewer asked for what only an admin may do."""

    status, code = 403, "not_allowed"
    heading = "Your role is viewer"
    advice = "You can see all accounts but change nothing. Ask an admin to do it, or to make you an admin."


class Pages(Blueprint):
    """The pages of one module. Each route says for whom it is open; other options are those of Flask's routes."""

    def page(self, rule: str, audience: Audience, **options: Any) -> Decorator:
        """Declare a view that only shows something."""
        return self._declare(["GET"], rule, audience, None, **options)

    def act(self, rule: str, audience: Audience, page: Page | None = None, **options: Any) -> Decorator:
        """Declare a view that only answers a POST; with a page, as `form` does."""
        return self._declare(["POST"], rule, audience, page, **options)

    def form(self, rule: str, audience: Audience, page: Page | None = None, **options: Any) -> Decorator:
        """Declare a view, and the page that its form is on. GET shows the page; without one, the view does that, too.

        A POST that is refused shows the page again, with what was typed.

        Args:
            page: takes the values of the address. Its template has `errors`: a sentence by the name of its field.
        """
        return self._declare(["GET", "POST"], rule, audience, page, **options)

    def _declare(
        self,
        methods: list[str],
        rule: str,
        audience: Audience,
        page: Page | None,
        *,
        most_bytes: int | None = None,  # of a body, if it may be larger than those of other views
        takes_one_click: bool = False,  # mail programs POST to it without a form of ours: its address proves who asks
        **options: Any,
    ) -> Decorator:
        def declare(view: View) -> View:
            shown = _on_page(view, page) if page else view
            vars(shown)["audience"] = audience
            if most_bytes is not None:
                vars(shown)["most_bytes"] = most_bytes
            vars(shown)["takes_one_click"] = takes_one_click
            self.add_url_rule(rule, view_func=shown, methods=methods, **options)
            return shown

        return declare


def _on_page(view: View, page: Page) -> View:
    @wraps(view)
    def answer(**values: object) -> ResponseReturnValue:
        if request.method != "POST":
            return page(**values)
        try:
            return view(**values)
        except FormRefused as refusal:
            g.errors = {refusal.field: str(refusal)}
            return make_response(page(**values), refusal.form_status)

    return answer


def form_errors() -> dict[str, str]:
    errors: dict[str, str] = g.get("errors", {})
    return errors


def see_other(endpoint: str, notice: str = "", tone: str = "done", **values: Any) -> Response:
    """Redirect to a page of ours, which shows the notice."""
    if notice:
        flash(notice, tone)
    return redirect(url_for(endpoint, **values), code=303)


def check_audience() -> Response | None:
    """Check, before a view runs, who may use it."""
    if request.endpoint in {None, "static"} or is_for_programs():
        return None
    audience = getattr(current_app.view_functions[request.endpoint or ""], "audience", None)
    if audience is None:
        abort(403)
    if audience is Audience.ANYONE:
        return None
    if current_admin() is not None and needs_second_factor() and request.blueprint != "profile":
        return see_other("profile.show", _anchor="second-factor")
    if audience is Audience.OWNER and not may_act():
        _check_owner()
        return None
    if current_admin() is None:
        return _ask_to_sign_in()
    if audience is not Audience.VIEWER and not may_act():
        raise ViewerRefused("A viewer may not do that.")
    return None


def current_admin() -> Admin | None:
    if "admin" not in g:
        # The list of accounts requests itself every 15 seconds (static/js/live.js) with this header.
        g.admin = find_admin(read_cookie("admin"), is_sign_of_life="X-Live" not in request.headers)
    found: Admin | None = g.admin
    return found


def may_act() -> bool:
    """Whether an admin is signed in who is more than a viewer."""
    admin = current_admin()
    return admin is not None and admin.role == Role.ADMIN


def needs_second_factor() -> bool:
    """Whether the admin who is signed in has to set up two-factor authentication before anything else."""
    return services().settings.requires_two_factor and signed_in_admin().totp_on_at is None


def signed_in_admin() -> Admin:
    admin = current_admin()
    if admin is None:
        abort(403)
    return admin


def check_password(field: str = "password") -> None:
    """Check the password again, before an act that a stolen cookie alone must not allow.

    Args:
        field: the id of the input on a page that asks for it in two places; its name is always `password`.

    Raises:
        WrongPassword: it is not the password of the admin who is signed in.
        TooManyAttempts: too many wrong ones; nothing was checked.
    """
    if not verify_again(signed_in_admin(), request.form.get("password", "")):
        raise WrongPassword("That password is wrong. Nothing was changed.", field)


def actor() -> str:
    """Return the name that the history gives to the person who makes this request."""
    admin = current_admin()
    return admin.email if admin else Actor.CUSTOMER


def current_person() -> SignIn | None:
    if "person" not in g:
        g.person = find_person(read_cookie("person"))
    found: SignIn | None = g.person
    return found


def know_browser(response: Response, admin: Admin) -> None:
    """Let this browser be known as the admin's, so that wrong passwords of strangers do not shut it out."""
    set_cookie(response, "device", remember_browser(admin), KNOWN_FOR_SECONDS)


def welcome_person(session_id: str) -> None:
    """Let the answer to this request already show the customer as signed in."""
    g.person = find_person(session_id)


def local_path(path: str) -> str | None:
    """Return a path of ours that is safe to redirect to, else None.

    Only a path with one leading slash and plain characters: no host, no scheme, no backslash, no control character.
    """
    plain = path.replace("/", "").replace("-", "").replace("_", "")
    is_plain = path.startswith("/") and not path.startswith("//") and plain.isascii() and plain.isalnum()
    return path if path == "/" or is_plain else None


def _ask_to_sign_in() -> Response:
    next_path = local_path(request.path) if request.method == "GET" else None
    return see_other("signin.sign_in", next=next_path)


def _check_owner() -> None:
    """Check that the account in the URL belongs to the customer who is signed in; a viewer can be one, too."""
    person = current_person()
    if person is None and current_admin() is None:
        raise PersonUnknown("This browser has not connected a Keap account lately.")
    mine = list_accounts_of(person)
    if (request.view_args or {}).get("account_id") in {account.id for account in mine}:
        return
    if current_admin():
        raise ViewerRefused("A viewer may not do that.")
    raise AccountNotFound("There is no such account among yours.")
