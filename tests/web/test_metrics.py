"""/metrics: readable by programs on this machine alone, and true."""

from datetime import timedelta

import pytest
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families

from keap_connect.clock import utc_now
from keap_connect.database import write_transaction
from keap_connect.models import Account
from keap_connect.refreshing import brakes
from keap_connect.worker.heartbeat import Beat, beat
from tests.web.direct import visit
from tests.web.fixtures import World


def _figures(app: Flask) -> dict[tuple[str, ...], float]:
    answer = visit(app).get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.text)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_metrics_are_open_to_programs_on_this_machine(app: Flask, address: str):
    assert visit(app, address=address).get("/metrics").status_code == 200


@pytest.mark.parametrize("address", ["10.0.0.7", "203.0.113.9", "::ffff:203.0.113.9", "2001:db8::1"])
def test_metrics_do_not_exist_for_another_machine(app: Flask, address: str):
    assert visit(app, address=address).get("/metrics").status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "203.0.113.9"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-For": ""},
        {"Forwarded": "for=203.0.113.9"},
        {"Via": "1.1 proxy.example"},
    ],
    ids=str,
)
def test_metrics_do_not_exist_for_whoever_comes_through_a_proxy(app: Flask, headers: dict[str, str]):
    assert visit(app).get("/metrics", headers=headers).status_code == 404


def test_not_even_an_admin_reads_metrics_from_another_machine(world: World):
    world.admin.get("/metrics", headers={"X-Forwarded-For": "203.0.113.9"})

    assert world.admin.page.status_code == 404


def test_metrics_tell_of_accounts_alarms_lag_and_workers(app: Flask, world: World):
    with app.app_context():
        with write_transaction() as session:
            session.get_one(Account, world.account_id).next_refresh_at = utc_now() - timedelta(minutes=5)
            session.get_one(Account, world.foreign_account_id).refused_at = utc_now()
            brakes.raise_alarm(session, brakes.MASS_REFUSAL, "Keap refused many.")
        beat(Beat("host:1", utc_now(), 7, 2, 0.0, None, None))
        beat(Beat("host:2", utc_now(), 1, 0, 0.0, utc_now() + timedelta(minutes=1), "Keap answered 503."))

    figures = _figures(app)

    assert figures["keap_connect_accounts", "active"] == 1
    assert figures["keap_connect_accounts", "reconnect_required"] == 1
    assert figures["keap_connect_alarm", "mass_refusal"] == 1
    assert 300 <= figures["keap_connect_lag_seconds",] < 400
    assert (figures["keap_connect_workers",], figures["keap_connect_workers_paused",]) == (2, 1)
    assert (figures["keap_connect_refreshed", "host:1"], figures["keap_connect_failed", "host:1"]) == (7, 2)


def test_metrics_hold_no_token_and_nothing_of_a_customer(app: Flask, world: World):
    text = visit(app).get("/metrics").text

    for word in ("ab123", "ann", "@example.com", "Bearer"):
        assert word not in text.lower()
