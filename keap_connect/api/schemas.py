"""The shapes of requests and answers, for the checks and for the OpenAPI document. Unknown fields are refused."""

import re
from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from keap_connect.accounts.naming import EXTERNAL, EXTERNAL_ID, LABEL_CHARACTERS, LONGEST_NAME, TENANT, TENANT_ID
from keap_connect.accounts.state import AccountState, Cause
from keap_connect.connect.endings import Ending
from keap_connect.connect.invitations import LONGEST_DAYS, LONGEST_NOTE, LONGEST_URL, USUAL_DAYS
from keap_connect.events.history import ANNOUNCED, EventKind
from keap_connect.events.mailing import EMAIL, LONGEST_EMAIL
from keap_connect.models import LARGEST_ID, CredentialKind, InvitationState
from keap_connect.notifications.sender import CANCELLED, GIVEN_UP, SENT, WAITING
from keap_connect.refresh.alarms import ADVICE
from keap_connect.refresh.timing import LONGEST_VALIDITY_SECONDS

OWN_ID = f"^{EXTERNAL_ID}$"
ACCOUNT_NAME = f"^([1-9][0-9]{{0,9}}|{EXTERNAL}{EXTERNAL_ID}|{TENANT}{TENANT_ID})$"
FINGERPRINT = r"^[0-9a-f]{16}$"
TOKEN = r"^[\x21-\x7e]+$"  # noqa: S105
LONGEST_TOKEN = 8192
WEBHOOK_URL = "^https?://[!-~]+$"
STATUSES = (WAITING, SENT, GIVEN_UP, CANCELLED)


class Whole(validate.Regexp):
    """A pattern that the whole value must match; `$` alone would let a line break follow."""

    def __call__(self, value: str) -> str:  # type: ignore[override]
        """Refuse also lone surrogates, which no database can store."""
        has_lone_surrogate = any("\ud800" <= one <= "\udfff" for one in value)
        if has_lone_surrogate or re.fullmatch(str(self.regex.pattern), value) is None:
            raise ValidationError("It has characters, or a form, that are not allowed here.")
        return value


class Text(fields.String):
    def __init__(self, most: int = LONGEST_NAME, pattern: str = f"^{LABEL_CHARACTERS}*$", **options: Any) -> None:
        super().__init__(validate=[validate.Length(min=1, max=most), Whole(pattern)], **options)


class Digits(fields.Integer):
    """A whole number of a query string: only digits. `int` would accept more, such as 1_0."""

    def __init__(self, least: int, most: int, **options: Any) -> None:
        super().__init__(validate=validate.Range(least, most), **options)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if re.fullmatch("[0-9]{1,10}", str(value)) is None:
            raise self.make_error("invalid")
        return super()._deserialize(value, attr, data, **kwargs)


class Number(fields.Integer):
    """A whole number of a JSON body: 5 and 5.0, neither "5" nor true."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if not (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
            raise self.make_error("invalid")
        return super()._deserialize(value, attr, data, **kwargs)


class Page(Schema):
    limit = Digits(1, 200, load_default=50, metadata={"description": "How many rows at most."})
    cursor = Digits(
        0, LARGEST_ID, load_default=0, metadata={"description": "`next_cursor` of the previous page; 0 at first."}
    )


class AccountFilter(Page):
    state = fields.String(validate=validate.OneOf(list(AccountState)))
    q = Text(
        100,
        metadata={
            "description": "Beginnings of words of name, company, e-mail, label or ids; one has two letters or more."
        },
    )
    tenant_id = Text(63, f"^{TENANT_ID}$", metadata={"description": "Keap's account id: ab123."})
    external_id = Text(pattern=OWN_ID)


class EventFilter(Page):
    account = Text(210, ACCOUNT_NAME, metadata={"description": "An id, `external:acme`, or `tenant:ab123`."})
    kind = fields.String(validate=validate.OneOf(list(EventKind)))


class TokenQuery(Schema):
    min_validity = Digits(0, LONGEST_VALIDITY_SECONDS, metadata={"description": "Seconds; refreshes first if it must."})


class AccountChange(Schema):
    label = Text(allow_none=True, metadata={"description": "Your name for the account."})
    external_id = Text(pattern=OWN_ID, allow_none=True, metadata={"description": "Your own id of this customer."})


class Rejection(Schema):
    fingerprint = Text(
        16, FINGERPRINT, required=True, metadata={"description": "First 16 hex digits of the access token's SHA-256."}
    )


class Import(Schema):
    """A credential that was granted elsewhere, to the same client."""

    access_token = Text(LONGEST_TOKEN, TOKEN, required=True)
    refresh_token = Text(LONGEST_TOKEN, TOKEN, allow_none=True)
    expires_in = Number(
        allow_none=True,
        validate=validate.Range(0, 365 * 86400),
        metadata={"description": "For how many seconds the access token is valid; an hour if unknown."},
    )
    kind = fields.String(load_default=CredentialKind.OAUTH, validate=validate.OneOf(list(CredentialKind)))
    external_id = Text(pattern=OWN_ID, allow_none=True)
    label = Text(allow_none=True)
    replace = fields.Boolean(
        load_default=False,
        truthy={True},
        falsy={False},
        metadata={"description": "True to let a pair replace a connection that works."},
    )
    unusual_key = fields.Boolean(
        load_default=False,
        truthy={True},
        falsy={False},
        metadata={"description": "True to take a key that does not begin as Keap's keys do, with KeapAK."},
    )


TYPES = fields.List(
    fields.String(validate=validate.OneOf(ANNOUNCED)),
    allow_none=True,
    validate=validate.Length(min=1, max=len(ANNOUNCED)),
    metadata={
        "description": "What it receives; null is everything, also types of later versions.",
        "uniqueItems": True,
    },
)


class NewWebhook(Schema):
    url = Text(2000, WEBHOOK_URL, required=True, metadata={"description": "Begins with https://."})
    name = Text(80, allow_none=True, metadata={"description": "Your name for it; the host name without one."})
    types = TYPES


class WebhookChange(NewWebhook):
    url = Text(2000, WEBHOOK_URL)
    is_on = fields.Boolean(
        truthy={True},
        falsy={False},
        metadata={"description": "False: it gets nothing more, and what changes meanwhile is not sent later."},
    )
    rotate_secret = fields.Boolean(truthy={True}, falsy={False}, metadata={"description": "True: make a new secret."})


class DeliveryFilter(Page):
    status = fields.String(validate=validate.OneOf(STATUSES))


class PreferHeaders(Schema):
    """How long to wait for a refresh that is under way (RFC 7240 section 4.3)."""

    prefer = fields.String(
        data_key="Prefer", metadata={"description": "`wait=n`, up to 25 seconds; 10 without it.", "example": "wait=5"}
    )


class Account(Schema):
    id = fields.Integer(required=True)
    state = fields.String(required=True, validate=validate.OneOf(list(AccountState)))
    next_step = fields.String(required=True, metadata={"description": "What to do now, in one sentence."})
    reasons = fields.List(fields.String(), required=True)
    title = fields.String(required=True)
    tenant_id = fields.String(required=True, allow_none=True)
    business_name = fields.String(required=True, allow_none=True)
    label = fields.String(required=True, allow_none=True)
    external_id = fields.String(required=True, allow_none=True)
    person_name = fields.String(required=True, allow_none=True)
    person_email = fields.String(required=True, allow_none=True)
    kind = fields.String(required=True, validate=validate.OneOf(list(CredentialKind)))
    scope = fields.String(required=True, allow_none=True)
    is_pending = fields.Boolean(required=True, metadata={"description": "Keap has not yet said whose it is."})
    connected_at = fields.AwareDateTime(required=True)
    refreshed_at = fields.AwareDateTime(required=True, allow_none=True)
    disconnected_at = fields.AwareDateTime(required=True, allow_none=True)
    access_token_expires_at = fields.AwareDateTime(required=True, allow_none=True)
    refresh_token_expires_at = fields.AwareDateTime(required=True, allow_none=True)


class AccountList(Schema):
    """A page of accounts, oldest first; `next_cursor` is null on the last one."""

    accounts = fields.List(fields.Nested(Account), required=True)
    next_cursor = fields.Integer(required=True, allow_none=True)
    warning = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "That `q` found too much to return all of it, or cannot be searched for."},
    )


class Event(Schema):
    id = fields.Integer(required=True)
    at = fields.AwareDateTime(required=True)
    account_id = fields.Integer(required=True)
    kind = fields.String(required=True)
    actor = fields.String(required=True, metadata={"description": "Who did it."})
    address = fields.String(
        required=True, allow_none=True, metadata={"description": "The network address that it came from, if any."}
    )
    sentence = fields.String(required=True)


class EventList(Schema):
    """A page of events, oldest first; `next_cursor` is also set on the last one, for later calls."""

    events = fields.List(fields.Nested(Event), required=True)
    next_cursor = fields.Integer(required=True)
    has_more = fields.Boolean(required=True)


class Token(Schema):
    state = fields.String(required=True, validate=validate.OneOf(list(AccountState)))
    access_token = fields.String(required=True)
    token_type = fields.String(required=True, validate=validate.Equal("bearer"))
    expires_in = fields.Integer(required=True, allow_none=True, metadata={"description": "Null: it does not expire."})
    expires_at = fields.AwareDateTime(required=True, allow_none=True)
    tenant_id = fields.String(required=True, allow_none=True)
    fingerprint = fields.String(required=True, validate=Whole(FINGERPRINT))
    warning = fields.String(metadata={"description": "Why it could not be made to last longer."})


class RejectionTaken(Schema):
    """Whether the report was about the current token; a stale one changes nothing."""

    is_current = fields.Boolean(required=True)


class ReconnectLink(Schema):
    url = fields.String(required=True, metadata={"description": "A secret: for the customer and nobody else."})
    expires_at = fields.AwareDateTime(required=True)


class InvitationFilter(Page):
    state = fields.String(validate=validate.OneOf(list(InvitationState)))
    external_id = Text(pattern=OWN_ID)


class InvitationRequest(Schema):
    label = Text(
        allow_none=True, metadata={"description": "The customer's name; they see it, and the account gets it."}
    )
    external_id = Text(pattern=OWN_ID, allow_none=True, metadata={"description": "Your own id of this customer."})
    email = Text(
        LONGEST_EMAIL, f"^{EMAIL}$", allow_none=True, metadata={"description": "The address that you send the link to."}
    )
    note = Text(LONGEST_NOTE, allow_none=True, metadata={"description": "For admins and programs."})
    return_url = Text(
        LONGEST_URL,
        r"^https?://[!-~]+$",
        allow_none=True,
        metadata={"description": "Where the customer goes back to; its origin is one of RETURN_ORIGINS."},
    )
    expected_tenant_id = Text(
        63, f"^{TENANT_ID}$", allow_none=True, metadata={"description": "A grant of another Keap account waits."}
    )
    needs_confirmation = fields.Boolean(
        load_default=False,
        truthy={True},
        falsy={False},
        metadata={"description": "True: any grant waits until you confirm who connected."},
    )
    is_mailed = fields.Boolean(
        load_default=False,
        truthy={True},
        falsy={False},
        metadata={"description": "True: the app sends the link to `email`, also the one of a resend."},
    )
    valid_days = Number(load_default=USUAL_DAYS, validate=validate.Range(1, LONGEST_DAYS))


class Waiting(Schema):
    """Who used an invitation, and until when that can be confirmed."""

    tenant_id = fields.String(required=True, allow_none=True)
    business_name = fields.String(required=True, allow_none=True)
    person_name = fields.String(required=True, allow_none=True)
    person_email = fields.String(required=True, allow_none=True)
    until = fields.AwareDateTime(required=True)


class Invitation(Schema):
    id = fields.Integer(required=True)
    state = fields.String(required=True, validate=validate.OneOf(list(InvitationState)))
    label = fields.String(required=True, allow_none=True)
    external_id = fields.String(required=True, allow_none=True)
    email = fields.String(required=True, allow_none=True)
    note = fields.String(required=True, allow_none=True)
    return_url = fields.String(required=True, allow_none=True)
    expected_tenant_id = fields.String(required=True, allow_none=True)
    needs_confirmation = fields.Boolean(required=True)
    is_mailed = fields.Boolean(required=True)
    account_id = fields.Integer(
        required=True, allow_none=True, metadata={"description": "Of the account it connected."}
    )
    waiting = fields.Nested(Waiting, required=True, allow_none=True)
    made_by = fields.String(required=True)
    made_at = fields.AwareDateTime(required=True)
    sent_at = fields.AwareDateTime(required=True, metadata={"description": "When its present link was made."})
    opened_at = fields.AwareDateTime(required=True, allow_none=True)
    expires_at = fields.AwareDateTime(required=True)
    url = fields.String(metadata={"description": "The link: a secret, shown only once, for the customer alone."})


class InvitationList(Schema):
    """A page of invitations, newest first; `next_cursor` is null on the last one."""

    invitations = fields.List(fields.Nested(Invitation), required=True)
    next_cursor = fields.Integer(required=True, allow_none=True)


class Webhook(Schema):
    id = fields.Integer(required=True)
    url = fields.String(required=True)
    name = fields.String(required=True)
    types = fields.List(fields.String(), required=True, allow_none=True, metadata={"description": "Null: everything."})
    is_on = fields.Boolean(required=True)
    switched_off_because = fields.String(required=True, allow_none=True)
    failing_since = fields.AwareDateTime(required=True, allow_none=True)
    old_secret_until = fields.AwareDateTime(
        required=True, allow_none=True, metadata={"description": "Until when the secret before signs, too."}
    )
    created_at = fields.AwareDateTime(required=True)
    secret = fields.String(metadata={"description": "Shown only once: after adding it, and after a rotation."})


class WebhookList(Schema):
    webhooks = fields.List(fields.Nested(Webhook), required=True)


class Delivery(Schema):
    id = fields.Integer(required=True)
    message_id = fields.String(required=True, metadata={"description": "The header `webhook-id`."})
    kind = fields.String(required=True, metadata={"description": "The type."})
    account_id = fields.Integer(required=True, allow_none=True)
    payload = fields.Dict(required=True, metadata={"description": "The body."})
    status = fields.String(required=True, validate=validate.OneOf(STATUSES))
    attempts = fields.Integer(required=True)
    tried_at = fields.AwareDateTime(required=True, allow_none=True)
    answer = fields.String(required=True, allow_none=True, metadata={"description": "The last one, in short."})
    answer_code = fields.Integer(required=True, allow_none=True, metadata={"description": "Its HTTP status."})
    next_try_at = fields.AwareDateTime(required=True, allow_none=True, metadata={"description": "Null: never."})
    created_at = fields.AwareDateTime(required=True)
    finished_at = fields.AwareDateTime(required=True, allow_none=True)


class DeliveryList(Schema):
    """A page of deliveries, newest first; `next_cursor` is null on the last one."""

    deliveries = fields.List(fields.Nested(Delivery), required=True)
    next_cursor = fields.Integer(required=True, allow_none=True)


class WebhookData(Schema):
    """Ids and values of closed lists. For what an event says in words, ask `GET /api/v1/events`."""

    event_id = fields.Integer(required=True)
    account_id = fields.Integer(required=True, allow_none=True)
    external_id = fields.String(required=True, allow_none=True)
    tenant_id = fields.String(required=True, allow_none=True)
    invitation_id = fields.Integer(
        required=True, allow_none=True, metadata={"description": "Of the invitation that it began with."}
    )
    reason = fields.String(
        required=True,
        allow_none=True,
        validate=validate.OneOf([*Cause, *Ending, *ADVICE]),
        metadata={
            "description": "Of an account at risk or to be reconnected: the cause; of a connection that failed: how it "
            "ended; of paused refreshing: the alarm."
        },
    )
    deadline = fields.AwareDateTime(
        required=True, allow_none=True, metadata={"description": "Until when something can be done, if that is known."}
    )
    url = fields.String(required=True, metadata={"description": "The page that repairs it, or shows it."})


class WebhookMessage(Schema):
    type = fields.String(required=True)
    timestamp = fields.AwareDateTime(required=True, metadata={"description": "When it happened."})
    data = fields.Nested(WebhookData, required=True)


class Error(Schema):
    error = fields.String(required=True, metadata={"description": "A code for programs; it stays the same."})
    error_description = fields.String(required=True, metadata={"description": "A sentence for people."})
    is_retryable = fields.Boolean(
        required=True, metadata={"description": "Whether the same request may succeed later, with nothing changed."}
    )
    request_id = fields.String(required=True, metadata={"description": "The `reference` of this request in the log."})
    reconnect_url = fields.String(
        metadata={
            "description": "The page where an admin, or the customer in the browser they connected with, can reconnect."
        }
    )
