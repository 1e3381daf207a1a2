"""What a database has gained, kept in a file to be put into another one of the same tables."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path


def list_filled(path: Path) -> set[str]:
    """Return the tables of a SQLite file that have rows."""
    with closing(sqlite3.connect(path)) as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        return {name for (name,) in names.fetchall() if database.execute(f'SELECT 1 FROM "{name}"').fetchone()}


def keep_rows(source: Path, kept: Path) -> None:
    """Copy a SQLite file that others have open."""
    with closing(sqlite3.connect(source)) as database, closing(sqlite3.connect(kept)) as copy:
        database.backup(copy)


def put_rows(kept: Path, target: Path, tables: Iterable[str]) -> None:
    """Add the rows of some tables to a SQLite file that others have open."""
    with closing(sqlite3.connect(target, timeout=60, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("ATTACH ? AS kept", (str(kept),))
        database.execute("BEGIN IMMEDIATE")
        for name in tables:
            database.execute(f'INSERT INTO main."{name}" SELECT * FROM kept."{name}"')
        database.execute("COMMIT")
