"""What each app makes at its start, or at first use, made once for all apps of a test process.

These are the compiled templates, the routes with their URL builders, and the SQL of each statement. No app waits for
the disk.
"""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from jinja2 import FileSystemBytecodeCache
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.util import LRUCache
from werkzeug.routing import Rule

from keap_connect.accounts.stored_state import store_registration
from keap_connect.application import create_app
from keap_connect.settings import Settings

MOST_STATEMENTS = 2000


class RememberedRule(Rule):
    """Reads a path, and compiles the builder of its URLs, once; the same path has the same ones in every app."""

    _read: ClassVar[dict[object, dict[str, object]]] = {}
    _builders: ClassVar[dict[object, Callable[..., tuple[str, str]]]] = {}

    def compile(self) -> None:
        key = (self.rule, self.subdomain, self.merge_slashes, repr(self.defaults))
        if key not in self._read:
            super().compile()
            names = ("_parts", "_trace", "_converters", "arguments")
            self._read[key] = {name: vars(self)[name] for name in names}
        vars(self).update(self._read[key])
        self._build = self._compile_builder(False).__get__(self, None)
        self._build_unknown = self._compile_builder(True).__get__(self, None)

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        key = (tuple(self._trace), repr(self.defaults), append_unknown)
        if key not in self._builders:
            self._builders[key] = super()._compile_builder(append_unknown)
        return self._builders[key]


def make_app(settings: Settings) -> Flask:
    """Build an app that skips the checks of a start, which take longer than all the rest, and many tests of their own.

    What is needed of them comes later: the first lease adopts the database and writes the mark.
    """
    app = create_app(settings, serves=False)
    with app.app_context():
        store_registration(is_first=True)
    return app


def make_apps_quickly(folder: Path) -> None:
    """Let all apps of this process share what they compile; templates in files of a folder, by their content."""
    Flask.url_rule_class = RememberedRule
    Flask.jinja_options = {**Flask.jinja_options, "bytecode_cache": FileSystemBytecodeCache(str(folder))}
    event.listen(Engine, "connect", _wait_for_no_disk)
    os.fsync = lambda _: None  # each app writes files of its own at its start
    _share_statements()


def _wait_for_no_disk(connection: Any, _record: object) -> None:
    """Let SQLite commit without a wait for the disk: no database of this process has to outlive a power failure."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


def _share_statements() -> None:
    """Let one cache serve all engines: with the same kind of database they make the same SQL of a statement."""
    statements: LRUCache[Any, Any] = LRUCache(MOST_STATEMENTS)
    make_engine = SQLAlchemy._make_engine

    def make_sharing_engine(self: SQLAlchemy, key: str | None, options: dict[str, Any], app: Flask) -> Any:
        return make_engine(self, key, {**options, "execution_options": {"compiled_cache": statements}}, app)

    SQLAlchemy._make_engine = make_sharing_engine
    DefaultDialect.__eq__ = lambda one, other: type(one) is type(other)  # the dialect is a part of the cache's key
    DefaultDialect.__hash__ = lambda one: hash(type(one))
