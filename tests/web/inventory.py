"""Every route there is, by its endpoint: for whom it is open, and how to reach it. A new route needs a line here."""

from collections.abc import Iterator

from flask import Flask

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE")

# endpoint -> audience. "browser" is open to anyone at the door, and then only to the browser that started the flow.
AUDIENCES = {
    "connect.index": "anyone",
    "connect.start": "anyone",
    "connect.callback": "anyone",
    "connect.ended": "anyone",
    "connect.result": "browser",
    "connect.confirm": "browser",
    "connect.your_accounts": "person",
    "connect.forget_me": "anyone",
    "connect.reconnect": "owner",
    "signin.sign_in": "anyone",
    "signin.sign_out": "anyone",
    "accounts.index": "admin",
    "accounts.show": "admin",
    "accounts.refresh": "admin",
    "accounts.complete": "admin",
    "accounts.disconnect": "owner",
    "api_keys.index": "admin",
    "api_keys.create": "admin",
    "api_keys.revoke": "admin",
    "health.healthz": "anyone",
    "health.readyz": "anyone",
    "metrics.metrics": "loopback",
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
    "signin.sign_out": "/signout",
    "accounts.index": "/accounts",
    "accounts.show": "/accounts/{account_id}",
    "accounts.refresh": "/accounts/{account_id}/refresh",
    "accounts.complete": "/accounts/{account_id}/complete",
    "accounts.disconnect": "/accounts/{account_id}/disconnect",
    "api_keys.index": "/api-keys",
    "api_keys.create": "/api-keys/new",
    "api_keys.revoke": "/api-keys/1/revoke",
    "health.healthz": "/healthz",
    "health.readyz": "/readyz",
    "metrics.metrics": "/metrics",
    "static": "/static/css/base.css",
}


def address(endpoint: str, account_id: int = 1, ref: str = "unknown") -> str:
    """Return the path of an endpoint."""
    return ADDRESSES[endpoint].format(account_id=account_id, ref=ref)


def routes(app: Flask) -> dict[str, set[str]]:
    """Return the methods of every endpoint that the app has for browsers; tests/api knocks at those for programs."""
    found: dict[str, set[str]] = {}
    for rule in (rule for rule in app.url_map.iter_rules() if not rule.endpoint.startswith("api.")):
        found.setdefault(rule.endpoint, set()).update(rule.methods or ())
    return found


def posts(app: Flask) -> Iterator[str]:
    """Return every endpoint that takes a POST."""
    return (endpoint for endpoint, methods in routes(app).items() if "POST" in methods)
