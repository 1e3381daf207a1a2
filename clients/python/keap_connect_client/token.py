"""An access token as Keap Connect hands it out."""

import hashlib
import time
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True)
class Token:
    """A token that was valid when it came. Its text is not in its `repr`.

    `expires_in` is in seconds, None for keys that do not expire; `warning` says why the token could not be made to last
    longer; `usable_until` is on this machine's monotonic clock.
    """

    access_token: str = field(repr=False)
    expires_in: float | None
    expires_at: datetime | None
    tenant_id: str | None
    state: str
    fingerprint: str
    warning: str | None
    usable_until: float | None = field(repr=False)

    @classmethod
    def from_answer(cls, answer: dict[str, object], asked_at: float) -> "Token":
        """Read the answer of the token API.

        Args:
            asked_at: when it was asked for, on the monotonic clock; the token's life is counted from there.
        """
        access_token = str(answer["access_token"])
        expires_in = answer.get("expires_in")
        expires_at = answer.get("expires_at")
        seconds = float(expires_in) if isinstance(expires_in, int | float) else None
        return cls(
            access_token=access_token,
            expires_in=seconds,
            expires_at=datetime.fromisoformat(expires_at) if isinstance(expires_at, str) else None,
            tenant_id=_text(answer.get("tenant_id")),
            state=str(answer.get("state", "")),
            fingerprint=str(answer.get("fingerprint") or fingerprint_of(access_token)),
            warning=_text(answer.get("warning")),
            usable_until=None if seconds is None else asked_at + seconds,
        )

    def lasts(self, seconds: float) -> bool:
        """Whether it is valid for so many seconds more."""
        return self.usable_until is None or self.usable_until > time.monotonic() + seconds


def fingerprint_of(access_token: str) -> str:
    """Name a token without telling it: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(access_token.encode()).hexdigest()[:16]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
