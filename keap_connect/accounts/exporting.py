"""All accounts as CSV, without tokens, and harmless in a spreadsheet."""

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import func, select

from keap_connect.accounts.state import REFRESH_TOKEN_LIFE, state_of
from keap_connect.clock import utc_now
from keap_connect.database import read_session, write_transaction
from keap_connect.events.history import EventKind, record
from keap_connect.models import Account
from keap_connect.spreadsheet import csv_line

COLUMNS = (
    "id",
    "state",
    "tenant_id",
    "business_name",
    "person",
    "email",
    "label",
    "external_id",
    "kind",
    "access_token_expires_at",
    "refresh_token_expires_at",
    "connected_at",
    "refreshed_at",
)
READ_AT_ONCE = 500


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
    last_id = 0
    while True:
        # A few rows at a time, so that a slow download holds no transaction.
        query = select(Account).where(Account.id > last_id).order_by(Account.id).limit(READ_AT_ONCE)
        with read_session() as session:
            accounts = session.scalars(query).all()
        if not accounts:
            return
        now = utc_now()
        yield "".join(csv_line(_row(account, now)) for account in accounts)
        last_id = accounts[-1].id


def _row(account: Account, now: datetime) -> tuple[object, ...]:
    issued_at = account.refresh_token_issued_at
    return (
        account.id,
        state_of(account, now),
        account.tenant_id,
        account.business_name,
        account.person_name,
        account.person_email,
        account.label,
        account.external_id,
        account.kind,
        account.access_token_expires_at,
        issued_at + REFRESH_TOKEN_LIFE if issued_at else None,
        account.connected_at,
        account.refreshed_at,
    )
