"""`./keap-connect mail …`: whether mail arrives."""

from dataclasses import asdict

import click

from keap_connect.cli.command import Answer, command, group
from keap_connect.errors import ExitCode, KeapConnectError
from keap_connect.notifications.mail import send_trial
from keap_connect.services import services

mail = group("mail", "Whether the mail server takes mails.")


@command("test", "mail test ann@example.com", "mail test ann@example.com --json", within=mail)
@click.argument("address")
def test(address: str) -> Answer:
    """Send a test mail to ADDRESS, and print what the mail server says; exit code 1 if it does not take it."""
    if services().settings.mail is None:
        raise KeapConnectError("SMTP_URL and MAIL_FROM are not set, so nobody is notified by mail.")
    ended = send_trial(address)
    note = "The mail server took it over." if ended.is_accepted else f"It was not sent: {ended.text}"
    code = ExitCode.DONE if ended.is_accepted else ExitCode.FAILED
    return Answer(asdict(ended), "\n".join(ended.lines), note, code)
