"""Every route there is, by its endpoint: for whom it is open, and how to reach it. A new route needs a line here."""

import hashlib
import hmac
from collections.abc import Iterator

from flask import Flask

from tests.conftest import ADMIN_EMAIL, SECRET_KEY

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE")
LINK_TOKEN = "canary-link-" + "l" * 31  # the secret of the reconnect link, and of the invitation, that there is
PASSWORD_TICKET = "canary-password-link-" + "p" * 11  # the secret of the link to choose a password that there is
# In the link that ends the daily digest to the admin there is.
_SIGNED = "\n".join(["unsubscribe", "digest", ADMIN_EMAIL])
UNSUBSCRIBE_TOKEN = f"digest-{hmac.new(SECRET_KEY.encode(), _SIGNED.encode(), hashlib.sha256).hexdigest()}"

# endpoint -> audience. "browser" is open to anyone at the door, and then only to the browser that started the flow.
AUDIENCES = {
    "connect.index": "anyone",
    "connect.start": "anyone",
    "connect.callback": "anyone",
    "connect.ended": "anyone",
    "connect.result": "browser",
    "connect.confirm": "browser",
    "connect.your_accounts": "anyone",
    "connect.forget_me": "anyone",
    "connect.reconnect": "owner",
    "signin.sign_in": "anyone",
    "signin.second_step": "anyone",
    "signin.new_password": "anyone",
    "signin.sign_out": "anyone",
    "profile.show": "viewer",
    "profile.password": "viewer",
    "profile.prepare": "viewer",
    "profile.switch_on": "viewer",
    "profile.switch_off": "viewer",
    "profile.recovery_codes": "viewer",
    "profile.end_sign_ins": "viewer",
    "profile.mails": "admin",
    "mail.index": "admin",
    "mail.end": "anyone",
    "admins.index": "admin",
    "admins.show": "admin",
    "accounts.index": "viewer",
    "accounts.journeys": "viewer",
    "accounts.resume": "admin",
    "accounts.show": "viewer",
    "accounts.refresh": "admin",
    "accounts.complete": "admin",
    "accounts.name": "admin",
    "accounts.disconnect": "owner",
    "accounts.erase": "admin",
    "audit.index": "viewer",
    "audit.download": "viewer",
    "setup.index": "viewer",
    "setup.check": "admin",
    "support.show": "admin",
    "imports.one": "admin",
    "imports.file": "admin",
    "jobs.show": "viewer",
    "jobs.download": "viewer",
    "jobs.links": "admin",
    "jobs.stop": "admin",
    "bulk.choose": "admin",
    "exports.accounts": "admin",
    "accounts.access_token": "admin",
    "reconnect_links.create": "admin",
    "reconnect_links.revoke": "admin",
    "reconnect_links.use": "anyone",
    "reconnect_links.again": "browser",
    "invitations.use": "anyone",
    "invitations.index": "viewer",
    "invitations.create": "admin",
    "invitations.file": "admin",
    "invitations.show": "viewer",
    "invitations.change": "admin",
    "api_keys.index": "admin",
    "api_keys.create": "admin",
    "api_keys.rotate": "admin",
    "api_keys.revoke": "admin",
    "webhooks.index": "viewer",
    "webhooks.create": "admin",
    "webhooks.show": "viewer",
    "webhooks.change": "admin",
    "webhooks.edit": "admin",
    "webhooks.redeliver": "admin",
    "health.show": "viewer",
    "health.healthz": "anyone",
    "health.readyz": "anyone",
    "documents.show": "viewer",
    "well_known.logo": "anyone",
    "well_known.favicon": "anyone",
    "well_known.change_password": "anyone",
    "well_known.security_txt": "anyone",
}
ADDRESSES = {
    "connect.index": "/",
    "connect.start": "/connect",
    "connect.callback": "/callback",
    "connect.ended": "/connect/ended/denied",
    "connect.result": "/connect/{ref}",
    "connect.confirm": "/connect/{ref}/confirm",
    "connect.your_accounts": "/your-accounts",
    "connect.forget_me": "/your-accounts/sign-out",
    "connect.reconnect": "/reconnect/{account_id}",
    "signin.sign_in": "/signin",
    "signin.second_step": "/signin/code",
    "signin.new_password": f"/new-password/{PASSWORD_TICKET}",
    "signin.sign_out": "/signout",
    "profile.show": "/profile",
    "profile.password": "/profile/password",
    "profile.prepare": "/profile/second-factor/new",
    "profile.switch_on": "/profile/second-factor",
    "profile.switch_off": "/profile/second-factor/off",
    "profile.recovery_codes": "/profile/recovery-codes",
    "profile.end_sign_ins": "/profile/sign-ins/end",
    "profile.mails": "/profile/mails",
    "mail.index": "/mail",
    "mail.end": f"/mail/unsubscribe/{UNSUBSCRIBE_TOKEN}",
    "admins.index": "/admins",
    "admins.show": "/admins/1",
    "accounts.index": "/accounts",
    "accounts.journeys": "/accounts/journeys",
    "accounts.resume": "/accounts/resume",
    "accounts.show": "/accounts/{account_id}",
    "accounts.refresh": "/accounts/{account_id}/refresh",
    "accounts.complete": "/accounts/{account_id}/complete",
    "accounts.name": "/accounts/{account_id}/names",
    "accounts.disconnect": "/accounts/{account_id}/disconnect",
    "accounts.erase": "/accounts/{account_id}/erase",
    "audit.index": "/audit",
    "audit.download": "/audit.csv",
    "setup.index": "/setup",
    "setup.check": "/setup/check",
    "support.show": "/support",
    "imports.one": "/import",
    "imports.file": "/import/file",
    "jobs.show": "/jobs/1",
    "jobs.download": "/jobs/1/items.csv",
    "jobs.links": "/jobs/1/links",
    "jobs.stop": "/jobs/1/stop",
    "bulk.choose": "/accounts/bulk",
    "exports.accounts": "/export",
    "accounts.access_token": "/accounts/{account_id}/access-token",
    "reconnect_links.create": "/accounts/{account_id}/reconnect-links",
    "reconnect_links.revoke": "/accounts/{account_id}/reconnect-links/1/revoke",
    "reconnect_links.use": f"/r/{LINK_TOKEN}",
    "reconnect_links.again": "/connect/{ref}/again",
    "invitations.use": f"/i/{LINK_TOKEN}",
    "invitations.index": "/invitations",
    "invitations.create": "/invitations/new",
    "invitations.file": "/invitations/file",
    "invitations.show": "/invitations/1",
    "invitations.change": "/invitations/1/change",
    "api_keys.index": "/api-keys",
    "api_keys.create": "/api-keys/new",
    "api_keys.rotate": "/api-keys/1/rotate",
    "api_keys.revoke": "/api-keys/1/revoke",
    "webhooks.index": "/webhooks",
    "webhooks.create": "/webhooks/new",
    "webhooks.show": "/webhooks/1",
    "webhooks.change": "/webhooks/1/change",
    "webhooks.edit": "/webhooks/1/edit",
    "webhooks.redeliver": "/webhooks/1/deliveries/1/redeliver",
    "health.show": "/health",
    "health.healthz": "/healthz",
    "health.readyz": "/readyz",
    "documents.show": "/help/docs/README.md",
    "well_known.logo": "/logo",
    "well_known.favicon": "/favicon.ico",
    "well_known.change_password": "/.well-known/change-password",
    "well_known.security_txt": "/.well-known/security.txt",
    "static": "/static/css/base.css",
}


def address(endpoint: str, account_id: int = 1, ref: str = "unknown") -> str:
    """Return the path of an endpoint."""
    return ADDRESSES[endpoint].format(account_id=account_id, ref=ref)


def routes(app: Flask) -> dict[str, set[str]]:
    """Return the methods of every endpoint that the app has for browsers; tests/api knocks at those for programs."""
    found: dict[str, set[str]] = {}
    for rule in (rule for rule in app.url_map.iter_rules() if not rule.endpoint.startswith(("api.", "metrics."))):
        found.setdefault(rule.endpoint, set()).update(rule.methods or ())
    return found


def posts(app: Flask) -> Iterator[str]:
    """Return every endpoint that takes a POST."""
    return (endpoint for endpoint, methods in routes(app).items() if "POST" in methods)
