"""What the journeys share: a look into the database, what must hold after each of them, and a listener in between."""

from collections.abc import Callable, Iterator

import pytest
from flask import Flask

from keap_connect.database import db
from tests.flows.recorder import Recorder
from tests.flows.stored import Stored, presented_twice, token_calls
from tests.support.sandbox import Sandbox


@pytest.fixture
def environ(environ: dict[str, str], request: pytest.FixtureRequest) -> dict[str, str]:
    """Give the environment of the app; a test changes it by an indirect parameter."""
    return {**environ, **getattr(request, "param", {})}


@pytest.fixture
def stored(app: Flask, sandbox: Sandbox) -> Stored:
    """Give a look into what the app has stored."""
    return Stored(app, sandbox)


@pytest.fixture
def exchanges(sandbox: Sandbox) -> Callable[[], int]:
    """Give the function that counts the requests at the token endpoint."""
    return lambda: len(token_calls(sandbox))


@pytest.fixture(autouse=True)
def invariants(sandbox: Sandbox, request: pytest.FixtureRequest) -> Iterator[None]:
    """Hold after each journey: nothing was presented twice, and no token lies under another account."""
    yield
    assert presented_twice(sandbox) == []
    app = request.node.funcargs.get("app")
    if app is not None:
        mixed_up = Stored(app, sandbox).mixed_up()
        with app.app_context():
            db.engine.dispose()
        assert mixed_up == []


@pytest.fixture
def recorder(sandbox: Sandbox, environ: dict[str, str]) -> Iterator[Recorder]:
    """Let the app reach the sandbox's token endpoint through a listener that writes down what it hears."""
    with Recorder.start(sandbox.url) as listening:
        environ["KEAP_TOKEN_URL"] = f"{listening.url}/token"
        yield listening
