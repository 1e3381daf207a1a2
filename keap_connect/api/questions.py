"""The shapes of what a caller sends: query strings, headers and bodies. Unknown fields are refused.

First come the kinds of fields, which answers have, too. `about` is what the OpenAPI document says of a field.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from keap_connect.accounts.naming import EXTERNAL, EXTERNAL_ID, LABEL_CHARACTERS, LONGEST_NAME, TENANT, TENANT_ID
from keap_connect.accounts.state import AccountState
from keap_connect.connect.importing import LONGEST_TOKEN
from keap_connect.connect.invitations import LONGEST_DAYS, LONGEST_NOTE, LONGEST_URL, USUAL_DAYS
from keap_connect.events.history import ANNOUNCED, EventKind
from keap_connect.events.mailing import EMAIL, LONGEST_EMAIL
from keap_connect.models import LARGEST_ID, CredentialKind, InvitationState
from keap_connect.notifications.sender import CANCELLED, GIVEN_UP, SENT, WAITING
from keap_connect.refresh.timing import LONGEST_VALIDITY_SECONDS

OWN_ID = f"^{EXTERNAL_ID}$"
ACCOUNT_NAME = f"^([1-9][0-9]{{0,9}}|{EXTERNAL}{EXTERNAL_ID}|{TENANT}{TENANT_ID})$"
FINGERPRINT = r"^[0-9a-f]{16}$"
TOKEN = r"^[\x21-\x7e]+$"  # noqa: S105
URL = "^https?://[!-~]+$"
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
    def __init__(
        self, most: int = LONGEST_NAME, pattern: str = f"^{LABEL_CHARACTERS}*$", *, about: str = "", **options: Any
    ) -> None:
        whole = [validate.Length(min=1, max=most), Whole(pattern)]
        super().__init__(validate=whole, metadata=_described(about), **options)


class Digits(fields.Integer):
    """A whole number of a query string: only digits. `int` would accept more, such as 1_0."""

    def __init__(self, least: int, most: int, *, about: str = "", **options: Any) -> None:
        super().__init__(validate=validate.Range(least, most), metadata=_described(about), **options)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if re.fullmatch("[0-9]{1,10}", str(value)) is None:
            raise self.make_error("invalid")
        return super()._deserialize(value, attr, data, **kwargs)


class Number(fields.Integer):
    """A whole number of a JSON body: 5 and 5.0, neither "5" nor true."""

    def __init__(self, *, about: str = "", **options: Any) -> None:
        super().__init__(metadata=_described(about), **options)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if not (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
            raise self.make_error("invalid")
        return super()._deserialize(value, attr, data, **kwargs)


class Flag(fields.Boolean):
    """True or false of a JSON body, and no other word or number for it."""

    def __init__(self, about: str, **options: Any) -> None:
        super().__init__(truthy={True}, falsy={False}, metadata=_described(about), **options)


class Shown:
    """Makes the fields of answers, by the names of marshmallow; they are required unless it says otherwise."""

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        return partial(_shown, getattr(fields, kind))


shown = Shown()


def _shown(kind: Callable[..., Any], *values: Any, null: bool = False, about: str = "", **options: Any) -> Any:
    return kind(*values, **{"required": True, "allow_none": null, "metadata": _described(about), **options})


def _described(about: str) -> dict[str, Any]:
    return {"description": about} if about else {}


class Page(Schema):
    limit = Digits(1, 200, load_default=50, about="How many rows at most.")
    cursor = Digits(0, LARGEST_ID, load_default=0, about="`next_cursor` of the previous page; 0 at first.")


class AccountFilter(Page):
    state = fields.String(validate=validate.OneOf(list(AccountState)))
    q = Text(100, about="Beginnings of words of name, company, e-mail, label or ids; one has two letters or more.")
    tenant_id = Text(63, f"^{TENANT_ID}$", about="Keap's account id: ab123.")
    external_id = Text(pattern=OWN_ID)


class EventFilter(Page):
    account = Text(210, ACCOUNT_NAME, about="An id, `external:acme`, or `tenant:ab123`.")
    kind = fields.String(validate=validate.OneOf(list(EventKind)))


class TokenQuery(Schema):
    min_validity = Digits(
        0, LONGEST_VALIDITY_SECONDS, about="For how many seconds the token must be valid; it is refreshed first if not."
    )


class AccountChange(Schema):
    label = Text(allow_none=True, about="Your name for the account.")
    external_id = Text(pattern=OWN_ID, allow_none=True, about="Your own id of this customer.")


class Rejection(Schema):
    fingerprint = Text(16, FINGERPRINT, required=True, about="First 16 hex digits of the access token's SHA-256.")


class Import(Schema):
    """A credential that was granted elsewhere, to the same client."""

    access_token = Text(LONGEST_TOKEN, TOKEN, required=True)
    refresh_token = Text(LONGEST_TOKEN, TOKEN, allow_none=True)
    expires_in = Number(
        validate=validate.Range(0, 365 * 86400),
        allow_none=True,
        about="For how many seconds the access token is valid; if unknown, an hour, or a day without a refresh token.",
    )
    kind = fields.String(load_default=CredentialKind.OAUTH, validate=validate.OneOf(list(CredentialKind)))
    external_id = Text(pattern=OWN_ID, allow_none=True)
    label = Text(allow_none=True)
    replace = Flag("True to let a pair replace a connection that works.", load_default=False)
    unusual_key = Flag("True to take a key that does not begin as Keap's keys do, with KeapAK.", load_default=False)


class NewWebhook(Schema):
    url = Text(2000, URL, required=True, about="Begins with https://.")
    name = Text(80, allow_none=True, about="Your name for it; the host name without one.")
    types = fields.List(
        fields.String(validate=validate.OneOf(ANNOUNCED)),
        allow_none=True,
        validate=validate.Length(min=1, max=len(ANNOUNCED)),
        metadata={
            "description": "What it receives; null is everything, also types of later versions.",
            "uniqueItems": True,
        },
    )


class WebhookChange(NewWebhook):
    url = Text(2000, URL)
    is_on = Flag("False: it gets nothing more, and what changes meanwhile is not sent later.")
    rotate_secret = Flag("True: make a new secret.")


class DeliveryFilter(Page):
    status = fields.String(validate=validate.OneOf(STATUSES))


class PreferHeaders(Schema):
    """How long to wait for a refresh that is under way (RFC 7240 section 4.3)."""

    prefer = fields.String(
        data_key="Prefer",
        metadata={"description": "`wait=n`: for how many seconds, 25 at most; 10 without it.", "example": "wait=5"},
    )


class InvitationFilter(Page):
    state = fields.String(validate=validate.OneOf(list(InvitationState)))
    external_id = Text(pattern=OWN_ID)


class InvitationRequest(Schema):
    label = Text(allow_none=True, about="The customer's name; they see it, and the account gets it.")
    external_id = Text(pattern=OWN_ID, allow_none=True, about="Your own id of this customer.")
    email = Text(LONGEST_EMAIL, f"^{EMAIL}$", allow_none=True, about="The address that you send the link to.")
    note = Text(LONGEST_NOTE, allow_none=True, about="For admins and programs.")
    return_url = Text(
        LONGEST_URL, URL, allow_none=True, about="Where the customer goes back to; its origin is one of RETURN_ORIGINS."
    )
    expected_tenant_id = Text(63, f"^{TENANT_ID}$", allow_none=True, about="A grant of another Keap account waits.")
    needs_confirmation = Flag("True: any grant waits until you confirm who connected.", load_default=False)
    is_mailed = Flag("True: the app sends the link to `email`, also the one of a resend.", load_default=False)
    valid_days = Number(load_default=USUAL_DAYS, validate=validate.Range(1, LONGEST_DAYS))
