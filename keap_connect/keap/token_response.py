"""What Keap's token endpoint grants, validated once; its repr shows no secret."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeGuard

# Keap says 86399. After a missing or invalid value we refresh within an hour; more than a week is not believed.
DEFAULT_EXPIRES_IN_SECONDS = 3600
MOST_EXPIRES_IN_SECONDS = 7 * 86400
TENANT_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True)
class TokenResponse:
    """A granted pair. `expires_at` counts from the moment the request was sent.

    Source: RFC 6749 section 5.1; Keap answers `scope` as ``full|ab123.infusionsoft.com``.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_at: datetime
    scope: str | None = None

    @property
    def tenant_id(self) -> str | None:
        _, separator, host = (self.scope or "").partition("|")
        return normalize_tenant_id(host) if separator else None

    @property
    def has_full_scope(self) -> bool:
        """Whether Keap granted what was asked for: `full` is the only scope there is."""
        return (self.scope or "full").partition("|")[0] == "full"

    @classmethod
    def from_body(cls, body: Mapping[str, object], sent_at: datetime) -> "TokenResponse | None":
        """Build it from a parsed answer, or return None when the answer is not a usable grant."""
        # An empty refresh token says no more than none.
        access_token, refresh_token = body.get("access_token"), body.get("refresh_token") or None
        token_type, scope = body.get("token_type") or "bearer", body.get("scope")
        if not _is_token(access_token) or body.get("error"):
            return None
        if not (isinstance(token_type, str) and token_type.lower() == "bearer"):
            return None
        if refresh_token is not None and not _is_token(refresh_token):
            return None
        return cls(
            access_token=access_token,
            refresh_token=refresh_token,
            expires_at=sent_at + timedelta(seconds=expires_in_seconds(body.get("expires_in"))),
            # No database holds every character of JSON, and no grant should be lost over one in its scope.
            scope="".join(filter(str.isprintable, scope)) if isinstance(scope, str) else None,
        )


def expires_in_seconds(value: object) -> int:
    """Read `expires_in` as Keap or anybody else may send it: int, float, numeric string, or nonsense."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return DEFAULT_EXPIRES_IN_SECONDS
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return DEFAULT_EXPIRES_IN_SECONDS
    if math.isnan(seconds) or seconds < 1:
        return DEFAULT_EXPIRES_IN_SECONDS
    return int(min(seconds, MOST_EXPIRES_IN_SECONDS))


def normalize_tenant_id(value: object) -> str | None:
    """Return the short form: ``AB123.infusionsoft.com`` and ``ab123`` are both ``ab123``."""
    if not isinstance(value, str):
        return None
    short = value.strip().lower().removesuffix(".infusionsoft.com").removesuffix(".keap.com")
    return short if TENANT_ID.fullmatch(short) else None


def _is_token(value: object) -> TypeGuard[str]:
    """Whether it is text that can be sent and stored: JSON can hold lone surrogates, which UTF-8 cannot."""
    return isinstance(value, str) and value != "" and not any("\ud800" <= part <= "\udfff" for part in value)
