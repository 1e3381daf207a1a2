"""A mail as text and HTML (templates/mail/), and one conversation with the mail server that takes it.

Each mail has a new connection, a limit for the whole, and a record of what was said.
"""

import base64
import re
import smtplib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP, EmailPolicy
from email.utils import format_datetime, parseaddr

import certifi
from flask import current_app

from keap_connect.accounts.directory import AccountView
from keap_connect.accounts.state import AccountState, Cause
from keap_connect.clock import minute, utc_now
from keap_connect.models import Delivery
from keap_connect.services import page_url, services
from keap_connect.settings import MailSettings

STEP_SECONDS = 15.0  # for one answer of the server
LONGEST_SECONDS = 50.0  # for everything, however slowly the answers come
LONGEST_LINE = 300
PERMANENT = 500  # codes from here on say that the same would be refused again (RFC 5321 section 4.2.1)
# The server takes no mail now, for any recipient (RFC 5321 section 3.8), as when there were too many.
BUSY = {421, 454}
LONGEST_SUBJECT = 150
SHORT_LINES = SMTP.clone(cte_type="7bit", max_line_length=76)  # a blank, and a word of 75
# Customers read those of a state that a person must end; admins read all.
CAUSES = {
    Cause.OTHER_REGISTRATION: "It was connected with another client id or token URL than the settings name now.",
    Cause.REFRESHES_FAIL: "The last refreshes failed. They are tried again automatically.",
    Cause.OUTCOME_UNKNOWN: "A refresh got no usable answer from Keap. It is tried again automatically.",
    Cause.OVERDUE: "The access token has expired and was not refreshed yet.",
    Cause.UNUSED: "The permission was not renewed for weeks, and Keap ends it after 45 days.",
    Cause.REFUSED: "Keap no longer accepts the permission. It may have been withdrawn, or replaced by another program.",
    Cause.ANSWER_LOST: "Keap renewed the permission, and its answer did not arrive.",
    Cause.AGED_OUT: "The permission was not renewed for 45 days, so Keap ended it.",
    Cause.TOKEN_EXPIRED: "The access token has expired, and it cannot be renewed.",
    Cause.KEY_REFUSED: "Keap no longer accepts the key. It may have been deleted.",
}
STATE_WORDS = {AccountState.RECONNECT_REQUIRED: "must be reconnected", AccountState.AT_RISK: "is at risk"}


@dataclass(frozen=True)
class Conversation:
    is_accepted: bool  # the server has taken the mail over
    is_refused: bool  # the server will never take this mail for this recipient
    text: str  # the last words of the server, or why there are none
    code: int | None = None  # the server's last
    lines: list[str] = field(default_factory=list)  # ours after ">" and the server's after "<", without the password
    is_server_fault: bool = False  # it is not about the recipient, so another mail would end like this, too


class _Client(smtplib.SMTP):
    """Writes down what is said."""

    def __init__(self, mail: MailSettings) -> None:
        self.lines: list[str] = []
        self._mail, self._context, self._is_login = mail, _context(), False
        super().__init__(local_hostname=services().settings.host_name, timeout=STEP_SECONDS)
        self._host = mail.host  # what the certificate must name

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:  # as smtplib.SMTP_SSL does it
        plain = socket.create_connection((host, port), timeout)
        return self._context.wrap_socket(plain, server_hostname=host) if self._mail.is_tls else plain

    def putcmd(self, cmd: str, args: str = "") -> None:
        self.lines.append("> (user and password)" if self._is_login else f"> {_one_line(f'{cmd} {args}')}")
        super().putcmd(cmd, args)

    def getreply(self) -> tuple[int, bytes]:
        code, said = super().getreply()
        self.lines += [f"< {code} {self.shown(line)}" for line in said.split(b"\n")]
        if not 200 <= code < 600:  # RFC 5321 section 4.2.1; smtplib says -1 for what has no code
            raise smtplib.SMTPException("The mail server gave an answer that is not SMTP.")
        return code, said

    def open(self) -> None:
        """Connect, secure the connection and log in, as the settings say."""
        code, said = self.connect(self._mail.host, self._mail.port)
        if code != 220:
            raise smtplib.SMTPConnectError(code, said)
        if self._mail.needs_starttls:
            self.starttls(context=self._context)
        if self._mail.user and self._mail.password:
            self.ehlo_or_helo_if_needed()
            self._is_login = True
            self.login(self._mail.user, self._mail.password)
            self._is_login = False
        self.ehlo_or_helo_if_needed()

    def shown(self, said: bytes | str) -> str:
        """Return what the server said, without the password, should it repeat what it got."""
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        user, password = self._mail.user or "", self._mail.password or ""
        sent = [base64.b64encode(one.encode()).decode() for one in (f"\0{user}\0{password}", password)]
        for secret in (*sent, password) if password else ():
            text = text.replace(secret, "(password)")
        return _one_line(text)


def give_to_server(recipient: str, make: Callable[[], EmailMessage]) -> Conversation:
    """Give one mail to the server. `make` is called only when the server agrees to take one for this recipient."""
    mail = services().settings.mail
    if mail is None:
        return Conversation(False, False, "SMTP_URL is not set.")
    if not re.fullmatch(r"[!-;=?-~]+@[!-;=?-~]+", recipient):  # few servers take what is not in ASCII
        return Conversation(False, True, "The address has characters that a mail server does not take.")
    client = _Client(mail)
    is_accepted = is_about_recipient = False
    code: int | None = None
    try:
        with _time_limit(client):
            client.open()
            code, said = client.mail(parseaddr(mail.sender)[1])
            if code < 300:
                is_about_recipient = True  # what is refused before is ours to correct
                code, said = client.rcpt(recipient)
            if is_about_recipient and code < 300:
                code, said = client.data(make().as_bytes())
                is_accepted = code < 300
            with suppress(OSError, smtplib.SMTPException):
                client.quit()
        text = f"{code} {client.shown(said)}"
    except smtplib.SMTPResponseException as problem:
        code, text = problem.smtp_code, f"{problem.smtp_code} {client.shown(problem.smtp_error)}"
    except (OSError, smtplib.SMTPException, UnicodeError) as problem:  # the last: no name of a host
        code, text = None, _reason(problem)
        client.lines.append(f"  {text}")
    finally:
        client.close()
    is_refused = is_about_recipient and code is not None and code >= PERMANENT
    return Conversation(is_accepted, is_refused, text, code, client.lines, not is_about_recipient or code in BUSY)


@contextmanager
def _time_limit(client: _Client) -> Iterator[None]:
    """End the connection after the whole time; a server that answers slowly enough keeps every single limit."""

    def cut() -> None:
        with suppress(OSError, AttributeError):  # not connected yet, or closed meanwhile
            client.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]

    timer = threading.Timer(LONGEST_SECONDS, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _context() -> ssl.SSLContext:
    keap = services().keap
    context = ssl.create_default_context(cafile=keap.authorities_file or certifi.where())
    if keap.further_authorities:
        context.load_verify_locations(cadata=keap.further_authorities.decode())
    return context


def _reason(problem: Exception) -> str:
    match problem:
        case TimeoutError() | smtplib.SMTPServerDisconnected() if "timed out" in str(problem):
            return "The mail server did not answer in time."
        case ssl.SSLCertVerificationError():
            return f"The certificate of the mail server was not accepted: {problem.verify_message}."
        case socket.gaierror() | UnicodeError():
            return "The name of the mail server was not found."
        case smtplib.SMTPServerDisconnected():
            return "The mail server ended the connection without an answer."
        case OSError() if problem.strerror:
            return f"There is no connection to the mail server: {problem.strerror}."
    return _one_line(str(problem)) or type(problem).__name__


def _one_line(text: str) -> str:
    return re.sub(r"[^ -~\u00a0-\uffff]+", " ", text).strip()[:LONGEST_LINE]


class MailPolicy(EmailPolicy):
    """Long lines, since a link that is folded is encoded as if it was words; short ones for words (RFC 2047)."""

    def fold_binary(self, name: str, value: str) -> bytes:
        return SHORT_LINES.fold_binary(name, value) if name in {"Subject", "From"} else super().fold_binary(name, value)


MAIL_POLICY = MailPolicy(cte_type="7bit", linesep="\r\n", max_line_length=998)


@dataclass(frozen=True)
class Item:
    title: str
    url: str
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Message:
    """One mail. `action` is the label and the address of its one button; customers also see whom they can ask."""

    heading: str
    paragraphs: Sequence[str]
    action: tuple[str, str]
    footer: str
    facts: Sequence[tuple[str, str]] = ()
    items: Sequence[Item] = ()
    after: Sequence[str] = ()
    unsubscribe_url: str | None = field(default=None, repr=False)
    is_for_customer: bool = False
    subject: str = ""  # if it is not the heading


@dataclass(frozen=True)
class Trouble:
    """An account in the digest, and the last mail to its customer."""

    account: AccountView
    mail: Delivery | None = None

    @property
    def why(self) -> str:
        return CAUSES[self.account.state_cause] if self.account.state_cause else " ".join(self.account.reasons)

    @property
    def deadline(self) -> datetime | None:
        """Until when it can be repaired without its customer, if that is known."""
        return self.account.refresh_token_expires_at if self.account.state_cause is Cause.UNUSED else None


def as_email(message: Message, sender: str, recipient: str, message_id: str) -> EmailMessage:
    """Return it as text and HTML. The same `message_id` in every attempt lets mail programs notice a repeated mail."""
    settings, templates = services().settings, current_app.jinja_env
    logo = settings.service.logo if message.is_for_customer else None
    mail = EmailMessage(policy=MAIL_POLICY)
    mail["From"], mail["To"] = sender, recipient
    mail["Subject"] = " ".join((message.subject or message.heading).split())[:LONGEST_SUBJECT]
    mail["Date"] = format_datetime(utc_now())
    mail["Message-ID"] = f"<{message_id}@{settings.host_name}>"
    mail["Auto-Submitted"] = "auto-generated"  # so that no absence note answers it (RFC 3834)
    if message.unsubscribe_url:  # RFC 8058: the mail program shows a button, and sends a POST
        mail["List-Unsubscribe"] = f"<{message.unsubscribe_url}>"
        mail["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    values = {"message": message, "service": settings.service, "public_url": settings.public_url, "has_logo": logo}
    mail.set_content(templates.get_template("mail/message.txt").render(values))
    mail.add_alternative(templates.get_template("mail/message.html").render(values), subtype="html")
    if logo:  # in the mail itself: mail programs load no picture from elsewhere before they are asked to
        _, html = mail.iter_parts()
        html.add_related(logo.content, "image", logo.kind, cid="<logo>", disposition="inline")
    return mail


def item_of(one: Trouble) -> Item:
    lines = [f"It {STATE_WORDS.get(one.account.state, 'needs attention')}. {one.why}"]
    if one.account.state is AccountState.AT_RISK and one.deadline:
        lines.append(f"It can be repaired until {minute(one.deadline)}; after that its customer must reconnect it.")
    if one.account.state is AccountState.RECONNECT_REQUIRED and services().settings.mails_customers:
        lines.append(_mailed(one))
    return Item(one.account.title, page_url(f"/accounts/{one.account.id}"), lines)


def _mailed(one: Trouble) -> str:
    if not one.account.person_email:
        return "Its customer has no known address, so was not written to."
    if one.mail is None or one.mail.status == "cancelled":
        return "Its customer was not written to."
    if one.mail.status == "given_up":
        return f"The mail to its customer failed: {one.mail.answer}"
    if one.mail.status == "waiting" and one.mail.payload["number"] == 1:  # else a reminder waits
        return f"The mail to its customer waits: {one.mail.recipient}."
    return f"Its customer is written to: {one.mail.recipient}."


def facts_of(account: AccountView, why: str, cause: Cause | None) -> list[tuple[str, str]]:
    tenant = account.tenant_id if account.tenant_id != account.public_title else None
    name = f"{account.public_title} ({tenant})" if tenant else account.public_title
    return [("Keap account", name), *([(why, CAUSES[cause])] if cause else [])]
