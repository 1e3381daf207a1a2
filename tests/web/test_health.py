"""/healthz and /readyz: red when something is wrong that somebody must mend, and silent about what."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta, timezone
from urllib.parse import urlencode

import pytest
from flask import Flask
from sqlalchemy import update

from keap_connect.access.admins import create_admin
from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.clock import utc_now
from keap_connect.counters import hour_of
from keap_connect.crypto import TokenCipher
from keap_connect.database import write_transaction
from keap_connect.health.refreshing import LONGEST_LAG_SECONDS
from keap_connect.models import Account, Period, Span, Worker
from keap_connect.refresh import alarms
from keap_connect.refresh.heartbeat import beat
from keap_connect.refresh.state_keeper import StateKeeper
from keap_connect.settings import Settings
from keap_connect.web.rendering import iso
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD, MovedClock
from tests.support.engines import on_sqlite
from tests.support.markup import Markup
from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor
from tests.web.direct import visit

pytestmark = on_sqlite

SHOW = ("accounts", "show", "1")


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
        beat(Worker(name="one", started_at=utc_now()))
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

    run = app.test_cli_runner().invoke
    pages = [admin.get(path).text for path in ("/accounts", "/setup", "/accounts/1", "/health")]
    figures = admin.get("/metrics").text
    doctor, status, shown = (run(args=[*words]) for words in (["doctor"], ["refreshing", "status"], SHOW))

    assert readiness(admin) == (503, "not ready\n")
    for page in pages:
        assert "Refreshing has been paused since 2" in page
        assert "This is why." in page
        assert "press Resume" in page
        assert 'name="name" value="' + name in page
        for calm in ("No account needs attention", "up to date", "steps are done.\n", "Nothing to do", "kept alive"):
            assert calm not in page
    assert "1 worker is running; refreshing is paused." in pages[0]
    assert re.search(r'<li id="worker">.*?>Problem</strong>', pages[1].partition('<li id="connect">')[2], re.DOTALL)
    assert f'keap_connect_alarm{{name="{name}"}} 1.0' in figures
    assert (doctor.exit_code, status.exit_code) == (1, 4)
    for told in (doctor, status):
        assert "This is why." in told.stdout
        assert "up to date" not in told.stdout
    tries_one = name == alarms.CLIENT_REFUSED
    assert ("accounts are refreshed only one by one" if tries_one else "is paused for all accounts") in shown.stdout

    admin.get("/accounts")
    if name == alarms.UNKNOWN_INSTANCE:
        assert admin.press("/accounts/resume", password="not the password").status_code == 401
        assert "That password is wrong. Nothing was changed." in admin.text
        assert readiness(admin) == (503, "not ready\n")
    admin.get("/accounts")
    admin.press("/accounts/resume", password=ADMIN_PASSWORD)

    assert readiness(admin) == (200, "ready\n")
    assert "No account needs attention" in admin.get("/accounts").text
    assert "admin@example.com" in run(args=["audit", "list", "--kind", "refreshing_resumed"]).stdout


@pytest.mark.proves("R102")
def test_people_who_could_not_connect_are_on_every_page_and_in_doctor(
    admin: Visitor, new_visitor: Callable[[], Visitor], app: Flask, sandbox: Sandbox
):
    sandbox.fault("invalid_client_401", "exchange", first=3)
    one, two = new_visitor(), new_visitor()
    one.connect(allow=False)
    for person in (one, one, two):
        person.connect()
    seen, journeys = two.text, admin.get("/accounts/journeys").text
    doctor = app.test_cli_runner().invoke(args=["doctor", "--json"]).stdout
    told = [admin.get("/accounts").text, admin.get("/setup").text, journeys, doctor]
    one.connect()
    later = admin.get("/accounts").text

    for text in told:
        assert "2 people could not connect in the last hour: Keap refuses this app." in text
        assert "could not connect in the last hour: access was denied" not in text, "who was counted already"
    assert "invalid_client" in journeys
    reference = re.search(r"reference: (\S+)", seen)
    assert reference
    assert reference[1] in journeys
    assert journeys.count(">127.0.0.1<") == 4
    admin.get("/accounts/journeys")
    assert "Acme Plumbing ann.lee@example.com" in admin.text
    assert "1 person could not connect in the last hour: Keap refuses this app." in later


def test_a_client_that_keap_refuses_is_no_done_step_although_an_older_check_knew_it(admin: Visitor, app: Flask):
    admin.get("/setup")
    admin.press("/setup/check")
    assert "It knows the client" in admin.text
    with app.app_context(), write_transaction() as session:
        alarms.raise_alarm(session, alarms.CLIENT_REFUSED, "Keap refused our client.")

    page = admin.get("/setup").text

    assert "It knows the client" not in page
    assert page.count("Keap refused our client.") == 2


@pytest.mark.proves("F96")
def test_grants_of_another_client_id_are_at_risk_everywhere_and_end_in_409(
    visitor: Visitor, settings: Settings, new_app: Callable[[], Flask], sandbox: Sandbox, clock: MovedClock
):
    visitor.connect()
    object.__setattr__(settings.keap, "client_id", "another-client-id")
    app = new_app()
    admin, run = visit(app, sandbox), app.test_cli_runner().invoke
    with app.app_context():
        create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
        key = issue_api_key("jobs", list(Scope), "test").text
        beat(Worker(name="one", started_at=utc_now()))
        StateKeeper(app).derive_due()
    admin.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)
    jobs = app.test_client()
    program = {"base_url": settings.public_url, "headers": {"Authorization": f"Bearer {key}"}}

    pages = [admin.get(path).text for path in ("/accounts", "/accounts/1", "/setup")]
    valid = jobs.get("/api/v1/accounts/1/token", **program)
    doctor, shown = run(args=["doctor"]), run(args=["accounts", "show", "1"])

    assert readiness(admin) == (503, "not ready\n")
    for page in pages:
        assert "1 stored grant belongs to another client id" in page
    assert "1 account is at risk" in pages[0]
    for text in (pages[1], shown.stdout):
        assert "It was connected with another client id" in text
        assert "Put the old KEAP_CLIENT_ID" in text
    assert (valid.status_code, valid.json["state"]) == (200, "at_risk")
    assert (doctor.exit_code, "WRONG  grants" in doctor.stdout) == (1, True)

    clock.advance(days=1, minutes=1)
    ended = jobs.get("/api/v1/accounts/1/token", **program)

    assert (ended.status_code, ended.json["error"], ended.json["is_retryable"]) == (409, "reconnect_required", False)
    assert ended.json["reconnect_url"] == f"{settings.public_url}/reconnect/1"


def test_the_hours_that_an_address_asks_for_are_shown_if_they_are_kept(admin: Visitor, app: Flask, clock: MovedClock):
    if utc_now().minute > 50:
        clock.advance(minutes=10)  # no hour ends meanwhile
    hour = hour_of(utc_now())
    in_india = (hour - timedelta(hours=36)).astimezone(timezone(timedelta(hours=5.5))).isoformat()
    assert "No figures yet" in admin.get("/health").text
    with app.app_context(), write_transaction() as session:
        for hours in range(24 * 14):
            session.add(
                Period(span=Span.HOUR, starts_at=hour - timedelta(hours=hours), figures={"refreshes stored": 1})
            )

    for until, first, links in (
        ("", 23, ["Earlier hours"]),
        ("x", 23, ["Earlier hours"]),
        ("0001-01-01T00:00:00+14:00", 23, ["Earlier hours"]),
        ("9999-12-31", 23, ["Earlier hours", "The last hours"]),
        ("2001-01-01", 335, ["The last hours"]),
        (in_india, 60, ["Earlier hours", "The last hours"]),
    ):
        page = Markup.of(admin.get(f"/health?{urlencode({'until': until})}").text)

        shown = [one["datetime"] for one in page.all("time") if one.parents[-1].name == "th"]
        assert shown == [iso(hour - timedelta(hours=first - number)) for number in range(24)], until
        assert [one.text for one in page.all("a") if one.text.endswith(" hours")] == links
