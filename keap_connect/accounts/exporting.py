"""All accounts as CSV, without tokens, and harmless in a spreadsheet."""

from collections.abc import Iterator
from operator import attrgetter

from sqlalchemy import func, select

from keap_connect.accounts.directory import list_accounts_after
from keap_connect.database import write_transaction
from keap_connect.events.history import EventKind, record
from keap_connect.models import Account
from keap_connect.spreadsheet import csv_line

# The columns of the file, and what each shows of an account.
COLUMNS = {
    **{name: name for name in ("id", "state", "tenant_id", "business_name")},
    "person": "person_name",
    "email": "person_email",
    **{name: name for name in ("label", "external_id", "kind", "access_token_expires_at", "refresh_token_expires_at")},
    **{name: name for name in ("connected_at", "refreshed_at")},
}
ROWS_AT_ONCE = 500


def export_csv(actor: str) -> Iterator[str]:
    """Write the export down in the history, then give the file piece by piece: the column names, then all accounts.

    Times are UTC in ISO 8601. What a spreadsheet would take for a formula gets an apostrophe in front.
    """
    with write_transaction() as session:
        count = session.scalar(select(func.count(Account.id))) or 0
        record(session, EventKind.EXPORTED, None, actor, count=count)
    return _pieces()


def _pieces() -> Iterator[str]:
    yield csv_line(COLUMNS)
    cells = attrgetter(*COLUMNS.values())
    cursor: int | None = 0
    while cursor is not None:
        # A few rows at a time, so that a slow download holds no transaction.
        accounts, cursor = list_accounts_after(cursor, ROWS_AT_ONCE)
        yield "".join(csv_line(cells(account)) for account in accounts)
