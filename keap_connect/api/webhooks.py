"""Operations on webhooks: where they go, what was sent, and sending again."""

from functools import partial
from typing import Any

from keap_connect.access.api_keys import Scope
from keap_connect.api.operations import Operation, current_key
from keap_connect.api.questions import DeliveryFilter, NewWebhook, WebhookChange
from keap_connect.api.schemas import Delivery, DeliveryList, Webhook, WebhookList
from keap_connect.models import Delivery as DeliveryRow
from keap_connect.models import WebhookEndpoint
from keap_connect.notifications import endpoints

ONE, DELIVERIES = "/v1/webhooks/<int:webhook_id>", "/v1/webhooks/<int:webhook_id>/deliveries"
REDELIVER = f"{DELIVERIES}/<int:delivery_id>/redeliver"
operation = partial(Operation, whole_keys="use webhooks, which tell of all accounts")
reads, writes = partial(operation, scope=Scope.WEBHOOKS_READ), partial(operation, scope=Scope.WEBHOOKS_WRITE)


@reads("GET", "/v1/webhooks", "List webhooks", WebhookList())
def list_webhooks() -> dict[str, Any]:
    """All of them, without their secrets. A key that is only for some accounts can use no webhooks."""
    return {"webhooks": endpoints.list_endpoints()}


@writes("POST", "/v1/webhooks", "Add a webhook", Webhook(), body=NewWebhook(), status=201, refusals=(409,))
def add_webhook(body: dict[str, Any]) -> dict[str, Any]:
    """The answer has the `secret` by which you verify messages; it is shown only once. 409: webhooks may not
    go to this URL, or there are ten of them."""
    return _shown(endpoints.add_endpoint(body["url"], body.get("name"), body.get("types"), current_key().actor))


@writes("PATCH", ONE, "Change a webhook", Webhook(), body=WebhookChange(), refusals=(409,))
def update_webhook(webhook_id: int, body: dict[str, Any]) -> dict[str, Any]:
    """A field that is not sent stays. With `rotate_secret`, the answer has a new `secret`; for a day, messages are
    signed with both, and there can be no third one. 409: that day is not over, or webhooks may not go to this URL."""
    return _shown(endpoints.change_endpoint(webhook_id, current_key().actor, body))


@writes("DELETE", ONE, "Remove a webhook", Webhook())
def remove_webhook(webhook_id: int) -> WebhookEndpoint:
    """What waits for it is cancelled. Returns what was removed."""
    return endpoints.remove_endpoint(webhook_id, current_key().actor)


@writes("POST", f"{ONE}/test", "Send a test", Delivery(), status=202, refusals=(409,))
def test_webhook(webhook_id: int) -> DeliveryRow:
    """A worker sends a message of the type `webhook.test` within seconds; its delivery shows the answer. 409: the
    webhook is switched off."""
    return endpoints.send_test(webhook_id)


@reads("GET", DELIVERIES, "List deliveries of a webhook", DeliveryList(), query=DeliveryFilter())
def list_deliveries(webhook_id: int, query: dict[str, Any]) -> dict[str, Any]:
    """Newest first: each message with its last answer, and when it is tried next."""
    page = endpoints.list_deliveries(webhook_id, query["cursor"], query["limit"], query.get("status"))
    return {"deliveries": page.rows, "next_cursor": page.next_cursor}


@writes("POST", REDELIVER, "Send a delivery again", Delivery(), status=202, refusals=(409,))
def redeliver(webhook_id: int, delivery_id: int) -> DeliveryRow:
    """With the same `webhook-id` and body, whether it arrived before or not; one that waits is tried at once. 409: the
    webhook is switched off."""
    return endpoints.redeliver(webhook_id, delivery_id)


def _shown(saved: endpoints.SavedEndpoint) -> dict[str, Any]:
    secret = {"secret": saved.secret} if saved.secret else {}
    names = [name for name in Webhook().fields if name != "secret"]
    return {name: getattr(saved.row, name) for name in names} | secret
