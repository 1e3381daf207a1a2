"""Accounts as CSV, without tokens; a spreadsheet runs no formula from it."""

from collections.abc import Collection, Iterator
from operator import attrgetter

from keap_connect.accounts.directory import AccountView, list_accounts_after
from keap_connect.accounts.stored_state import count_states
from keap_connect.database import Page, write_transaction
from keap_connect.events.history import EventKind, record
from keap_connect.spreadsheet import csv_line

COLUMNS = (
    *("id", "state", "tenant_id", "business_name", "person", "email", "label", "external_id", "kind"),
    *("access_token_expires_at", "refresh_token_expires_at", "connected_at", "refreshed_at"),
)
ATTRIBUTES = {"person": "person_name", "email": "person_email"}  # the other columns have the names of attributes
ROWS_AT_ONCE = 500


def export_csv(
    actor: str, *, only: Collection[int] | None = None, text: str = "", state: str = "", count: int = 0
) -> Iterator[str]:
    """Record the export in the history, and return the file in pieces: the column names, then the accounts.

    Times are UTC in ISO 8601. A cell that a spreadsheet would run as a formula begins with an apostrophe.

    Args:
        only: the ids of the accounts; without them, all that match `text` and `state`.
        count: how many these are; 0 for all.
    """
    with write_transaction() as session:
        kind = EventKind.SELECTION_EXPORTED if count else EventKind.EXPORTED
        record(session, kind, None, actor, count=count or sum(count_states().values()))
    return _pieces(only, text, state)


def _pieces(only: Collection[int] | None, text: str, state: str) -> Iterator[str]:
    yield csv_line(COLUMNS)
    cells = attrgetter(*(ATTRIBUTES.get(name, name) for name in COLUMNS))
    for found in list_in_pieces(only=only, text=text, state=state):
        yield "".join(csv_line(cells(account)) for account in found.rows)


def list_in_pieces(*, only: Collection[int] | None = None, text: str, state: str | None) -> Iterator[Page[AccountView]]:
    """Yield all that match, a few at a time, so that a slow reader holds no transaction."""
    cursor: int | None = 0
    while cursor is not None:
        found = list_accounts_after(cursor, ROWS_AT_ONCE, only=only, text=text, state=state)
        cursor = found.next_cursor
        yield found
