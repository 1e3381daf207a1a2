"""The history, and notifications of it: who receives them, and each message with what became of it."""

from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import JSON, Index, LargeBinary, event, text
from sqlalchemy.orm import Mapped, Mapper, mapped_column

from keap_connect.database import Base

_PAIRS = text("pair_mark IS NOT NULL")
_RARE = text("kind <> 'refreshed'")  # each refresh writes one of that kind
# Most rows are finished; with these indexes the worker does not read them.
_WAITS, _ENDED = text("finished_at IS NULL"), text("finished_at IS NOT NULL")
_MAILS, _MAIL_WAITS = text("channel <> 'webhook'"), text("channel <> 'webhook' AND finished_at IS NULL")


class AccountEvent(Base):
    """One event. Rows are never changed, and deleted only by events/deleting.py. `details` holds no secrets."""

    __tablename__ = "account_event"
    __table_args__ = (
        Index(None, "account_id", "id"),
        Index(None, "at", "id"),
        Index("ix_account_event_kind", "kind", "id", sqlite_where=_RARE, postgresql_where=_RARE),
        Index("ix_account_event_kind_at", "kind", "at", "id", sqlite_where=_RARE, postgresql_where=_RARE),
        Index("ix_account_event_pairs", "id", sqlite_where=_PAIRS, postgresql_where=_PAIRS),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    account_id: Mapped[int | None]  # no foreign key: the event stays when the account is erased
    kind: Mapped[str]
    actor: Mapped[str]
    details: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    pair_mark: Mapped[str | None]  # random, where new tokens were stored


@event.listens_for(AccountEvent, "before_update")
@event.listens_for(AccountEvent, "before_delete")
def _refuse_change(_mapper: Mapper[AccountEvent], _connection: object, _target: AccountEvent) -> None:
    raise TypeError("account_event is add-only")


class WebhookEndpoint(Base):
    """A program that receives webhooks. Its secrets sign them; two are valid while one replaces the other."""

    __tablename__ = "webhook_endpoint"
    __table_args__ = ({"sqlite_autoincrement": True},)  # an id is never used again: deliveries refer to it

    id: Mapped[int] = mapped_column(primary_key=True)
    url: Mapped[str]
    name: Mapped[str]
    types: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))  # null: all, also those of later versions
    secret_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    old_secret_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    old_secret_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    tried_at: Mapped[datetime | None]
    # The first failure after the last success; still set if it was switched off for failing.
    failing_since: Mapped[datetime | None]
    switched_off_at: Mapped[datetime | None]
    switched_off_because: Mapped[str | None]

    @property
    def host(self) -> str:
        """The part of the URL that is no secret: some receivers take messages from anyone who knows the path."""
        return urlsplit(self.url).netloc

    @property
    def is_on(self) -> bool:
        return self.switched_off_at is None

    @property
    def sentence(self) -> str:
        """What is wrong with an endpoint that fails, or was switched off."""
        if self.is_on:
            return f"Webhook {self.id} to {self.host} has failed since {self.failing_since:%Y-%m-%d %H:%M} UTC."
        return f"Webhook {self.id} to {self.host} was switched off. {self.switched_off_because}"


class Delivery(Base):
    """One message to one recipient, written in the transaction of the change that it announces."""

    __tablename__ = "delivery"
    __table_args__ = (
        Index(
            "ix_delivery_recipient_due",
            *("channel", "recipient", "due_at", "id"),
            sqlite_where=_WAITS,
            postgresql_where=_WAITS,
        ),
        Index("ix_delivery_channel_due", "channel", "due_at", sqlite_where=_MAIL_WAITS, postgresql_where=_MAIL_WAITS),
        Index("ix_delivery_order", "recipient", "account_id", "id", sqlite_where=_WAITS, postgresql_where=_WAITS),
        Index("ix_delivery_mails", "id", sqlite_where=_MAILS, postgresql_where=_MAILS),
        Index(None, "recipient", "id"),
        Index(None, "recipient", "status", "id"),
        Index(None, "account_id"),
        # Only finished rows: else PostgreSQL would use this index for waiting ones, and read them all for each message.
        Index(None, "finished_at", sqlite_where=_ENDED, postgresql_where=_ENDED),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    event_id: Mapped[int | None]  # no foreign key: the history is pruned on its own; null for a test
    account_id: Mapped[int | None]
    channel: Mapped[str]  # webhook, mail (to admins) or customer_mail
    recipient: Mapped[str]  # the id of the endpoint, or the e-mail address
    kind: Mapped[str]  # the type of the webhook, or the name of the mail
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)  # no secrets
    message_id: Mapped[str]  # random, the same in every attempt
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]  # when it may be sent; a process that sends it moves this ahead
    attempts: Mapped[int] = mapped_column(default=0)  # that ended with an answer or a failure
    failing_since: Mapped[datetime | None]  # the first failure
    status: Mapped[str] = mapped_column(default="waiting")  # waiting, sent, given_up or cancelled
    tried_at: Mapped[datetime | None]
    answer: Mapped[str | None]  # the last one, in short
    answer_code: Mapped[int | None]  # the last one, of HTTP or SMTP
    finished_at: Mapped[datetime | None]  # null while it waits

    @property
    def next_try_at(self) -> datetime | None:
        return self.due_at if self.finished_at is None else None


class Counter(Base):
    """A figure of /metrics that only grows; each process adds what it counted since its last report."""

    __tablename__ = "counter"

    name: Mapped[str] = mapped_column(primary_key=True)
    labels: Mapped[str] = mapped_column(primary_key=True)  # their values, separated by spaces
    value: Mapped[float] = mapped_column(default=0.0)
