"""Whether notifications arrive, for doctor and dashboard."""

from collections.abc import Iterator

from keap_connect.health.finding import Finding, attention, well
from keap_connect.notifications.endpoints import list_endpoints
from keap_connect.notifications.results import find_last_failure
from keap_connect.services import services


def check_webhooks() -> Iterator[Finding]:
    """Name the webhooks that fail, and those that were switched off for it."""
    for one in list_endpoints():
        if one.failing_since is None:
            continue
        if one.is_on:
            sentence = f"Webhook {one.id} to {one.host} has failed since {one.failing_since:%Y-%m-%d %H:%M} UTC."
            yield attention(
                "webhooks", sentence, "The page Webhooks has the answers; each message is tried for two days."
            )
        else:
            sentence = f"Webhook {one.id} to {one.host} was switched off. {one.switched_off_because}"
            yield attention("webhooks", sentence, "Repair the receiver, then switch it on on the page Webhooks.")


def check_mail() -> Iterator[Finding]:
    failed = find_last_failure()
    if services().settings.mail is None:
        yield well("mail", "SMTP_URL is not set, so nobody is notified by mail.")
    elif failed:
        sentence = f"The last mail to {failed.recipient} was not sent: {failed.answer}"
        yield attention("mail", sentence, "Send a test mail: ./keap-connect mail test ADDRESS, or on the page Mail.")
    else:
        yield well("mail", "No mail has failed lately.")
