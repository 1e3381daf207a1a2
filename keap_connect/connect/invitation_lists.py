"""Lists of invitations: pages, what a search finds, and numbers. Their cost does not grow with how many there are."""

from typing import NamedTuple

from sqlalchemy import ColumnElement, func, select

from keap_connect.accounts.search import INVITATIONS, search
from keap_connect.connect.invitations import expire_past
from keap_connect.database import read_session
from keap_connect.models import Invitation, InvitationState

MOST_COUNTED = 10_000


class InvitationPage(NamedTuple):
    """Invitations, newest first, the id to go on from, None at the end, and what the search says about itself."""

    rows: list[Invitation]
    next_cursor: int | None
    note: str


def list_invitations(
    limit: int, before: int = 0, *, text: str = "", state: str | None = None, external_id: str | None = None
) -> InvitationPage:
    """Return those with an id below `before` (0: all) that a text finds."""
    expire_past()
    conditions: list[ColumnElement[bool]] = [Invitation.id < before] if before else []
    if state:
        conditions.append(Invitation.state == state)
    if external_id:
        conditions.append(Invitation.external_id == external_id)
    note = ""
    with read_session() as session:
        if text:
            ids, note = search(session, text, *conditions, index=INVITATIONS)
            conditions = [Invitation.id.in_(ids[-limit - 1 :])]
        query = select(Invitation).where(*conditions).order_by(Invitation.id.desc()).limit(limit + 1)
        rows = list(session.scalars(query))
    return InvitationPage(rows[:limit], rows[limit - 1].id if len(rows) > limit else None, note)


def count_matching(text: str, state: str) -> tuple[int, str]:
    """Return how many invitations `list_invitations` lists on all its pages, and what the search says about itself.

    It counts none beyond MOST_COUNTED + 1.
    """
    conditions = [Invitation.state == state] if state else []
    with read_session() as session:
        if text:
            found = search(session, text, *conditions, index=INVITATIONS)
            return len(found.ids), found.note
        ids = select(Invitation.id).where(*conditions).limit(MOST_COUNTED + 1)
        return session.scalar(select(func.count()).select_from(ids.subquery())) or 0, ""


def count_invitations() -> dict[str, int]:
    """Count those in each state, none beyond MOST_COUNTED + 1, so that a page of a million takes no longer."""
    expire_past()
    some = {one.value: select(Invitation.id).where(Invitation.state == one) for one in InvitationState}
    counts = {
        state: select(func.count()).select_from(ids.limit(MOST_COUNTED + 1).subquery()) for state, ids in some.items()
    }
    with read_session() as session:
        return {state: session.scalar(count) or 0 for state, count in counts.items()}
