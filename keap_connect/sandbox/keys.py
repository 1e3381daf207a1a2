"""Personal Access Tokens and Service Account Keys: made by a person for one Keap app, without expiry, deletable."""

import sqlite3
from dataclasses import dataclass
from enum import StrEnum

from keap_connect.sandbox.clock import Clock
from keap_connect.sandbox.grants import digest, random_secret
from keap_connect.sandbox.people import Person
from keap_connect.sandbox.store import Store
from keap_connect.sandbox.switches import SwitchBoard

PREFIX = "KeapAK-"
RANDOM_LENGTH = 50
SHOWN_LENGTH = 4


class KeyKind(StrEnum):
    """The values are what the forms send."""

    PERSONAL = "personal_access_token"
    SERVICE_ACCOUNT = "service_account_key"


@dataclass(frozen=True)
class Key:
    """One key, as remembered: everything but the secret itself."""

    number: int
    digest: str
    kind: KeyKind
    person_id: int
    tenant_id: str
    ending: str
    created_at: float
    used_at: float | None
    deleted_at: float | None

    @property
    def client_id(self) -> str:
        """Whose limits its calls count against: those of the key itself."""
        return self.digest

    def state(self, now: float) -> str:
        return "deleted" if self.deleted_at is not None and self.deleted_at <= now else "live"


class Keys:
    def __init__(self, store: Store, clock: Clock, switches: SwitchBoard) -> None:
        self._store = store
        self._clock = clock
        self._switches = switches

    def make(self, kind: KeyKind, person: Person, tenant_id: str) -> str:
        """Make a key and return it, the only time that it is seen whole."""
        secret = PREFIX + random_secret(RANDOM_LENGTH)
        self._store.run(
            "INSERT INTO api_key (digest, kind, person_id, tenant_id, ending, created_at) VALUES (?, ?, ?, ?, ?, ?)",
            digest(secret), kind, person.person_id, tenant_id, secret[-SHOWN_LENGTH:], self._clock.now(),
        )  # fmt: skip
        return secret

    def use(self, secret: str) -> Key | None:
        """Find a key that works, and note the time."""
        now = self._clock.now()
        row = self._store.row("SELECT * FROM api_key WHERE digest = ?", digest(secret))
        key = key_from_row(row) if row else None
        if key is None or key.state(now) != "live":
            return None
        self._store.run("UPDATE api_key SET used_at = ? WHERE number = ?", now, key.number)
        return key

    def visible(self, person: Person, tenant_id: str) -> list[Key]:
        """What a person sees on a Keap app's page: an admin all keys, others their own."""
        rows = self._store.rows(
            "SELECT * FROM api_key WHERE tenant_id = ? AND deleted_at IS NULL ORDER BY number", tenant_id
        )
        keys = [key_from_row(row) for row in rows]
        return [key for key in keys if person.is_admin or key.person_id == person.person_id]

    def delete(self, number: int) -> None:
        """Delete a key; Keap refuses it only a while later."""
        ends = self._clock.now() + self._switches.positions.revoke_delay_seconds
        self._store.run("UPDATE api_key SET deleted_at = ? WHERE number = ? AND deleted_at IS NULL", ends, number)


def key_from_row(row: sqlite3.Row) -> Key:
    return Key(**(dict(row) | {"kind": KeyKind(row["kind"])}))
