"""Many invitations: pages of them, what a search finds, and numbers; and inviting everybody in a CSV file.

The cost of a list does not grow with how many there are.
"""

from typing import Any

from sqlalchemy import ColumnElement, func, select

from keap_connect.accounts.search import INVITATIONS, search
from keap_connect.connect.import_files import YES_OR_NO, check_extra, read_table
from keap_connect.connect.invitations import USUAL_DAYS, MadeInvitation, NewInvitation, add_invitation, expire_past
from keap_connect.connect.reconnect_links import refuse_after_stop
from keap_connect.database import Page, read_one, read_page, read_session, write_transaction
from keap_connect.errors import FormRefused, InvitationRefused
from keap_connect.models import Invitation, InvitationState

MOST_COUNTED = 10_000
TEXTS = ("label", "external_id", "email", "note", "return_url", "expected_tenant_id")
COLUMNS = (*TEXTS, "needs_confirmation", "valid_days")
MOST_LINES, MOST_BYTES = 1000, 1024 * 1024
MOST_NAMED = 5


def list_invitations(
    limit: int, before: int = 0, *, text: str = "", state: str | None = None, external_id: str | None = None
) -> Page[Invitation]:
    """Return those with an id below `before` (0: all) that a text finds, newest first."""
    expire_past()
    conditions: list[ColumnElement[bool]] = [Invitation.id < before] if before else []
    if state:
        conditions.append(Invitation.state == state)
    if external_id:
        conditions.append(Invitation.external_id == external_id)
    note = ""
    if text:
        ids, note = search(text, *conditions, index=INVITATIONS)
        conditions = [Invitation.id.in_(ids[-limit - 1 :])]
    return read_page(select(Invitation).where(*conditions).order_by(Invitation.id.desc()), limit, note)


def count_matching(text: str, state: str) -> tuple[int, str]:
    """Return how many invitations `list_invitations` lists on all its pages, and what the search says about itself.

    It counts none beyond MOST_COUNTED + 1.
    """
    conditions = [Invitation.state == state] if state else []
    if text:
        ids, note = search(text, *conditions, index=INVITATIONS)
        return len(ids), note
    some = select(Invitation.id).where(*conditions).limit(MOST_COUNTED + 1)
    return read_one(select(func.count()).select_from(some.subquery())) or 0, ""


def count_invitations() -> dict[str, int]:
    """Count those in each state, none beyond MOST_COUNTED + 1, so that a page of a million takes no longer."""
    expire_past()
    some = {one.value: select(Invitation.id).where(Invitation.state == one) for one in InvitationState}
    counts = {
        state: select(func.count()).select_from(ids.limit(MOST_COUNTED + 1).subquery()) for state, ids in some.items()
    }
    with read_session() as session:
        return {state: session.scalar(count) or 0 for state, count in counts.items()}


def invite_many(content: bytes, actor: str, *, is_mailed: bool) -> list[MadeInvitation]:
    """Make an invitation for each line.

    Raises FormRefused: the file cannot be read, or lines in it break a rule; it names the first of them.
    """
    made, seen, problems = [], dict[str, int](), []
    with write_transaction() as session:
        for number, values in read_table(content, COLUMNS, (), MOST_LINES):
            try:
                wanted = _read(values, is_mailed=is_mailed)
                if wanted.external_id and seen.setdefault(wanted.external_id, number) != number:
                    raise InvitationRefused(f"The external id is that of line {seen[wanted.external_id]}.")
                made.append(add_invitation(session, wanted, actor))
            except FormRefused as refusal:
                problems.append(f"Line {number}, {refusal.field or 'external_id'}: {refusal}")
        if problems:
            more = f" And {len(problems) - MOST_NAMED} more." if len(problems) > MOST_NAMED else ""
            raise InvitationRefused(f"Nobody was invited. {' '.join(problems[:MOST_NAMED])}{more}", "file")
        refuse_after_stop(session, actor)  # at the end: others wait for the turn
    return made


def _read(values: dict[str, str], *, is_mailed: bool) -> NewInvitation:
    check_extra(values)
    needs_confirmation = YES_OR_NO.get(values["needs_confirmation"].lower())
    days = values["valid_days"] or str(USUAL_DAYS)
    if needs_confirmation is None:
        raise InvitationRefused("Write yes or no.", "needs_confirmation")
    if not (days.isascii() and days.isdigit() and len(days) < 4):
        raise InvitationRefused("Write a number of days.", "valid_days")
    texts: dict[str, Any] = {name: values[name] for name in TEXTS}
    return NewInvitation(**texts, needs_confirmation=needs_confirmation, valid_days=int(days), is_mailed=is_mailed)
