"""The shapes of answers and of webhooks."""

from marshmallow import Schema, fields, validate

from keap_connect.accounts.state import AccountState, Cause
from keap_connect.api.questions import FINGERPRINT, STATUSES, Whole, shown
from keap_connect.connect.endings import Ending
from keap_connect.models import CredentialKind, InvitationState
from keap_connect.notifications.endpoints import TEST
from keap_connect.refresh.alarms import ADVICE


class Account(Schema):
    id = shown.Integer()
    state = shown.String(validate=validate.OneOf(list(AccountState)))
    next_step = shown.String(about="What to do now, in one sentence.")
    reasons = shown.List(fields.String())
    title = shown.String()
    tenant_id = shown.String(null=True)
    business_name = shown.String(null=True)
    label = shown.String(null=True)
    external_id = shown.String(null=True)
    person_name = shown.String(null=True)
    person_email = shown.String(null=True)
    kind = shown.String(validate=validate.OneOf(list(CredentialKind)))
    scope = shown.String(null=True)
    is_pending = shown.Boolean(about="Keap has not yet said whose it is.")
    connected_at = shown.AwareDateTime()
    refreshed_at = shown.AwareDateTime(null=True)
    disconnected_at = shown.AwareDateTime(null=True)
    access_token_expires_at = shown.AwareDateTime(null=True)
    refresh_token_expires_at = shown.AwareDateTime(null=True)


class AccountList(Schema):
    """A page of accounts, oldest first; `next_cursor` is null on the last one."""

    accounts = shown.List(fields.Nested(Account))
    next_cursor = shown.Integer(null=True)
    warning = shown.String(null=True, about="That `q` found too much to return all of it, or cannot be searched for.")


class Event(Schema):
    id = shown.Integer()
    at = shown.AwareDateTime()
    account_id = shown.Integer()
    kind = shown.String()
    actor = shown.String(about="Who did it.")
    address = shown.String(null=True, about="The network address that it came from, if any.")
    sentence = shown.String()


class EventList(Schema):
    """A page of events, oldest first; `next_cursor` is also set on the last one, for later calls."""

    events = shown.List(fields.Nested(Event))
    next_cursor = shown.Integer()
    has_more = shown.Boolean()


class Token(Schema):
    state = shown.String(validate=validate.OneOf(list(AccountState)))
    access_token = shown.String()
    token_type = shown.String(validate=validate.Equal("bearer"))
    expires_in = shown.Integer(null=True, about="Null: it does not expire.")
    expires_at = shown.AwareDateTime(null=True)
    tenant_id = shown.String(null=True)
    fingerprint = shown.String(validate=Whole(FINGERPRINT))
    warning = shown.String(required=False, about="Why it could not be made to last longer.")


class RejectionTaken(Schema):
    """Whether the report was about the current token; a stale one changes nothing."""

    is_current = shown.Boolean()


class ReconnectLink(Schema):
    url = shown.String(about="A secret: for the customer and nobody else.")
    expires_at = shown.AwareDateTime()


class Waiting(Schema):
    """Who used an invitation, and until when that can be confirmed."""

    tenant_id = shown.String(null=True)
    business_name = shown.String(null=True)
    person_name = shown.String(null=True)
    person_email = shown.String(null=True)
    until = shown.AwareDateTime()


class Invitation(Schema):
    id = shown.Integer()
    state = shown.String(validate=validate.OneOf(list(InvitationState)))
    label = shown.String(null=True)
    external_id = shown.String(null=True)
    email = shown.String(null=True)
    note = shown.String(null=True)
    return_url = shown.String(null=True)
    expected_tenant_id = shown.String(null=True)
    needs_confirmation = shown.Boolean()
    is_mailed = shown.Boolean()
    account_id = shown.Integer(null=True, about="Of the account it connected.")
    waiting = shown.Nested(Waiting, null=True)
    made_by = shown.String()
    made_at = shown.AwareDateTime()
    sent_at = shown.AwareDateTime(about="When its present link was made.")
    opened_at = shown.AwareDateTime(null=True)
    expires_at = shown.AwareDateTime()
    url = shown.String(required=False, about="The link: a secret, shown only once, for the customer alone.")


class InvitationList(Schema):
    """A page of invitations, newest first; `next_cursor` is null on the last one."""

    invitations = shown.List(fields.Nested(Invitation))
    next_cursor = shown.Integer(null=True)


class Webhook(Schema):
    id = shown.Integer()
    url = shown.String()
    name = shown.String()
    types = shown.List(fields.String(), null=True, about="Null: everything.")
    is_on = shown.Boolean()
    switched_off_because = shown.String(null=True)
    failing_since = shown.AwareDateTime(null=True)
    old_secret_until = shown.AwareDateTime(null=True, about="Until when the secret before signs, too.")
    created_at = shown.AwareDateTime()
    secret = shown.String(required=False, about="Shown only once: after adding it, and after a rotation.")


class WebhookList(Schema):
    webhooks = shown.List(fields.Nested(Webhook))


class Delivery(Schema):
    id = shown.Integer()
    message_id = shown.String(about="The header `webhook-id`.")
    kind = shown.String(about="The type.")
    account_id = shown.Integer(null=True)
    payload = shown.Dict(about="The body.")
    status = shown.String(validate=validate.OneOf(STATUSES))
    attempts = shown.Integer()
    tried_at = shown.AwareDateTime(null=True)
    answer = shown.String(null=True, about="The last one, in short.")
    answer_code = shown.Integer(null=True, about="Its HTTP status.")
    next_try_at = shown.AwareDateTime(null=True, about="Null: never.")
    created_at = shown.AwareDateTime()
    finished_at = shown.AwareDateTime(null=True)


class DeliveryList(Schema):
    """A page of deliveries, newest first; `next_cursor` is null on the last one."""

    deliveries = shown.List(fields.Nested(Delivery))
    next_cursor = shown.Integer(null=True)


class WebhookData(Schema):
    """Ids and values of closed lists. For what an event says in words, ask `GET /api/v1/events`."""

    event_id = shown.Integer()
    account_id = shown.Integer(null=True)
    external_id = shown.String(null=True)
    tenant_id = shown.String(null=True)
    invitation_id = shown.Integer(null=True, about="Of the invitation that it began with.")
    reason = shown.String(
        null=True,
        validate=validate.OneOf([*Cause, *Ending, *ADVICE]),
        about="Of an account at risk or to be reconnected: the cause; of a connection that failed: how it ended; of "
        "paused refreshing: the alarm.",
    )
    deadline = shown.AwareDateTime(null=True, about="Until when something can be done, if that is known.")
    url = shown.String(about="The page that repairs it, or shows it.")


class WebhookMessage(Schema):
    type = shown.String()
    timestamp = shown.AwareDateTime(about="When it happened.")
    data = shown.Nested(WebhookData)


class WebhookTestData(Schema):
    webhook_id = shown.Integer()
    url = shown.String(about="The page of the webhook.")


class WebhookTest(Schema):
    """What you asked for by `POST /api/v1/webhooks/{webhook_id}/test`; it is about no account."""

    type = shown.String(validate=validate.Equal(TEST))
    timestamp = shown.AwareDateTime(about="When you asked for it.")
    data = shown.Nested(WebhookTestData)


class Error(Schema):
    error = shown.String(about="A code for programs; it stays the same.")
    error_description = shown.String(about="A sentence for people.")
    is_retryable = shown.Boolean(about="Whether the same request may succeed later, with nothing changed.")
    request_id = shown.String(about="The `reference` of this request in the log.")
    reconnect_url = shown.String(
        required=False,
        about="The page where an admin, or the customer in the browser they connected with, can reconnect.",
    )
