"""The switches: what nobody knows for sure about Keap, or what differs between its eras.

Each field below is one switch, with its default and the sentence the control page shows.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import TypeVar

from keap_connect.sandbox.apps import RedirectURIMode
from keap_connect.sandbox.store import Store

T = TypeVar("T")
# How other providers make good a lost answer.
UNTIL_USED = "until the new one is used"
FOR_300_SECONDS = "for 300 seconds"


def switch(default: T, sentence: str, choices: tuple[str, ...] = ()) -> T:
    value: T = field(default=default, metadata={"sentence": sentence, "choices": choices})
    return value


@dataclass
class Switches:
    """The positions of all switches; change them through `SwitchBoard`, which remembers them."""

    family_revocation: bool = switch(False, "Using a refresh token or a code twice ends the whole grant.")
    rotation: bool = switch(True, "Refreshing replaces the refresh token; off: the old one stays.")
    old_access_token_dies_on_refresh: bool = switch(False, "Refreshing ends the previous access token at once.")
    second_consent_kills_first: bool = switch(False, "A new consent ends the same person's earlier grant.")
    body_credentials_on_refresh: bool = switch(True, "Refreshing also accepts client credentials in the body.")
    pkce: bool = switch(False, "PKCE is enforced when a code challenge (S256) is sent; off: ignored.")
    userinfo_v2_tenant_id: bool = switch(True, "User info v2 names the tenant.")
    show_refresh_token_on_api_access: bool = switch(True, "The Generate API Token page also shows the refresh token.")
    app_disabled: bool = switch(False, "Keap has disabled the developer app.")
    old_refresh_token_works: str = switch(
        "never",
        "How long a refresh token that was used still works; each time it brings another new pair",
        ("never", UNTIL_USED, FOR_300_SECONDS),
    )
    refresh_wording: str = switch(
        "invalid_request",
        "Error code for a dead refresh token: today's, or the one used before 2020",
        ("invalid_request", "invalid_grant"),
    )
    redirect_uri_mode: str = switch(
        RedirectURIMode.ALLOW_LOCALHOST.value,
        "Which redirection URIs are accepted",
        tuple(mode.value for mode in RedirectURIMode),
    )
    issue_expires_in: int = switch(86399, "Seconds that access tokens issued from now on live")
    revoke_delay_seconds: float = switch(0.0, "Seconds that withdrawn access keeps working (Keap: up to 180)")
    token_delay_seconds: float = switch(0.0, "Seconds that every token call takes longer")
    api_delay_seconds: float = switch(0.0, "Seconds that every REST call takes longer")


class SwitchBoard:
    """Keeps the positions in the store."""

    def __init__(self, store: Store, redirect_uri_mode: RedirectURIMode) -> None:
        self._store = store
        self._redirect_uri_mode = redirect_uri_mode
        self.positions = Switches()
        self.reload()

    def reload(self) -> None:
        """Take the positions from the store again, the defaults where it holds none."""
        self.positions = Switches(redirect_uri_mode=self._redirect_uri_mode.value)
        saved = self._store.setting("switches", {})
        if isinstance(saved, dict):
            self._apply(saved)

    def set(self, values: dict[str, object]) -> None:
        """Change some switches; all of them or, on the first bad one, none.

        Raises:
            ValueError: an unknown switch or a value of the wrong kind, said in one sentence.
        """
        for name, value in values.items():
            check(name, value)
        self._apply(values)
        self._store.save_setting("switches", dataclasses.asdict(self.positions))

    def _apply(self, values: dict[str, object]) -> None:
        for name, value in values.items():
            setattr(self.positions, name, value)


def check(name: str, value: object) -> None:
    """Refuse a switch that does not exist or a value that does not fit it, with a `ValueError`."""
    fields = {one.name: one for one in dataclasses.fields(Switches)}
    if name not in fields:
        raise ValueError(f"There is no switch {name!r}.")
    default, choices = fields[name].default, fields[name].metadata["choices"]
    if choices and value not in choices:
        raise ValueError(f"{name} is one of {', '.join(choices)}.")
    if isinstance(default, bool) and not isinstance(value, bool):
        raise ValueError(f"{name} is true or false.")
    is_number = isinstance(default, int | float) and not isinstance(default, bool)
    if is_number and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
        raise ValueError(f"{name} is a number from 0 on.")
