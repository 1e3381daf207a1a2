"""The installation: how it recognizes its keys and its database, its workers, and what pauses refreshing."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import JSON, LargeBinary, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from keap_connect.database import Base

CLIENT_REFUSED = "client_refused"  # the only alarm that lets one refresh through now and then


class KeyCheck(Base):
    """One row with a known text, sealed. It opens only if TOKEN_KEYS belong to this database."""

    __tablename__ = "key_check"

    id: Mapped[int] = mapped_column(primary_key=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)


class Registration(Base):
    """One row: the client id and the token URL of this installation, as the worker that started last has them.

    `worked_at` is the last report of a worker; `working_since`, the first report after a time without workers.
    """

    __tablename__ = "registration"

    id: Mapped[int] = mapped_column(primary_key=True)
    client_id: Mapped[str]
    token_url: Mapped[str]
    worked_at: Mapped[datetime | None]
    working_since: Mapped[datetime | None]


class CheckedClient(Base):
    """One row with what Keap's token endpoint last said about a client."""

    __tablename__ = "checked_client"

    id: Mapped[int] = mapped_column(primary_key=True)
    registration: Mapped[str]  # a keyed hash of the client id, secret and token URL that were checked
    standing: Mapped[str]
    reason: Mapped[str]
    checked_at: Mapped[datetime]


class CounterOf01(Base):
    """How version 0.1.0 recognized its database. The first start of this version checks it and deletes it."""

    __tablename__ = "counter_of_0_1"

    instance_id: Mapped[str] = mapped_column(primary_key=True)
    stored_pairs: Mapped[int]


class Confirmation(Base):
    """A statement that this database is the one in use, and how it looked then; the newest row counts.

    The first start writes one. Each host keeps the random `value` of the newest one it has seen.
    """

    __tablename__ = "confirmation"
    __table_args__ = (UniqueConstraint("value"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[str]
    confirmed_at: Mapped[datetime]
    instance_id: Mapped[str | None]
    public_url: Mapped[str]
    # PostgreSQL's server and table, or SQLite's file; null if unknown.
    system_identifier: Mapped[str | None]
    account_table_oid: Mapped[str | None]
    file_inode: Mapped[str | None]
    file_born_at: Mapped[str | None]


class Worker(Base):
    """One worker process and its last report; a worker without a report for a minute is dead."""

    __tablename__ = "worker"

    name: Mapped[str] = mapped_column(primary_key=True)
    started_at: Mapped[datetime]
    beat_at: Mapped[datetime]
    refreshed: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    lag_seconds: Mapped[float] = mapped_column(default=0.0)  # written by 0.1.0; nothing reads it now
    paused_until: Mapped[datetime | None]
    pause_reason: Mapped[str | None]


class Process(Base):
    """One worker or web process, its last report, and the id of the key by which it seals."""

    __tablename__ = "process"

    name: Mapped[str] = mapped_column(primary_key=True)
    beat_at: Mapped[datetime]
    sealing_key: Mapped[str]


class Alarm(Base):
    """Something that pauses refreshing until it is fixed; the page Accounts shows it."""

    __tablename__ = "alarm"

    name: Mapped[str] = mapped_column(primary_key=True)
    raised_at: Mapped[datetime]
    reason: Mapped[str]


class Span(StrEnum):
    HOUR = "hour"
    DAY = "day"


class Period(Base):
    """What happened in one hour or on one day, UTC, added up; refresh/figures.py writes it. Nothing of one account."""

    __tablename__ = "period"

    span: Mapped[str] = mapped_column(primary_key=True)
    starts_at: Mapped[datetime] = mapped_column(primary_key=True)
    figures: Mapped[dict[str, float]] = mapped_column(JSON)  # as counters.py names them: the name, a space, the labels


class RefreshBudget(Base):
    """One row that spreads the refreshes of all workers: when the next call may begin, on the database's clock."""

    __tablename__ = "refresh_budget"

    id: Mapped[int] = mapped_column(primary_key=True)
    next_call: Mapped[float] = mapped_column(default=0.0)
