"""The app without a port, and a look into what it has stored."""

from collections.abc import Iterator

import pytest
from flask import Flask

from keap_connect.database import db
from keap_connect.settings import Settings
from tests.flows.stored import Stored
from tests.support.quick_apps import make_app
from tests.support.sandbox import Sandbox


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    """Give the app without a port."""
    built = make_app(settings)
    with built.app_context():
        yield built
        db.engine.dispose()


@pytest.fixture
def stored(app: Flask, sandbox: Sandbox) -> Stored:
    """Give a look into what the app has stored."""
    return Stored(app, sandbox)
