"""What the tests of the protocol share."""

import pytest


@pytest.fixture(autouse=True)
def plain_http_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lift oauthlib's ban, as the app does when all addresses are loopback."""
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
