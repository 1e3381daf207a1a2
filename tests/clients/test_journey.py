"""A job with the Python client against the real token API and the sandbox's Keap, from the first token to the last."""

import pytest
import requests
from flask import Flask

from keap_connect.access.api_keys import Scope, issue_api_key, revoke_api_key
from keap_connect.accounts.changes import disconnect
from keap_connect.database import write_transaction
from keap_connect.models import Account
from keap_connect.settings import Settings
from keap_connect_client import AccountNotFound, KeapConnect, KeyRefused, ReconnectRequired, TemporarilyUnavailable
from tests.support.engines import on_sqlite
from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor

pytestmark = on_sqlite


@pytest.fixture
def connect(app: Flask, settings: Settings, visitor: Visitor) -> KeapConnect:
    """Give a job's client; one account is connected, and its owner calls it acme."""
    if not any(rule.rule.startswith("/api/v1/accounts") for rule in app.url_map.iter_rules()):
        pytest.skip("the token API is not part of this app yet")
    visitor.connect()
    with app.app_context():
        with write_transaction() as session:
            session.get_one(Account, 1).external_id = "acme"
        issued = issue_api_key("a job", [Scope.TOKENS_READ], "a test")
    return KeapConnect(settings.public_url, issued.text)


@pytest.mark.proves("R76")
def test_a_job_works_through_whatever_happens(app: Flask, connect: KeapConnect, sandbox: Sandbox):
    keap = requests.Session()
    keap.auth = connect.requests_auth("external:acme")

    def call() -> int:
        return keap.get(f"{sandbox.url}/crm/rest/v2/businessProfile", timeout=10).status_code

    first = connect.token("external:acme", min_validity_seconds=600)
    works = call()
    # Keap lets the token die before its time: the client reports it, and the call succeeds with a fresh one.
    sandbox.advance(first.expires_in + 60)
    still_works = call()
    fresh = connect.token(1)
    sandbox.fault("status", status=503)
    connect.report_rejected(1, fresh.fingerprint)
    with pytest.raises(TemporarilyUnavailable) as later:
        connect.token(1)
    with app.app_context():
        disconnect(1, "a test")
    with pytest.raises(ReconnectRequired) as lost:
        connect.token(1)
    with pytest.raises(AccountNotFound):
        connect.token("external:nobody")
    with app.app_context():
        revoke_api_key(1, "a test")
    with pytest.raises(KeyRefused):
        connect.token(1)

    assert (works, still_works) == (200, 200)
    assert fresh.fingerprint != first.fingerprint
    assert later.value.retry_after_seconds > 0
    assert lost.value.is_disconnected
