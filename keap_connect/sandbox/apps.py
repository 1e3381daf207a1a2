"""The developer apps (OAuth clients) that Keap knows, and which redirection URIs they may name."""

import hmac
import json
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from keap_connect.sandbox.store import Store

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")


class RedirectURIMode(StrEnum):
    """How strictly a redirection URI is checked; Keap's own rule is not known for sure."""

    ALLOW_LOCALHOST = "allow-localhost"
    STRICT_HTTPS = "strict-https"
    REGISTERED_LIST = "registered-list"


@dataclass(frozen=True)
class App:
    client_id: str
    client_secret: str
    redirect_uris: tuple[str, ...] = ()

    def has_secret(self, secret: str) -> bool:
        return hmac.compare_digest(self.client_secret.encode(), secret.encode())

    def may_use(self, redirect_uri: str, mode: RedirectURIMode) -> bool:
        if mode is RedirectURIMode.REGISTERED_LIST:
            return redirect_uri in self.redirect_uris
        return is_acceptable(redirect_uri, mode)


DEFAULT_APP = App("sandboxclientid00000000000000001", "sandboxsecret001")


def is_acceptable(redirect_uri: str, mode: RedirectURIMode) -> bool:
    """Whether any app at all could be sent to this address: HTTPS, or loopback where that is allowed."""
    try:
        parts = urlsplit(redirect_uri)
    except ValueError:
        return False
    if not parts.hostname or parts.fragment or not redirect_uri.isprintable():
        return False
    if parts.scheme == "https":
        return True
    is_loopback = parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS
    return is_loopback and mode is not RedirectURIMode.STRICT_HTTPS


class Apps:
    """Finds apps by client id. The default app is always there; others are added by tests."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self) -> list[App]:
        rows = self._store.rows("SELECT * FROM app ORDER BY client_id")
        added = [App(row["client_id"], row["client_secret"], tuple(json.loads(row["redirect_uris"]))) for row in rows]
        if DEFAULT_APP.client_id in {app.client_id for app in added}:
            return added
        return [DEFAULT_APP, *added]

    def find(self, client_id: str | None) -> App | None:
        if client_id == DEFAULT_APP.client_id and not self._store.row(
            "SELECT 1 FROM app WHERE client_id = ?", client_id
        ):
            return DEFAULT_APP
        return next((app for app in self.all() if app.client_id == client_id), None)

    def add(self, app: App) -> None:
        """Register an app, or replace the one with the same client id."""
        self._store.run(
            "INSERT OR REPLACE INTO app VALUES (?, ?, ?)",
            app.client_id,
            app.client_secret,
            json.dumps(app.redirect_uris),
        )
