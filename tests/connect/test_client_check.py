"""Whether Keap knows the client: one harmless request, read by the one classify, kept until the settings change."""

from dataclasses import replace

import pytest
from flask import Flask

from keap_connect.connect.client_check import ClientStanding, check_client, find_client_check
from keap_connect.events.search import Search, list_events
from keap_connect.models import CheckedClient
from keap_connect.services import Services
from tests.flows.stored import Stored
from tests.support.engines import on_sqlite
from tests.support.sandbox import Sandbox

pytestmark = on_sqlite
ADMIN = "admin@example.com"


def with_secret(app: Flask, secret: str) -> None:
    """Let the app go on with another client secret."""
    now: Services = app.extensions["keap_connect"]
    keap = replace(now.keap, client_secret=secret)
    app.extensions["keap_connect"] = replace(now, settings=replace(now.settings, keap=keap))


def facts(check: CheckedClient) -> tuple[object, ...]:
    return check.standing, check.reason, check.checked_at


def test_known_client_is_told_by_one_exchange_and_nothing_is_spent(app: Flask, sandbox: Sandbox):
    check = check_client(ADMIN)

    assert check.standing is ClientStanding.KNOWN
    assert facts(find_client_check()) == facts(check)
    calls = sandbox.ledger()["presentations"]
    assert [(call["kind"], call["outcome"]) for call in calls] == [("code", "refused")]
    assert Stored(app, sandbox).rows() == []
    with app.app_context():
        (event,) = list_events(Search()).rows
    assert event.kind == "client_checked"
    assert event.sentence.startswith("Client id and secret were checked at Keap. Keap knows them. Keap answered 400")


def test_refused_client_is_told_and_a_later_check_that_passes_counts(app: Flask):
    with_secret(app, "another-secret-0")
    refused = check_client(ADMIN)
    assert facts(find_client_check()) == facts(refused)

    with_secret(app, "sandboxsecret001")

    assert refused.standing is ClientStanding.REFUSED
    assert "another-secret-0" not in refused.reason
    assert find_client_check() is None  # it was about another secret
    assert check_client(ADMIN).standing is ClientStanding.KNOWN


@pytest.mark.parametrize("fault", ["html_503", "reset_after", "rate_limited_quota_429", "ok_html"])
def test_answer_that_tells_nothing_leaves_what_was_known(app: Flask, sandbox: Sandbox, fault: str):
    before = check_client(ADMIN)
    sandbox.fault(fault)

    check = check_client(ADMIN)

    assert check.standing is ClientStanding.NO_ANSWER
    assert facts(find_client_check()) == facts(before)
