"""Admins, sign-ins and API keys."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, LargeBinary, UniqueConstraint, true
from sqlalchemy.orm import Mapped, mapped_column

from keap_connect.database import Base

NOT_CHOSEN = ""  # stored instead of a hash until an admin has set a password


class Role(StrEnum):
    ADMIN = "admin"  # see and change all accounts, and manage admins
    VIEWER = "viewer"  # see all accounts, change nothing, read no secret


class Admin(Base):
    __tablename__ = "admin"
    __table_args__ = (UniqueConstraint("email"), CheckConstraint("role IN ('admin', 'viewer')", name="role"))

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    password_hash: Mapped[str]
    created_at: Mapped[datetime]
    role: Mapped[str] = mapped_column(default=Role.ADMIN, server_default="admin")
    invited_by: Mapped[str | None]  # until they have chosen a password
    # The second factor: the first correct code turns it on. `totp_step` is the 30-second time step of the last code
    # that was accepted, so that no code is accepted twice.
    totp_seed_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    totp_on_at: Mapped[datetime | None]
    totp_step: Mapped[int | None]
    # Which mails this admin gets; a digest comes once a day.
    has_alarm_mails: Mapped[bool] = mapped_column(default=True, server_default=true())
    has_digest_mails: Mapped[bool] = mapped_column(default=True, server_default=true())


class RecoveryCode(Base):
    """The hash of a code that replaces the second factor once; the row is deleted when the code is used."""

    __tablename__ = "recovery_code"

    code_hash: Mapped[str] = mapped_column(primary_key=True)
    admin_id: Mapped[int] = mapped_column(ForeignKey("admin.id", ondelete="CASCADE"), index=True)


class TokenPurpose(StrEnum):
    NEW_PASSWORD = "new_password"  # noqa: S105
    SECOND_STEP = "second_step"  # the password was correct; the second factor is still needed
    SIGN_IN = "sign_in"  # counts as a known browser once, for an admin whom others' wrong guesses lock out


class OneTimeToken(Base):
    """A random value, stored as a hash, that allows one admin one step within a short time."""

    __tablename__ = "one_time_token"
    __table_args__ = (CheckConstraint("purpose IN ('new_password', 'second_step', 'sign_in')", name="purpose"),)

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    purpose: Mapped[str]
    admin_id: Mapped[int] = mapped_column(ForeignKey("admin.id", ondelete="CASCADE"), index=True)
    expires_at: Mapped[datetime]


class SignIn(Base):
    """The sign-in of a browser: of an admin by password, or of a customer by authorizing at Keap."""

    __tablename__ = "sign_in"
    __table_args__ = (CheckConstraint("admin_id IS NOT NULL OR account_id IS NOT NULL", name="somebody"),)

    id_hash: Mapped[str] = mapped_column(primary_key=True)
    admin_id: Mapped[int | None] = mapped_column(ForeignKey("admin.id", ondelete="CASCADE"))
    account_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"))
    keap_user_id: Mapped[str | None]  # who authorized; null while Keap has not named them
    # For the list of an admin's sign-ins.
    address: Mapped[str | None]
    browser: Mapped[str | None]
    created_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)

    @property
    def ref(self) -> str:
        """What identifies it on its admin's page, and is no secret."""
        return self.id_hash[:16]


class SignInAttempt(Base):
    """One wrong guess, counted for each subject that it concerns, for 15 minutes."""

    __tablename__ = "sign_in_attempt"
    __table_args__ = (Index(None, "subject", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    subject: Mapped[str]
    at: Mapped[datetime]


class APIKey(Base):
    """The credential of a program that calls the token API; only the hash of its secret part is stored."""

    __tablename__ = "api_key"
    __table_args__ = (UniqueConstraint("public_id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    public_id: Mapped[str]
    secret_hash: Mapped[str]
    name: Mapped[str]
    scopes: Mapped[str]  # separated by spaces, as in RFC 6749
    # Null: all accounts. A list, even an empty one: only these.
    account_ids: Mapped[list[int] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
