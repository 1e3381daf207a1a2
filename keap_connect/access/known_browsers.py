"""The browsers an admin has signed in with before. They have a budget of guesses of their own, so that strangers who
guess at her address do not shut her out.

Source: OWASP, "Slow Down Online Guessing Attacks with Device Cookies".
"""

import hashlib
import hmac
import secrets

from keap_connect.models import Admin
from keap_connect.services import services

NONCE_BYTES = 16
LIFETIME_SECONDS = 180 * 86400


def remember_browser(admin: Admin) -> str:
    """Return a value for the cookie of a browser that this admin has signed in with."""
    nonce = secrets.token_urlsafe(NONCE_BYTES)
    return f"{nonce}.{_signature(admin, nonce)}"


def is_known_browser_of(admin: Admin, device: str | None) -> bool:
    """Whether a cookie's value was issued for this very admin."""
    nonce, _, signature = (device or "").partition(".")
    return hmac.compare_digest(signature.encode(), _signature(admin, nonce).encode())


def _signature(admin: Admin, nonce: str) -> str:
    named = "\n".join(["device", str(admin.id), admin.email, nonce])
    return hmac.new(services().settings.secret_key.encode(), named.encode(), hashlib.sha256).hexdigest()
