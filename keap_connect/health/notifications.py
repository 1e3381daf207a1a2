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
        failing = "The page Webhooks has the answers; each message is tried for two days."
        off = "Repair the receiver, then switch it on on the page Webhooks."
        yield attention("webhooks", one.sentence, failing if one.is_on else off)


def check_mail() -> Iterator[Finding]:
    failed = find_last_failure()
    if services().settings.mail is None:
        yield well("mail", "SMTP_URL is not set, so nobody is notified by mail.")
    elif failed:
        sentence = f"The last mail to {failed.recipient} was not sent: {failed.answer}"
        yield attention("mail", sentence, "Send a test mail: ./keap-connect mail test ADDRESS, or on the page Mail.")
    else:
        yield well("mail", "No mail has failed lately.")
