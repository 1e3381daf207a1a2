"""One conversation with the mail server: a new connection for each mail, a limit for the whole, and a record of it."""

import base64
import re
import smtplib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import parseaddr

import certifi

from keap_connect.services import services
from keap_connect.settings import MailSettings

STEP_SECONDS = 15.0  # for one answer of the server
LONGEST_SECONDS = 50.0  # for everything, however slowly the answers come
LONGEST_LINE = 300
PERMANENT = 500  # codes from here on say that the same would be refused again (RFC 5321 section 4.2.1)


@dataclass(frozen=True)
class Conversation:
    is_accepted: bool  # the server has taken the mail over
    is_refused: bool  # the server will never take this mail for this recipient
    text: str  # the last words of the server, or why there are none
    code: int | None = None  # the server's last
    lines: list[str] = field(default_factory=list)  # ours after ">" and the server's after "<", without the password
    is_server_fault: bool = False  # it did not get as far as the recipient, so another mail would not, either


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
    return Conversation(is_accepted, is_refused, text, code, client.lines, not is_about_recipient)


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
