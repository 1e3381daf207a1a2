"""Example requests and answers of the documentation: made from the schemas, with one value for each name of a field."""

from typing import Any

from marshmallow import Schema, fields

from keap_connect.api.schemas import WebhookMessage
from keap_connect.notifications.endpoints import TEST

MADE, LATER, EXPIRES = "2026-11-28T09:30:00+00:00", "2026-11-29T08:15:00+00:00", "2026-11-30T08:15:00+00:00"
URL = "https://connect.example.com"
ADMIN = "ann@example.com"
VALUES: dict[str, Any] = {
    "id": 7,
    "state": "active",
    "next_step": "Nothing to do: the connection is kept alive automatically.",
    "reasons": [],
    "title": "Acme Plumbing",
    "tenant_id": "ab123",
    "business_name": "Acme Plumbing",
    "label": "Acme Plumbing",
    "external_id": "acme",
    "person_name": "Carla Diaz",
    "person_email": "carla@example.com",
    "kind": "oauth",
    "scope": "full",
    "connected_at": MADE,
    "refreshed_at": LATER,
    "access_token_expires_at": EXPIRES,
    "refresh_token_expires_at": "2027-01-13T08:15:00+00:00",
    "access_token": "the-access-token-of-ab123",
    "refresh_token": "the-refresh-token-of-ab123",
    "token_type": "bearer",
    "expires_in": 86399,
    "expires_at": EXPIRES,
    "fingerprint": "0123456789abcdef",
    "is_current": True,
    "at": LATER,
    "account_id": 7,
    "actor": "system",
    "sentence": "Refreshed: new tokens are stored.",
    "email": "carla@example.com",
    "note": "Signed the contract in November",
    "return_url": "https://acme-sync.example/connected",
    "valid_days": 14,
    "made_by": ADMIN,
    "made_at": MADE,
    "sent_at": MADE,
    "until": EXPIRES,
    "created_at": MADE,
    "name": "Acme Sync",
    "types": ["account.reconnect_required", "account.reconnected"],
    "is_on": True,
    "message_id": "msg_5f2b7c1e-9a64-4d0b-8e37-2c1f6a90d4b8",
    "status": "sent",
    "attempts": 1,
    "tried_at": LATER,
    "answer": "204 No Content",
    "answer_code": 204,
    "finished_at": LATER,
    "type": "account.reconnect_required",
    "timestamp": LATER,
    "event_id": 4711,
    "reason": "refused",
    "has_more": False,
}
OF_SCHEMA: dict[str, dict[str, Any]] = {
    "EventList": {"next_cursor": 4711},
    "Event": {"id": 4711, "kind": "refreshed"},
    "Invitation": {"state": "sent", "id": 12, "account_id": None, "expires_at": "2026-12-12T09:30:00+00:00"},
    "ReconnectLink": {"url": f"{URL}/r/the-secret-of-the-link", "expires_at": "2026-12-05T09:30:00+00:00"},
    "NewWebhook": {"url": "https://acme-sync.example/keap"},
    "WebhookChange": {"url": "https://acme-sync.example/keap"},
    "Webhook": {"id": 3, "url": "https://acme-sync.example/keap"},
    "Delivery": {"id": 981, "kind": "account.reconnect_required"},
    "Error": {
        "error": "reconnect_required",
        "error_description": "A person must authorize again and allow access at Keap.",
        "is_retryable": False,
        "request_id": "8c1f4e0a",
        "reconnect_url": f"{URL}/reconnect/7",
    },
    "WebhookTest": {"type": TEST},
    "WebhookTestData": {"webhook_id": 3, "url": f"{URL}/webhooks/3"},
    "WebhookData": {"url": f"{URL}/reconnect/7", "invitation_id": None},
}
TESTED = {"type": TEST, "timestamp": LATER, "data": OF_SCHEMA["WebhookTestData"]}
# A message that a worker is about to send.
WAITS = {"status": "waiting", "attempts": 0, "next_try_at": LATER}
WAITS |= dict.fromkeys(("tried_at", "answer", "answer_code", "finished_at"))
LINK = {"url": f"{URL}/i/the-secret-of-the-link"}
OF_OPERATION: dict[str, dict[str, Any]] = {
    "create_invitation": LINK,
    "resend_invitation": LINK,
    "show_invitation": {
        "state": "waiting",
        "opened_at": LATER,
        "waiting": {
            name: VALUES[name] for name in ("tenant_id", "business_name", "person_name", "person_email", "until")
        },
    },
    "withdraw_invitation": {"state": "withdrawn"},
    "confirm_invitation": {"state": "connected", "opened_at": LATER, "account_id": 7},
    "decline_invitation": {"state": "opened", "opened_at": LATER},
    # Another customer: a program that tries all examples would give the first one a token that Keap does not know.
    "import_account": {
        "external_id": "dentist",
        "label": "Bright Dental",
        "title": "Bright Dental",
        "business_name": "Bright Dental",
        "tenant_id": "cd456",
        "person_name": "Dan Moore",
        "person_email": "dan@example.com",
        "access_token": "the-access-token-of-cd456",
        "refresh_token": "the-refresh-token-of-cd456",
    },
    "disconnect": {
        "state": "disconnected",
        "next_step": "No tokens are stored. To use this Keap account again, reconnect it.",
        "disconnected_at": LATER,
        "access_token_expires_at": None,
        "refresh_token_expires_at": None,
    },
    "add_webhook": {"secret": "whsec_the-secret-that-signs"},
    "test_webhook": {**WAITS, "kind": TEST, "account_id": None, "payload": TESTED},
    "redeliver": {**WAITS, "attempts": 1},
}


def example_of(schema: Schema, operation: str = "") -> dict[str, Any]:
    """Return what the schema allows, in JSON's types. Fields that may be missing are there if they have a value."""
    own = VALUES | OF_SCHEMA.get(type(schema).__name__, {}) | OF_OPERATION.get(operation, {})
    shown = {name: field for name, field in schema.fields.items() if name in own or field.required}
    return {name: own[name] if name in own else _usual(field) for name, field in shown.items()}


def _usual(field: fields.Field[Any]) -> Any:
    if field.allow_none:
        return None
    if isinstance(field, fields.Boolean):
        return False
    if isinstance(field, fields.List) and isinstance(field.inner, fields.Nested):
        return [example_of(field.inner.schema)]
    return example_of(field.schema if isinstance(field, fields.Nested) else WebhookMessage())
