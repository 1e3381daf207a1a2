"""Grants, and the codes and tokens that come from them: issuing, finding, rotating, revoking.

The rules of Keap that no switch changes live here; the protocol around them is oauthlib's.
"""

import hashlib
import random
import sqlite3
import string
from dataclasses import dataclass
from enum import StrEnum

from keap_connect.sandbox.clock import Clock
from keap_connect.sandbox.store import Store
from keap_connect.sandbox.switches import FOR_300_SECONDS, UNTIL_USED, SwitchBoard

CODE_SECONDS = 10 * 60
REFRESH_TOKEN_SECONDS = 45 * 24 * 3600
CODE_LENGTH, ACCESS_TOKEN_LENGTH, REFRESH_TOKEN_LENGTH = 8, 28, 32

_random = random.SystemRandom()

TOKENS = """SELECT token.*, client_id, person_id, tenant_id, access_grant.revoked_at AS grant_revoked_at
FROM token JOIN access_grant USING (grant_id)"""


class Kind(StrEnum):
    """What a secret is; the names that the ledger shows."""

    CODE = "code"
    ACCESS_TOKEN = "access_token"  # noqa: S105  (the name of a kind)
    REFRESH_TOKEN = "refresh_token"  # noqa: S105
    KEY = "key"


def random_secret(length: int) -> str:
    """Mixed-case letters and digits, as Keap's codes and tokens look today."""
    return "".join(_random.choices(string.ascii_letters + string.digits, k=length))


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def fingerprint(secret: str) -> str:
    """The part of the digest by which people and tests recognize a token."""
    return digest(secret)[:16]


def scope_of(tenant_id: str) -> str:
    """Keap answers `full` with the tenant behind a bar."""
    return f"full|{tenant_id}.infusionsoft.com"


@dataclass(frozen=True)
class Token:
    """One issued code or token, as remembered: everything but the secret itself."""

    digest: str
    kind: Kind
    grant_id: int
    generation: int
    client_id: str
    person_id: int
    tenant_id: str
    issued_at: float
    expires_at: float
    used_at: float | None
    revoked_at: float | None
    redirect_uri: str | None
    code_challenge: str | None

    def state(self, now: float) -> str:
        if self.revoked_at is not None and self.revoked_at <= now:
            return "revoked"
        if self.used_at is not None:
            return "used"
        return "expired" if self.expires_at <= now else "live"


@dataclass(frozen=True)
class IssuedPair:
    """The secrets of one successful answer; `refresh_token` is missing when Keap does not rotate."""

    access_token: str
    refresh_token: str | None
    expires_in: int
    scope: str

    def token_response(self) -> dict[str, object]:
        """Keap's body for both grants, in Keap's order."""
        body: dict[str, object] = {
            "access_token": self.access_token,
            "token_type": "bearer",
            "expires_in": self.expires_in,
            "refresh_token": self.refresh_token,
            "scope": self.scope,
        }
        if self.refresh_token is None:
            del body["refresh_token"]
        return body


class Grants:
    """Call the methods that check and change inside `store.transaction()`."""

    def __init__(self, store: Store, clock: Clock, switches: SwitchBoard) -> None:
        self._store = store
        self._clock = clock
        self._switches = switches

    def open(self, client_id: str, person_id: int, tenant_id: str) -> int:
        """Record one consent; returns the grant's number."""
        now = self._clock.now()
        if self._switches.positions.second_consent_kills_first:
            self._store.run(
                "UPDATE access_grant SET revoked_at = ?"
                " WHERE client_id = ? AND person_id = ? AND tenant_id = ? AND revoked_at IS NULL",
                now, client_id, person_id, tenant_id,
            )  # fmt: skip
        return self._store.insert(
            "INSERT INTO access_grant (client_id, person_id, tenant_id, granted_at) VALUES (?, ?, ?, ?)",
            client_id, person_id, tenant_id, now,
        )  # fmt: skip

    def issue_code(self, grant_id: int, code: str, redirect_uri: str, code_challenge: str | None) -> None:
        now = self._clock.now()
        self._store.run(
            "INSERT INTO token VALUES (?, ?, ?, 0, ?, ?, NULL, NULL, ?, ?)",
            digest(code), Kind.CODE, grant_id, now, now + CODE_SECONDS, redirect_uri, code_challenge,
        )  # fmt: skip

    def issue_pair(self, grant_id: int, tenant_id: str, spent: Token | None = None) -> IssuedPair:
        """Issue an access token and, unless the spent refresh token stays alive, a refresh token."""
        switches = self._switches.positions
        now = self._clock.now()
        stays = spent is not None and spent.kind is Kind.REFRESH_TOKEN and not switches.rotation
        generation = 1 if spent is None else spent.generation + (0 if stays else 1)
        if spent is not None:
            self._spend(spent, now, stays)
        pair = IssuedPair(
            random_secret(ACCESS_TOKEN_LENGTH),
            None if stays else random_secret(REFRESH_TOKEN_LENGTH),
            int(switches.issue_expires_in),
            scope_of(tenant_id),
        )
        secrets = [(pair.access_token, Kind.ACCESS_TOKEN, now + pair.expires_in)]
        if pair.refresh_token:
            secrets.append((pair.refresh_token, Kind.REFRESH_TOKEN, now + REFRESH_TOKEN_SECONDS))
        self._store.run_many(
            "INSERT INTO token VALUES (?, ?, ?, ?, ?, ?, NULL, NULL, NULL, NULL)",
            [(digest(secret), kind, grant_id, generation, now, ends) for secret, kind, ends in secrets],
        )
        return pair

    def _spend(self, token: Token, now: float, stays: bool) -> None:
        if stays:
            ends = now + REFRESH_TOKEN_SECONDS
            self._store.run("UPDATE token SET expires_at = ? WHERE digest = ?", ends, token.digest)
        else:
            self._store.run("UPDATE token SET used_at = COALESCE(used_at, ?) WHERE digest = ?", now, token.digest)
        if token.kind is Kind.REFRESH_TOKEN and self._switches.positions.old_access_token_dies_on_refresh:
            self._store.run(
                "UPDATE token SET revoked_at = ? WHERE grant_id = ? AND kind = ? AND revoked_at IS NULL",
                now, token.grant_id, Kind.ACCESS_TOKEN,
            )  # fmt: skip

    def find(self, secret: str, kind: Kind) -> Token | None:
        row = self._store.row(f"{TOKENS} WHERE digest = ? AND kind = ?", digest(secret), kind)
        return token_from_row(row) if row else None

    def works_again(self, token: Token) -> bool:
        """Whether a used refresh token brings another pair; the first one is not kept, only its digests."""
        cure = self._switches.positions.old_refresh_token_works
        if token.kind is not Kind.REFRESH_TOKEN or token.used_at is None:
            return False
        if cure == FOR_300_SECONDS:
            return self._clock.now() < token.used_at + 300
        return cure == UNTIL_USED and not self._store.rows(
            "SELECT 1 FROM token WHERE grant_id = ? AND kind = ? AND generation > ? AND used_at IS NOT NULL",
            token.grant_id, Kind.REFRESH_TOKEN, token.generation,
        )  # fmt: skip

    def revoke(self, grant_id: int) -> None:
        """End a grant at once, with every token that came from it."""
        now = self._clock.now()
        self._store.run(
            "UPDATE access_grant SET revoked_at = MIN(?, COALESCE(revoked_at, ?)) WHERE grant_id = ?",
            now, now, grant_id,
        )  # fmt: skip

    def withdraw(self, tenant_id: str, person_id: int | None = None, client_id: str | None = None) -> int:
        """Let a customer take access back, after Keap's delay; returns how many grants that ended."""
        return self._store.run(
            "UPDATE access_grant SET revoked_at = ? WHERE tenant_id = ? AND revoked_at IS NULL"
            " AND person_id = COALESCE(?, person_id) AND client_id = COALESCE(?, client_id)",
            self._clock.now() + self._switches.positions.revoke_delay_seconds,
            tenant_id, person_id, client_id,
        )  # fmt: skip

    def live_grants(self, tenant_id: str) -> list[sqlite3.Row]:
        """What a tenant's page of authorized applications lists: one row per app and person."""
        return self._store.rows(
            "SELECT client_id, person_id, MIN(granted_at) AS granted_at, COUNT(*) AS grants FROM access_grant"
            " WHERE tenant_id = ? AND revoked_at IS NULL GROUP BY client_id, person_id ORDER BY granted_at",
            tenant_id,
        )

    def replace_secret(self, old: str, new: str) -> None:
        """Let an issued token have another value, as if it had been issued like that."""
        self._store.run("UPDATE token SET digest = ? WHERE digest = ?", digest(new), digest(old))


def token_from_row(row: sqlite3.Row) -> Token:
    revocations = [at for at in (row["revoked_at"], row["grant_revoked_at"]) if at is not None]
    return Token(
        digest=row["digest"],
        kind=Kind(row["kind"]),
        grant_id=row["grant_id"],
        generation=row["generation"],
        client_id=row["client_id"],
        person_id=row["person_id"],
        tenant_id=row["tenant_id"],
        issued_at=row["issued_at"],
        expires_at=row["expires_at"],
        used_at=row["used_at"],
        revoked_at=min(revocations, default=None),
        redirect_uri=row["redirect_uri"],
        code_challenge=row["code_challenge"],
    )
