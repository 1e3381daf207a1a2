"""The calendar's odd days change nothing: all is reckoned in UTC, wherever the machine believes to be (F44, R38)."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask

from keap_connect.accounts.directory import get_account, view_account
from keap_connect.accounts.state import AccountState
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.database import db, write_transaction
from keap_connect.models import Account
from keap_connect.refresh.due import claim_due
from keap_connect.settings import Settings
from tests.accounts.granted import store_account
from tests.conftest import MovedClock
from tests.support.sandbox import Sandbox

# New York's clocks jump from 2 to 3 o'clock at 07:00 UTC in March, and from 2 back to 1 at 06:00 UTC in November.
ODD_DAYS = {
    "clocks go forward": datetime(2027, 3, 14, 6, 30, tzinfo=UTC),
    "clocks go back": datetime(2027, 11, 7, 5, 30, tzinfo=UTC),
    "leap day": datetime(2028, 2, 28, 23, 30, tzinfo=UTC),
    "end of February without one": datetime(2027, 2, 28, 23, 30, tzinfo=UTC),
    "end of the year": datetime(2027, 12, 31, 23, 30, tzinfo=UTC),
}


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the machine believe to be there."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def inside_the_app(new_york: None, settings: Settings) -> Iterator[Flask]:
    """Give the app on a machine there."""
    built = create_app(settings, serves=False)
    with built.app_context():
        yield built
        db.engine.dispose()


@pytest.mark.proves("F44", "R38")
@pytest.mark.parametrize("day", ODD_DAYS.values(), ids=ODD_DAYS)
@pytest.mark.usefixtures("inside_the_app")
def test_a_day_has_twenty_four_hours_and_forty_five_days_are_so_many(
    sandbox: Sandbox, clock: MovedClock, day: datetime
):
    clock.advance(seconds=(day - datetime.now(UTC)).total_seconds())
    account_id = store_account(sandbox, last_used_at=utc_now())
    with write_transaction() as session:
        session.get_one(Account, account_id).next_refresh_at = utc_now() + timedelta(hours=21)
    stored, seen = get_account(account_id), view_account(account_id)

    assert stored.access_token_expires_at - utc_now() == pytest.approx(timedelta(days=1), abs=timedelta(minutes=1))
    assert seen.refresh_token_expires_at - utc_now() == pytest.approx(timedelta(days=45), abs=timedelta(minutes=1))
    clock.advance(hours=20, minutes=58)
    assert claim_due(10) == [], "too early"
    clock.advance(minutes=4)
    assert [account.id for account in claim_due(10)] == [account_id]
    clock.advance(hours=2, minutes=55)
    assert view_account(account_id).state is AccountState.ACTIVE
    clock.advance(minutes=5)
    assert view_account(account_id).state is AccountState.AT_RISK
    clock.advance(days=44, minutes=-3)
    assert view_account(account_id).state is AccountState.AT_RISK
    clock.advance(minutes=2)
    assert view_account(account_id).state is AccountState.RECONNECT_REQUIRED
