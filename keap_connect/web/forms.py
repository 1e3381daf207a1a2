"""How pages answer a form that was refused, also because of a wrong password."""

from collections.abc import Callable
from functools import wraps

from flask import make_response, request
from werkzeug.wrappers import Response

from keap_connect.access.passwords import verify_again
from keap_connect.errors import FormRefused, WrongPassword
from keap_connect.web.auth import signed_in_admin

View = Callable[..., Response]
Page = Callable[..., Response | str]


def form(page: Page) -> Callable[[View], View]:
    """Declare the page that a form is on. GET shows it; a refused POST shows it again, with what was typed.

    Args:
        page: takes the values of the address, and `errors`: a sentence by the name of its field.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def answer(**values: object) -> Response:
            if request.method != "POST":
                return make_response(page(**values))
            try:
                return view(**values)
            except FormRefused as refusal:
                return make_response(page(**values, errors={refusal.field: str(refusal)}), refusal.form_status)

        return answer

    return decorate


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
