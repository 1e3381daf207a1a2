"""Who gets which mail, when, and when nobody does; sent to a real mail server on a clock that the test moves."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from html import escape

import pytest
from sqlalchemy import select, text, update

from keap_connect.access.admins import create_admin, invite_admin, invite_again, remove_admin, withdraw_invitation
from keap_connect.access.mail_choices import MailChoice, choose_mails
from keap_connect.access.passwords import get_owner_of_link
from keap_connect.accounts.changes import erase
from keap_connect.accounts.credentials import new_account, replace_credential
from keap_connect.accounts.state import Cause
from keap_connect.clock import utc_now
from keap_connect.connect import identifying, invitations
from keap_connect.connect.invitations import NewInvitation, make_invitation
from keap_connect.connect.matching import use_invitation
from keap_connect.connect.reconnect_links import check_link, list_open_links, mail_link, mail_link_in
from keap_connect.database import read_one, read_session, write_transaction
from keap_connect.emergency_stop import stop_everything
from keap_connect.errors import InvitationRefused, LinkGone
from keap_connect.events.history import EventKind, record
from keap_connect.events.mailing import ask_to_reconnect
from keap_connect.keap.token_response import TokenResponse
from keap_connect.keap.user_info import Identity
from keap_connect.models import Account, Admin, CredentialKind, Delivery, Invitation, Role, WebhookEndpoint
from keap_connect.notifications import mail as mails_of_app
from keap_connect.notifications.endpoints import add_endpoint, change_endpoint, switch_off
from keap_connect.notifications.mail import CHANNELS
from keap_connect.notifications.sender import Sender
from keap_connect.notifications.smtp import CAUSES
from keap_connect.refresh import alarms
from keap_connect.settings import Logo, ServiceSettings
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD
from tests.support.drills import wait_until
from tests.support.engines import on_postgresql, on_sqlite

CUSTOMER = "carla@example.com"
KEY = {"kind": CredentialKind.SERVICE_ACCOUNT_KEY}
OFF = pytest.mark.parametrize("environ", [{"CUSTOMER_MAIL": "off"}], indirect=True)


@pytest.fixture(autouse=True)
def admin(app):
    return create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)


@pytest.fixture
def send(app, mail_server):
    """Give the function that sends what is due, and returns what arrived by it."""

    def run():
        before = len(mail_server.mails)
        Sender(app, CHANNELS).send_due()
        return mail_server.mails[before:]

    return run


def connect(number=1, **columns):
    with write_transaction() as session:
        account = new_account(session, f"ab{number}", str(number))
        account.business_name, account.person_email = f"Bright Dental {number}", CUSTOMER
        for name, value in columns.items():
            setattr(account, name, value)
        return account.id


def change(account_id, **columns):
    """Change facts of an account; its state follows, with the event."""
    with write_transaction() as session:
        account = session.get_one(Account, account_id)
        for name, value in columns.items():
            setattr(account, name, value)


def lose(account_id, cause=Cause.REFUSED):
    if cause is Cause.AGED_OUT:
        change(account_id, refresh_token_issued_at=utc_now() - timedelta(days=46))
    else:
        change(account_id, refused_at=utc_now(), failure_reason="Words of Keap.")


def recover(account_id):
    change(account_id, refused_at=None, failures=0, refresh_token_issued_at=None)


def endanger(account_id):
    change(account_id, refresh_token_issued_at=utc_now() - timedelta(days=36))


def raise_alarm(name=alarms.MASS_REFUSAL):
    with write_transaction() as session:
        alarms.raise_alarm(session, name, "Keap refused 7 accounts.")


def deliveries(**columns):
    with read_session() as session:
        return list(session.scalars(select(Delivery).filter_by(**columns).order_by(Delivery.id)))


def text_of(mail):
    return mail.get_body(("plain",)).get_content().replace("\r\n", "\n")


def link_in(mail):
    return re.search(r"/r/([0-9a-f]{64})$", text_of(mail), re.MULTILINE)[1]


@pytest.mark.proves("R51")
@on_sqlite
def test_an_admin_is_invited_by_mail_unless_a_newer_link_or_a_withdrawal_comes_first(send):
    link = invite_admin("ben@example.com", Role.VIEWER, ADMIN_EMAIL, is_mailed=True)
    (row,) = deliveries(kind="admin invitation")

    (mail,) = send()

    assert (mail["To"], mail["Subject"]) == ("ben@example.com", "You are invited to Keap Connect at localhost")
    for said in (link, f"Invited by: {ADMIN_EMAIL}", "Your role: viewer", "The link works once, until"):
        assert said in text_of(mail)
    assert link.rpartition("/")[2] not in json.dumps(row.payload) + row.message_id
    admin_id = get_owner_of_link(link.rpartition("/")[2]).id
    invite_again(admin_id, ADMIN_EMAIL, is_mailed=True)
    invite_again(admin_id, ADMIN_EMAIL, is_mailed=True)
    assert len(send()) == 1
    invite_again(admin_id, ADMIN_EMAIL, is_mailed=True)
    assert [one.status for one in deliveries(kind="admin invitation")] == ["sent", "cancelled", "sent", "waiting"]
    withdraw_invitation(admin_id, ADMIN_EMAIL)
    assert send() == []
    assert deliveries(recipient="ben@example.com") == []


# Alarms


@pytest.mark.proves("F74")
def test_an_alarm_is_mailed_to_the_admins_two_minutes_after_it_began_once(send, clock):
    create_admin("viewer@example.com", ADMIN_PASSWORD, role=Role.VIEWER)
    invite_admin("invited@example.com", Role.ADMIN, "x")
    raise_alarm()
    assert send() == []

    clock.advance(seconds=121)
    (mail,) = send()
    clock.advance(minutes=10)

    assert send() == []
    assert mail["To"] == ADMIN_EMAIL
    assert mail["From"] == "Acme Sync <connect@example.com>"
    assert mail["Subject"] == "Refreshing is paused for all accounts"
    for said in ("Keap refused 7 accounts.", "press Resume on the", "/accounts"):
        assert said in text_of(mail)
        assert said in mail.get_body(("html",)).get_content()


@on_sqlite
def test_an_alarm_that_ended_within_two_minutes_is_not_mailed_and_the_next_one_is_once(send, clock):
    raise_alarm()
    clock.advance(seconds=30)
    assert alarms.resume([alarms.MASS_REFUSAL], "x")
    clock.advance(seconds=30)
    raise_alarm()
    clock.advance(seconds=90)
    assert send() == []

    clock.advance(seconds=90)

    assert len(send()) == 1
    assert [one.status for one in deliveries(kind="alarm")] == ["cancelled", "sent"]


@on_sqlite
@pytest.mark.proves("F72")
def test_an_emergency_stop_is_mailed_and_announced_though_it_ends_the_passwords(send, clock):
    add_endpoint("https://example.com/", None, None, "x")
    stop_everything("x")
    assert [one.payload["data"]["reason"] for one in deliveries(kind="refreshing.paused")] == ["unknown_instance"]
    clock.advance(seconds=121)

    (mail,) = send()

    assert mail["To"] == ADMIN_EMAIL
    assert "Everything was stopped by `./keap-connect emergency-stop`." in " ".join(text_of(mail).split())


@on_sqlite
def test_an_alarm_of_before_a_backward_step_of_the_clock_is_mailed(send, clock):
    clock.advance(hours=6)
    raise_alarm()
    clock.advance(hours=-6)
    assert send() == []
    clock.advance(seconds=121)

    assert [mail["Subject"] for mail in send()] == ["Refreshing is paused for all accounts"]


# The digest


@on_postgresql
@pytest.mark.proves("F74")
def test_one_digest_a_day_names_what_needs_attention_and_why(send, clock):
    lost, risky, well = connect(1), connect(2), connect(3)
    lose(lost)
    endanger(risky)
    deadline = utc_now() + timedelta(days=9)
    clock.advance(minutes=61)
    send()
    mails_of_app.write_digests()  # another worker
    clock.advance(seconds=121)
    (mail,) = [one for one in send() if one["To"] == ADMIN_EMAIL]
    text = " ".join(text_of(mail).split())

    assert mail["Subject"] == "2 accounts need attention"
    assert f"ab{well}" not in text
    for said in (
        "Bright Dental 1 It must be reconnected. " + CAUSES[Cause.REFUSED],
        f"Its customer is written to: {CUSTOMER}.",
        "Bright Dental 2 It is at risk. " + CAUSES[Cause.UNUSED],
        f"It can be repaired until {deadline:%Y-%m-%d %H:%M} UTC;",
        f"/accounts/{lost}",
    ):
        assert said in text
    assert "Words of Keap" not in text
    assert {one.account_id for one in deliveries(channel="customer_mail")} == {lost}  # nobody, while refreshes fail

    clock.advance(hours=23)
    send()
    clock.advance(seconds=121)
    assert [one for one in send() if one["To"] == ADMIN_EMAIL] == []
    clock.advance(hours=1)
    send()
    clock.advance(seconds=121)
    assert len([one for one in send() if one["To"] == ADMIN_EMAIL]) == 1


@on_sqlite
@OFF
def test_an_account_is_in_the_digest_when_it_is_at_risk_for_an_hour(send, clock):
    account_id = connect()
    endanger(account_id)
    clock.advance(minutes=59)
    send()
    assert deliveries() == []

    clock.advance(minutes=2)
    send()
    assert len(deliveries(kind="digest")) == 1
    recover(account_id)
    clock.advance(seconds=121)

    assert send() == []
    assert deliveries()[0].answer == "Nothing needs attention any longer."


@on_sqlite
@OFF
@pytest.mark.proves("R82", "F75")
def test_a_webhook_that_was_switched_off_for_failing_is_in_the_digest_until_it_is_on_again(send, clock):
    for number in (1, 2):
        add_endpoint("https://crm.example.com/canary-path", None, None, "x")
        with write_transaction() as session:
            endpoint = session.get_one(WebhookEndpoint, number)
            endpoint.failing_since = utc_now() if number == 1 else None
            switch_off(session, endpoint, "system", "It answered 410 Gone.")
    send()
    clock.advance(seconds=121)
    (mail,) = send()

    assert mail["Subject"] == "A webhook is switched off"
    assert "Webhook 1 to crm.example.com was switched off. It answered 410 Gone." in " ".join(text_of(mail).split())
    assert "Webhook 2" not in text_of(mail)
    assert "canary" not in text_of(mail)
    change_endpoint(1, "x", {"is_on": True})
    assert not mails_of_app.read_attention()


@on_sqlite
@OFF
def test_the_digest_counts_and_names_all_that_are_at_risk_for_an_hour_and_no_other(clock):
    account_ids = [connect(number) for number in range(1, 26)]
    for account_id in account_ids[21:]:
        endanger(account_id)
    clock.advance(hours=5)
    for account_id in account_ids[:21]:
        endanger(account_id)

    found = mails_of_app.read_attention()

    assert ([one.account.id for one in found.troubles], found.more) == (account_ids[21:], 0)


@on_sqlite
@OFF
def test_a_digest_of_while_the_clock_was_ahead_holds_up_no_other(send, clock):
    lose(connect())
    clock.advance(days=300)
    for _ in range(2):
        send()
        clock.advance(seconds=121)
    clock.advance(days=-300)
    send()

    assert [one.status for one in deliveries(kind="digest")] == ["sent", "waiting"]


@on_sqlite
@OFF
def test_an_admin_who_is_removed_between_digest_and_sending_gets_none(send, clock, admin):
    other = create_admin("other@example.com", ADMIN_PASSWORD)
    lose(connect())
    send()
    remove_admin(other.id, "x")
    clock.advance(seconds=121)

    assert [mail["To"] for mail in send()] == [ADMIN_EMAIL]
    assert {one.recipient: one.status for one in deliveries()} == {ADMIN_EMAIL: "sent", other.email: "cancelled"}


@on_sqlite
@OFF
def test_two_workers_write_one_digest(app, monkeypatch):
    lose(connect())
    together = threading.Barrier(2)

    def meet():
        together.wait(20)
        return found

    found = mails_of_app.read_attention()
    monkeypatch.setattr(mails_of_app, "read_attention", meet)

    def write():
        with app.app_context():
            mails_of_app.write_digests()

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(deliveries()) == 1


@on_sqlite
@OFF
@pytest.mark.parametrize(("choice", "kinds"), [(MailChoice.ALARMS, ["alarm"]), (MailChoice.DIGEST, ["digest"])])
def test_each_admin_chooses_which_mails_to_get(send, admin, choice, kinds):
    choose_mails(admin.id, [choice])
    raise_alarm()
    lose(connect())
    send()

    assert [one.kind for one in deliveries()] == kinds


@on_sqlite
@OFF
def test_a_choice_made_after_the_mail_was_written_still_counts(send, admin, clock):
    raise_alarm()
    choose_mails(admin.id, [])
    clock.advance(seconds=121)

    assert send() == []


# Customers


@pytest.mark.proves("R15")
def test_a_customer_gets_a_link_and_two_reminders_and_then_silence(send, clock):
    account_id = connect()
    lose(account_id, Cause.AGED_OUT)
    mails, counts = [], []
    for days in (0, 3, 4, 7, 30):
        clock.advance(days=days, seconds=121)
        sent = [mail for mail in send() if mail["To"] == CUSTOMER]
        mails, counts = mails + sent, [*counts, len(sent)]
        if days == 3:
            check_link(link_in(mails[1]))
            with pytest.raises(LinkGone):
                check_link(link_in(mails[0]))
            assert len(list_open_links(account_id)) == 1

    assert counts == [1, 1, 1, 0, 0]
    assert [mail["Subject"] for mail in mails] == [
        "Please reconnect Bright Dental 1",
        "Reminder: please reconnect Bright Dental 1",
        "Reminder: please reconnect Bright Dental 1",
    ]
    text = " ".join(text_of(mails[0]).split())
    assert "Acme Sync can no longer work with your Keap account" in text
    assert CAUSES[Cause.AGED_OUT] in text
    assert "Keap account: Bright Dental 1 (ab1)" in text
    assert "We remind you twice at most." in text
    assert "This is the last reminder." in text_of(mails[2])
    assert "List-Unsubscribe" not in mails[0]


@on_sqlite
def test_a_customers_mail_says_who_asks_and_an_admins_does_not(send, clock, app):
    logo, running = Logo("png", b"a picture"), app.extensions["keap_connect"]
    service = ServiceSettings("Acme <Sync>", logo, "support@example.com", "https://example.com/p")
    app.extensions["keap_connect"] = replace(running, settings=replace(running.settings, service=service))
    lose(connect())
    send()
    clock.advance(seconds=121)
    mails = {mail["To"]: mail for mail in send()}

    customers, admins = mails[CUSTOMER], mails[ADMIN_EMAIL]
    html = customers.get_body(("html",)).get_content()
    for said in ("Acme <Sync>", "support@example.com", "https://example.com/p"):
        assert said in text_of(customers)
        assert escape(said) in html
    assert '<img src="cid:logo"' in html
    (part,) = [part for part in customers.walk() if part.get_content_type() == "image/png"]
    assert (part["Content-ID"], part.get_content()) == ("<logo>", b"a picture")
    assert "support@example.com" not in text_of(admins)
    assert "cid:logo" not in admins.get_body(("html",)).get_content()


@on_postgresql
@pytest.mark.proves("R83")
def test_no_link_is_stored(send, clock):
    lose(connect())
    clock.advance(seconds=121)
    (mail,) = [one for one in send() if one["To"] == CUSTOMER]

    stored = json.dumps([{**one.__dict__, "_sa_instance_state": ""} for one in deliveries()], default=str)
    assert link_in(mail) not in stored
    assert "/r/" not in stored


@on_sqlite
@pytest.mark.parametrize("days", [0, 3])
def test_a_customer_who_has_reconnected_is_left_in_peace(send, clock, days):
    account_id = connect()
    lose(account_id)
    if days:
        clock.advance(seconds=121)
        send()
    clock.advance(seconds=60)
    recover(account_id)
    clock.advance(days=days, seconds=121)

    assert [mail for mail in send() if mail["To"] == CUSTOMER] == []
    assert {one.status for one in deliveries(channel="customer_mail")} <= {"sent", "cancelled"}


@on_sqlite
def test_a_reminder_that_waits_does_not_hold_up_the_mail_about_a_new_loss(send, clock):
    account_id = connect()
    lose(account_id)
    clock.advance(seconds=121)
    send()
    recover(account_id)
    clock.advance(hours=5)
    lose(account_id)
    clock.advance(seconds=121)

    assert "Please reconnect Bright Dental 1" in {mail["Subject"] for mail in send() if mail["To"] == CUSTOMER}


@on_sqlite
def test_an_account_that_works_is_not_mailed_even_if_no_event_said_so(send, clock):
    account_id = connect()
    lose(account_id)
    with write_transaction() as session:  # a plain UPDATE writes no event
        session.connection().execute(update(Account).values(refused_at=None, failure_reason=None))
    clock.advance(seconds=121)

    assert [mail for mail in send() if mail["To"] == CUSTOMER] == []


@on_sqlite
@pytest.mark.proves("F96")
def test_a_customer_of_another_client_id_is_mailed_only_if_an_admin_asks(send, clock):
    account_id = connect()
    change(account_id, client_id="another client")
    clock.advance(seconds=121)
    assert [mail for mail in send() if mail["To"] == CUSTOMER] == []

    with write_transaction() as session:
        assert ask_to_reconnect(session, session.get_one(Account, account_id))

    (mail,) = [mail for mail in send() if mail["To"] == CUSTOMER]
    check_link(link_in(mail))


@on_postgresql
def test_of_two_who_ask_for_a_mail_at_the_same_moment_one_replaces_the_mail_of_the_other(app):
    account_id = connect()
    lose(account_id)
    waits = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")

    def ask():
        with app.app_context():
            mail_link(account_id, "ben@example.com")

    with ThreadPoolExecutor(1) as threads:
        with write_transaction() as session:
            mail_link_in(session, account_id, ADMIN_EMAIL)
            other = threads.submit(ask)
            wait_until(lambda: other.done() or read_one(waits))
        other.result()

    assert len(deliveries(channel="customer_mail", status="waiting")) == 1


@on_sqlite
def test_while_an_alarm_lasts_no_customer_is_mailed(send, clock):
    lose(connect())
    raise_alarm()
    clock.advance(days=3)
    assert {mail["To"] for mail in send()} == {ADMIN_EMAIL}
    assert [one.attempts for one in deliveries(channel="customer_mail")] == [0]

    alarms.resume([alarms.MASS_REFUSAL], "x")

    assert CUSTOMER in {mail["To"] for mail in send()}


@on_sqlite
@pytest.mark.parametrize("minutes", [1, 3])
def test_when_many_are_lost_within_ten_minutes_no_customer_is_mailed_for_a_day(send, clock, minutes):
    account_ids = [connect(number) for number in range(1, 6)]
    for account_id in account_ids:
        lose(account_id, Cause.AGED_OUT)
        clock.advance(minutes=minutes)
    counts = []
    for hours in (0, 12, 13):
        clock.advance(hours=hours, seconds=121)
        counts.append([mail["To"] for mail in send()].count(CUSTOMER))

    assert counts == ([0, 0, 5] if minutes == 1 else [5, 0, 0])


@on_sqlite
def test_the_digest_says_that_the_mails_to_many_customers_wait(send, clock):
    for number in range(1, 6):
        lose(connect(number), Cause.AGED_OUT)
    clock.advance(seconds=121)
    mails_of_app.write_digests()
    clock.advance(seconds=121)

    (mail,) = send()

    said = " ".join(text_of(mail).split())
    assert "these are written to a day later, if they still have to reconnect" in said
    assert said.count(f"The mail to its customer waits: {CUSTOMER}.") == 5
    assert "is written to:" not in said


@on_sqlite
@pytest.mark.parametrize(
    ("environ", "columns"),
    [({"CUSTOMER_MAIL": "off"}, {}), ({}, {"person_email": None}), ({}, {"needs_first_refresh": True}), ({}, KEY)],
    ids=["off", "no address", "never refreshed", "imported key"],
    indirect=["environ"],
)
def test_no_mail_is_written_to_a_customer(columns):
    lose(connect(**columns))

    assert deliveries() == []


@on_sqlite
def test_without_a_mail_server_nothing_is_written(app, monkeypatch):
    object.__setattr__(app.extensions["keap_connect"].settings, "mail", None)
    lose(connect())
    raise_alarm()
    mails_of_app.write_digests()

    assert deliveries() == []


@on_sqlite
def test_a_reminder_that_the_server_does_not_take_leaves_the_link_of_the_mail_before(send, clock, mail_server):
    lose(connect())
    clock.advance(seconds=121)
    (first,) = [one for one in send() if one["To"] == CUSTOMER]
    mail_server.answers = {"DATA": "451 4.3.0 Later"}
    clock.advance(days=3)
    send()

    assert [one.attempts for one in deliveries(channel="customer_mail")] == [1, 1]
    check_link(link_in(first))


@on_sqlite
@pytest.mark.proves("R83")
def test_erasing_an_account_erases_the_mails_about_a_grant_that_moved_there(send, clock, monkeypatch):
    add_endpoint("https://example.com/", None, None, "x")
    account_id, pending_id = connect(), connect(2, tenant_id=None, keap_user_id=None)
    with write_transaction() as session:
        granted = TokenResponse("a" * 30, "b" * 30, utc_now() + timedelta(days=9), "full")
        replace_credential(session.get_one(Account, pending_id), granted)
    lose(pending_id)
    clock.advance(seconds=121)
    send()
    recover(pending_id)
    identity = Identity(tenant_id="ab1", keap_user_id="1", person_email=CUSTOMER)
    monkeypatch.setattr(identifying, "ask_identity", lambda *_: identity)

    assert identifying.identify_pending(pending_id) == account_id
    assert [one.kind for one in deliveries(account_id=pending_id)][-1] == "account.disconnected"
    assert [one.status for one in deliveries(recipient=CUSTOMER)] == ["sent", "cancelled"]
    erase(account_id, "x")
    assert deliveries(recipient=CUSTOMER) == []


# Unstable accounts


@on_sqlite
def test_an_unstable_account_is_mailed_once_until_a_state_has_held_for_an_hour(send, clock):
    account_id = connect()
    for _ in range(4):
        lose(account_id)
        with write_transaction() as session:
            for _ in range(20):  # what else happens does not hide the changes
                record(session, EventKind.TOKEN_REJECTED, account_id, "x")
        clock.advance(minutes=4)
        recover(account_id)
        clock.advance(minutes=4)
    lose(account_id)
    clock.advance(minutes=4)
    mails = send()

    assert [mail["Subject"] for mail in mails if "unstable" in mail["Subject"]] == ["Bright Dental 1 is unstable"]
    assert [one.status for one in deliveries(channel="customer_mail")].count("waiting") == 1
    assert CUSTOMER not in {mail["To"] for mail in mails}
    clock.advance(minutes=57)
    assert CUSTOMER in {mail["To"] for mail in send()}

    recover(account_id)
    clock.advance(minutes=10)
    lose(account_id)
    clock.advance(seconds=121)
    assert CUSTOMER in {mail["To"] for mail in send()}
    assert len(deliveries(kind="unstable")) == 1


@on_sqlite
def test_four_changes_in_an_hour_are_not_unstable():
    account_id = connect()
    for _ in range(2):
        lose(account_id)
        recover(account_id)

    assert deliveries(kind="unstable") == []


# What the mail server answers


@pytest.mark.proves("F74")
def test_a_mail_whose_sender_was_killed_before_the_commit_is_the_same_mail_again(send, clock, monkeypatch):
    lose(connect())
    clock.advance(seconds=121)
    with monkeypatch.context() as patch:
        patch.setattr(Sender, "_finish", lambda *_: None)  # as if it was killed there
        first = [mail for mail in send() if mail["To"] == CUSTOMER]
    clock.advance(minutes=10)
    again = [mail for mail in send() if mail["To"] == CUSTOMER]

    assert [mail["Message-ID"] for mail in first] == [mail["Message-ID"] for mail in again]
    assert link_in(first[0]) == link_in(again[0])
    check_link(link_in(again[0]))


@on_sqlite
@OFF
@pytest.mark.parametrize(
    ("answers", "status"), [({"RCPT": "550 5.1.1 No such user"}, "given_up"), ({"RCPT": "450 4.2.0 Later"}, "waiting")]
)
def test_what_the_mail_server_refuses_for_good_is_given_up(send, clock, mail_server, answers, status):
    mail_server.answers = answers
    raise_alarm()
    clock.advance(seconds=121)

    send()

    (row,) = deliveries(kind="alarm")
    assert (row.status, row.answer, row.answer_code) == (status, answers["RCPT"], int(answers["RCPT"][:3]))


@on_sqlite
@pytest.mark.parametrize(
    ("command", "answer"),
    [("MAIL", "451 4.3.0 Overloaded"), ("RCPT", "421 4.7.0 Too many mails"), ("DATA", "454 Throttling failure")],
)
def test_a_mail_server_that_takes_none_for_now_is_not_asked_by_each_mail(app, clock, mail_server, command, answer):
    mail_server.answers = {command: answer}
    for number in range(1, 21):
        lose(connect(number))
        clock.advance(minutes=3)  # many at once would be held
    clock.advance(seconds=121)
    running = Sender(app, CHANNELS)

    running.send_due()
    running.send_due()

    tried = [one for one in deliveries(channel="customer_mail") if one.attempts]
    assert 1 <= len(tried) <= 3
    assert {one.status for one in tried} == {"waiting"}


@on_sqlite
def test_a_name_changes_neither_the_head_nor_the_html_of_a_mail(send, clock):
    account_id = connect(business_name="<img src=x>\r\nBcc: all@example.com")
    lose(account_id)
    clock.advance(seconds=121)
    (mail,) = [one for one in send() if one["To"] == CUSTOMER]

    assert mail["Bcc"] is None
    assert mail["Subject"] == "Please reconnect <img src=x> Bcc: all@example.com"
    assert "<img" not in mail.get_body(("html",)).get_content()


@on_sqlite
@pytest.mark.parametrize("environ", [{"MAIL_FROM": f"{'é' * 80} <connect@example.com>"}], indirect=True)
def test_a_long_name_is_encoded_in_words_of_at_most_75_letters_and_no_link_is(send, clock, mail_server):
    lose(connect(business_name="é" * 120))
    send()
    clock.advance(seconds=121)
    mails = send()

    heads = [raw.partition(b"\r\n\r\n")[0] for raw in mail_server.raw]
    words = [word for head in heads for word in re.findall(rb"=\?[^?\s]+\?[bq]\?[^?\s]*\?=", head)]
    assert len(words) > 4
    assert max(map(len, words)) <= 75
    assert f"Please reconnect {'é' * 120}" in [mail["Subject"] for mail in mails]
    assert any(re.search(rb"\nList-Unsubscribe: <\S+>\r\n", head) for head in heads)


@on_sqlite
def test_many_invitations_hold_up_no_mail_about_an_alarm(send, clock):
    for number in range(9):
        make_invitation(NewInvitation(email=f"carla{number}@example.com", is_mailed=True), "x")
    raise_alarm()
    clock.advance(seconds=121)

    assert ADMIN_EMAIL in [mail["To"] for mail in send()[:3]]


@on_sqlite
@pytest.mark.proves("R15")
def test_an_invitation_is_mailed_with_a_link_that_is_not_stored_unless_a_newer_one_is(send, app):
    wanted = NewInvitation(label="Bright Dental", email=CUSTOMER, is_mailed=True)
    first = make_invitation(wanted, "x").url
    (mail,) = send()
    assert (mail["To"], mail["Subject"]) == (CUSTOMER, "Connect your Keap account with Acme Sync")
    assert first in text_of(mail)
    (row,) = deliveries(kind="invitation")
    assert first.rpartition("/")[2] not in str(vars(row))

    invitations.resend(1, "x")
    second = invitations.resend(1, "x").url
    (mail,) = send()
    assert second in text_of(mail)
    assert [one.status for one in deliveries(kind="invitation")] == ["sent", "cancelled", "sent"]
    invitations.resend(1, "x")
    invitations.withdraw(1, "x")
    assert send() == []
    running = app.extensions["keap_connect"]
    for unfit in (replace(wanted, email=None), wanted):
        with pytest.raises(InvitationRefused):
            make_invitation(unfit, "x")
        app.extensions["keap_connect"] = replace(running, settings=replace(running.settings, mail=None))


@on_sqlite
@pytest.mark.proves("R96")
def test_erasing_an_account_erases_the_mails_of_its_invitation(send):
    account_id = connect()
    for email in (CUSTOMER, "other@example.com"):
        make_invitation(NewInvitation(email=email, is_mailed=True), "x")
    send()
    with write_transaction() as session:
        use_invitation(session, session.get_one(Invitation, 1), session.get_one(Account, account_id))

    erase(account_id, "x")

    assert [one.recipient for one in deliveries(kind="invitation")] == ["other@example.com"]


def test_each_cause_has_its_words():
    assert set(CAUSES) == set(Cause)


@on_sqlite
def test_every_admin_gets_all_mails_at_first():
    with read_session() as session:
        assert [(one.has_alarm_mails, one.has_digest_mails) for one in session.scalars(select(Admin))] == [(True, True)]
