"""Long work for people, such as an import of many lines: each job, its items, and what became of them."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, LargeBinary, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from keap_connect.database import Base


class JobKind(StrEnum):
    IMPORT = "import"
    IMPORT_CHECK = "import_check"
    LINKS = "links"
    MAILS = "mails"
    REFRESH = "refresh"
    LABEL = "label"
    DISCONNECT = "disconnect"
    INVITATION_LINKS = "invitation_links"
    INVITATION_MAILS = "invitation_mails"
    WITHDRAW = "withdraw"


IMPORTS = (JobKind.IMPORT, JobKind.IMPORT_CHECK)  # their items are the lines of a file
OF_INVITATIONS = (JobKind.INVITATION_LINKS, JobKind.INVITATION_MAILS, JobKind.WITHDRAW)


class Job(Base):
    __tablename__ = "job"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    made_by: Mapped[str]
    made_at: Mapped[datetime]
    next_at: Mapped[datetime]  # when a process may go on with it; one that works on it moves this ahead
    trouble: Mapped[str | None]  # why it waits
    rest: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # the filter that is not items yet
    finished_at: Mapped[datetime | None]


class JobItem(Base):
    """One item of a job. What is to be done is sealed, and deleted when it is done."""

    __tablename__ = "job_item"
    __table_args__ = (UniqueConstraint("job_id", "number"), Index("ix_job_item_outcome", "job_id", "outcome", "number"))

    ref: Mapped[str] = mapped_column(primary_key=True)  # `<job_id>:<number>`, part of the context of the seal
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    number: Mapped[int]
    work_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    tries: Mapped[int] = mapped_column(default=0)  # that ended without an answer of Keap
    outcome: Mapped[str | None]  # null while it waits
    account_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    details: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)  # no secrets


class ImportedToken(Base):
    """A refresh token that was imported once, by its fingerprint. It works once, so no second account may get it.

    The row stays when its account is merged into another one or erased.
    """

    __tablename__ = "imported_token"

    fingerprint: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[int]
    generation: Mapped[int]  # of the account's pair while it has this token
