"""Browsers that an admin has signed in with before. Each has its own limit of guesses, so that strangers who guess the
password of an admin do not lock the admin out. A browser is known for 180 days, and until the password changes.

Source: OWASP, "Slow Down Online Guessing Attacks with Device Cookies".
"""

import hmac
import secrets

from keap_connect.clock import utc_now
from keap_connect.models import Admin
from keap_connect.services import keyed_hash

LIFETIME_SECONDS = 180 * 86400


def remember_browser(admin: Admin) -> str:
    """Return the value of the cookie for a browser that this admin has signed in with."""
    given = f"{secrets.token_urlsafe(16)}.{int(utc_now().timestamp())}"
    return f"{given}.{_signature(admin, given)}"


def is_known_browser_of(admin: Admin, cookie: str | None) -> bool:
    given, _, signature = (cookie or "").rpartition(".")
    if not hmac.compare_digest(signature.encode(), _signature(admin, given).encode()):
        return False
    return utc_now().timestamp() - int(given.rpartition(".")[2]) < LIFETIME_SECONDS


def _signature(admin: Admin, given: str) -> str:
    return keyed_hash("device", str(admin.id), admin.email, admin.password_hash, given)
