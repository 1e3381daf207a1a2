"""The history."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Index, event, text
from sqlalchemy.orm import Mapped, Mapper, mapped_column

from keap_connect.database import Base

_PAIRS = text("pair_mark IS NOT NULL")
_RARE = text("kind <> 'refreshed'")  # each refresh writes one of that kind


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
