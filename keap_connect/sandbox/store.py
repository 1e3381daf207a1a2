"""The sandbox's memory: one SQLite file that survives a restart.

Holds digests of tokens, never the tokens themselves. One connection behind one lock:
only one thread at a time is inside `transaction()`, so check-then-rotate cannot be interleaved.
"""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS app (
  client_id TEXT PRIMARY KEY, client_secret TEXT NOT NULL, redirect_uris TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tenant (tenant_id TEXT PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sign_in (digest TEXT PRIMARY KEY, person_id INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS access_grant (
  grant_id INTEGER PRIMARY KEY, client_id TEXT NOT NULL, person_id INTEGER NOT NULL,
  tenant_id TEXT NOT NULL, granted_at REAL NOT NULL, revoked_at REAL);
CREATE INDEX IF NOT EXISTS access_grant_by_tenant ON access_grant (tenant_id);
CREATE TABLE IF NOT EXISTS token (
  digest TEXT PRIMARY KEY, kind TEXT NOT NULL, grant_id INTEGER NOT NULL, generation INTEGER NOT NULL,
  issued_at REAL NOT NULL, expires_at REAL NOT NULL, used_at REAL, revoked_at REAL,
  redirect_uri TEXT, code_challenge TEXT);
CREATE INDEX IF NOT EXISTS token_by_grant ON token (grant_id);
CREATE TABLE IF NOT EXISTS api_key (
  number INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, person_id INTEGER NOT NULL,
  tenant_id TEXT NOT NULL, ending TEXT NOT NULL, created_at REAL NOT NULL, used_at REAL, deleted_at REAL);
CREATE TABLE IF NOT EXISTS presentation (
  number INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, fingerprint TEXT NOT NULL,
  path TEXT NOT NULL, outcome TEXT NOT NULL, status INTEGER, overlapped INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS fault (
  id INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, name TEXT NOT NULL, schedule TEXT NOT NULL,
  parameters TEXT NOT NULL, calls_seen INTEGER NOT NULL);
"""
TABLES = ("setting", "app", "tenant", "sign_in", "access_grant", "token", "api_key", "presentation", "fault")

Value = str | int | float | None


class Store:
    """Opens or creates the file. Raises sqlite3.Error: the file cannot be opened, written, or is no database."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode=WAL")
        # A killed process loses nothing; only a power cut could, and nothing here is real.
        self._connection.execute("PRAGMA synchronous=OFF")
        self._connection.executescript(SCHEMA)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is one step that no other thread can see half done; may be nested."""
        with self._lock:
            if self._depth == 0:
                self._connection.execute("BEGIN")
            self._depth += 1
            try:
                yield
            except BaseException:
                self._depth -= 1
                if self._depth == 0:
                    self._connection.execute("ROLLBACK")
                raise
            self._depth -= 1
            if self._depth == 0:
                self._connection.execute("COMMIT")

    def run(self, sql: str, *values: Value) -> int:
        """Execute one statement; returns the number of rows it changed."""
        with self._lock:
            return self._connection.execute(sql, values).rowcount

    def run_many(self, sql: str, rows: Iterable[Sequence[Value]]) -> None:
        with self._lock:
            self._connection.executemany(sql, rows)

    def insert(self, sql: str, *values: Value) -> int:
        """Execute one INSERT; returns the number of the new row."""
        with self._lock:
            return self._connection.execute(sql, values).lastrowid or 0

    def rows(self, sql: str, *values: Value) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: Value) -> sqlite3.Row | None:
        found = self.rows(sql, *values)
        return found[0] if found else None

    def setting(self, name: str, default: object) -> object:
        found = self.row("SELECT value FROM setting WHERE name = ?", name)
        value: object = json.loads(found["value"]) if found else default
        return value

    def save_setting(self, name: str, value: object) -> None:
        self.run("INSERT OR REPLACE INTO setting VALUES (?, ?)", name, json.dumps(value))

    def forget_everything(self) -> None:
        with self.transaction():
            for table in TABLES:
                self.run(f"DELETE FROM {table}")  # noqa: S608  (names from the list above)

    def close(self) -> None:
        with self._lock:
            self._connection.close()
