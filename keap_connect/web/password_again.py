"""Dangerous acts ask for the password again, so that a cookie alone is not enough."""

from flask import request

from keap_connect.access.admins import verify_password
from keap_connect.web.door import current_admin


def password_is_right() -> bool:
    """Say whether the form's `password` is that of the admin who is signed in.

    Raises:
        TooManyAttempts: too many wrong ones came before; nothing was checked.
    """
    admin = current_admin()
    if admin is None:
        return False
    password = request.form.get("password", "")
    return verify_password(admin.email, password, request.remote_addr or "unknown") is not None
