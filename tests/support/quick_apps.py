"""What each app makes at its start, made once for all apps of a test process: compiled templates and URL builders."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from flask import Flask
from jinja2 import FileSystemBytecodeCache
from werkzeug.routing import Rule


class RememberedRule(Rule):
    """Compiles the builder of a URL once; the same path has the same one in every app."""

    _builders: ClassVar[dict[object, Callable[..., tuple[str, str]]]] = {}

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        key = (tuple(self._trace), repr(self.defaults), append_unknown)
        if key not in self._builders:
            self._builders[key] = super()._compile_builder(append_unknown)
        return self._builders[key]


def make_apps_quickly(folder: Path) -> None:
    """Let all apps of this process share what they compile; templates in files of a folder, by their content."""
    Flask.url_rule_class = RememberedRule
    Flask.jinja_options = {**Flask.jinja_options, "bytecode_cache": FileSystemBytecodeCache(str(folder))}
