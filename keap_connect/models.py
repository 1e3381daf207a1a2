"""The tables. Facts only: what follows from them (state, what to do next) is derived elsewhere."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    UniqueConstraint,
    event,
    func,
    text,
)
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, Mapper, mapped_column

from keap_connect.database import Base

NAMELESS = "New Keap account"
LARGEST_ID = 2**31 - 1  # the databases take a larger number for an error, not for an unknown id


class CredentialKind(StrEnum):
    """What we hold for an account (design: words and states)."""

    OAUTH = "oauth"
    ACCESS_TOKEN_ONLY = "access_token_only"  # noqa: S105
    PERSONAL_ACCESS_TOKEN = "personal_access_token"  # noqa: S105
    SERVICE_ACCOUNT_KEY = "service_account_key"


# Few rows have a lease or a wait: who looks for them reads this index, not the whole table.
_WAITS = text("lease_owner IS NOT NULL OR blocked_until IS NOT NULL")
_PAIRS = text("pair_mark IS NOT NULL")


class Account(Base):
    """One Keap user's grant to one tenant, and the credential we hold for it.

    While Keap has not yet told tenant or person, `tenant_id` or `keap_user_id` is null: the account is pending.
    """

    __tablename__ = "account"
    __table_args__ = (
        UniqueConstraint("tenant_id", "keap_user_id"),
        UniqueConstraint("external_id"),
        CheckConstraint(
            "kind IN ('oauth', 'access_token_only', 'personal_access_token', 'service_account_key')",
            name="kind",
        ),
        Index("ix_account_waits", "id", sqlite_where=_WAITS, postgresql_where=_WAITS),
        {"sqlite_autoincrement": True},  # an id is never used again: the history refers to it
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str | None]
    keap_user_id: Mapped[str | None]
    person_name: Mapped[str | None]
    person_email: Mapped[str | None]
    business_name: Mapped[str | None]
    label: Mapped[str | None]
    external_id: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime]
    connected_at: Mapped[datetime]
    disconnected_at: Mapped[datetime | None]
    # While pending: the account that the person meant to reconnect, decided once Keap tells who they are.
    reconnects_account_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="SET NULL"))

    # The credential. Every change of the pair moves `generation`: an answer that belongs to an older pair is late.
    kind: Mapped[str] = mapped_column(default=CredentialKind.OAUTH)
    client_id: Mapped[str]
    token_url: Mapped[str]
    scope: Mapped[str | None]
    generation: Mapped[int] = mapped_column(default=1)
    access_token_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    refresh_token_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    access_token_expires_at: Mapped[datetime | None]
    refresh_token_issued_at: Mapped[datetime | None]
    refreshed_at: Mapped[datetime | None]

    # The attempt marker: set durably before a refresh token is sent, cleared when its outcome is known.
    attempt_fingerprint: Mapped[str | None]
    attempted_at: Mapped[datetime | None]
    # When an attempt was made whose answer never came: Keap may have rotated.
    outcome_unknown_since: Mapped[datetime | None]
    failures: Mapped[int] = mapped_column(default=0)
    failed_at: Mapped[datetime | None]
    failure_reason: Mapped[str | None]
    refusals: Mapped[int] = mapped_column(default=0, server_default="0")
    refused_at: Mapped[datetime | None]

    # Who may present the refresh token now, and until when nobody may: seconds of the database's clock.
    lease_owner: Mapped[str | None]
    lease_ends: Mapped[float | None]
    blocked_until: Mapped[float | None]

    # When the worker takes it up, and when a job last asked for a token.
    next_refresh_at: Mapped[datetime | None] = mapped_column(index=True)
    last_used_at: Mapped[datetime | None]

    @property
    def is_pending(self) -> bool:
        """Whether Keap has still to tell which tenant or which person this is."""
        return self.tenant_id is None or self.keap_user_id is None

    @hybrid_property
    def title(self) -> str:
        """What admins and programs see it called; null in SQL where it has no name."""
        return self.label or self.business_name or self.tenant_id or NAMELESS

    @title.inplace.expression
    @classmethod
    def _title_expression(cls) -> ColumnElement[str | None]:
        return func.coalesce(cls.label, cls.business_name, cls.tenant_id)


class AccountEvent(Base):
    """One line of history; rows are only ever added. `details` holds no secrets."""

    __tablename__ = "account_event"
    __table_args__ = (
        Index(None, "account_id", "id"),
        Index(None, "at"),
        Index("ix_account_event_pairs", "id", sqlite_where=_PAIRS, postgresql_where=_PAIRS),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    account_id: Mapped[int | None]  # no foreign key: history outlives what it tells of
    kind: Mapped[str]
    actor: Mapped[str]
    details: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    pair_mark: Mapped[str | None]  # random, where new tokens were stored


@event.listens_for(AccountEvent, "before_update")
@event.listens_for(AccountEvent, "before_delete")
def _refuse_change(_mapper: Mapper[AccountEvent], _connection: object, _target: AccountEvent) -> None:
    raise TypeError("account_event is add-only")


class AuthorizationFlow(Base):
    """One start of the journey, bound to the browser that started it; kept a day to explain how it ended."""

    __tablename__ = "authorization_flow"
    __table_args__ = (UniqueConstraint("ref"), UniqueConstraint("state_hash"))

    id: Mapped[int] = mapped_column(primary_key=True)
    ref: Mapped[str]
    state_hash: Mapped[str]
    browser_hash: Mapped[str] = mapped_column(index=True)
    code_verifier_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    reconnects_account_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="SET NULL"))
    reconnect_link_id: Mapped[int | None] = mapped_column(ForeignKey("reconnect_link.id", ondelete="SET NULL"))
    started_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    consumed_at: Mapped[datetime | None]
    ending: Mapped[str | None]
    ended_at: Mapped[datetime | None]
    keap_said: Mapped[str | None]
    account_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="SET NULL"))
    person_signed_in_at: Mapped[datetime | None]
    # A fresh grant is kept here, sealed, until it is known whose it is; one for another tenant than the one to
    # reconnect waits here until `pending_until` for the person to decide.
    pending_grant_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    pending_until: Mapped[datetime | None]


class ReconnectLink(Base):
    """A link that lets whoever holds it reconnect one account, once; of its secret only the hash is stored."""

    __tablename__ = "reconnect_link"
    __table_args__ = (UniqueConstraint("token_hash"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    token_hash: Mapped[str]
    made_by: Mapped[str]
    made_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Role(StrEnum):
    """What an admin may do."""

    ADMIN = "admin"  # see and repair all accounts, and say who else may
    VIEWER = "viewer"  # see all accounts, change nothing, read no secret


class Admin(Base):
    """A person who may see all accounts and, unless a mere viewer, repair them."""

    __tablename__ = "admin"
    __table_args__ = (UniqueConstraint("email"), CheckConstraint("role IN ('admin', 'viewer')", name="role"))

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    password_hash: Mapped[str]
    created_at: Mapped[datetime]
    role: Mapped[str] = mapped_column(default=Role.ADMIN, server_default="admin")
    # The second factor: its seed waits here until the first right code switches it on. `totp_step` is the time step
    # (of 30 seconds) of the last code that was taken, so that none is taken twice.
    totp_seed_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    totp_on_at: Mapped[datetime | None]
    totp_step: Mapped[int | None]


class RecoveryCode(Base):
    """The hash of a code that stands in for the second factor, once: its row goes when it is used."""

    __tablename__ = "recovery_code"

    code_hash: Mapped[str] = mapped_column(primary_key=True)
    admin_id: Mapped[int] = mapped_column(ForeignKey("admin.id", ondelete="CASCADE"), index=True)


class TokenPurpose(StrEnum):
    """What a one-time token is good for."""

    NEW_PASSWORD = "new_password"  # noqa: S105
    SECOND_STEP = "second_step"  # the password was right, and the second factor is still asked for


class OneTimeToken(Base):
    """A random value, kept as a hash, that lets one admin take one step within a short time."""

    __tablename__ = "one_time_token"
    __table_args__ = (CheckConstraint("purpose IN ('new_password', 'second_step')", name="purpose"),)

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    purpose: Mapped[str]
    admin_id: Mapped[int] = mapped_column(ForeignKey("admin.id", ondelete="CASCADE"), index=True)
    expires_at: Mapped[datetime]


class SignIn(Base):
    """A browser that has shown who it is: an admin by password, or a customer by authorizing at Keap."""

    __tablename__ = "sign_in"
    __table_args__ = (CheckConstraint("admin_id IS NOT NULL OR account_id IS NOT NULL", name="somebody"),)

    id_hash: Mapped[str] = mapped_column(primary_key=True)
    admin_id: Mapped[int | None] = mapped_column(ForeignKey("admin.id", ondelete="CASCADE"))
    account_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"))
    keap_user_id: Mapped[str | None]  # who authorized; null while Keap has not told
    # Where an admin signed in, for the list of their sign-ins.
    address: Mapped[str | None]
    browser: Mapped[str | None]
    created_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class SignInAttempt(Base):
    """One wrong guess, counted for each subject that it concerns, for 15 minutes."""

    __tablename__ = "sign_in_attempt"
    __table_args__ = (Index(None, "subject", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    subject: Mapped[str]
    at: Mapped[datetime]


class APIKey(Base):
    """The credential of a program that calls the token API; only the hash of its secret part is kept."""

    __tablename__ = "api_key"
    __table_args__ = (UniqueConstraint("public_id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    public_id: Mapped[str]
    secret_hash: Mapped[str]
    name: Mapped[str]
    scopes: Mapped[str]  # separated by spaces, as in RFC 6749
    # Null: all accounts. A list, also an empty one: these and no others.
    account_ids: Mapped[list[int] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class Deployment(Base):
    """Facts about this installation: the key check value proves that TOKEN_KEYS fits the database.

    A file that was looked through waits here, too, sealed, until its admin imports it.
    """

    __tablename__ = "deployment"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[bytes] = mapped_column(LargeBinary)


class Confirmation(Base):
    """That this database is the living one, and what it looked like then; the newest row counts.

    The first start writes one without being asked. Each host keeps the random `value` of the newest that it has seen.
    """

    __tablename__ = "confirmation"
    __table_args__ = (UniqueConstraint("value"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[str]
    confirmed_at: Mapped[datetime]
    instance_id: Mapped[str | None]
    public_url: Mapped[str]
    # PostgreSQL's server and table, or SQLite's file; null where it cannot be known.
    system_identifier: Mapped[str | None]
    account_table_oid: Mapped[str | None]
    file_inode: Mapped[str | None]
    file_born_at: Mapped[str | None]


class Worker(Base):
    """One worker process and what it last said of itself; a row that is silent for a minute is a dead one."""

    __tablename__ = "worker"

    name: Mapped[str] = mapped_column(primary_key=True)
    started_at: Mapped[datetime]
    beat_at: Mapped[datetime]
    refreshed: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    lag_seconds: Mapped[float] = mapped_column(default=0.0)
    paused_until: Mapped[datetime | None]
    pause_reason: Mapped[str | None]


class Alarm(Base):
    """Something that pauses refreshing until it is mended; the dashboard shows it."""

    __tablename__ = "alarm"

    name: Mapped[str] = mapped_column(primary_key=True)
    raised_at: Mapped[datetime]
    reason: Mapped[str]


class RefreshBudget(Base):
    """The one row that spreads the refreshes of all workers: when the next call may go, on the database's clock."""

    __tablename__ = "refresh_budget"

    id: Mapped[int] = mapped_column(primary_key=True)
    next_call: Mapped[float] = mapped_column(default=0.0)
