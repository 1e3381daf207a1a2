"""What admins see of mail and choose about it, and the link in a mail that ends it."""

import json
import re
from urllib.parse import urlsplit

import pytest
from sqlalchemy import select

from keap_connect.access.admins import create_admin, remove_admin
from keap_connect.access.mail_choices import MailChoice, unsubscribe_url
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.database import db, read_session, write_transaction
from keap_connect.events.mailing import new_mail
from keap_connect.health.examination import check_mail
from keap_connect.models import Admin
from keap_connect.notifications.mail import CHANNELS
from keap_connect.notifications.sender import Sender
from keap_connect.refresh import alarms
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD
from tests.support.engines import on_sqlite
from tests.web.direct import send, visit

pytestmark = on_sqlite
ONE_CLICK = {"List-Unsubscribe": "One-Click"}
WITHOUT = pytest.mark.parametrize(
    "environ", [{"SMTP_URL": "", "MAIL_FROM": "", "CUSTOMER_MAIL": "off"}], indirect=True, ids=["without mail"]
)


@pytest.fixture
def app(settings):
    """Give the app; each request has a context of its own."""
    built = create_app(settings)
    yield built
    with built.app_context():
        db.engine.dispose()


@pytest.fixture
def admin(app):
    with app.app_context():
        create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
    person = visit(app)
    person.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)
    return person


@pytest.fixture
def ending_digests(app, admin):
    """Give the path that ends the digest to the admin."""
    with app.app_context():
        return unsubscribe_url(ADMIN_EMAIL, MailChoice.DIGEST).removeprefix(admin.base_url)


def choices(app):
    with app.app_context(), read_session() as session:
        return session.execute(select(Admin.has_alarm_mails, Admin.has_digest_mails)).one()


def test_a_mailed_invitation_of_an_admin_is_not_shown(app, admin, mail_server):
    admin.get("/admins")
    fields = {**admin.fields("/admins"), "email": "ben@example.com", "password": ADMIN_PASSWORD}

    admin.press("/admins", **fields)

    assert fields["is_mailed"] == "1"
    assert "A mail with the link goes to ben@example.com" in admin.text
    assert "/new-password/" not in admin.page.text
    with app.app_context():
        Sender(app, CHANNELS).send_due()
    assert [one["To"] for one in mail_server.mails] == ["ben@example.com"]
    admin.get("/admins/2")
    admin.press("/admins/2", act="invite", password=ADMIN_PASSWORD)
    assert "/new-password/" in admin.page.text


# The link in a mail


def test_a_mail_program_ends_the_mails_with_one_click_and_no_cookie(app, admin, mail_server, clock):
    with app.app_context(), write_transaction() as session:
        alarms.raise_alarm(session, alarms.CLIENT_REFUSED, "Keap refused the client.")
    clock.advance(seconds=121)
    with app.app_context():
        Sender(app, CHANNELS).send_due()
    (mail,) = mail_server.mails
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    # As it is on the line, since mail programs decode no words in it.
    path = re.search(rf"^List-Unsubscribe: <{admin.base_url}(.*)>\r$", mail_server.raw[0].decode(), re.MULTILINE)[1]

    answer = send(visit(app), "POST", path, data=ONE_CLICK)

    assert answer.status_code == 200
    assert choices(app) == (False, True)


def test_opening_the_link_changes_nothing_and_its_button_does(app, ending_digests):
    stranger, path = visit(app), ending_digests

    assert stranger.get(path).status_code == 200
    assert f"{ADMIN_EMAIL} gets the daily digest from this site." in stranger.text
    assert choices(app) == (True, True)
    stranger.press(path)

    assert "These mails are stopped" in stranger.text
    assert choices(app) == (True, False)


@pytest.mark.parametrize("change", ["cut", "other kind", "no kind", "letters", "removed"])
def test_a_link_that_was_changed_or_is_for_nobody_ends_nothing(app, ending_digests, change):
    path = ending_digests
    if change == "removed":
        with app.app_context():
            gone = create_admin("gone@example.com", ADMIN_PASSWORD)
            path = urlsplit(unsubscribe_url(gone.email, MailChoice.DIGEST)).path
            remove_admin(gone.id, "x")
    changed = {"cut": path[:-1], "other kind": path.replace("digest", "alarms"), "no kind": path.replace("digest", "x")}
    path = {**changed, "letters": path[:-1] + "é"}.get(change, path)

    answer = send(visit(app), "POST", path, data=ONE_CLICK)

    assert answer.status_code == 404
    assert choices(app) == (True, True)


@pytest.mark.proves("R64")
@pytest.mark.parametrize("path", ["/profile/mails", "/mail"])
def test_the_words_of_one_click_open_no_other_form(admin, path):
    assert send(admin, "POST", path, data=ONE_CLICK).status_code == 403


# The profile


def test_an_admin_chooses_which_mails_to_get(app, admin):
    admin.get("/profile")
    admin.press("/profile/mails", mails="digest")

    assert choices(app) == (False, True)
    assert "Your choice is saved." in admin.text
    assert "The mails that admin@example.com gets were chosen: digest." in admin.get("/audit").text


# A test mail, and the last results


def test_a_test_mail_shows_what_was_said(admin, mail_server):
    admin.get("/mail")
    admin.press("/mail")

    assert "The mail server took it over: 250 Taken over" in admin.text
    assert "> rcpt TO:<admin@example.com>" in admin.text
    assert mail_server.recipients == [ADMIN_EMAIL]
    mail_server.answers = {"RCPT": "550 5.1.1 <b>No such user"}
    admin.press("/mail")
    assert "It was not sent: 550 5.1.1 &lt;b&gt;No such user" in admin.page.text


def test_a_test_mail_can_be_sent_from_the_command_line(app, mail_server):
    run = app.test_cli_runner().invoke

    done = run(args=["mail", "test", "ann@example.com", "--json"])
    mail_server.answers = {"DATA": "554 5.7.1 Spam"}
    failed = run(args=["mail", "test", "ann@example.com"])

    assert json.loads(done.stdout)["is_accepted"]
    assert (failed.exit_code, failed.stderr) == (1, "It was not sent: 554 5.7.1 Spam\n")
    assert "> rcpt TO:<ann@example.com>" in failed.stdout


def test_the_last_result_of_each_recipient_is_shown_and_a_failure_on_the_dashboard_too(app, admin):
    results = [("ann@example.com", "given_up", "550 Old"), ("ann@example.com", "sent", "250 Newer")]
    results.append(("ben@example.com", "given_up", "550 No such user"))
    now = utc_now()
    with app.app_context(), write_transaction() as session:
        for recipient, status, answer in results:
            mail = new_mail(recipient, "digest", {}, now)
            mail.status, mail.answer, mail.tried_at, mail.finished_at = status, answer, now, now
            session.add(mail)
    with app.app_context():
        (finding,) = check_mail()

    page = admin.get("/mail").text
    assert "550 Old" not in page
    assert page.index("550 No such user") < page.index("250 Newer")
    assert "The last mail to ben@example.com was not sent: 550 No such user" in admin.get("/accounts").text
    assert finding.sentence == "The last mail to ben@example.com was not sent: 550 No such user"


@WITHOUT
def test_without_a_mail_server_the_pages_say_so_and_how_to_change_that(app, admin):
    assert "Nobody is notified by mail" in admin.get("/accounts").text
    assert "Nobody is notified by mail yet" in admin.get("/profile").text
    page = admin.get("/mail").text

    assert "<code>SMTP_URL</code> and <code>MAIL_FROM</code>" in page
    assert "Send a test mail" not in page
    failed = app.test_cli_runner().invoke(args=["mail", "test", "ann@example.com"])
    assert failed.stderr == "Error: SMTP_URL and MAIL_FROM are not set, so nobody is notified by mail.\n"
    with app.app_context():
        assert [one.sentence for one in check_mail()] == ["SMTP_URL is not set, so nobody is notified by mail."]
