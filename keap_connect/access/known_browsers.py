"""Browsers that an admin has signed in with before. Each has its own limit of guesses, so that strangers who guess the
password of an admin do not lock the admin out.

Source: OWASP, "Slow Down Online Guessing Attacks with Device Cookies".
"""

import hashlib
import hmac
import secrets

from keap_connect.models import Admin
from keap_connect.services import services

LIFETIME_SECONDS = 180 * 86400


def remember_browser(admin: Admin) -> str:
    """Return the value of the cookie for a browser that this admin has signed in with."""
    nonce = secrets.token_urlsafe(16)
    return f"{nonce}.{_signature(admin, nonce)}"


def is_known_browser_of(admin: Admin, cookie: str | None) -> bool:
    nonce, _, signature = (cookie or "").partition(".")
    return hmac.compare_digest(signature.encode(), _signature(admin, nonce).encode())


def _signature(admin: Admin, nonce: str) -> str:
    signed = "\n".join(["device", str(admin.id), admin.email, nonce])
    return hmac.new(services().settings.secret_key.encode(), signed.encode(), hashlib.sha256).hexdigest()
