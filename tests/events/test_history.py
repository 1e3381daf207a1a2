"""The history is told in sentences, newest first, and nothing in it is ever changed."""

import re
import string
from pathlib import Path

import pytest
from sqlalchemy import select, update

from keap_connect.accounts.changes import erase
from keap_connect.accounts.credentials import new_account
from keap_connect.accounts.state import Cause
from keap_connect.clock import utc_now
from keap_connect.database import db, read_session, write_transaction
from keap_connect.events.history import ANNOUNCED, Actor, EventKind, record
from keap_connect.events.search import EventView, Search, list_events
from keap_connect.models import AccountEvent, Delivery, WebhookEndpoint
from keap_connect.services import services
from tests.support.engines import on_sqlite
from tests.support.quick_apps import make_app

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(autouse=True)
def inside_the_app(settings):
    built = make_app(settings)
    with built.app_context():
        yield
        db.engine.dispose()


def tell(kind, account_id=7, **details):
    with write_transaction() as session:
        record(session, kind, account_id, Actor.SYSTEM, **details)


def events_of(account_id: int) -> list[EventView]:
    return list_events(Search(account_id=account_id)).rows


def test_the_newest_event_comes_first_and_other_accounts_stay_out():
    tell(EventKind.CONNECTED, person="Ann Lee")
    tell(EventKind.CONNECTED, account_id=8, person="Ben Ortiz")
    tell(EventKind.REFRESHED)
    tell(EventKind.DISCONNECTED)

    events = events_of(7)

    assert [one.kind for one in events] == ["disconnected", "refreshed", "connected"]
    assert events[-1].sentence == "Connected by Ann Lee."
    assert events[-1].actor == "system"
    assert events[0].at >= events[-1].at


def test_an_event_is_there_only_when_what_it_tells_of_is():
    def fail():
        with write_transaction() as session:
            record(session, EventKind.CONNECTED, 7, Actor.SYSTEM, person="Ann Lee")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert events_of(7) == []


@on_sqlite
def test_each_kind_has_a_sentence_of_its_own():
    for kind in EventKind:
        names = [name for _, name, _, _ in string.Formatter().parse(kind.sentence) if name]
        tell(kind, **dict.fromkeys(names, "<b>{0} {person.__class__}</b>"))

        newest = events_of(7)[0]

        assert newest.kind == kind
        assert newest.sentence.count("<b>{0} {person.__class__}</b>") == len(names), kind


def test_a_person_whom_keap_has_not_named_has_words_too():
    tell(EventKind.CONNECTED)

    assert events_of(7)[0].sentence == "Connected by a person Keap has not named yet."


def test_no_two_kinds_share_a_sentence():
    assert len({kind.sentence for kind in EventKind}) == len(EventKind)


def test_each_kind_is_in_the_docs_with_its_sentence():
    documented = re.findall(r"^\| `([\w.]+)` \| (.*) \|$", (DOCS / "events.md").read_text(), re.MULTILINE)

    assert documented == [(kind.value, kind.sentence) for kind in EventKind]


def test_each_type_of_webhook_is_in_the_docs():
    documented = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|", (DOCS / "webhooks.md").read_text(), re.MULTILINE)

    assert documented == [*ANNOUNCED, "webhook.test"]


def test_each_stored_pair_has_a_value_of_its_own():
    with write_transaction() as session:
        for account_id in (7, 8):
            record(session, EventKind.REFRESHED, account_id, "system")
        record(session, EventKind.DISCONNECTED, 7, "system")

    with write_transaction() as session:
        marks = session.scalars(select(AccountEvent.pair_mark).order_by(AccountEvent.id)).all()
    assert [bool(mark) for mark in marks] == [True, True, False]
    assert marks[0] != marks[1]


@pytest.mark.parametrize("changed", [{"kind": "something_new"}, {"kind": "label_changed", "details": {}}])
def test_what_another_version_wrote_breaks_no_page(changed):
    tell(EventKind.REFRESHED)
    with write_transaction() as session:
        session.connection().execute(update(AccountEvent).values(changed))

    assert events_of(7)[0].sentence in {"Something new.", "The label was changed from unknown to unknown."}


def add_endpoint(session, types=None, **more):
    values = {"url": "https://example.com/hook", "name": "x", "created_at": utc_now(), "created_by": "x", **more}
    session.add(WebhookEndpoint(types=types, **values))
    session.flush()


def deliveries():
    with read_session() as session:
        return list(session.scalars(select(Delivery).order_by(Delivery.id)))


@pytest.mark.proves("R85", "F74")
def test_an_announced_event_has_one_delivery_for_each_endpoint_that_wants_its_type():
    with write_transaction() as session:
        for types in (None, ["account.at_risk"], ["account.connected"]):
            add_endpoint(session, types)
        add_endpoint(session, switched_off_at=utc_now())
        account = new_account(session, "ab123", "7")
        account.external_id = "crm-7"
        record(session, EventKind.REFRESHED, account.id, Actor.SYSTEM)
        details = {"why": "Keap said canary.", "cause": Cause.UNUSED, "deadline": "2026-12-01T00:00:00+00:00"}
        record(session, EventKind.AT_RISK, account.id, Actor.SYSTEM, **details)
    first, second = deliveries()
    event = list_events(Search(account_id=account.id)).rows[0]

    assert (first.recipient, second.recipient, first.payload) == ("1", "2", second.payload)
    assert first.message_id != second.message_id
    assert (first.event_id, first.account_id, first.kind) == (event.id, account.id, "account.at_risk")
    assert (first.channel, first.status, first.attempts, first.due_at) == ("webhook", "waiting", 0, event.at)
    assert first.payload == {
        "type": "account.at_risk",
        "timestamp": event.at.isoformat(),
        "data": {
            "event_id": event.id,
            "account_id": account.id,
            "external_id": "crm-7",
            "tenant_id": "ab123",
            "invitation_id": None,
            "reason": "unused",
            "deadline": "2026-12-01T00:00:00+00:00",
            "url": f"{services().settings.public_url}/reconnect/{account.id}",
        },
    }


@pytest.mark.parametrize("kinds", [[EventKind.MOVED_HERE], [EventKind.RECONNECTED, EventKind.MOVED_HERE]])
def test_a_grant_that_moved_to_its_account_is_announced_there_once(kinds):
    with write_transaction() as session:
        add_endpoint(session)
        for account_id in (7, 8):
            for kind in kinds:
                record(session, kind, account_id, Actor.SYSTEM)

    assert [(one.account_id, one.kind) for one in deliveries()] == [
        (7, "account.reconnected"),
        (8, "account.reconnected"),
    ]


@pytest.mark.proves("R85", "F74")
def test_a_change_that_is_rolled_back_leaves_no_delivery():
    def fail():
        with write_transaction() as session:
            add_endpoint(session)
            record(session, EventKind.RECOVERED, 7, Actor.SYSTEM)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert deliveries() == []


@pytest.mark.proves("R83", "R96")
def test_of_an_erased_account_no_delivery_says_more_than_its_id():
    with write_transaction() as session:
        add_endpoint(session)
        account = new_account(session, "ab123", "7")
        record(session, EventKind.CONNECTED, account.id, Actor.CUSTOMER)

    erase(account.id, "x")

    (last,) = deliveries()
    assert (last.kind, last.payload["data"]["account_id"]) == ("account.disconnected", account.id)
    assert last.payload["data"]["tenant_id"] is None


@pytest.mark.parametrize("change", ["update", "delete"])
def test_an_event_can_neither_be_changed_nor_deleted(change):
    tell(EventKind.REFRESHED)

    def try_to_change():
        with write_transaction() as session:
            event = session.scalars(select(AccountEvent)).one()
            if change == "update":
                event.actor = "nobody"
            else:
                session.delete(event)

    with pytest.raises(TypeError, match="add-only"):
        try_to_change()

    assert events_of(7)[0].actor == "system"
