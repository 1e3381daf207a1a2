"""The ledger: every token issued, and every presentation of a code, refresh token or access token.

Tests read it to prove that nothing was presented twice. It shows fingerprints, never secrets.
"""

import threading
from dataclasses import dataclass, field

from keap_connect.sandbox.clock import Clock, iso
from keap_connect.sandbox.grants import TOKENS, Kind, fingerprint, token_from_row
from keap_connect.sandbox.store import Store

TOKEN_PATH = "/token"  # noqa: S105  (a path)


@dataclass(eq=False)
class Presentation:
    """One secret on its way through the sandbox; in flight until it is answered."""

    number: int
    fingerprint: str
    overlapped: bool


@dataclass
class Ledger:
    store: Store
    clock: Clock
    _in_flight: dict[str, list[Presentation]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, kind: str, secret: str, path: str) -> Presentation:
        """Note that a secret has arrived, and mark all presentations of it that are now in flight at once."""
        mark = fingerprint(secret) if secret else ""
        with self._lock:
            others = self._in_flight.setdefault(mark, []) if mark else []
            number = self.store.insert(
                "INSERT INTO presentation (at, kind, fingerprint, path, outcome, overlapped)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                self.clock.now(), kind, mark, path, "in flight", bool(others),
            )  # fmt: skip
            presentation = Presentation(number, mark, bool(others))
            for other in others:
                other.overlapped = True
            others.append(presentation)
        return presentation

    def end(self, presentation: Presentation, outcome: str, status: int | None) -> None:
        """Note the answer; `status` is None when the connection was cut instead."""
        with self._lock:
            others = self._in_flight.get(presentation.fingerprint, [])
            if presentation in others:
                others.remove(presentation)
            elif presentation.fingerprint:
                return  # The ledger was cleared meanwhile.
            if not others:
                self._in_flight.pop(presentation.fingerprint, None)
            self.store.run(
                "UPDATE presentation SET outcome = ?, status = ?, overlapped = ? WHERE number = ?",
                outcome, status, presentation.overlapped, presentation.number,
            )  # fmt: skip

    def clear(self) -> None:
        """Forget the presentations; the tokens stay, since people still hold them."""
        with self._lock:
            self._in_flight.clear()
            self.store.run("DELETE FROM presentation")

    def tokens(self, tenant_id: str | None = None, newest: int = -1) -> list[dict[str, object]]:
        """The issued tokens, oldest first; `newest` limits them to the latest ones."""
        now = self.clock.now()
        rows = self.store.rows(
            f"{TOKENS} WHERE tenant_id = COALESCE(?, tenant_id) ORDER BY token.rowid DESC LIMIT ?", tenant_id, newest
        )
        tokens = [token_from_row(row) for row in reversed(rows)]
        return [
            {
                "fingerprint": token.digest[:16],
                "kind": token.kind,
                "grant_id": token.grant_id,
                "generation": token.generation,
                "tenant_id": token.tenant_id,
                "person_id": token.person_id,
                "client_id": token.client_id,
                "issued_at": iso(token.issued_at),
                "expires_at": iso(token.expires_at),
                "state": token.state(now),
            }
            for token in tokens
        ]

    def presentations(self, tenant_id: str | None = None, newest: int = -1) -> list[dict[str, object]]:
        """The presentations, oldest first; with a tenant only those of its tokens."""
        rows = self.store.rows(
            f"SELECT * FROM presentation WHERE {OF_TENANT} ORDER BY number DESC LIMIT ?",  # noqa: S608
            tenant_id, tenant_id, newest,
        )  # fmt: skip
        return [dict(row) | {"at": iso(row["at"]), "overlapped": bool(row["overlapped"])} for row in reversed(rows)]

    def totals(self, tenant_id: str | None = None) -> dict[str, int]:
        """Counts of the token endpoint. Parallel use of one access token is no fault and does not count."""
        row = self.store.rows(TOTALS, *[tenant_id, tenant_id] * 3)[0]
        return {name: int(row[name] or 0) for name in row.keys()}  # noqa: SIM118  (a Row iterates over values)


OF_TENANT = """(? IS NULL OR fingerprint IN (
  SELECT SUBSTR(digest, 1, 16) FROM token JOIN access_grant USING (grant_id) WHERE tenant_id = ?))"""
TOTALS = f"""SELECT
  COUNT(*) AS token_calls,
  SUM(kind = '{Kind.CODE}') AS exchanges,
  SUM(kind = '{Kind.REFRESH_TOKEN}') AS refreshes,
  (SELECT COUNT(*) FROM (SELECT 1 FROM presentation
    WHERE kind = '{Kind.REFRESH_TOKEN}' AND path = '{TOKEN_PATH}' AND {OF_TENANT}
    GROUP BY fingerprint HAVING COUNT(*) > 1)) AS refresh_tokens_presented_more_than_once,
  SUM(overlapped) AS overlapping_presentations,
  (SELECT MAX(calls) FROM (SELECT COUNT(*) AS calls FROM presentation
    WHERE path = '{TOKEN_PATH}' AND {OF_TENANT} GROUP BY CAST(at AS INTEGER))) AS peak_token_calls_per_second
FROM presentation WHERE path = '{TOKEN_PATH}' AND {OF_TENANT}"""  # noqa: S608  (constants only)
