"""What became of the last mail to each recipient."""

from sqlalchemy import select

from keap_connect.database import read_session
from keap_connect.models import Delivery

MOST_READ, MOST_LISTED = 500, 50


# The condition on the channel is that of the index on mails.
_TRIED = select(Delivery).where(Delivery.channel != "webhook", Delivery.tried_at.is_not(None))
_NEWEST_FIRST = _TRIED.order_by(Delivery.id.desc())


def list_results() -> list[Delivery]:
    """Return the last mail to each recipient that was tried, the newest first."""
    with read_session() as session:
        newest = session.scalars(_NEWEST_FIRST.limit(MOST_READ)).all()
    last: dict[str, Delivery] = {}
    for mail in newest:
        last.setdefault(mail.recipient, mail)
    return list(last.values())[:MOST_LISTED]


def find_last_failure() -> Delivery | None:
    """Return the newest mail that was tried, unless it was sent."""
    with read_session() as session:
        newest = session.scalars(_NEWEST_FIRST.where(Delivery.status != "cancelled").limit(1)).first()
    return newest if newest and newest.status != "sent" else None
