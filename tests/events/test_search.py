"""The history is searched, paged while it grows, written as CSV, and pruned by one command that says so."""

from datetime import timedelta

import pytest

from keap_connect.accounts.credentials import new_account
from keap_connect.clock import utc_now
from keap_connect.database import db, write_transaction
from keap_connect.events import deleting, search
from keap_connect.events.deleting import count_older, prune_history
from keap_connect.events.history import EventKind, acting_from, record
from keap_connect.events.search import Search, events_as_csv, list_events
from tests.support.engines import on_sqlite
from tests.support.plans import listening, plans_of
from tests.support.quick_apps import make_app


@pytest.fixture(autouse=True)
def inside_the_app(settings):
    built = make_app(settings)
    with built.app_context():
        yield
        db.engine.dispose()


def tell(kind=EventKind.REFRESHED, account_id=7, actor="system", **details):
    with write_transaction() as session:
        record(session, kind, account_id, actor, **details)


def found(wanted=None, **rest):
    return [row.sentence for row in list_events(wanted or Search(), **rest).rows]


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

    assert found(Search(kind=EventKind.CONNECTED)) == [connected]
    assert found(Search(account_id=8)) == [gone]
    assert found(Search(account_id=10**30)) == []
    assert found(Search(who="ANN@example")) == [signed_in, gone]
    assert found(Search(who="192.0.2.")) == [signed_in]
    assert found(Search(who="db8::9")) == [changed]
    assert found(Search(who="%")) == found(Search(who="_")) == []
    assert found(Search(since=yesterday)) == [changed, signed_in, gone]
    assert found(Search(until=yesterday)) == [connected]
    assert list_events(Search(account_id=7)).rows[0].address == "2001:db8::9"


@on_sqlite
def test_an_account_without_a_name_is_not_shown_as_gone():
    with write_transaction() as session:
        account = new_account(session, None, None)
    tell(account_id=account.id)
    tell(account_id=99)

    assert [event.account_title for event in list_events(Search()).rows] == [None, "New Keap account"]


def test_pages_stay_right_while_events_come_in():
    for number in range(5):
        tell(EventKind.SCOPE_CHANGED, scope=str(number))

    first = list_events(Search(), limit=2)
    tell(EventKind.SCOPE_CHANGED, scope="new")
    second = list_events(Search(), first.next_cursor, limit=2)
    last = list_events(Search(), second.next_cursor, limit=2)

    scopes = [row.details for page in (first, second, last) for row in page.rows]
    assert scopes == [f'{{"scope": "{number}"}}' for number in (4, 3, 2, 1, 0)]
    assert last.next_cursor is None


def test_a_page_looks_for_a_text_in_so_many_events_and_goes_on_from_there(monkeypatch):
    monkeypatch.setattr(search, "MOST_LOOKED_AT", 3)
    for number in range(8):
        tell(EventKind.SCOPE_CHANGED, actor="ann" if number in {0, 7} else "bob", scope=str(number))
    for wanted in (Search(who="ann"), Search(who="ann", since=utc_now() - timedelta(days=1))):
        pages, page = [], list_events(wanted)
        while page.next_cursor:
            pages.append([row.details for row in page.rows])
            page = list_events(wanted, page.next_cursor)
        assert [*pages, [row.details for row in page.rows]] == [['{"scope": "7"}'], [], ['{"scope": "0"}']]
        assert len(list(events_as_csv(wanted))) == 3


def test_days_are_read_in_order_of_time_also_after_the_clock_went_back(clock):
    first = utc_now()
    for hours in (3, -2, 1):
        clock.advance(hours=hours)
        tell(EventKind.SCOPE_CHANGED, scope=str(hours))
    wanted = Search(since=first, until=first + timedelta(days=1))
    scopes, before = [], None
    for _ in range(3):
        page = list_events(wanted, before, limit=1)
        scopes += [row.details for row in page.rows]
        before = page.next_cursor
    assert (scopes, before) == ([f'{{"scope": "{hours}"}}' for hours in (3, 1, -2)], None)
    assert len(found(limit=9)) == len(found(wanted)) == 3


@on_sqlite
def test_a_kind_that_is_rare_is_read_by_its_index():
    days = Search(EventKind.AT_RISK, since=utc_now(), until=utc_now())
    with listening() as asked:
        for one in (Search(EventKind.AT_RISK), Search(EventKind.REFRESHED), Search(EventKind.AT_RISK, only=[7]), days):
            list_events(one)
    plans = plans_of(asked)
    assert ["ix_account_event_kind" in plan for plan in plans] == [True, False, False, True], plans
    assert "ix_account_event_account_id_id" in plans[2]
    assert "ix_account_event_kind_at (kind=? AND at>? AND at<?)" in plans[3]
    assert not any("TEMP B-TREE" in plan for plan in plans)  # sorts all it finds


@pytest.mark.proves("F62")
def test_the_file_holds_all_events_and_no_formula(monkeypatch):
    monkeypatch.setattr(search, "ROWS_AT_ONCE", 2)
    for number in range(5):
        tell(EventKind.CONNECTED, actor=f"=cmd|{number}", person="@SUM(1)")

    lines = "".join(events_as_csv(Search(kind=EventKind.CONNECTED))).splitlines()

    assert len(lines) == 6
    assert lines[0] == "at,event,what,who,from,account,details"
    assert all("Connected by @SUM(1)." in line and ",'=cmd|" in line for line in lines[1:])


def test_pruning_takes_old_events_only_and_says_so(clock, monkeypatch):
    monkeypatch.setattr(deleting, "DELETED_AT_ONCE", 2)
    clock.advance(days=-401)
    for _ in range(5):
        tell(EventKind.REFRESHED)
    clock.advance(days=2)
    tell(EventKind.DISCONNECTED)
    clock.advance(days=399)
    counted = count_older(timedelta(days=400))

    assert (counted, prune_history(timedelta(days=400)), prune_history(timedelta(days=400))) == (4, 4, 0)

    pruned, kept, newest_pair = found()
    assert pruned.startswith("Events from before ")
    assert kept == "Disconnected: the tokens are deleted."
    assert newest_pair == "Refreshed: new tokens are stored."


def test_the_last_thirty_days_are_never_pruned():
    with pytest.raises(ValueError, match="30 days"):
        prune_history(timedelta(days=29))
