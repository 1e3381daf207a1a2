"""The history is searched, paged while it grows, written as CSV, and pruned by one command that says so."""

from datetime import timedelta

import pytest

from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.database import db, write_transaction
from keap_connect.events import audit_trail
from keap_connect.events.audit_trail import Wanted, count_older, prune_trail, search_trail, trail_as_csv
from keap_connect.events.history import EventKind, acting_from, record


@pytest.fixture(autouse=True)
def inside_the_app(settings):
    built = create_app(settings)
    with built.app_context():
        yield
        db.engine.dispose()


def tell(kind=EventKind.REFRESHED, account_id=7, actor="system", **details):
    with write_transaction() as session:
        record(session, kind, account_id, actor, **details)


def found(wanted=None, **rest):
    return [row.sentence for row in search_trail(wanted or Wanted(), **rest).rows]


def test_each_filter_narrows_the_search(clock):
    clock.advance(days=-10)
    tell(EventKind.CONNECTED, person="Ann Lee")
    clock.advance(days=10)
    tell(EventKind.DISCONNECTED, account_id=8, actor="Ann@example.com")
    tell(EventKind.ADMIN_SIGNED_IN, None, "192.0.2.7", email="ann@example.com")
    acting_from.set("2001:db8::9")
    tell(EventKind.SCOPE_CHANGED, scope="other")
    acting_from.set(None)
    changed, signed_in, gone, connected = found()
    yesterday = utc_now() - timedelta(days=1)

    assert found(Wanted(kind=EventKind.CONNECTED)) == [connected]
    assert found(Wanted(account_id=8)) == [gone]
    assert found(Wanted(account_id=10**30)) == []
    assert found(Wanted(who="ANN@example")) == [signed_in, gone]
    assert found(Wanted(who="192.0.2.")) == [signed_in]
    assert found(Wanted(who="db8::9")) == [changed]
    assert found(Wanted(who="%")) == found(Wanted(who="_")) == []
    assert found(Wanted(since=yesterday)) == [changed, signed_in, gone]
    assert found(Wanted(until=yesterday)) == [connected]
    assert search_trail(Wanted(account_id=7)).rows[0].address == "2001:db8::9"


def test_pages_stay_right_while_events_come_in():
    for number in range(5):
        tell(EventKind.SCOPE_CHANGED, scope=str(number))

    first = search_trail(Wanted(), limit=2)
    tell(EventKind.SCOPE_CHANGED, scope="new")
    second = search_trail(Wanted(), first.next_before, limit=2)
    last = search_trail(Wanted(), second.next_before, limit=2)

    scopes = [row.details for page in (first, second, last) for row in page.rows]
    assert scopes == [f'{{"scope": "{number}"}}' for number in (4, 3, 2, 1, 0)]
    assert last.next_before is None


@pytest.mark.proves("F62")
def test_the_file_holds_all_events_and_no_formula(monkeypatch):
    monkeypatch.setattr(audit_trail, "BATCH", 2)
    for number in range(5):
        tell(EventKind.CONNECTED, actor=f"=cmd|{number}", person="@SUM(1)")

    lines = "".join(trail_as_csv(Wanted(kind=EventKind.CONNECTED))).splitlines()

    assert len(lines) == 6
    assert lines[0] == "at,event,what,who,from,account,details"
    assert all("Connected by @SUM(1)." in line and ",'=cmd|" in line for line in lines[1:])


def test_pruning_takes_old_events_only_and_says_so(clock, monkeypatch):
    monkeypatch.setattr(audit_trail, "BATCH", 2)
    clock.advance(days=-401)
    for _ in range(5):
        tell(EventKind.REFRESHED)
    clock.advance(days=2)
    tell(EventKind.DISCONNECTED)
    clock.advance(days=399)
    counted = count_older(timedelta(days=400))

    assert (counted, prune_trail(timedelta(days=400)), prune_trail(timedelta(days=400))) == (5, 5, 0)

    pruned, kept = found()
    assert pruned.startswith("5 events from before ")
    assert kept == "Disconnected: the tokens are forgotten."


def test_the_last_thirty_days_are_never_pruned():
    with pytest.raises(ValueError, match="30 days"):
        prune_trail(timedelta(days=29))
