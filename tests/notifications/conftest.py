"""The tests of notifications write events as the service does, and look at the deliveries."""

from collections.abc import Iterator

import pytest
from flask import Flask, current_app
from sqlalchemy import select

from keap_connect.clock import utc_now
from keap_connect.database import read_session, write_transaction
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.models import Delivery
from keap_connect.notifications.channels import CHANNELS
from keap_connect.notifications.sender import Sender


@pytest.fixture
def environ(environ: dict[str, str], request: pytest.FixtureRequest) -> dict[str, str]:
    """Give the environment of an app whose webhooks may go to this machine; a test changes it by a parameter."""
    return {**environ, "WEBHOOK_PRIVATE_TARGETS": "on", **getattr(request, "param", {})}


@pytest.fixture(autouse=True)
def inside_the_app(app: Flask) -> Iterator[None]:
    with app.app_context():
        yield


def tell(kind: EventKind, account_id: int | None = 7, **details: object) -> None:
    with write_transaction() as session:
        record(session, kind, account_id, Actor.SYSTEM, **details)


def write_delivery(recipient: str = "1", account_id: int | None = 7, channel: str = "test", **more: object) -> int:
    now = utc_now()
    values = {"kind": "x", "payload": {}, "message_id": "msg_x", "created_at": now, "due_at": now, **more}
    with write_transaction() as session:
        row = Delivery(channel=channel, recipient=recipient, account_id=account_id, **values)
        session.add(row)
        session.flush()
        return row.id


def deliveries() -> list[Delivery]:
    with read_session() as session:
        return list(session.scalars(select(Delivery).order_by(Delivery.id)))


def send_due() -> None:
    """Send what is due, as a worker does that has just started."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    Sender(app, CHANNELS).send_due()
