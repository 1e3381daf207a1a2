"""`./keap-connect webhooks …` and `mail …`: messages to programs, and whether mail arrives."""

from dataclasses import asdict

import click

from keap_connect.cli.command import Answer, command, group, table
from keap_connect.errors import ExitCode, KeapConnectError
from keap_connect.events.history import ANNOUNCED, Actor
from keap_connect.models import WebhookEndpoint
from keap_connect.notifications.endpoints import add_endpoint, list_endpoints, send_test
from keap_connect.notifications.mail import send_trial
from keap_connect.notifications.sender import SENT, send_claimed
from keap_connect.notifications.webhooks import CHANNEL
from keap_connect.services import services

webhooks = group("webhooks", "Signed messages to your programs, when an account or the refreshing changes.")
mail = group("mail", "Whether the mail server takes mails.")


@command("list", "", "--json", within=webhooks)
def list_() -> Answer:
    """List the webhooks, and why one is switched off."""
    found = list_endpoints()
    rows = [
        (one.id, "on" if one.is_on else "off", one.failing_since, " ".join(one.types or ["all"]), one.url)
        for one in found
    ]
    notes = [f"Webhook {one.id} is off: {one.switched_off_because}" for one in found if not one.is_on]
    return Answer(
        [_facts(one) for one in found], table(("ID", "STATE", "FAILING SINCE", "TYPES", "URL"), rows), "\n".join(notes)
    )


@command(
    "add",
    "https://crm.example.com/hooks/keap",
    "https://crm.example.com/hooks/keap --type account.reconnect_required --name CRM",
    within=webhooks,
)
@click.argument("url")
@click.option("--name", help="Your name for it; without one, the host name.")
@click.option(
    "--type", "types", type=click.Choice(ANNOUNCED), multiple=True, help="What it receives; give it once for each."
)
def add(url: str, name: str | None, types: tuple[str, ...]) -> Answer:
    """Add a webhook and show its secret; it is shown only once."""
    saved = add_endpoint(url, name, types or None, Actor.COMMAND_LINE)
    note = f"This is the secret of webhook {saved.row.id}. It is not shown again."
    return Answer({**_facts(saved.row), "secret": saved.secret}, saved.secret or "", note)


@command("test", "1", within=webhooks)
@click.argument("webhook_id", type=click.IntRange(min=1))
def test_webhook(webhook_id: int) -> Answer:
    """Send a test message to a webhook now, and show the answer; exit code 1 if it was not taken."""
    row = send_claimed(CHANNEL, send_test(webhook_id, is_claimed=True))
    document = {"id": row.id, "message_id": row.message_id, "answer": row.answer, "answer_code": row.answer_code}
    return Answer(document, row.answer or "", code=ExitCode.DONE if row.status == SENT else ExitCode.FAILED)


def _facts(one: WebhookEndpoint) -> dict[str, object]:
    names = ("id", "url", "name", "types", "is_on", "switched_off_because", "failing_since", "created_at", "created_by")
    return {name: getattr(one, name) for name in names}


@command("test", "ann@example.com", "ann@example.com --json", within=mail)
@click.argument("address")
def test_mail(address: str) -> Answer:
    """Send a test mail to ADDRESS, and print what the mail server says; exit code 1 if it does not take it."""
    if services().settings.mail is None:
        raise KeapConnectError("SMTP_URL and MAIL_FROM are not set, so nobody is notified by mail.")
    ended = send_trial(address)
    note = "The mail server took it over." if ended.is_accepted else f"It was not sent: {ended.text}"
    code = ExitCode.DONE if ended.is_accepted else ExitCode.FAILED
    return Answer(asdict(ended), "\n".join(ended.lines), note, code)
