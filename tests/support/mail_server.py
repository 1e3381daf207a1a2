"""A real SMTP server on this machine, which also refuses, delays and hangs."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.support.server import free_port

USER, PASSWORD = "canary-user", "canary-mail-password"


class MailServer:
    """What it received, and what it is to answer: a code and words by the name of the command."""

    def __init__(self) -> None:
        self.port = free_port()
        self.mails: list[EmailMessage] = []
        self.raw: list[bytes] = []
        self.recipients: list[str] = []
        self.answers: dict[str, str] = {}
        self.hangs_at: str | None = None
        self.logged_in: list[bytes] = []

    async def handle_MAIL(self, _s: SMTP, _session: Session, envelope: Envelope, address: str, _: object) -> str:  # noqa: N802
        envelope.mail_from = address
        return await self._answer("MAIL", "250 OK")

    async def handle_RCPT(self, _s: SMTP, _session: Session, envelope: Envelope, address: str, _: object) -> str:  # noqa: N802
        envelope.rcpt_tos.append(address)
        return await self._answer("RCPT", "250 OK")

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        answer = await self._answer("DATA", "250 Taken over")
        if answer.startswith("250") and isinstance(envelope.content, bytes):
            self.raw.append(envelope.content)
            self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
            self.recipients += envelope.rcpt_tos
        return answer

    async def _answer(self, command: str, usual: str) -> str:
        if self.hangs_at == command:
            await asyncio.Event().wait()
        return self.answers.get(command, usual)

    def check_login(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _how: str, login: object
    ) -> AuthResult:
        """Let one user in; the refusal repeats the password, as no server should."""
        assert isinstance(login, LoginPassword)
        self.logged_in.append(login.login)
        if login == LoginPassword(USER.encode(), PASSWORD.encode()):
            return AuthResult(success=True)
        return AuthResult(success=False, handled=False, message=f"535 5.7.8 Not {login.password.decode()}")


@contextmanager
def serve_mail(*, certificate: ssl.SSLContext | None = None, is_tls: bool = False) -> Iterator[MailServer]:
    """Run a server; with a certificate it speaks TLS from the start, or wants STARTTLS."""
    mail_server = MailServer()
    controller = Controller(
        mail_server,
        hostname="127.0.0.1",
        port=mail_server.port,
        ssl_context=certificate if is_tls else None,
        tls_context=None if is_tls else certificate,
        require_starttls=certificate is not None and not is_tls,
        authenticator=mail_server.check_login,
        auth_require_tls=False,
    )
    controller.start()
    try:
        yield mail_server
    finally:
        controller.stop()
