"""The history is told in sentences, newest first, and nothing in it is ever changed."""

import string

import pytest
from sqlalchemy import select

from keap_connect.application import create_app
from keap_connect.database import db, write_transaction
from keap_connect.events.history import SENTENCES, Actor, EventKind, list_events, record
from keap_connect.models import AccountEvent


@pytest.fixture(autouse=True)
def inside_the_app(settings):
    built = create_app(settings)
    with built.app_context():
        yield
        db.engine.dispose()


def tell(kind, account_id=7, **details):
    with write_transaction() as session:
        record(session, kind, account_id, Actor.SYSTEM, **details)


def test_the_newest_event_comes_first_and_other_accounts_stay_out():
    tell(EventKind.CONNECTED, person="Ann Lee")
    tell(EventKind.CONNECTED, account_id=8, person="Ben Ortiz")
    tell(EventKind.REFRESHED)
    tell(EventKind.DISCONNECTED)

    events = list_events(7)

    assert [one.kind for one in events] == ["disconnected", "refreshed", "connected"]
    assert events[-1].sentence == "Connected by Ann Lee."
    assert events[-1].actor == "system"
    assert events[0].at >= events[-1].at
    assert [one.kind for one in list_events(7, limit=1)] == ["disconnected"]


def test_an_event_is_there_only_when_what_it_tells_of_is():
    def fail():
        with write_transaction() as session:
            record(session, EventKind.CONNECTED, 7, Actor.SYSTEM, person="Ann Lee")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert list_events(7) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("kind", EventKind)
def test_each_kind_has_a_sentence_of_its_own(kind):
    names = [name for _, name, _, _ in string.Formatter().parse(SENTENCES[kind]) if name]
    tell(kind, **dict.fromkeys(names, "<b>{0} {person.__class__}</b>"))

    sentence = list_events(7)[0].sentence

    assert sentence.count("<b>{0} {person.__class__}</b>") == len(names)


def test_a_person_whom_keap_has_not_named_has_words_too():
    tell(EventKind.CONNECTED)

    assert list_events(7)[0].sentence == "Connected by a person Keap has not named yet."


def test_no_two_kinds_share_a_sentence():
    assert len(set(SENTENCES.values())) == len(SENTENCES) == len(EventKind)


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

    assert list_events(7)[0].actor == "system"
