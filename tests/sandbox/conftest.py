"""The sandbox's own tests talk to it over HTTP; the `sandbox` fixture stands in tests/conftest.py."""

import pytest

from tests.sandbox.client import Client
from tests.support.sandbox import Sandbox


@pytest.fixture
def client(sandbox: Sandbox) -> Client:
    """Give a client of the sandbox, which is as new."""
    return Client(sandbox)


@pytest.fixture
def pair(sandbox: Sandbox) -> dict[str, str]:
    """Give one fresh pair of Ann's for ab123."""
    return sandbox.grant("ab123")[0]
