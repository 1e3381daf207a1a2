"""The audit: what happened stands in it with who and from where, and its page only shows."""

import csv
import html
import io
import logging
import re

import pytest
from flask import Flask
from sqlalchemy import select

from keap_connect.access.admins import create_admin
from keap_connect.database import read_session, write_transaction
from keap_connect.events.history import EventKind, record
from keap_connect.models import AccountEvent
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD
from tests.support.engines import on_sqlite
from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor
from tests.web.direct import send, visit

CUSTOMER, ADMIN, STRANGER = "198.51.100.1", "198.51.100.2", "203.0.113.9"


def stored(app: Flask) -> list[tuple[str, str, str | None, int | None]]:
    """Return kind, actor, address and account of every event, oldest first."""
    with app.app_context(), read_session() as session:
        rows = session.scalars(select(AccountEvent).order_by(AccountEvent.id))
        return [(one.kind, one.actor, one.details.get("address"), one.account_id) for one in rows]


@pytest.fixture
def admin_at_work(app: Flask, sandbox: Sandbox) -> Visitor:
    """Give an admin at an address of their own, signed in."""
    with app.app_context():
        create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
    person = visit(app, sandbox, ADMIN)
    person.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)
    return person


@pytest.mark.proves("R88")
@on_sqlite
def test_a_day_leaves_these_events_and_no_others(app: Flask, sandbox: Sandbox, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    customer, admin, stranger = (visit(app, sandbox, address) for address in (CUSTOMER, ADMIN, STRANGER))
    customer.connect()
    with app.app_context():
        create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
    admin.sign_in(ADMIN_EMAIL, "not the password")
    admin.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)
    admin.get("/accounts/1")
    admin.press("/accounts/1/refresh")
    sandbox.fault("status", status=503, first=1)
    admin.get("/accounts/1")
    admin.press("/accounts/1/refresh")
    customer.reconnect(1)
    customer.get("/accounts/1/disconnect")
    customer.press("/accounts/1/disconnect")
    customer.get("/your-accounts")
    customer.press("/your-accounts/sign-out")
    send(stranger, "GET", "/callback?state=made-up&code=x")
    send(stranger, "POST", "/accounts/1/disconnect", data={"csrf_token": "forged"})
    admin.get("/accounts")
    admin.press("/signout")

    assert stored(app) == [
        ("connected", "customer", CUSTOMER, 1),
        ("admin_created", "command line", None, None),
        ("admin_sign_in_refused", ADMIN, ADMIN, None),
        ("admin_signed_in", ADMIN_EMAIL, ADMIN, None),
        ("refreshed", ADMIN_EMAIL, ADMIN, 1),
        ("refresh_failed", ADMIN_EMAIL, ADMIN, 1),
        ("at_risk", "system", None, 1),
        ("reconnected", "customer", CUSTOMER, 1),
        ("recovered", "system", None, 1),
        ("disconnected", "customer", CUSTOMER, 1),
        ("customer_signed_out", "customer", CUSTOMER, 1),
        ("admin_signed_out", ADMIN_EMAIL, ADMIN, None),
    ]
    # What strangers could repeat without end are lines of the log, with the address.
    assert f"A callback was refused (state_unknown) from {STRANGER}." in caplog.text
    assert re.search(rf"CookiesMissing \(403\) at .* from {STRANGER}", caplog.text)


@on_sqlite
def test_the_page_shows_searches_and_pages(
    app: Flask, admin_at_work: Visitor, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    visit(app, sandbox, CUSTOMER).connect()
    with app.app_context(), write_transaction() as session:
        for number in range(60):
            record(session, EventKind.SCOPE_CHANGED, 1, "system", scope=f"scope-{number}")

    newest = html.unescape(admin_at_work.get("/audit").text)
    older_path = re.search(r'rel="next" href="([^"]+)"', newest)[1]
    older = admin_at_work.get(older_path).text
    monkeypatch.setattr("keap_connect.events.search.MOST_LOOKED_AT", 50)
    long_ago = admin_at_work.get("/audit?who=nobody").text
    found = admin_at_work.get(f"/audit?kind=connected&who={CUSTOMER}&account=1&from=2020-01-01&to=2199-01-01").text
    by_tenant = admin_at_work.get("/audit?account=AB123&kind=connected").text
    nonsense = admin_at_work.get(f"/audit?kind=x&account=acme&from=yesterday&to=9999-12-31&before={'9' * 30}")
    file = admin_at_work.get("/audit.csv?account=a+b")

    assert (newest.count("scope-"), older.count("scope-")) == (50, 10)
    assert "Older ones may." in long_ago
    assert 'rel="next"' in long_ago
    assert "Connected by Ann Lee." in older
    assert 'rel="next"' not in older
    assert found.count("<tr") == 2
    assert ">Acme Plumbing</a>" in found
    assert by_tenant.count("<tr") == 2
    assert nonsense.status_code == 200
    assert re.findall(r'class="field-error" id="([^"]+)-error" role="alert">([^<]+)<', nonsense.text) == [
        ("kind", "There is no such kind of event."),
        ("account", "There is no account tenant:acme."),
        ("from", "Enter a day as 2026-11-29."),
        ("to", "Enter a year from 2000 to 2199."),
    ]
    assert "<tr" not in nonsense.text
    assert (file.status_code, file.text) == (
        400,
        "Enter a number, a Keap account such as ab123, or external: and your own id.",
    )
    assert "No such event" in admin_at_work.get("/audit?who=nobody-at-all").text
    groups = re.findall(r'<optgroup label="([^"]+)">(.*?)</optgroup>', newest, re.DOTALL)
    listed = {kind: group for group, options in groups for kind in re.findall(r'value="([\w.]+)"', options)}
    assert listed == {kind.value: kind.group for kind in EventKind}


@pytest.mark.proves("F62")
def test_the_file_is_what_was_searched_and_no_formula(app: Flask, admin_at_work: Visitor):
    with app.app_context(), write_transaction() as session:
        record(session, EventKind.DISCONNECTED, 5, '=HYPERLINK("x")')

    answer = admin_at_work.get("/audit.csv?kind=disconnected")

    heading, event = csv.reader(io.StringIO(answer.text))
    assert (answer.headers["Content-Type"], answer.headers["Cache-Control"]) == ("text/csv; charset=utf-8", "no-store")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="audit.csv"'
    assert heading[:4] == ["at", "event", "what", "who"]
    assert event[1:6] == ["disconnected", "Disconnected: the tokens are deleted.", '\'=HYPERLINK("x")', "", "5"]


@on_sqlite
def test_nobody_can_change_the_history_from_the_app(app: Flask, admin_at_work: Visitor):
    before = stored(app)

    page = admin_at_work.get("/audit").text
    answers = {send(admin_at_work, method, "/audit").status_code for method in ("POST", "PUT", "PATCH", "DELETE")}

    assert 'method="post"' not in page.partition("<main")[2]
    assert answers == {405}
    assert stored(app) == before
