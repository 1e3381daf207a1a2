"""The webhook channel: one POST for each delivery, signed as Standard Webhooks 1.0.0 says.

Only a 2xx answer is success. What the receiver writes is not kept: only its status is.
"""

import json
import logging
import socket
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import certifi
import pycurl
from requests.structures import CaseInsensitiveDict
from sqlalchemy import select
from sqlalchemy.orm import Session
from standardwebhooks.webhooks import Webhook

from keap_connect.clock import minute, utc_now
from keap_connect.database import read_all, read_one
from keap_connect.errors import SealBroken
from keap_connect.events.history import Actor
from keap_connect.keap.answers import retry_after_seconds
from keap_connect.models import Delivery, WebhookEndpoint
from keap_connect.notifications.endpoints import TEST, is_private, may_connect, may_use_port, open_secrets, switch_off
from keap_connect.notifications.sender import (
    FAILS_FOR_LONG,
    GIVEN_UP,
    LONGEST_WAIT_SECONDS,
    SENT,
    WAITING,
    Answer,
    Channel,
    fails_since,
)
from keap_connect.services import services

log = logging.getLogger(__name__)
LIMIT_SECONDS = 20.0  # name, connection, TLS and the head of the answer together
CONNECT_SECONDS = 10.0
MOST_BODY_BYTES = 64 * 1024  # read and dropped; then the connection is closed
OVERLOADED = {429, 502, 503, 504}
PAUSE_SECONDS = 60.0  # after an answer that says so, or none
# An endpoint that nothing has reached for two days is switched off. The last attempt of a message may come earlier.
FAILS_TO_THE_LAST = timedelta(hours=40)


def send(delivery: Delivery) -> Answer:
    endpoint = read_one(select(WebhookEndpoint).where(WebhookEndpoint.id == int(delivery.recipient)))
    if endpoint is None or endpoint.switched_off_at is not None:
        return Answer(False, "The endpoint is switched off or removed.", is_cancelled=True)
    body = json.dumps(delivery.payload, separators=(",", ":"))
    now = utc_now()
    try:
        secrets = open_secrets(endpoint, now)
    except SealBroken as problem:
        return Answer(False, str(problem))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "keap-connect",
        "webhook-id": delivery.message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(one).sign(delivery.message_id, now, body) for one in secrets),
    }
    answer = _judge(*_post(endpoint.url, headers, body.encode()))
    if delivery.kind == TEST and not answer.is_done:  # tried once, and no other message has to wait for it
        return replace(answer, is_gone=True, retry_after_seconds=None)
    return answer


def _judge(status: int, headers: CaseInsensitiveDict[str], failure: str) -> Answer:
    if status == 0:
        return Answer(False, failure, retry_after_seconds=PAUSE_SECONDS)
    text = f"HTTP {status}"
    if status in set(HTTPStatus):
        text += f" {HTTPStatus(status).phrase}"
    if 200 <= status < 300:
        return Answer(True, text, status)
    if 300 <= status < 400:
        return Answer(False, f"{text}: redirects are not followed", status)
    asked = retry_after_seconds(headers.get("Retry-After"), LONGEST_WAIT_SECONDS)
    pause = (asked or PAUSE_SECONDS) if status in OVERLOADED else asked
    return Answer(False, text, status, is_gone=status == HTTPStatus.GONE, retry_after_seconds=pause)


class _Target:
    """Opens the socket of one request, if the address is one that webhooks may go to."""

    def __init__(self, is_https: bool) -> None:
        self._is_https = is_https
        self._opened: list[socket.socket] = []  # libcurl works with duplicates
        self.refused = ""

    def open(self, _purpose: int, address: Any) -> socket.socket | int:
        host, port = address.addr[:2]
        private = services().settings.has_private_webhooks
        is_fit = may_connect(host, is_https=self._is_https, allows_private=private)
        if self.refused or not is_fit or not may_use_port(port, is_https=self._is_https):
            hint = " WEBHOOK_PRIVATE_TARGETS=on allows private addresses." if is_private(host) and not private else ""
            self.refused = self.refused or f"The address {host} port {port} is not allowed for webhooks.{hint}"
            return int(pycurl.SOCKET_BAD)
        self._opened.append(socket.socket(address.family, address.socktype, address.protocol))
        return self._opened[-1]

    def close(self) -> None:
        for one in self._opened:
            one.close()


def _post(url: str, headers: dict[str, str], body: bytes) -> tuple[int, CaseInsensitiveDict[str], str]:
    """Send one request; return the status, 0 if there was no answer, its headers, and why there was none."""
    target, read = _Target(urlsplit(url).scheme == "https"), 0
    head: list[str] = []

    def take_header(line: bytes) -> None:
        if line.startswith(b"HTTP/"):
            head.clear()
        head.append(line.decode("latin-1"))

    def drop(part: bytes) -> int:
        nonlocal read
        read += len(part)
        return len(part) if read <= MOST_BODY_BYTES else 0

    curl = pycurl.Curl()
    options: tuple[tuple[int, Any], ...] = (
        (pycurl.URL, url),
        (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
        (pycurl.HTTPHEADER, [*(f"{name}: {value}" for name, value in headers.items()), "Expect:"]),
        (pycurl.POSTFIELDS, body),
        (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
        (pycurl.FOLLOWLOCATION, 0),
        (pycurl.FORBID_REUSE, 1),
        (pycurl.NOSIGNAL, 1),
        (pycurl.PROXY, ""),  # whatever the environment says: a proxy would connect for us, unchecked
        (pycurl.CAINFO, services().keap.authorities_file or certifi.where()),
        (pycurl.CONNECTTIMEOUT_MS, int(CONNECT_SECONDS * 1000)),
        (pycurl.TIMEOUT_MS, int(LIMIT_SECONDS * 1000)),
        (pycurl.OPENSOCKETFUNCTION, target.open),
        (pycurl.HEADERFUNCTION, take_header),
        (pycurl.WRITEFUNCTION, drop),
    )
    failure = ""
    try:
        for option, value in options:
            curl.setopt(option, value)
        if authorities := services().keap.further_authorities:
            curl.set_ca_certs(authorities)
        curl.perform()
    except pycurl.error:
        failure = target.refused or curl.errstr()
    except ValueError:  # pycurl or libcurl refuses a character in it
        failure = "The URL is not valid."
    status = curl.getinfo(pycurl.RESPONSE_CODE)
    curl.close()
    target.close()
    pairs = (line.partition(":") for line in head[1:])
    found = CaseInsensitiveDict({name.strip(): value.strip() for name, _, value in pairs if value})
    return (status if status >= 200 else 0), found, failure  # below: early hints, and no answer after them


def list_lanes() -> Sequence[str]:
    on = select(WebhookEndpoint.id).where(WebhookEndpoint.switched_off_at.is_(None))
    return [str(one) for one in read_all(on.order_by(WebhookEndpoint.id))]


def note(session: Session, delivery: Delivery) -> None:
    """Write since when the endpoint fails; switch it off when it says so, or has failed for long."""
    endpoint = session.get(WebhookEndpoint, int(delivery.recipient), with_for_update=True)
    if endpoint is None or endpoint.switched_off_at is not None:
        return
    now, before = utc_now(), endpoint.tried_at
    endpoint.tried_at = now
    if delivery.status == SENT:
        endpoint.failing_since = None
    elif delivery.answer_code == HTTPStatus.GONE:
        endpoint.failing_since = endpoint.failing_since or now
        switch_off(session, endpoint, Actor.SYSTEM, "It answered 410 Gone.")
    elif delivery.status in {WAITING, GIVEN_UP} and delivery.kind != TEST:
        endpoint.failing_since = fails_since(endpoint.failing_since, before)
        if endpoint.failing_since <= now - (FAILS_TO_THE_LAST if delivery.status == GIVEN_UP else FAILS_FOR_LONG):
            since = minute(endpoint.failing_since)
            switch_off(session, endpoint, Actor.SYSTEM, f"No message has reached it since {since}: {delivery.answer}.")


CHANNEL = Channel("webhook", send, list_lanes, note)
