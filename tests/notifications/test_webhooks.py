"""Webhooks: signed, thin, judged by their status alone, and switched off when nobody takes them."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from keap_connect.clock import utc_now
from keap_connect.database import read_session, write_transaction
from keap_connect.errors import SecretIsNew, WebhookOff, WebhookUnfit
from keap_connect.events.deleting import prune_deliveries
from keap_connect.events.history import ANNOUNCED, EventKind
from keap_connect.events.search import Search, list_events
from keap_connect.health.examination import check_webhooks, examine
from keap_connect.models import Delivery, WebhookEndpoint
from keap_connect.notifications import webhooks
from keap_connect.notifications.channels import CHANNELS
from keap_connect.notifications.endpoints import (
    MOST_ENDPOINTS,
    add_endpoint,
    change_endpoint,
    get_endpoint,
    redeliver,
    remove_endpoint,
    send_test,
)
from keap_connect.notifications.sender import WAITS, Sender
from tests.conftest import MovedClock
from tests.keap.raw_server import Connection, RawServer, answering, http
from tests.notifications.conftest import deliveries, send_due, tell, write_delivery
from tests.support.engines import on_sqlite

pytestmark = on_sqlite
OK = http(b"")


@pytest.fixture
def server() -> Iterator[RawServer]:
    with RawServer(answering(OK)) as running:
        yield running


@pytest.fixture
def secret(server: RawServer) -> str:
    """Add the server as endpoint 1, and give its secret."""
    return add_endpoint(f"{server.url}/hook", None, None, "ann@example.com").secret or ""


def parts(request: bytes) -> tuple[dict[str, str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    lines = (line.partition(": ") for line in head.decode().split("\r\n")[1:])
    return {name.lower(): value for name, _, value in lines}, body


def received(server: RawServer) -> list[tuple[dict[str, str], bytes]]:
    return [parts(request) for request in server.requests]


@pytest.mark.proves("R80", "R83")
def test_the_independent_library_verifies_a_message_and_refuses_a_changed_one(server: RawServer, secret: str):
    tell(EventKind.AT_RISK, why="Keap said canary.", cause="unused", deadline="2026-12-01T00:00:00+00:00")

    send_due()

    ((headers, body),) = received(server)
    message = Webhook(secret).verify(body, headers)
    assert (message["type"], message["data"]["account_id"], message["data"]["reason"]) == (
        "account.at_risk",
        7,
        "unused",
    )
    assert "canary" not in body.decode()
    assert (headers["content-type"], headers["user-agent"]) == ("application/json", "keap-connect")
    assert headers["webhook-id"] == deliveries()[0].message_id
    other = add_endpoint("https://example.com/", None, None, "x").secret or ""
    old = {**headers, "webhook-timestamp": str(int(headers["webhook-timestamp"]) - 400)}
    for key, given, content in ((secret, headers, body[:-2] + b" }"), (other, headers, body), (secret, old, body)):
        with pytest.raises(WebhookVerificationError):
            Webhook(key).verify(content, given)


@pytest.mark.proves("R81")
def test_each_attempt_has_the_same_id_and_body_and_a_time_of_its_own(server: RawServer, secret: str, clock: MovedClock):
    server.script = answering(http(b"", status="500 Internal Server Error"))
    tell(EventKind.RECOVERED)
    for seconds in (0, 60, 600):
        clock.advance(seconds=seconds)
        if seconds == 600:
            server.script = answering(OK)
        send_due()

    sent = received(server)
    assert len(sent) == 3
    assert len({(headers["webhook-id"], body) for headers, body in sent}) == 1
    assert len({headers["webhook-timestamp"] for headers, _ in sent}) == 3
    assert len({headers["webhook-signature"] for headers, _ in sent}) == 3
    assert [(one.status, one.attempts) for one in deliveries()] == [("sent", 3)]


@pytest.mark.proves("R81")
def test_while_a_secret_is_rotated_both_verify_and_afterwards_the_new_one_alone(
    server: RawServer, secret: str, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
):
    new = change_endpoint(1, "x", {"rotate_secret": True}).secret or ""
    send_test(1)
    send_due()
    headers, body = received(server)[0]
    for key in (secret, new):
        assert Webhook(key).verify(body, headers)["type"] == "webhook.test"
    with pytest.raises(SecretIsNew):
        change_endpoint(1, "x", {"rotate_secret": True})

    clock.advance(hours=25)
    send_test(1)
    send_due()
    headers, body = received(server)[1]
    moment = {**headers, "webhook-timestamp": headers["webhook-timestamp"]}
    when = datetime.fromtimestamp(int(moment["webhook-timestamp"]), UTC)
    assert headers["webhook-signature"] == Webhook(new).sign(headers["webhook-id"], when, body.decode())
    assert new != secret


Wanted = tuple[str, str, int | None, int | None]  # status, part of the answer, its code, and the pause in seconds


def reset(connection: Connection) -> None:
    connection.read_request()
    connection.reset()


def hang(connection: Connection) -> None:
    connection.read_request()
    connection.wait_until_client_leaves()


def endless(connection: Connection) -> None:
    connection.read_request()
    connection.stream([b"HTTP/1.1 200 OK\r\n\r\n", *[b"canary" * 10_000] * 1000])


def says(status: str, *headers: str) -> Callable[[Connection], None]:
    return answering(http(b"canary", *headers, status=status))


@pytest.mark.proves("R82", "F73")
@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        (says("204 canary"), ("sent", "HTTP 204 No Content", 204, None)),
        (says("299 canary"), ("sent", "HTTP 299", 299, None)),
        (says("500 canary"), ("waiting", "HTTP 500 Internal Server Error", 500, None)),
        (says("400 canary"), ("waiting", "HTTP 400 Bad Request", 400, None)),
        (
            says("301 canary", "Location: /other"),
            ("waiting", "HTTP 301 Moved Permanently: redirects are not followed", 301, None),
        ),
        (says("429 canary", "Retry-After: 900"), ("waiting", "HTTP 429 Too Many Requests", 429, 900)),
        (says("503 canary", "Retry-After: 20000"), ("waiting", "HTTP 503 Service Unavailable", 503, 20_000)),
        (says("503 canary", "Retry-After: 200000"), ("waiting", "HTTP 503 Service Unavailable", 503, 86_400)),
        (says("429 canary"), ("waiting", "HTTP 429 Too Many Requests", 429, 60)),
        (says("502 canary"), ("waiting", "HTTP 502 Bad Gateway", 502, 60)),
        (says("504 canary"), ("waiting", "HTTP 504 Gateway Timeout", 504, 60)),
        (says("410 canary"), ("given_up", "HTTP 410 Gone", 410, None)),
        (reset, ("waiting", "", None, 60)),
        (hang, ("waiting", "timed out", None, 60)),
        (endless, ("sent", "HTTP 200 OK", 200, None)),
    ],
    ids=[
        *("204", "299", "500", "400", "301", "429 900", "503 20000", "503 200000"),
        *("429", "502", "504", "410", "reset", "hang", "endless"),
    ],
)
def test_the_status_alone_decides(
    server: RawServer,
    secret: str,
    monkeypatch: pytest.MonkeyPatch,
    script: Callable[[Connection], None],
    wanted: Wanted,
):
    status, answer, code, pause = wanted
    monkeypatch.setattr(webhooks, "LIMIT_SECONDS", 0.5 if script is hang else 10.0)
    server.script = script
    tell(EventKind.RECOVERED)

    send_due()

    (row,) = [one for one in deliveries() if one.account_id]
    assert (row.status, row.answer_code, row.attempts) == (status, code, 1)
    assert answer in row.answer
    assert "canary" not in row.answer
    assert len(server.requests) == 1
    if status == "waiting":
        wait = (row.due_at - utc_now()).total_seconds()
        assert (pause or 4) - 10 < wait <= max(pause or 0, 6)
    assert get_endpoint(1).is_on is (code != 410)
    assert bool(get_endpoint(1).failing_since) is (status == "waiting" or code == 410)


@pytest.mark.proves("R82", "F75")
def test_an_endpoint_that_is_down_for_three_days_is_switched_off_said_and_can_be_used_again(
    server: RawServer, secret: str, clock: MovedClock
):
    server.script = says("503 Service Unavailable")
    tell(EventKind.AT_RISK, why="")
    tell(EventKind.RECOVERED)
    for _ in range(72):
        send_due()
        clock.advance(hours=1)
        if not get_endpoint(1).is_on:
            break
    first, second = deliveries()
    assert (first.status, second.status) == ("given_up", "cancelled")
    assert "503" in (get_endpoint(1).switched_off_because or "")
    assert list_events(Search()).rows[0].kind == "webhook_switched_off"
    ((finding,), (said,)) = list(check_webhooks()), [one for one in examine() if one.subject == "webhooks"]
    assert finding == said
    assert "was switched off. No message has reached it since" in finding.sentence
    tell(EventKind.RECOVERED)
    assert len(deliveries()) == 2  # nothing is written for an endpoint that is off
    with pytest.raises(WebhookOff):
        redeliver(1, first.id)

    server.script = answering(OK)
    change_endpoint(1, "x", {"is_on": True})
    redeliver(1, first.id)
    send_due()

    again = deliveries()[0]
    assert (again.status, again.message_id, again.attempts) == ("sent", first.message_id, 1)
    assert get_endpoint(1).failing_since is None
    assert list(check_webhooks()) == []


@pytest.mark.proves("R82", "F75")
def test_a_dead_endpoint_is_switched_off_after_two_days_however_much_waits(
    server: RawServer, secret: str, clock: MovedClock
):
    server.script = says("503 Service Unavailable")
    for account_id in range(20):
        write_delivery("1", account_id, "webhook")

    for _ in range(3):
        assert get_endpoint(1).is_on
        send_due()
        clock.advance(hours=24.1)

    assert not get_endpoint(1).is_on
    assert max(one.attempts for one in deliveries()) < len(WAITS)
    assert {one.status for one in deliveries()} == {"cancelled"}


@pytest.mark.proves("F75")
def test_days_without_a_worker_switch_no_endpoint_off(server: RawServer, secret: str, clock: MovedClock):
    server.script = says("503 Service Unavailable")
    write_delivery("1", 1, "webhook")
    send_due()
    clock.advance(days=3)
    write_delivery("1", 2, "webhook")

    send_due()

    assert get_endpoint(1).is_on
    assert [one.attempts for one in deliveries()] == [2, 1]


@pytest.mark.proves("R82")
def test_one_message_that_is_never_taken_switches_nothing_off(server: RawServer, secret: str, clock: MovedClock):
    def judge(connection: Connection) -> None:
        poison = b'"account_id":13' in connection.read_request()
        connection.send(http(b"", status="500 Internal Server Error") if poison else OK)

    server.script = judge
    tell(EventKind.RECOVERED, 13)
    for _ in range(20):
        tell(EventKind.RECOVERED)
        send_due()
        clock.advance(hours=4)

    assert deliveries()[0].status == "given_up"
    assert {one.status for one in deliveries()[1:]} == {"sent"}
    assert get_endpoint(1).is_on


def test_a_test_that_is_refused_is_tried_once_and_holds_up_no_alarm(server: RawServer, secret: str):
    def judge(connection: Connection) -> None:
        is_pause = b'"refreshing.paused"' in connection.read_request()
        connection.send(OK if is_pause else http(b"", status="400 Bad Request"))

    server.script = judge
    send_test(1)
    send_due()
    tell(EventKind.CONNECTION_FAILED, None, ending="denied")
    tell(EventKind.REFRESHING_PAUSED, None, cause="mass_refusal", reason="x")

    send_due()

    assert [one.status for one in deliveries()] == ["given_up", "waiting", "sent"]
    assert deliveries()[0].attempts == 1


def test_a_test_that_fails_makes_nothing_else_wait(app: Flask, server: RawServer, secret: str):
    server.script = says("503 Service Unavailable", "Retry-After: 900")
    running = Sender(app, CHANNELS)
    send_test(1)
    running.send_due()
    server.script = answering(OK)
    tell(EventKind.RECOVERED)

    running.send_due()

    assert [one.status for one in deliveries()] == ["given_up", "sent"]


def test_a_removed_endpoint_gets_nothing_and_its_id_is_not_used_again(server: RawServer, secret: str):
    tell(EventKind.RECOVERED)

    remove_endpoint(1, "x")
    send_due()

    assert server.requests == []
    assert deliveries()[0].status == "cancelled"
    assert add_endpoint(server.url, None, None, "x").row.id == 2


@pytest.mark.parametrize("environ", [{"WEBHOOK_PRIVATE_TARGETS": ""}], indirect=True)
@pytest.mark.proves("R84")
@pytest.mark.parametrize(
    "url",
    [
        *("", "x", "http://example.com/", "ftp://example.com/", "https://", "https:///x", "//example.com"),
        *(
            "https://ann:pw@example.com/",
            "https://ann@example.com/",
            "https://example.com:22/",
            "https://example.com:0/",
        ),
        *(
            "https://example.com:99999/",
            "https://example.com/#x",
            "https://exa mple.com/",
            "https://\uff11\uff12\uff17.\uff10.\uff10.\uff11/",
        ),
        *("https://example.com/\r\nx", "https://[::1/", f"https://example.com/{'x' * 2000}"),
    ],
)
def test_an_url_that_is_not_plain_https_is_refused(url: str):
    with pytest.raises(WebhookUnfit) as refused:
        add_endpoint(url, None, None, "x")

    assert refused.value.field == "url"


def test_there_is_a_most_of_endpoints_and_each_type_is_known():
    for types in ([], ["account.unknown"], ["account.at_risk", "nonsense"]):
        with pytest.raises(WebhookUnfit):
            add_endpoint("https://example.com/", None, types, "x")
    for _ in range(MOST_ENDPOINTS):
        add_endpoint("https://example.com/", None, ANNOUNCED, "x")
    with pytest.raises(WebhookUnfit):
        add_endpoint("https://example.com/", None, None, "x")


def test_what_is_old_is_deleted_and_what_waits_is_not(clock: MovedClock):
    now = utc_now()
    ages = {"old": timedelta(days=40), "new": timedelta(days=20)}
    with write_transaction() as session:
        for name, age in ages.items():
            values = {"channel": "webhook", "recipient": "1", "kind": name, "payload": {}, "message_id": "x"}
            session.add(
                Delivery(created_at=now - age, due_at=now - age, status="sent", finished_at=now - age, **values)
            )
            session.add(Delivery(created_at=now - age, due_at=now - age, **values))
        session.add(Delivery(**values | {"kind": "later"}, created_at=now - ages["old"], due_at=now + ages["new"]))

    prune_deliveries(timedelta(days=30))

    assert [one.kind for one in deliveries()] == ["new", "new", "later"]


@pytest.mark.proves("F74")
def test_what_waits_while_no_worker_runs_is_kept_and_sent(server: RawServer, secret: str, clock: MovedClock):
    tell(EventKind.RECOVERED)
    clock.advance(days=40)

    prune_deliveries(timedelta(days=30))
    send_due()

    assert [one.status for one in deliveries()] == ["sent"]


def test_an_endpoint_whose_secret_does_not_open_says_so(server: RawServer, secret: str):
    with write_transaction() as session:
        session.get_one(WebhookEndpoint, 1).secret_sealed = b"broken"
    send_test(1)

    send_due()

    assert "was sealed with a key that is not in TOKEN_KEYS" in (deliveries()[0].answer or "")
    with read_session() as session:
        assert session.get_one(WebhookEndpoint, 1).is_on


@pytest.mark.proves("R83")
def test_every_type_is_thin_and_holds_nothing_of_what_was_said(server: RawServer, secret: str):
    canaries = dict.fromkeys(("why", "reason", "person", "before", "credential", "since", "reference"), "canary")
    for kind in EventKind:
        if kind.announced_as:
            tell(kind, 7, **canaries, cause="a", ending="b")
    send_due()

    bodies = [body for _, body in received(server)]
    assert {json.loads(body)["type"] for body in bodies} == set(ANNOUNCED)
    assert max(map(len, bodies)) < 1000
    assert b"canary" not in b"".join(bodies)
