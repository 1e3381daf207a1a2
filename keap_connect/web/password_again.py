"""The password once more, before an act that a stolen cookie alone must not be able to do."""

from flask import request

from keap_connect.access.admins import verify_password
from keap_connect.web.door import current_admin


def password_is_right() -> bool:
    """Whether the form's field `password` holds the password of the admin who is signed in.

    Raises:
        TooManyAttempts: too many wrong ones; nothing was checked.
    """
    admin = current_admin()
    password = request.form.get("password", "")
    return bool(admin and password and verify_password(admin.email, password, request.remote_addr or "unknown"))
