"""Webhook endpoints, and what was sent to them: what pages, API and commands do about them.

Where webhooks may go is decided by the address that a connection is about to be made to, not by the name. Neither a
name that resolves to another address the next time, nor an odd spelling of one, gets around that.
"""

import base64
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit
from uuid import uuid4

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from keap_connect.accounts.naming import tidy_name
from keap_connect.clock import minute, utc_now
from keap_connect.database import Page, read_all, read_page, read_session, take_turns, write_transaction
from keap_connect.errors import DeliveryNotFound, SecretIsNew, WebhookNotFound, WebhookOff, WebhookUnfit
from keap_connect.events.history import ANNOUNCED, EventKind, record
from keap_connect.models import LARGEST_ID, Delivery, WebhookEndpoint
from keap_connect.notifications.sender import CANCELLED, CLAIM_SECONDS, MOST_ENDPOINTS, WAITING
from keap_connect.services import page_url, services

OLD_SECRET_LASTS = timedelta(days=1)
LONGEST_URL, LONGEST_NAME = 2000, 80
TEST = "webhook.test"
NAT64 = ip_network("64:ff9b::/96")
# Python counts some of these as global; the last three are metadata services of clouds.
REFUSED = [
    ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
] + [ip_network(text) for text in ("168.63.129.16/32", "100.100.100.200/32", "fd00:ec2::254/128")]
UNICAST = ip_network("2000::/3")
PRIVATE = [
    ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "::1/128", "fc00::/7")
]


@dataclass(frozen=True)
class SavedEndpoint:
    """An endpoint as it was stored; `secret` is the new one, if there is one, and is shown only once."""

    row: WebhookEndpoint
    secret: str | None = field(default=None, repr=False)


def list_endpoints() -> Sequence[WebhookEndpoint]:
    return read_all(select(WebhookEndpoint).order_by(WebhookEndpoint.id))


def get_endpoint(endpoint_id: int) -> WebhookEndpoint:
    """Return an endpoint. Raises WebhookNotFound."""
    with read_session() as session:
        return _get(session, endpoint_id)


def add_endpoint(url: str, name: str | None, types: Collection[str] | None, actor: str) -> SavedEndpoint:
    """Add an endpoint with a new secret.

    Args:
        types: what it receives; None is everything, also types of later versions.

    Raises WebhookUnfit: a value breaks a rule, or there are too many endpoints.
    """
    endpoint = WebhookEndpoint(created_at=utc_now(), created_by=actor)
    with write_transaction() as session:
        take_turns(session, "webhook endpoints")
        if (session.scalar(select(func.count(WebhookEndpoint.id))) or 0) >= MOST_ENDPOINTS:
            raise WebhookUnfit(f"There are {MOST_ENDPOINTS} webhooks already, and there can be no more.", "url")
        _set(endpoint, {"url": url, "name": name, "types": types})
        session.add(endpoint)
        session.flush()
        secret = _renew_secret(endpoint)
        record(session, EventKind.WEBHOOK_ADDED, None, actor, webhook=endpoint.id, host=endpoint.host)
    return SavedEndpoint(endpoint, secret)


def change_endpoint(endpoint_id: int, actor: str, changes: Mapping[str, object]) -> SavedEndpoint:
    """Change `url`, `name`, `types` or `is_on`; with `rotate_secret`, make a new secret; the old one lasts a day.

    Raises:
        WebhookNotFound: there is none.
        WebhookUnfit: a value breaks a rule.
        SecretIsNew: the old secret of the last rotation is still valid.
    """
    secret = None
    with write_transaction() as session:
        endpoint = _get(session, endpoint_id, lock=True)
        _set(endpoint, changes)
        if changes.get("rotate_secret"):
            if endpoint.old_secret_until is not None and endpoint.old_secret_until > utc_now():
                until = minute(endpoint.old_secret_until)
                raise SecretIsNew(f"The secret before is valid until {until}, so no other one can be made until then.")
            endpoint.old_secret_sealed = services().cipher.seal(
                open_secrets(endpoint, utc_now())[0], "webhook_endpoint", endpoint.id, "old_secret"
            )
            endpoint.old_secret_until = utc_now() + OLD_SECRET_LASTS
            secret = _renew_secret(endpoint)
        if changes.get("is_on") is True:
            endpoint.switched_off_at = endpoint.switched_off_because = endpoint.failing_since = None
        elif changes.get("is_on") is False and endpoint.is_on:
            endpoint.failing_since = None
            switch_off(session, endpoint, actor, f"{actor} switched it off.")
        if changes:
            what = ", ".join(sorted(changes))
            record(session, EventKind.WEBHOOK_CHANGED, None, actor, webhook=endpoint.id, host=endpoint.host, what=what)
    return SavedEndpoint(endpoint, secret)


def remove_endpoint(endpoint_id: int, actor: str) -> WebhookEndpoint:
    """Delete an endpoint with its secrets, and cancel what waits for it. Raises WebhookNotFound."""
    with write_transaction() as session:
        endpoint = _get(session, endpoint_id, lock=True)
        _cancel_waiting(session, endpoint)
        session.delete(endpoint)
        record(session, EventKind.WEBHOOK_REMOVED, None, actor, webhook=endpoint.id, host=endpoint.host)
    return endpoint


def switch_off(session: Session, endpoint: WebhookEndpoint, actor: str, reason: str) -> None:
    """Send an endpoint nothing more: what waits is cancelled, and later changes write nothing for it."""
    endpoint.switched_off_at, endpoint.switched_off_because = utc_now(), reason
    _cancel_waiting(session, endpoint)
    details = {"webhook": endpoint.id, "host": endpoint.host, "reason": reason}
    record(session, EventKind.WEBHOOK_SWITCHED_OFF, None, actor, **details)


def open_secrets(endpoint: WebhookEndpoint, now: datetime) -> list[str]:
    """Return the secrets that are valid now, the newest first. Raises SealBroken: one does not open."""
    found = [(endpoint.secret_sealed, "secret")]
    if endpoint.old_secret_until is not None and endpoint.old_secret_until > now:
        found.append((endpoint.old_secret_sealed, "old_secret"))
    return [services().cipher.open(sealed or b"", "webhook_endpoint", endpoint.id, what) for sealed, what in found]


def list_deliveries(
    endpoint_id: int, before: int | None = None, limit: int = 50, status: str | None = None
) -> Page[Delivery]:
    """Return a page of what was sent, or is to be sent, to an endpoint, newest first. Raises WebhookNotFound."""
    query = select(Delivery).where(Delivery.channel == "webhook", Delivery.recipient == str(endpoint_id))
    if before:
        query = query.where(Delivery.id < max(0, min(before, LARGEST_ID)))
    if status:
        query = query.where(Delivery.status == status)
    get_endpoint(endpoint_id)
    return read_page(query.order_by(Delivery.id.desc()), limit)


def redeliver(endpoint_id: int, delivery_id: int) -> Delivery:
    """Let a delivery be sent again, with the same id and content; one that waits for its next try is tried at once.

    Raises WebhookNotFound, DeliveryNotFound; WebhookOff: the endpoint is switched off.
    """
    now = utc_now()
    with write_transaction() as session:
        _get_on(session, endpoint_id)
        row = session.get(Delivery, min(delivery_id, LARGEST_ID), with_for_update=True)
        if row is None or (row.channel, row.recipient) != ("webhook", str(endpoint_id)):
            raise DeliveryNotFound("There is no such delivery to this webhook.")
        # One that is due sooner may be under way.
        if row.finished_at is not None or row.due_at > now + timedelta(seconds=CLAIM_SECONDS):
            row.status, row.finished_at, row.attempts, row.failing_since = WAITING, None, 0, None
            row.due_at = row.created_at = now
    return row


def send_test(endpoint_id: int, *, is_claimed: bool = False) -> Delivery:
    """Write a message of the type `webhook.test`, for the worker to send.

    Args:
        is_claimed: the caller sends it, by `send_claimed`.

    Raises WebhookNotFound; WebhookOff: the endpoint is switched off.
    """
    now = utc_now()
    data = {"webhook_id": endpoint_id, "url": page_url(f"/webhooks/{endpoint_id}")}
    with write_transaction() as session:
        _get_on(session, endpoint_id)
        row = Delivery(
            channel="webhook",
            recipient=str(endpoint_id),
            kind=TEST,
            payload={"type": TEST, "timestamp": now.isoformat(), "data": data},
            message_id=f"msg_{uuid4()}",
            created_at=now,
            due_at=now + timedelta(seconds=CLAIM_SECONDS if is_claimed else 0),
        )
        session.add(row)
    return row


def _get(session: Session, endpoint_id: int, *, lock: bool = False) -> WebhookEndpoint:
    if lock:
        take_turns(session, f"webhook:{endpoint_id}")  # as the sender does, before it locks a delivery
    endpoint = session.get(WebhookEndpoint, min(endpoint_id, LARGEST_ID), with_for_update=lock or None)
    if endpoint is None:
        raise WebhookNotFound(f"There is no webhook {endpoint_id}.")
    return endpoint


def _get_on(session: Session, endpoint_id: int) -> None:
    if _get(session, endpoint_id, lock=True).switched_off_at is not None:
        raise WebhookOff("This webhook is switched off: switch it on first.")


def _renew_secret(endpoint: WebhookEndpoint) -> str:
    secret = f"whsec_{base64.b64encode(os.urandom(32)).decode()}"
    endpoint.secret_sealed = services().cipher.seal(secret, "webhook_endpoint", endpoint.id, "secret")
    return secret


def _cancel_waiting(session: Session, endpoint: WebhookEndpoint) -> None:
    waiting = update(Delivery).where(Delivery.finished_at.is_(None), Delivery.recipient == str(endpoint.id))
    ended = {"status": CANCELLED, "finished_at": utc_now()}
    session.execute(waiting.where(Delivery.channel == "webhook").values(ended))


def _set(endpoint: WebhookEndpoint, changes: Mapping[str, object]) -> None:
    if "url" in changes:
        endpoint.url = _check_url(str(changes["url"] or "").strip())
    if "name" in changes:
        name = tidy_name(str(changes["name"] or "")) or endpoint.host[:LONGEST_NAME]
        if len(name) > LONGEST_NAME:
            raise WebhookUnfit(f"A name has at most {LONGEST_NAME} characters.", "name")
        endpoint.name = name
    if "types" in changes:
        types = changes["types"]
        chosen = None if types is None else [kind for kind in ANNOUNCED if kind in types]  # type: ignore[operator]
        if chosen is not None and (not chosen or len(chosen) != len(set(types))):  # type: ignore[call-overload]
            raise WebhookUnfit(f"Choose one or more of: {', '.join(ANNOUNCED)}.", "types")
        endpoint.types = chosen


def _check_url(url: str) -> str:
    private = services().settings.has_private_webhooks
    try:
        parts = urlsplit(url)
        port = (443 if parts.scheme == "https" else 80) if parts.port is None else parts.port
    except ValueError:
        raise WebhookUnfit("This is not a URL.", "url") from None
    if not re.fullmatch(r"[!-~]+", url) or len(url) > LONGEST_URL or not parts.hostname:
        raise WebhookUnfit(
            f"Enter a whole URL of at most {LONGEST_URL} characters, all of them ASCII, such as "
            "https://example.com/hooks/keap.",
            "url",
        )
    if parts.scheme not in ({"https", "http"} if private else {"https"}):
        hint = "" if private else " WEBHOOK_PRIVATE_TARGETS=on allows http to private addresses."
        raise WebhookUnfit(f"The URL must begin with https://.{hint}", "url")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise WebhookUnfit("The URL must have no user, no password and no part after #.", "url")
    if not may_use_port(port, is_https=parts.scheme == "https"):
        raise WebhookUnfit("The port must be the usual one, or 1024 and above.", "url")
    return url


def may_connect(text: str, *, is_https: bool, allows_private: bool) -> bool:
    """Whether a webhook may go to this numeric address; without TLS to a private one alone."""
    address = _address(text)
    if is_private(text):
        return allows_private
    is_refused = address.is_multicast or any(address in network for network in REFUSED)
    return not is_refused and is_https and address.is_global and (address.version == 4 or address in UNICAST)


def is_private(text: str) -> bool:
    """Whether only the setting opens this numeric address."""
    address = _address(text)
    is_refused = any(address in network for network in REFUSED)
    return not is_refused and any(address in network for network in PRIVATE)


def may_use_port(port: int, *, is_https: bool) -> bool:
    return port == (443 if is_https else 80) or 1024 <= port <= 65_535


def _address(text: str) -> IPv4Address | IPv6Address:
    """Return the address; of an IPv6 one, the IPv4 address to which a translator or this machine would connect."""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        if address in NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address
