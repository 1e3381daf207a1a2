"""The installation itself: what it is recognized by, its workers, and what pauses refreshing."""

from datetime import datetime

from sqlalchemy import LargeBinary, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from keap_connect.database import Base


class KeyCheck(Base):
    """The one row that proves that TOKEN_KEYS fits the database: a text that is known, sealed."""

    __tablename__ = "key_check"

    id: Mapped[int] = mapped_column(primary_key=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)


class CheckedClient(Base):
    """The one row with what Keap's token endpoint last said about a client."""

    __tablename__ = "checked_client"

    id: Mapped[int] = mapped_column(primary_key=True)
    registration: Mapped[str]  # a keyed hash of the client id, secret and token URL that were checked
    standing: Mapped[str]
    reason: Mapped[str]
    checked_at: Mapped[datetime]


class PendingFile(Base):
    """A file that an admin sent and has not imported yet, with what it would do."""

    __tablename__ = "pending_file"

    admin_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    until: Mapped[datetime]
    sealed: Mapped[bytes] = mapped_column(LargeBinary)


class CounterOf01(Base):
    """What version 0.1.0 recognized its database by; the first start of this version judges by it and deletes it."""

    __tablename__ = "counter_of_0_1"

    instance_id: Mapped[str] = mapped_column(primary_key=True)
    stored_pairs: Mapped[int]


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
