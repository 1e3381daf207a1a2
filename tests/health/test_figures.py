"""The figures of the page Health: nothing is counted twice or lost, and they agree with /metrics and the dashboard."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from sqlalchemy import func, select

from keap_connect import counters
from keap_connect.accounts.changes import disconnect, erase
from keap_connect.accounts.schedule import deadline_of
from keap_connect.accounts.stored_state import settle
from keap_connect.clock import utc_now
from keap_connect.database import db, read_session, write_transaction
from keap_connect.health.figures import DAY, HOUR, Health, read_health
from keap_connect.models import Account, Period, StateChange, Worker
from keap_connect.refresh.figures import add_to_days
from keap_connect.refresh.heartbeat import beat, read_counters, report_counted
from keap_connect.refresh.retention import delete_past
from keap_connect.settings import Settings
from tests.accounts.test_stored_state import add, change, plainly
from tests.conftest import MovedClock
from tests.support.engines import on_sqlite
from tests.support.quick_apps import make_app


@pytest.fixture(autouse=True)
def app(settings: Settings) -> Flask:
    built = make_app(settings)
    counters.take()  # of other tests
    with built.app_context():
        yield built
        db.engine.dispose()


def test_processes_that_report_at_the_same_moment_add_to_one_hour_and_lose_nothing(app: Flask):
    def report(number: int) -> None:
        with app.app_context():
            for outcome in ("stored", "stored", "refused", "not_sent"):
                counters.count("refreshes", outcome)
            counters.observe("keap_latency_seconds", 0.2 + number)
            report_counted()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(report, range(8)))

    hour = read_health().hours[-1]
    assert (hour.refreshed, hour.failed, hour.worst_seconds) == (16, 8, 7.2)
    assert read_counters()["refreshes"] == {"stored": 16, "refused": 8, "not_sent": 8}
    with read_session() as session:
        assert session.scalar(select(func.count()).select_from(Period)) == 1


@on_sqlite
def test_what_is_reported_late_is_of_the_hour_in_which_it_was_counted(clock: MovedClock):
    counters.count("refreshes", "failed")
    clock.advance(hours=2)
    counters.count("refreshes", "stored")
    beat(Worker(name="host:1", started_at=utc_now()))

    assert [(one.refreshed, one.failed) for one in read_health().hours[-3:]] == [(0, 1), (0, 0), (1, 0)]
    assert read_health(until=utc_now()).hours[-1].failed == 0
    assert read_health(until=utc_now() - HOUR).hours[-1].failed == 1


@on_sqlite
def test_the_median_is_within_the_bucket_that_it_is_in_and_never_above_the_worst():
    for seconds in (0.3, 0.3, 0.3, 8.0):
        counters.observe("keap_latency_seconds", seconds)
    report_counted()
    hour = read_health().hours[-1]
    assert hour.median_seconds == pytest.approx(0.25 + 0.25 * 2 / 3)
    assert hour.worst_seconds == 8.0
    assert read_health().hours[-2].median_seconds is None

    counters.take()
    counters.observe("keap_latency_seconds", 0.001)
    assert max(counters.take().values()) == 1.0


def alive(health: Health) -> int:
    return health.days[-1].accounts["active"] + health.days[-1].accounts["at_risk"]


def test_each_gain_and_loss_is_counted_once_with_its_reason(clock: MovedClock):
    refused, dropped, kept = add(), add(), add(needs_first_refresh=True)
    clock.advance(hours=1)
    change(refused, refused_at=utc_now())
    change(kept, outcome_unknown_since=utc_now())  # at risk, which still works
    disconnect(dropped, "admin")
    clock.advance(hours=3)
    change(refused, refused_at=None)
    change(dropped, disconnected_at=None)
    erase(dropped, "admin")
    add(refused_at=utc_now())  # never worked

    add_to_days()
    add_to_days()

    health = read_health()
    gained, lost = Counter[str](), Counter[str]()
    for day in health.days:
        gained.update(day.gained)
        lost.update(day.lost)
    assert gained == {"connected": 2, "imported": 1, "back": 1, "again": 1}
    assert lost == {"refused": 1, "disconnected": 1, "gone": 1}
    assert alive(health) == sum(gained.values()) - sum(lost.values()) == 2
    assert health.waits == [0, 1, 0, 0, 0, 0, 0, 0]


@on_sqlite
def test_a_row_that_an_older_version_wrote_is_no_gain():
    one = add()
    plainly(one, state=None)
    settle([one])
    add_to_days()

    assert read_health().days[-1].gained == {"connected": 1}


def test_a_transaction_that_fails_and_an_addition_that_fails_count_nothing(monkeypatch: pytest.MonkeyPatch):
    one = add()
    with suppress(ZeroDivisionError), write_transaction() as session:
        session.get_one(Account, one).refused_at = utc_now()
        session.flush()
        raise ZeroDivisionError
    with monkeypatch.context() as patch:
        patch.setattr("keap_connect.refresh.figures._add", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            add_to_days()
    add_to_days()

    today = read_health().days[-1]
    assert (today.gained, today.lost) == ({"connected": 1}, {})
    with read_session() as session:
        assert session.scalar(select(func.count()).select_from(StateChange)) == 0


@on_sqlite
def test_days_keep_what_was_counted_last_on_them_and_today_is_now(clock: MovedClock):
    one = add()
    add_to_days()
    clock.advance(days=1)
    change(one, refused_at=utc_now())

    days = read_health().days
    assert days[-3].accounts == {}
    assert days[-2].accounts["active"] == 1
    assert (days[-1].accounts["active"], days[-1].accounts["reconnect_required"]) == (0, 1)


@on_sqlite
def test_hours_are_kept_for_two_weeks_and_days_for_longer(clock: MovedClock):
    add()
    add_to_days()
    counters.count("refreshes", "stored")
    report_counted()
    for days, left in ((13, 2), (2, 1), (386, 0)):
        clock.advance(days=days)
        delete_past()
        with read_session() as session:
            assert session.scalar(select(func.count()).select_from(Period)) == left


@pytest.mark.parametrize(
    ("facts", "days"),
    [
        ({"last_used_at": 3}, 1),
        ({"last_used_at": None}, 45),
        ({"last_used_at": 8}, 45),
        ({"needs_first_refresh": True}, 0),
    ],
)
@on_sqlite
def test_a_used_token_is_early_before_its_own_end_and_an_idle_one_before_that_of_the_grant(facts: dict, days: int):
    now = datetime(2026, 11, 29, tzinfo=UTC)
    used = facts.get("last_used_at")
    account = Account(
        access_token_expires_at=now + DAY,
        refresh_token_issued_at=now,
        needs_first_refresh=bool(facts.get("needs_first_refresh")),
        last_used_at=now - timedelta(days=used) if used else None,
    )
    assert deadline_of(account, now) == (now + days * DAY if days else None)
