"""One walk through a year of an integrator: invite 20 customers, lose five of them, get them back by mailed links."""

import re
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from typing import Literal
from urllib.parse import urlsplit

import pytest
from flask import Flask
from limits import RateLimitItemPerMinute
from playwright.sync_api import expect

from keap_connect.access import rate_limits
from keap_connect.access.admins import create_admin
from keap_connect.access.sign_ins import sign_in_admin
from keap_connect.accounts.directory import get_account
from keap_connect.errors import ReconnectRequired, TemporarilyUnavailable
from keap_connect.jobs.runner import JobRunner
from keap_connect.notifications.channels import CHANNELS
from keap_connect.notifications.sender import Sender
from keap_connect.refresh.serving import refresh_account
from tests.browser.person import Person
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD, MovedClock
from tests.support.engines import on_sqlite
from tests.support.mail_server import MailServer, serve_mail
from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor

CUSTOMERS, BROKEN = 20, 5
TENANTS = [f"cu{number}" for number in range(CUSTOMERS)]
PEOPLE = dict(zip(TENANTS, ["ann.lee@example.com", "ben.ortiz@example.com"] * CUSTOMERS, strict=False))


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    with serve_mail() as running:
        yield running


@pytest.fixture
def environ(environ: dict[str, str], mail_server: MailServer) -> dict[str, str]:
    mail = {"SMTP_URL": f"smtp://127.0.0.1:{mail_server.port}", "MAIL_FROM": "connect@example.com"}
    return {**environ, **mail, "CUSTOMER_MAIL": "on"}


@pytest.fixture
def admin(app: Flask, person: Person) -> Person:
    """Give an admin, signed in."""
    with app.app_context():
        admin = create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
        assert admin is not None
        cookie = {"name": "admin", "value": sign_in_admin(admin), "url": person.public_url}
    person.page.context.add_cookies([cookie])  # type: ignore[list-item]
    return person


@pytest.fixture
def new_mails(app: Flask, mail_server: MailServer) -> Callable[[], list[EmailMessage]]:
    """Give the function that does a worker's work, and returns the mails that were sent by it."""

    def work() -> list[EmailMessage]:
        before = len(mail_server.mails)
        with app.app_context():
            JobRunner(app).do_due()
            Sender(app, CHANNELS).send_due()
        return mail_server.mails[before:]

    return work


@pytest.fixture
def connect_by(
    new_visitor: Callable[[], Visitor], monkeypatch: pytest.MonkeyPatch
) -> Callable[[list[EmailMessage]], None]:
    """Give the function that has a customer use the link in each mail, from a browser of their own."""
    for name in ("STARTED_FLOWS_PER_MINUTE", "CALLBACKS_PER_MINUTE"):  # all of them are at this machine
        monkeypatch.setattr(rate_limits, name, RateLimitItemPerMinute(1000))

    def connect(mails: list[EmailMessage]) -> None:
        for path, tenant in map(link_and_tenant, mails):
            new_visitor().connect(PEOPLE[tenant], tenant, action=path, page=path)

    return connect


@pytest.fixture
def break_account(
    app: Flask, sandbox: Sandbox, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], None]:
    """Give the function that has access withdrawn at Keap, which is believed when it says so twice."""
    monkeypatch.setattr("keap_connect.refresh.timing.CONFIRM_WAIT_SECONDS", 0)

    def refuse(account_id: int) -> None:
        clock.advance(minutes=3)  # five that are refused within minutes would be an alarm
        with app.app_context():
            sandbox.withdraw(get_account(account_id).tenant_id or "")
            for refusal in (TemporarilyUnavailable, ReconnectRequired):
                with pytest.raises(refusal):
                    refresh_account(account_id, "x")

    return refuse


def link_and_tenant(mail: EmailMessage) -> tuple[str, str]:
    body = mail.get_body(("plain",))
    assert body is not None
    link, tenant = re.search(r"http://\S+/[ir]/\S+", body.get_content()), re.search(r"\bcu\d+\b", body.get_content())
    assert link is not None
    assert tenant is not None
    return urlsplit(link[0]).path, tenant[0]


@pytest.mark.proves("R15")
@on_sqlite
def test_five_of_twenty_customers_are_got_back_by_four_clicks(
    app: Flask,
    admin: Person,
    connect_by: Callable[[list[EmailMessage]], None],
    break_account: Callable[[int], None],
    new_mails: Callable[[], list[EmailMessage]],
):
    clicks: list[str] = []

    def click(role: Literal["button", "checkbox", "link"], name: str) -> None:
        clicks.append(name)
        admin.page.get_by_role(role, name=name).click()

    admin.open("/accounts")
    click("link", "Invitations")
    click("link", "Invite many")
    lines = [f"Company {one},crm:{one},{one}@example.com,{one}" for one in TENANTS]
    file = "\n".join(["label,external_id,email,expected_tenant_id", *lines]).encode()
    admin.page.get_by_label("CSV file").set_input_files({"name": "x.csv", "mimeType": "text/csv", "buffer": file})
    clicks.append("CSV file")
    click("checkbox", "Send each link to its e-mail address")
    click("button", "Invite all")
    admin.reads(f"Invitations made: {CUSTOMERS}.")
    print(f"clicks to invite {CUSTOMERS}: {len(clicks)} ({', '.join(clicks)})")
    connect_by(new_mails())
    for account_id in range(1, BROKEN + 1):
        break_account(account_id)

    admin.open("/accounts")
    expect(admin.page.locator("#strip")).to_contain_text(f"All {CUSTOMERS} Reconnect required {BROKEN}")
    clicks.clear()
    click("link", "Reconnect required")
    click("button", "Tick the page")
    click("button", "Send reconnect links")
    click("button", "Send reconnect links")
    admin.reads(f"0 of {BROKEN} accounts done")
    mails = new_mails()
    connect_by(mails)

    admin.open("/accounts")
    expect(admin.page.locator("#strip")).to_contain_text(f"Active {CUSTOMERS}")
    expect(admin.page.locator("#summary")).to_have_text("No account needs attention.")
    assert len(mails) == BROKEN
    assert len(clicks) <= 4
    print(f"clicks to get {BROKEN} back: {len(clicks)} ({', '.join(clicks)})")
