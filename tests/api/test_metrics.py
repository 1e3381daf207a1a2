"""/metrics: open to a key with its scope, and on loopback to programs of this machine; and true."""

import tomllib
from datetime import timedelta

import pytest
import requests
from flask import Flask
from limits import RateLimitItemPerMinute
from prometheus_client.parser import text_string_to_metric_families

from keap_connect import counters
from keap_connect.access import rate_limits
from keap_connect.accounts.changes import disconnect
from keap_connect.application import ROOT
from keap_connect.clock import utc_now
from keap_connect.database import write_transaction
from keap_connect.deployment import VERSION
from keap_connect.health.figures import read_health
from keap_connect.models import Account, Worker
from keap_connect.refresh import alarms
from keap_connect.refresh.heartbeat import beat
from keap_connect.settings import Settings
from tests.api.fixtures import NewProgram, Program
from tests.support.engines import on_sqlite
from tests.web.direct import visit
from tests.web.fixtures import World

PUBLIC = {
    "PUBLIC_URL": "https://connect.example.com",
    "KEAP_CLIENT_ID": "our-client-id",
    "KEAP_CLIENT_SECRET": "canary-client-secret",
    **dict.fromkeys(("KEAP_AUTHORIZE_URL", "KEAP_TOKEN_URL", "KEAP_API_URL"), ""),
}


def _figures(app: Flask) -> dict[tuple[str, ...], float]:
    return _figures_of(visit(app).get("/metrics"))


def _figures_of(answer: requests.Response) -> dict[tuple[str, ...], float]:
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.text)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


@on_sqlite
@pytest.mark.proves("R90", "R100")
@pytest.mark.parametrize(
    ("environ", "address", "host", "headers", "status"),
    [
        ({}, "127.0.0.1", "localhost", {}, 200),
        ({}, "::1", "[::1]:9", {}, 200),
        ({}, "::ffff:127.0.0.1", "127.0.0.1", {}, 200),
        ({}, "10.0.0.7", "localhost", {}, 401),
        ({}, "::ffff:203.0.113.9", "localhost", {}, 401),
        ({}, "127.0.0.1", "connect.example.com", {}, 401),
        ({}, "127.0.0.1", "", {}, 401),
        # Through a tunnel or a proxy that sets the Host header.
        ({}, "127.0.0.1", "localhost", {"X-Forwarded-For": "127.0.0.1"}, 401),
        ({}, "127.0.0.1", "localhost", {"X-Forwarded-For": ""}, 401),
        ({}, "127.0.0.1", "localhost", {"Forwarded": "for=203.0.113.9"}, 401),
        ({}, "127.0.0.1", "localhost", {"Via": "1.1 proxy.example"}, 401),
        # With a public PUBLIC_URL nothing is local, whether or not the proxy says for whom it asks.
        (PUBLIC, "127.0.0.1", "localhost", {}, 401),
        (PUBLIC, "127.0.0.1", "connect.example.com", {}, 401),
        (PUBLIC, "127.0.0.1", "localhost", {"X-Forwarded-For": "127.0.0.1"}, 401),
    ],
    indirect=["environ"],
)
def test_without_a_key_metrics_are_for_this_machine_alone(
    app: Flask, address: str, host: str, headers: dict[str, str], status: int
):
    answer = Program(app, None, address).get("/metrics", headers={"Host": host, **headers})

    assert answer.status_code == status
    if status == 401:
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="Keap Connect"'
        assert "keap_connect_accounts" not in answer.text


@on_sqlite
@pytest.mark.proves("R90", "R100")
@pytest.mark.parametrize("environ", [{}, PUBLIC], indirect=True)
@pytest.mark.parametrize("host", ["connect.example.com", "10.0.0.1:5000", "LOCALHOST.", ""])
def test_a_key_for_metrics_opens_them_from_anywhere_under_any_host(new_program: NewProgram, host: str):
    program = new_program("metrics:read", address="203.0.113.9")

    assert program.get("/metrics", headers={"Host": host}).status_code == 200


@on_sqlite
@pytest.mark.proves("R90")
def test_a_key_for_other_things_opens_no_metrics_and_no_key_at_all_is_right_for_both(
    new_program: NewProgram, account_id: int
):
    others, metrics = new_program("accounts:read", "accounts:write", "tokens:read"), new_program("metrics:read")

    refused = others.get("/metrics")

    assert refused.status_code == 403
    assert 'scope="metrics:read"' in refused.headers["WWW-Authenticate"]
    assert metrics.get("/api/v1/accounts").status_code == 403


@on_sqlite
@pytest.mark.proves("R99", "F64")
def test_wrong_keys_at_metrics_count_like_wrong_keys_elsewhere(app: Flask, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rate_limits, "WRONG_KEYS_PER_MINUTE", RateLimitItemPerMinute(4))
    guess = Program(app, "kc_guess")

    answers = [guess.get(path) for path in ("/metrics", "/api/v1/accounts") * 3]

    assert [one.status_code for one in answers] == [401, 401, 401, 401, 429, 429]
    assert 'error="invalid_token"' in answers[0].headers["WWW-Authenticate"]
    assert "Retry-After" in answers[4].headers


@on_sqlite
def test_a_method_that_metrics_do_not_take_gets_the_one_shape(app: Flask):
    visitor = visit(app)
    refused = visitor.session.post(f"{visitor.base_url}/metrics")
    unknown = visitor.get("/metrics/x")

    assert (refused.status_code, refused.json()["error"]) == (405, "method_not_allowed")
    assert refused.headers["Allow"] == "GET, OPTIONS"
    assert (unknown.status_code, unknown.json()["error"]) == (404, "not_found")


@on_sqlite
@pytest.mark.proves("R57")
def test_an_admins_cookie_opens_no_metrics(world: World):
    assert world.admin.get("/metrics", headers={"X-Forwarded-For": "203.0.113.9"}).status_code == 401


@pytest.mark.proves("R106")
def test_metrics_tell_of_accounts_alarms_lag_and_workers(app: Flask, world: World, new_program: NewProgram):
    with app.app_context():
        with write_transaction() as session:
            session.get_one(Account, world.account_id).next_refresh_at = utc_now() - timedelta(minutes=5)
            session.get_one(Account, world.foreign_account_id).refused_at = utc_now()
            alarms.raise_alarm(session, alarms.MASS_REFUSAL, "Keap refused many.")
        counters.take()  # what other tests counted
        for outcome in ("stored", "stored", "refused"):
            counters.count("refreshes", outcome)
        for seconds in (0.3, 0.01, 7.0, 1e6):
            counters.observe("delivery_delay_seconds", seconds, "webhook")
        beat(Worker(name="host:1", started_at=utc_now(), refreshed=7, failed=2))
        counters.count("refreshes", "stored")
        paused = {"paused_until": utc_now() + timedelta(minutes=1), "pause_reason": "Keap answered 503."}
        beat(Worker(name="host:2", started_at=utc_now(), refreshed=1, **paused))

    figures = _figures(app)
    with app.app_context():
        health = read_health()
    page = world.viewer.get("/health").text

    refreshed, failed = (sum(getattr(hour, name) for hour in health.hours) for name in ("refreshed", "failed"))
    assert (refreshed, failed) == (3, 1)
    assert health.days[-1].accounts == {"active": 1, "at_risk": 0, "reconnect_required": 1, "disconnected": 0}
    assert "Keap refused many." in page
    assert page.count("<svg role=") == 3, "no call to Keap, and nobody reconnected: those charts are empty"
    assert figures["keap_connect_accounts", "active"] == 1
    assert figures["keap_connect_accounts", "reconnect_required"] == 1
    assert figures["keap_connect_alarm", "mass_refusal"] == 1
    assert 300 <= figures["keap_connect_lag_seconds",] < 400
    assert (figures["keap_connect_workers",], figures["keap_connect_workers_paused",]) == (2, 1)
    assert figures["keap_connect_refreshes_total", "stored"] == 3
    assert figures["keap_connect_refreshes_total", "refused"] == 1
    assert figures["keap_connect_refreshes_total", "kept_aside"] == 0
    delay = "keap_connect_delivery_delay_seconds"
    limits = {"0.05": 1, "0.25": 1, "0.5": 2, "10.0": 3, "86400.0": 3, "+Inf": 4}
    assert {most: figures[f"{delay}_bucket", "webhook", most] for most in limits} == limits
    assert (figures[f"{delay}_count", "webhook"], figures[f"{delay}_sum", "webhook"]) == (4, 1_000_007.31)
    assert figures["keap_connect_build_info", VERSION] == 1
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
    assert f"\n## {VERSION}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert not [names for names in figures if "host:1" in names]
    restricted = new_program("metrics:read", account_ids=[world.account_id])
    only_own = _figures_of(restricted.get("/metrics"))
    assert (only_own["keap_connect_accounts", "active"], only_own["keap_connect_workers",]) == (1, 2)
    assert only_own["keap_connect_accounts", "reconnect_required"] == 0
    assert not [names for names in only_own if names[0].rpartition("_")[2] in {"seconds", "total", "bucket", "files"}]


@on_sqlite
def test_metrics_count_pairs_in_files(app: Flask, settings: Settings):
    folder = settings.instance_path / "recovery"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"a.pair": b"sealed", "b.pair": b"\0\0", "c.broken": b"x", "d.broken": b"x"}.items():
        (folder / name).write_bytes(content)

    figures = _figures(app)

    assert figures["keap_connect_recovery_files", "waiting"] == 1
    assert figures["keap_connect_recovery_files", "broken"] == 2


@on_sqlite
def test_metrics_count_token_calls_that_got_none_and_no_others(app: Flask, world: World, new_program: NewProgram):
    job, stranger = new_program("tokens:read"), new_program("accounts:read")
    with app.app_context():
        counters.take()
        disconnect(world.account_id, "test")
    token = f"/api/v1/accounts/{world.account_id}/token"

    statuses = [one.get(path).status_code for one in (job, stranger) for path in (token, f"{token}?min_validity=x")]
    with app.app_context():
        beat(Worker(name="host:1", started_at=utc_now()))

    assert statuses == [409, 400, 403, 403]
    errors = {
        labels: value for labels, value in _figures(app).items() if labels[0] == "keap_connect_token_errors_total"
    }
    assert {labels[1]: value for labels, value in errors.items() if value} == {"disconnected": 1}


def test_metrics_hold_no_token_and_nothing_of_a_customer(app: Flask, world: World):
    text = visit(app).get("/metrics").text

    for word in ("ab123", "ann", "@example.com", "Bearer"):
        assert word not in text.lower()
