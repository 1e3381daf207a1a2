"""The app without a port, with a mail server."""

from collections.abc import Iterator

import pytest
from flask import Flask

from keap_connect.database import db
from keap_connect.settings import Settings
from tests.support.mail_server import MailServer, serve_mail
from tests.support.quick_apps import make_app


@pytest.fixture(scope="session")
def mail_process() -> Iterator[MailServer]:
    """Give one mail server for the whole run."""
    with serve_mail() as running:
        yield running


@pytest.fixture
def mail_server(mail_process: MailServer) -> MailServer:
    """Give the mail server, as new."""
    mail_process.mails.clear()
    mail_process.raw.clear()
    mail_process.recipients.clear()
    mail_process.answers.clear()
    mail_process.hangs_at = None
    return mail_process


@pytest.fixture
def environ(environ: dict[str, str], mail_server: MailServer, request: pytest.FixtureRequest) -> dict[str, str]:
    """Give the environment of an app that sends mail to everybody; a test changes it by an indirect parameter."""
    mail = {
        "SMTP_URL": f"smtp://127.0.0.1:{mail_server.port}",
        "MAIL_FROM": "Acme Sync <connect@example.com>",
        "CUSTOMER_MAIL": "on",
    }
    return {**environ, **mail, **getattr(request, "param", {})}


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    """Give the app without a port."""
    built = make_app(settings)
    with built.app_context():
        yield built
        db.engine.dispose()
