"""The password once more, before a dangerous act: a stolen cookie alone is not enough."""

from flask import request

from keap_connect.access.admins import verify_password
from keap_connect.web.door import signed_in_admin


def password_is_right() -> bool:
    """Whether the form that was sent holds the signed-in admin's password.

    Raises:
        TooManyAttempts: too many failures; nothing was checked.
    """
    password = request.form.get("password", "")
    return verify_password(signed_in_admin().email, password, request.remote_addr or "unknown") is not None
