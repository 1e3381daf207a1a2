"""Stored states and counts follow every change of the facts, on both databases; lists and searches read them."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from sqlalchemy import delete, func, insert, select, update

from keap_connect.accounts import directory, search
from keap_connect.accounts.changes import change_account, disconnect, erase
from keap_connect.accounts.directory import list_accounts, list_accounts_after, list_accounts_of, view_account
from keap_connect.accounts.schedule import next_refresh_at
from keap_connect.accounts.search import SORTED_BY, Order
from keap_connect.accounts.state import AccountState
from keap_connect.accounts.stored_state import (
    add_up_counts,
    count_places,
    count_states,
    derive_anew,
    is_behind,
    recount,
    registration,
    settle,
    settle_due,
    store_registration,
)
from keap_connect.clock import utc_now
from keap_connect.database import db, read_session, write_transaction
from keap_connect.events.history import EventKind
from keap_connect.models import UNDERIVED, Account, AccountEvent, AccountWord, Registration, SignIn, StateCount
from keap_connect.refresh.state_keeper import StateKeeper
from keap_connect.services import services
from tests.support.drills import wait_until
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.plans import listening, plans_of
from tests.support.quick_apps import make_app

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def app(settings) -> Flask:
    built = make_app(settings)
    with built.app_context():
        yield built
        db.engine.dispose()


def add(**facts) -> int:
    now = utc_now()
    usual = {
        "client_id": services().keap.client_id,
        "token_url": services().keap.token_url,
        "created_at": now,
        "connected_at": now,
        "access_token_expires_at": now + DAY,
        "refresh_token_issued_at": now,
        "next_refresh_at": now + 20 * HOUR,
        "refresh_token_sealed": b"x",
    }
    with write_transaction() as session:
        account = Account(**usual | facts)
        session.add(account)
        session.flush()
        return account.id


def change(account_id: int, **facts) -> None:
    with write_transaction() as session:
        account = session.get_one(Account, account_id)
        for name, value in facts.items():
            setattr(account, name, value)


def plainly(account_id: int, **facts) -> None:
    """Change facts as an older version does: the state is not derived."""
    with write_transaction() as session:
        session.execute(update(Account).where(Account.id == account_id).values(**facts))


def row(account_id: int) -> Account:
    with read_session() as session:
        return session.get_one(Account, account_id)


def kinds(account_id: int) -> list[str]:
    query = select(AccountEvent.kind).where(AccountEvent.account_id == account_id).order_by(AccountEvent.id)
    with read_session() as session:
        return list(session.scalars(query))


def assert_counts_are_right() -> None:
    with read_session() as session:
        stored = Counter(tuple(one) for one in session.execute(select(Account.state, Account.state_cause)))
    assert {place: number for place, number in count_places().items() if number} == stored


def test_a_change_of_the_state_is_stored_with_its_event_and_counted(app):
    one = add()
    assert (row(one).state, kinds(one)) == ("active", [])

    change(one, outcome_unknown_since=utc_now())
    assert (row(one).state, row(one).state_cause) == ("at_risk", "outcome_unknown")
    change(one, refused_at=utc_now())
    assert (row(one).state, row(one).state_cause) == ("reconnect_required", "answer_lost")
    change(one, refused_at=None, outcome_unknown_since=None)
    assert row(one).state == "active"
    assert kinds(one) == [EventKind.AT_RISK, EventKind.RECONNECT_REQUIRED, EventKind.RECOVERED]
    assert_counts_are_right()

    disconnect(one, "admin")
    assert (row(one).state, kinds(one)[3:]) == ("disconnected", [EventKind.DISCONNECTED])
    assert count_states()["disconnected"] == 1
    erase(one, "admin")
    assert sum(count_states().values()) == 0
    with read_session() as session:
        assert session.scalar(select(func.count()).select_from(AccountWord)) == 0


def test_an_account_that_brings_its_number_is_found_by_its_words(app):
    facts = {"created_at": utc_now(), "connected_at": utc_now(), "client_id": "x", "token_url": "x", "label": "Brought"}
    with write_transaction() as session:
        session.add(Account(id=77, **facts))
    assert [one.id for one in list_accounts("brought").accounts] == [77]


def test_a_transaction_that_fails_changes_neither_state_nor_counts(app):
    one = add()

    def fail() -> None:
        with write_transaction() as session:
            session.get_one(Account, one).refused_at = utc_now()
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (row(one).state, kinds(one)) == ("active", [])
    assert_counts_are_right()


def test_changes_that_cancel_out_within_a_transaction_are_no_event(app):
    one = add()
    with write_transaction() as session:
        account = session.get_one(Account, one)
        account.refused_at = utc_now()
        session.flush()
        account.refused_at = None
    assert (row(one).state, kinds(one)) == ("active", [])


def test_the_event_says_why_and_until_when_something_can_be_done(app, clock):
    one = add(refresh_token_issued_at=utc_now() - 34 * DAY)
    clock.advance(days=1, minutes=1)
    change(one, access_token_expires_at=utc_now() + DAY, next_refresh_at=utc_now() + HOUR)
    settle_due(10)
    with read_session() as session:
        event = session.scalars(select(AccountEvent).where(AccountEvent.account_id == one)).one()
    assert event.details["why"] == "Fewer than 10 of the 45 days of an unused refresh token are left."
    assert event.details["cause"] == "unused"
    assert event.details["deadline"] == (row(one).refresh_token_issued_at + 45 * DAY).isoformat()


def test_time_alone_changes_a_state_once_its_moment_has_come(app, clock):
    one = add(access_token_expires_at=utc_now() + HOUR, next_refresh_at=utc_now())
    assert row(one).state_changes_at == row(one).access_token_expires_at
    assert not settle_due(10)
    clock.advance(hours=1, seconds=1)

    assert not settle_due(10)

    assert (row(one).state, row(one).state_cause) == ("at_risk", "overdue")
    assert row(one).state_changes_at == row(one).refresh_token_issued_at + 35 * DAY
    assert kinds(one) == [EventKind.AT_RISK]
    assert_counts_are_right()


def test_a_page_derives_the_few_that_are_due_and_says_if_there_are_more(app, monkeypatch):
    ids = [add(access_token_expires_at=utc_now() + DAY) for _ in range(3)]
    for one in ids:
        plainly(one, failures=3, state_changes_at=utc_now())
    monkeypatch.setattr("keap_connect.accounts.stored_state.MOST_BEFORE_A_LIST", 2)

    assert list_accounts(state="at_risk").is_behind
    found = list_accounts(state="at_risk")

    assert not found.is_behind
    assert (found.total, len(found.accounts)) == (3, 3)


def test_a_date_at_the_end_of_the_calendar_stops_no_other_account(app):
    end = datetime.max.replace(tzinfo=UTC)
    odd, other = add(), add()
    dates = dict.fromkeys(("refresh_token_issued_at", "access_token_expires_at", "next_refresh_at"), end)
    plainly(odd, **dates, attempted_at=end, failed_at=end, failures=1, state_changes_at=utc_now())
    plainly(other, failures=3, state_changes_at=utc_now())

    settle_due(10)

    assert (row(odd).state, row(other).state) == ("active", "at_risk")
    assert [one.id for one in list_accounts().accounts] == [other, odd]
    assert next_refresh_at(row(odd), utc_now()) < utc_now() + 31 * DAY


def test_after_a_pause_of_all_workers_each_account_has_its_turn_before_it_is_at_risk(app, clock):
    StateKeeper(app).derive_due()
    seen, one = (add(access_token_expires_at=utc_now() + HOUR, next_refresh_at=utc_now()) for _ in range(2))
    clock.advance(hours=2)
    assert view_account(seen).state is AccountState.AT_RISK, "no worker has run, and somebody looks"

    for minutes, state in ((9, "active"), (2, "at_risk")):
        StateKeeper(app).derive_due()
        assert view_account(seen).state is AccountState.AT_RISK, "until it is refreshed"
        clock.advance(minutes=minutes)
        StateKeeper(app).derive_due()
        assert (view_account(one).state, row(one).state) == (state, state)
    assert (kinds(seen), kinds(one)) == ([EventKind.AT_RISK], [EventKind.AT_RISK])


@on_sqlite
def test_states_are_kept_while_no_day_can_be_added_up(app, monkeypatch):
    monkeypatch.setattr("keap_connect.refresh.state_keeper.add_to_days", lambda: 1 / 0)
    one = add()
    plainly(one, failures=3, state_changes_at=utc_now())

    with StateKeeper(app):
        wait_until(lambda: row(one).state == "at_risk")


@pytest.mark.proves("R38")
def test_a_host_whose_clock_is_behind_does_not_store_another_state_in_turn(app, clock):
    one = add(access_token_expires_at=utc_now() + HOUR, next_refresh_at=utc_now())
    clock.advance(hours=2)
    assert (view_account(one).state, row(one).state) == ("at_risk", "at_risk")

    clock.advance(minutes=-65)
    view_account(one)

    assert (row(one).state, kinds(one)) == ("at_risk", [EventKind.AT_RISK])


def test_one_account_that_is_read_is_stored_right(app):
    one = add()
    plainly(one, failures=3)  # by an older version, which knows of no state

    assert view_account(one).state is AccountState.AT_RISK
    assert row(one).state == "at_risk"
    assert_counts_are_right()


def test_rows_of_an_older_version_are_derived_at_once_and_without_events(app):
    old = {"created_at": utc_now(), "connected_at": utc_now(), "generation": 1, "kind": "oauth", "failures": 0}
    old |= {"client_id": services().keap.client_id, "token_url": services().keap.token_url, "business_name": "Älter"}
    with write_transaction() as session:
        session.execute(Account.__table__.insert(), [old | {"refused_at": at} for at in (utc_now() - DAY, None)])
    with read_session() as session:
        assert session.scalars(select(Account.state_changes_at)).all() == [UNDERIVED, UNDERIVED]
    assert is_behind()

    StateKeeper(app).derive_due()

    assert not is_behind()
    assert count_states() == {"active": 1, "at_risk": 0, "reconnect_required": 1, "disconnected": 0}
    assert row(1).state_since == row(1).refused_at
    assert kinds(1) == []


def test_the_daily_pass_mends_what_an_older_version_left(app):
    """Facts, names and dates that were changed without their state and words."""
    first, second, third = add(label="one"), add(label="two"), add()
    plainly(first, disconnected_at=utc_now(), label="Zoë's Café")
    plainly(second, refresh_token_issued_at=utc_now() + 2 * HOUR)
    last = 0
    while last is not None:
        last = derive_anew(last, 2)

    assert row(first).state == "disconnected"
    assert [one.id for one in list_accounts("zoe cafe").accounts] == [first]
    assert list_accounts("one").accounts == []
    assert row(second).next_refresh_at <= utc_now(), "a pair that was stored while a clock was ahead is due"
    assert row(third).state == "active"
    assert_counts_are_right()


def test_counts_are_added_up_and_wrong_ones_corrected(app, caplog):
    ids = [add() for _ in range(60)]
    for one in ids:
        change(one, failures=3)
    with read_session() as session:
        assert session.scalar(select(func.count()).select_from(StateCount)) > 100
    add_up_counts()
    with read_session() as session:
        rows = session.execute(select(StateCount.state, StateCount.accounts)).all()
    assert [tuple(one) for one in rows] == [("at_risk", 60)]

    recount()
    assert caplog.messages == []
    with write_transaction() as session:
        session.execute(delete(StateCount))
        session.add(StateCount(state="disconnected", accounts=5))
    recount()
    assert_counts_are_right()
    assert "are corrected" in caplog.text


def test_all_processes_derive_by_the_registration_that_a_worker_stored(app):
    one = add()
    assert not store_registration(), "the start of the app stored it"
    with write_transaction() as session:
        session.get_one(Registration, 1).client_id = "another"
    with read_session() as session:
        assert registration(session)[0] == "another"
    settle([one])
    assert row(one).state_cause == "other_registration"

    StateKeeper(app).derive_due()

    assert (row(one).state, kinds(one)) == ("active", [EventKind.AT_RISK, EventKind.RECOVERED])


@on_postgresql
def test_many_changes_in_both_directions_at_once_end_without_a_deadlock(app):
    ids = [add() for _ in range(12)]
    for one in ids[::2]:
        change(one, failures=3)

    def work(number: int) -> None:
        with app.app_context():
            for turn in range(6):
                if number % 3 == 0:
                    settle(ids)
                elif number % 3 == 1:
                    change(ids[(turn + number) % 12], failures=3 * (turn % 2))
                else:
                    for one in reversed(ids):
                        plainly(one, state_changes_at=utc_now())
                    settle_due(5)
                    add_up_counts()

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))

    assert_counts_are_right()


# Lists and searches


def seeded() -> list[int]:
    now = utc_now()
    facts = [
        {"label": "beta", "access_token_expires_at": now + 3 * HOUR, "last_used_at": now},
        {"label": "Álpha", "access_token_expires_at": now + HOUR, "failures": 3},
        {"label": "gamma", "access_token_expires_at": now + 2 * HOUR, "refused_at": now},
        {"access_token_expires_at": None, "last_used_at": now - HOUR},
        {"label": "beta", "access_token_expires_at": now + 3 * HOUR, "disconnected_at": now},
        {"label": "delta", "failures": 4, "access_token_expires_at": now + 5 * HOUR},
    ]
    return [add(**one) for one in facts]


WANTED = {
    "": [3, 2, 6, 1, 4, 5],
    "-state": [5, 1, 4, 2, 6, 3],
    "account": [2, 1, 5, 6, 3, 4],
    "-account": [3, 6, 5, 1, 2, 4],
    "expires": [2, 3, 1, 5, 6, 4],
    "-expires": [6, 5, 1, 3, 2, 4],
    "used": [4, 1, 2, 3, 5, 6],
    "-used": [1, 4, 2, 3, 5, 6],
    "broken": [3, 2, 6, 1, 4, 5],
    "-broken": [6, 2, 3, 1, 4, 5],
}


@pytest.mark.parametrize("size", [1, 2, 20])
def test_pages_go_through_each_order_and_back(app, monkeypatch, size):
    seeded()
    assert {str(Order.parse(text)) for text in WANTED} == {*WANTED}
    assert len(WANTED) == 2 * len(SORTED_BY)
    monkeypatch.setattr(directory, "PAGE_SIZE", size)
    for text, wanted in WANTED.items():
        pages, page = [], list_accounts(order=Order.parse(text))
        assert page.previous is None
        while True:
            pages.append([one.id for one in page.accounts])
            if page.next is None:
                break
            page = list_accounts(order=Order.parse(text), after=page.next)
        assert [one for each in pages for one in each] == wanted, text
        back = [pages[-1]]
        while page.previous is not None:
            page = list_accounts(order=Order.parse(text), before=page.previous)
            back.insert(0, [one.id for one in page.accounts])
        assert back == pages, text


@pytest.mark.parametrize("value", ["", "x", "2026-11-29", "0001-01-01T00:00:00+10:00", "9999-12-31T23:59:59-10:00"])
def test_a_position_that_somebody_wrote_begins_its_part(app, value):
    seeded()
    for text in ("expires", "used", "broken"):
        for direction in ("after", "before"):
            found = list_accounts(order=Order.parse(text), **{direction: f"0~1~{value}"})
            assert set(found.counts) == set(AccountState)


def test_a_state_narrows_each_order(app):
    seeded()
    for text in WANTED:
        found = list_accounts(state="at_risk", order=Order.parse(text))
        assert {one.id for one in found.accounts} == {2, 6}
        assert found.total == 2


def test_a_search_finds_beginnings_of_words_without_accents_or_case(app):
    one = add(business_name="Müller & Søn Dental", person_name="Ann Lee", person_email="ann.lee@example.com")
    two = add(tenant_id="ab123", external_id="acme-7", label="Zahnärzte am Park")
    for text in ("muller", "MÜLL dent", "ann.lee@example.com", "lee ex", "#1", "1"):
        assert [each.id for each in list_accounts(text).accounts] == [one], text
    for text in ("ab1", "acme", "zahnarzte", "tenant:ab123", "external:acme-7", "2", "ACME-7"):
        assert [each.id for each in list_accounts(text).accounts] == [two], text
    for text in ("uller", "lee park", "external:acme", "9", "#9", "zahn%", "zz"):
        expected = [two] if text == "zahn%" else []
        assert [each.id for each in list_accounts(text).accounts] == expected, text
    change_account(two, "admin", {"label": "Praxis"})
    assert list_accounts("zahn").accounts == []
    assert [each.id for each in list_accounts("praxis", "active").accounts] == [two]
    three = add(person_name="王小明", business_name="株式会社東京ソフトABC", label="서울병원")
    for text in ("王", "明", "東京", "会社東", "ソフト", "フトabc", "東京 小", "병원", "서울"):
        assert [each.id for each in list_accounts(text).accounts] == [three], text
    assert list_accounts("bc").accounts == [], "inside a word of letters"
    assert list_accounts("praxis", "at_risk").accounts == []


@pytest.mark.parametrize("text", ["a", "a b", "---", "é"])
def test_a_search_that_would_find_too_much_is_refused_in_words(app, text):
    add(person_name="Ann Baker")

    found = list_accounts(text)

    assert found.accounts == []
    assert found.note.startswith(("A word of one letter", "Type letters"))
    assert list_accounts_after(0, 10, text=text) == ([], None, found.note)


def test_a_search_looks_at_a_limited_number_and_asks_for_another_word(app, monkeypatch):
    monkeypatch.setattr(search, "MOST_CANDIDATES", 3)
    ids = [add(person_name="Ann Lee", label=f"number{number}") for number in range(5)]

    with listening() as asked:
        common, rare = list_accounts("ann"), list_accounts("ann number4")

    assert [one.id for one in common.accounts] == ids[:3]
    assert "Type one more word" in common.note
    assert ([one.id for one in rare.accounts], rare.note) == ([ids[4]], "")
    assert list_accounts_after(0, 10, text="ann", only=ids[3:]).rows[0].id == ids[3]
    rare_query = next(one for one in asked if "IS NOT NULL" in one[0] and "account_word_1" in one[0])
    (plan,) = plans_of([rare_query], "account_word")
    assert "ix_account_word_account_id_word" in plan, plan


@on_postgresql
def test_a_search_counts_no_more_than_the_most_also_in_a_table_without_a_vacuum(app):
    """Such as after a large import: without an order, PostgreSQL may first read all words that begin so."""
    account_id = add(person_name="Ann Lee")
    with write_transaction() as session:
        words = [{"word": f"dental{number}", "account_id": account_id} for number in range(20_000)]
        session.execute(insert(AccountWord), words)

    with listening() as asked:
        list_accounts("dental ann")

    plans = plans_of([one for one in asked if "count(" in one[0] and "account_word" in one[0]], "account_word")
    assert len(plans) == 2
    assert all("Only Scan using pk_account_word" in plan for plan in plans), plans


def test_the_accounts_of_a_person_are_found_without_reading_all(app):
    ids = [add(tenant_id=f"t{number}", keap_user_id=str(number % 50)) for number in range(100)]

    with listening() as asked:
        mine = list_accounts_of(SignIn(account_id=ids[7], keap_user_id="7"))

    assert [one.id for one in mine] == ids[7::50]
    (plan,) = plans_of([one for one in asked if "ORDER BY account.id" in one[0]], "account")
    assert "ix_account_keap_user_id" in plan, plan
