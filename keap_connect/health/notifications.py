"""Whether notifications arrive, for doctor and dashboard."""

from collections.abc import Iterator

from keap_connect.health.finding import Finding, attention
from keap_connect.notifications.endpoints import list_endpoints


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
