"""The conversation with a real mail server: over which line, what is refused, what hangs, and what is written down."""

import base64
import socket
import ssl
import threading
from dataclasses import replace
from email.message import EmailMessage

import pytest
import trustme

from keap_connect import services
from keap_connect.notifications import smtp
from keap_connect.notifications.smtp import give_to_server
from keap_connect.settings import MailSettings
from tests.support.engines import on_sqlite
from tests.support.mail_server import PASSWORD, USER, serve_mail

pytestmark = on_sqlite
RECIPIENT = "ann@example.com"
made: list[str] = []


def a_mail():
    message = EmailMessage()
    message["Subject"] = "Hello"
    message.set_content("Text")
    made.append("x")
    return message


@pytest.fixture(autouse=True)
def none_made(app):
    made.clear()


def use(app, **changed):
    """Let the app use another mail server, or trust other authorities."""
    built = app.extensions["keap_connect"]
    keap = replace(built.settings.keap, further_authorities=changed.pop("authorities", None))
    mail = MailSettings(**{"host": "127.0.0.1", "port": 1, "sender": "connect@example.com", **changed})
    app.extensions["keap_connect"] = replace(built, settings=replace(built.settings, mail=mail, keap=keap))


def test_a_mail_that_is_accepted_is_with_the_server(mail_server):
    conversation = give_to_server(RECIPIENT, a_mail)

    assert conversation.is_accepted
    assert (conversation.code, conversation.text) == (250, "250 Taken over")
    assert mail_server.recipients == [RECIPIENT]
    assert f"> rcpt TO:<{RECIPIENT}>" in conversation.lines
    assert conversation.lines[-1].startswith("< 221")


@pytest.mark.parametrize(
    ("answers", "is_refused", "is_made"),
    [
        ({"RCPT": "550 5.1.1 No such user"}, True, False),
        ({"RCPT": "450 4.2.0 Greylisted"}, False, False),
        ({"DATA": "554 5.7.1 Spam"}, True, True),
        ({"DATA": "451 4.3.0 Try later"}, False, True),
        ({"MAIL": "553 5.7.1 Not your address"}, False, False),
    ],
)
def test_only_what_is_refused_for_this_recipient_is_refused_for_good(mail_server, answers, is_refused, is_made):
    mail_server.answers = answers

    conversation = give_to_server(RECIPIENT, a_mail)

    (answer,) = answers.values()
    assert (conversation.is_accepted, conversation.is_refused) == (False, is_refused)
    assert (conversation.text, conversation.code) == (answer, int(answer[:3]))
    assert bool(made) == is_made


@pytest.mark.parametrize("command", ["RCPT", "DATA"])
@pytest.mark.parametrize("answer", ["OK, taken over", "150 Later", "-12 What", ""])
def test_what_is_no_answer_of_smtp_takes_no_mail(mail_server, command, answer):
    mail_server.answers = {command: answer}

    conversation = give_to_server(RECIPIENT, a_mail)

    assert (conversation.is_accepted, conversation.is_refused) == (False, False)
    assert conversation.text == "The mail server gave an answer that is not SMTP."


@pytest.mark.parametrize("recipient", ["ann@example.com\r\nDATA", "änn@example.com", "ann", "<ann@example.com>"])
def test_an_address_that_no_server_takes_is_refused_for_good(mail_server, recipient):
    conversation = give_to_server(recipient, a_mail)

    assert conversation.is_refused
    assert mail_server.recipients == made == []


@pytest.mark.parametrize("is_tls", [True, False])
def test_tls_is_used_and_the_certificate_is_checked(app, is_tls):
    authority = trustme.CA()
    certificate = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(certificate)
    with serve_mail(certificate=certificate, is_tls=is_tls) as server:
        line = {"port": server.port, "is_tls": is_tls, "needs_starttls": not is_tls}
        use(app, **line, user=USER, password=PASSWORD)
        refused = give_to_server(RECIPIENT, a_mail)
        use(app, **line, user=USER, password=PASSWORD, authorities=authority.cert_pem.bytes())
        accepted = give_to_server(RECIPIENT, a_mail)

    assert refused.text.startswith("The certificate of the mail server was not accepted")
    assert accepted.is_accepted
    assert server.logged_in == [USER.encode()]


def test_a_server_without_starttls_gets_neither_password_nor_mail(app, mail_server):
    use(app, port=mail_server.port, needs_starttls=True, user=USER, password=PASSWORD)

    conversation = give_to_server(RECIPIENT, a_mail)

    assert conversation.text == "STARTTLS extension not supported by server."
    assert "login" not in str(conversation.lines)
    assert made == []


@pytest.mark.proves("R83")
def test_no_password_is_in_the_conversation(app, mail_server):
    use(app, port=mail_server.port, user="canary-somebody", password="canary-wrong-password")

    conversation = give_to_server(RECIPIENT, a_mail)

    assert (conversation.is_refused, conversation.code) == (False, 535)
    assert conversation.text == "535 5.7.8 Not (password)"
    assert "> (user and password)" in conversation.lines
    assert "canary" not in str(conversation)


@pytest.mark.proves("R83")
def test_a_server_that_repeats_the_encoded_login_does_not_show_it(app):
    use(app, user=USER, password=PASSWORD)
    encoded = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode())

    assert smtp._Client(services.services().settings.mail).shown(b"501 AUTH PLAIN " + encoded) == (
        "501 AUTH PLAIN (password)"
    )


def test_a_server_that_hangs_is_given_up(app, mail_server, monkeypatch):
    monkeypatch.setattr(smtp, "STEP_SECONDS", 0.1)
    mail_server.hangs_at = "RCPT"

    conversation = give_to_server(RECIPIENT, a_mail)

    assert not conversation.is_accepted
    assert conversation.text == "The mail server did not answer in time."


def test_a_server_that_answers_ever_so_slowly_is_given_up(app, monkeypatch):
    monkeypatch.setattr(smtp, "LONGEST_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=[listening])
        thread.start()
        use(app, port=listening.getsockname()[1])
        conversation = give_to_server(RECIPIENT, a_mail)
        thread.join()

    assert not conversation.is_accepted


def drip(listening):
    """Send one letter after the other of a first line that does not end, until the other side has gone."""
    connection, _ = listening.accept()
    with connection:
        connection.settimeout(0.02)
        while True:
            try:
                connection.sendall(b"2")
                if connection.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return


def test_a_name_that_no_host_can_have_is_said(app):
    use(app, host="mail..example.com")

    assert give_to_server(RECIPIENT, a_mail).text == "The name of the mail server was not found."


def test_nobody_listening_is_said(app):
    use(app, port=1)

    text = "There is no connection to the mail server: Connection refused."
    assert give_to_server(RECIPIENT, a_mail).text == text


def test_without_a_setting_nothing_is_sent(app):
    built = services.services()
    app.extensions["keap_connect"] = replace(built, settings=replace(built.settings, mail=None))

    assert give_to_server(RECIPIENT, a_mail).text == "SMTP_URL is not set."
