"""Inviting everybody in a CSV file: all of them, or nobody if one line cannot be read."""

from typing import Any

from keap_connect.connect.import_files import YES_OR_NO, check_extra, read_table
from keap_connect.connect.invitations import USUAL_DAYS, MadeInvitation, NewInvitation, add_invitation
from keap_connect.database import write_transaction
from keap_connect.errors import FormRefused, InvitationRefused

TEXTS = ("label", "external_id", "email", "note", "return_url", "expected_tenant_id")
COLUMNS = (*TEXTS, "needs_confirmation", "valid_days")
MOST_LINES, MOST_BYTES = 1000, 1024 * 1024
MOST_NAMED = 5


def invite_many(content: bytes, actor: str, *, is_mailed: bool) -> list[MadeInvitation]:
    """Make an invitation for each line.

    Raises:
        FormRefused: the file cannot be read, or lines in it break a rule; it names the first of them.
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
