"""The password once more, before an act that a stolen cookie alone must not be able to do."""

from flask import request

from keap_connect.access.passwords import verify_again
from keap_connect.web.auth import signed_in_admin


def password_is_right() -> bool:
    """Whether the form's field `password` holds the password of the admin who is signed in.

    Raises:
        TooManyAttempts: too many wrong ones; nothing was checked.
    """
    return verify_again(signed_in_admin(), request.form.get("password", ""))
