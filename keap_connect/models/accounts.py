"""Accounts, the authorization flows that lead to them, reconnect links, and invitations."""

from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    UniqueConstraint,
    false,
    func,
    text,
)
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, mapped_column, synonym

from keap_connect.database import Base

NAMELESS = "New Keap account"
LARGEST_ID = 2**31 - 1  # a database may raise an error for a larger one, instead of finding no row
# Few rows have a lease or a wait: this index finds them without reading the whole table.
_WAITS = text("lease_owner IS NOT NULL OR blocked_until IS NOT NULL")
# PostgreSQL compares by character codes then, as SQLite does, whatever its language.
_BY_CODES = String().with_variant(String(collation="C"), "postgresql")
_BROKEN = text("state IN ('at_risk', 'reconnect_required')")
UNDERIVED = datetime(1970, 1, 1, tzinfo=UTC)  # so that a row from an older version is derived at once
_UNPROVEN = text("needs_first_refresh = 1"), text("needs_first_refresh")  # on SQLite, on PostgreSQL


class CredentialKind(StrEnum):
    OAUTH = "oauth"
    ACCESS_TOKEN_ONLY = "access_token_only"  # noqa: S105
    PERSONAL_ACCESS_TOKEN = "personal_access_token"  # noqa: S105
    SERVICE_ACCOUNT_KEY = "service_account_key"


class Account(Base):
    """One Keap user's grant to one tenant, and the credential stored for it.

    The account is pending while Keap has not named tenant or person: `tenant_id` or `keap_user_id` is null.
    """

    __tablename__ = "account"
    __table_args__ = (
        UniqueConstraint("tenant_id", "keap_user_id"),
        UniqueConstraint("external_id"),
        CheckConstraint(
            "kind IN ('oauth', 'access_token_only', 'personal_access_token', 'service_account_key')", name="kind"
        ),
        Index("ix_account_keap_user_id", "keap_user_id", "id"),
        Index("ix_account_waits", "id", sqlite_where=_WAITS, postgresql_where=_WAITS),
        # Each list reads its rows from one of these, in the order in which it shows them.
        Index("ix_account_state", "state", "id"),
        Index("ix_account_by_title", "state", "title_key", "id"),
        Index("ix_account_by_expiry", "state", "access_token_expires_at", "id"),
        Index("ix_account_by_use", "state", "last_used_at", "id"),
        Index("ix_account_broken", "state", "state_since", "id", sqlite_where=_BROKEN, postgresql_where=_BROKEN),
        Index("ix_account_unproven", "next_refresh_at", sqlite_where=_UNPROVEN[0], postgresql_where=_UNPROVEN[1]),
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
    # While pending: the account that the person meant to reconnect.
    reconnects_account_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="SET NULL"))

    # The credential. Every change of the pair increases `generation`, which shows that an answer is for an older pair.
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
    # An imported pair, until its first refresh: nobody knows yet whether its refresh token works.
    needs_first_refresh: Mapped[bool] = mapped_column(default=False, server_default=false())

    # The attempt marker: committed before a refresh token is sent, cleared when the outcome is known.
    attempt_fingerprint: Mapped[str | None]
    attempted_at: Mapped[datetime | None]
    # When the first attempt began that got no usable answer: Keap may have rotated the refresh token.
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

    # When the worker refreshes it, until when a worker has claimed it, and when a job last asked for a token.
    next_refresh_at: Mapped[datetime | None] = mapped_column(index=True)
    claimed_until: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]

    # Derived from the columns above by accounts/stored_state.py, which alone writes them. Null in a row of an older
    # version. `state_changes_at`: when time alone may change the state.
    state: Mapped[str | None]
    state_cause: Mapped[str | None]
    state_since: Mapped[datetime | None]
    state_changes_at: Mapped[datetime | None] = mapped_column(index=True, server_default=text("'1970-01-01 00:00:00'"))
    title_key: Mapped[str | None] = mapped_column(_BY_CODES)

    @property
    def is_pending(self) -> bool:
        return self.tenant_id is None or self.keap_user_id is None

    @hybrid_property
    def title(self) -> str:
        """The name that admins and programs see; null in SQL if there is none."""
        return self.label or self.business_name or self.tenant_id or NAMELESS

    @title.inplace.expression
    @classmethod
    def _title_expression(cls) -> ColumnElement[str | None]:
        return func.coalesce(cls.label, cls.business_name, cls.tenant_id)


class AccountWord(Base):
    """A word of an account's names, in lower case and without accents: the search finds its beginning."""

    __tablename__ = "account_word"
    __table_args__ = (Index(None, "account_id", "word"), {"sqlite_with_rowid": False})

    word: Mapped[str] = mapped_column(_BY_CODES, primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), primary_key=True)
    owner_id: Mapped[int] = synonym("account_id")


class StateCount(Base):
    """A change of the number of accounts in a state; their sum is the number. Workers add them up into one row each.

    Nobody waits for another's lock: rows are only added, and deleted by what adds their sum.
    """

    __tablename__ = "state_count"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]
    cause: Mapped[str | None]
    accounts: Mapped[int]


class StateChange(Base):
    """That an account was gained or lost, and why, until a worker has added it to its day. Rows are only added.

    `change` is "gained" or "lost" with a reason, or "again" with a limit of how long a person took to authorize again.
    """

    __tablename__ = "state_change"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    change: Mapped[str]


class AuthorizationFlow(Base):
    """One start of an authorization, bound to the browser that started it; kept to show how it ended."""

    __tablename__ = "authorization_flow"
    __table_args__ = (UniqueConstraint("ref"), UniqueConstraint("state_hash"))

    id: Mapped[int] = mapped_column(primary_key=True)
    ref: Mapped[str]
    state_hash: Mapped[str]
    browser_hash: Mapped[str] = mapped_column(index=True)
    code_verifier_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    reconnects_account_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="SET NULL"))
    reconnect_link_id: Mapped[int | None] = mapped_column(ForeignKey("reconnect_link.id", ondelete="SET NULL"))
    # It stays when the invitation is deleted: the flow must not look as if it had begun without one.
    invitation_id: Mapped[int | None] = mapped_column(index=True)
    started_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    consumed_at: Mapped[datetime | None]
    ending: Mapped[str | None]
    ended_at: Mapped[datetime | None]
    keap_said: Mapped[str | None]
    account_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="SET NULL"))
    person_signed_in_at: Mapped[datetime | None]
    # A fresh grant is stored here, sealed, until Keap says whose it is. One of another tenant than the account to
    # reconnect waits here until `pending_until` for the person to decide, and one that came by an invitation for an
    # admin or a program to confirm who connected.
    pending_grant_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    pending_until: Mapped[datetime | None]


class ReconnectLink(Base):
    """A link that reconnects one account, once; only the hash of its secret is stored."""

    __tablename__ = "reconnect_link"
    __table_args__ = (UniqueConstraint("token_hash"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    token_hash: Mapped[str]
    made_by: Mapped[str]
    made_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    opened_at: Mapped[datetime | None]  # the first time that its page was shown, if only to a mail scanner
    used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class InvitationState(StrEnum):
    SENT = "sent"
    OPENED = "opened"
    WAITING = "waiting"  # somebody has connected, and an admin or a program must confirm who it was
    CONNECTED = "connected"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


class Invitation(Base):
    """A link that connects one account, once, and what that account is called; only the hash of its secret is stored.

    Unlike a reconnect link it stays as a row of a list, can get a new link, and belongs to no account at first.
    """

    __tablename__ = "invitation"
    __table_args__ = (
        UniqueConstraint("token_hash"),
        CheckConstraint(f"state IN ({', '.join(repr(one.value) for one in InvitationState)})", name="state"),
        Index(None, "state", "id"),
        Index(None, "state", "expires_at"),
        {"sqlite_autoincrement": True},  # return URLs and events name the id
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    token_hash: Mapped[str]
    state: Mapped[str] = mapped_column(default=InvitationState.SENT)
    label: Mapped[str | None]  # the customer sees it
    external_id: Mapped[str | None] = mapped_column(String(200), index=True)
    email: Mapped[str | None]
    note: Mapped[str | None]
    return_url: Mapped[str | None]
    # Who may connect: only this tenant, or the one who is confirmed.
    expected_tenant_id: Mapped[str | None]
    needs_confirmation: Mapped[bool] = mapped_column(default=False)
    is_mailed: Mapped[bool] = mapped_column(default=False)  # the app itself sends the links
    made_by: Mapped[str]
    made_at: Mapped[datetime]
    sent_at: Mapped[datetime]  # when its present link was made
    expires_at: Mapped[datetime]
    opened_at: Mapped[datetime | None]
    account_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)

    @property
    def title(self) -> str:
        return self.label or self.email or f"Invitation {self.id}"

    @property
    def is_over(self) -> bool:
        return self.state in {InvitationState.CONNECTED, InvitationState.WITHDRAWN}


class InvitationWord(Base):
    """The same for an invitation: for its label, external id and address, which never change."""

    __tablename__ = "invitation_word"
    __table_args__ = ({"sqlite_with_rowid": False},)

    word: Mapped[str] = mapped_column(_BY_CODES, primary_key=True)
    invitation_id: Mapped[int] = mapped_column(
        ForeignKey("invitation.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    owner_id: Mapped[int] = synonym("invitation_id")
