"""Accounts in pages that stay right while rows change: by id, oldest first, each page after the last id before it."""

from collections.abc import Collection

from keap_connect.accounts.directory import AccountView, narrowed, view_of
from keap_connect.database import read_session
from keap_connect.keap.token_response import normalize_tenant_id
from keap_connect.models import Account


def list_accounts_after(
    cursor: int,
    limit: int,
    *,
    only: Collection[int] | None = None,
    state: str | None = None,
    text: str | None = None,
    tenant_id: str | None = None,
    external_id: str | None = None,
) -> tuple[list[AccountView], int | None]:
    """Return a page, and the cursor of the next one; None when this is the last.

    Args:
        only: the ids that the asker may see; None for all.
    """
    query = narrowed(text or "", state or "").where(Account.id > cursor)
    if only is not None:
        query = query.where(Account.id.in_(only))
    if tenant_id is not None:
        query = query.where(Account.tenant_id == normalize_tenant_id(tenant_id))
    if external_id is not None:
        query = query.where(Account.external_id == external_id)
    with read_session() as session:
        rows = session.scalars(query.order_by(Account.id).limit(limit + 1)).all()
    views = [view_of(row) for row in rows[:limit]]
    return views, views[-1].id if len(rows) > limit else None
