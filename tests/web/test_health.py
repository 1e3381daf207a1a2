"""/healthz and /readyz: red when something is wrong that somebody must mend, and silent about what."""

from dataclasses import replace

import pytest
from flask import Flask
from sqlalchemy import update

from keap_connect.clock import utc_now
from keap_connect.crypto import TokenCipher
from keap_connect.database import write_transaction
from keap_connect.health.refreshing import LONGEST_LAG_SECONDS
from keap_connect.models import Account, Worker
from keap_connect.refresh import alarms
from keap_connect.refresh.heartbeat import beat
from tests.conftest import MovedClock
from tests.support.visitor import Visitor

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def readiness(visitor: Visitor) -> tuple[int, str]:
    answer = visitor.get("/readyz")
    assert visitor.get("/healthz").text == "ok\n"
    return answer.status_code, answer.text


@pytest.fixture
def due_account(app: Flask, visitor: Visitor) -> None:
    """Let there be an account that is due now."""
    visitor.connect()
    with app.app_context(), write_transaction() as session:
        session.execute(update(Account).values(next_refresh_at=utc_now()))


@pytest.mark.proves("R90")
def test_without_an_account_no_worker_is_missed(visitor: Visitor, app: Flask, clock: MovedClock):
    clock.advance(days=40)

    assert readiness(visitor) == (200, "ready\n")


@pytest.mark.proves("R90")
@pytest.mark.usefixtures("due_account")
def test_a_sweep_that_has_stopped_turns_it_red_and_a_worker_turns_it_green(
    visitor: Visitor, app: Flask, clock: MovedClock
):
    clock.advance(seconds=LONGEST_LAG_SECONDS - 60)
    assert readiness(visitor) == (200, "ready\n")

    clock.advance(seconds=120)
    assert readiness(visitor) == (503, "not ready\n")

    with app.app_context():
        beat(Worker(name="one", started_at=utc_now(), lag_seconds=900.0))
    assert readiness(visitor) == (200, "ready\n")
    clock.advance(seconds=61)
    assert readiness(visitor) == (503, "not ready\n")


@pytest.mark.proves("R90")
def test_a_key_that_does_not_fit_turns_it_red(visitor: Visitor, app: Flask):
    assert readiness(visitor) == (200, "ready\n")

    wrong = TokenCipher((bytes(range(32, 64)),))
    app.extensions["keap_connect"] = replace(app.extensions["keap_connect"], cipher=wrong)

    assert readiness(visitor) == (503, "not ready\n")


@pytest.mark.proves("R90")
@pytest.mark.parametrize("name", alarms.ADVICE)
def test_an_alarm_turns_it_red_and_every_page_and_command_says_the_same(admin: Visitor, app: Flask, name: str):
    admin.connect()
    with app.app_context():
        beat(Worker(name="one", started_at=utc_now()))
        with write_transaction() as session:
            alarms.raise_alarm(session, name, "This is why.")

    pages = [admin.get(path).text for path in ("/accounts", "/setup")]
    figures = admin.get("/metrics").text
    doctor = app.test_cli_runner().invoke(args=["doctor", "--json"])

    assert readiness(admin) == (503, "not ready\n")
    for page in pages:
        assert "Refreshing is paused: This is why." in page
        assert "1 worker is running; refreshing is paused." in page
        assert "No account needs attention" not in page
        assert "up to date" not in page
    assert f'keap_connect_alarm{{name="{name}"}} 1.0' in figures
    assert doctor.exit_code == 1
    assert "This is why." in doctor.stdout
    assert "up to date" not in doctor.stdout


def test_a_client_that_keap_refuses_is_no_done_step_although_an_older_check_knew_it(admin: Visitor, app: Flask):
    admin.get("/setup")
    admin.press("/setup/check")
    assert "It knows the client" in admin.text
    with app.app_context(), write_transaction() as session:
        alarms.raise_alarm(session, alarms.CLIENT_REFUSED, "Keap refused our client.")

    page = admin.get("/setup").text

    assert "It knows the client" not in page
    assert page.count("Keap refused our client.") == 2
