"""The pattern page: it shows every macro, and is nowhere but in debug mode with the sandbox."""

import re

import pytest

from keap_connect.application import ROOT, create_app
from keap_connect.settings import Settings
from tests.support.engines import on_sqlite

MACROS = re.compile(r"{% macro (\w+)\(")


def answer_of(settings: Settings) -> int:
    """Return the status of the page in an app that was built just now."""
    app = create_app(settings, serves=False)
    return app.test_client().get("/patterns", base_url=settings.public_url).status_code


@on_sqlite
def test_it_is_there_in_debug_mode_with_the_sandbox_alone(
    settings: Settings, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    assert answer_of(settings) == 404

    monkeypatch.setenv("FLASK_DEBUG", "1")
    assert answer_of(settings) == 200

    real = {name: value for name, value in environ.items() if not name.startswith("KEAP_")}
    client = {"KEAP_CLIENT_ID": "a client at Keap", "KEAP_CLIENT_SECRET": "and its secret"}
    assert answer_of(Settings.from_env(real | client)) == 404


def test_it_shows_every_macro():
    page = (ROOT / "templates" / "patterns.html").read_text()
    macros = MACROS.findall("".join(path.read_text() for path in (ROOT / "templates" / "macros").iterdir()))

    assert len(macros) > 15
    assert [name for name in macros if not re.search(rf"\b{name}\(", page)] == []
