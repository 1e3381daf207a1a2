"""Finding accounts, and what a page or a program may see of one: never a whole token."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta

from sqlalchemy import Select, String, cast, func, or_, select
from sqlalchemy.orm import Session

from keap_connect.accounts.credentials import open_access_token, open_refresh_token
from keap_connect.accounts.naming import no_account
from keap_connect.accounts.ordering import Order
from keap_connect.accounts.state import (
    REFRESH_TOKEN_LIFE,
    UNREADABLE_STEP,
    AccountState,
    is_being_confirmed,
    next_step_of,
    reasons_of,
    state_expression,
    state_of,
)
from keap_connect.clock import utc_now
from keap_connect.database import read_session
from keap_connect.errors import SealBroken
from keap_connect.keap.token_response import normalize_tenant_id
from keap_connect.models import LARGEST_ID, NAMELESS, Account, Alarm
from keap_connect.services import services

PAGE_SIZE = 20  # a full page stays under 60 kB, styles and scripts included
USUAL_ORDER = Order()
UNREADABLE = "cannot be opened"


@dataclass(frozen=True)
class AccountView:
    id: int
    title: str
    tenant_id: str | None
    business_name: str | None
    label: str | None
    external_id: str | None
    person_name: str | None
    person_email: str | None
    is_pending: bool
    state: AccountState
    next_step: str
    reasons: list[str]
    kind: str
    scope: str | None
    access_token_expires_at: datetime | None
    refresh_token_expires_at: datetime | None
    refresh_days_left: int | None
    refreshed_at: datetime | None
    connected_at: datetime
    disconnected_at: datetime | None
    last_used_at: datetime | None = None
    needs_first_refresh: bool = False
    has_access_token: bool = False
    is_being_confirmed: bool = False  # Keap refused one refresh; a second one decides
    is_unreadable: bool = False  # a token does not open
    access_token_masked: str | None = field(default=None, repr=False)
    refresh_token_masked: str | None = field(default=None, repr=False)

    @property
    def public_title(self) -> str:
        """What the customer sees; the label is for the integrator only."""
        return self.business_name or self.tenant_id or NAMELESS


_COPIED = [one.name for one in fields(AccountView) if hasattr(Account, one.name)]


@dataclass(frozen=True)
class AccountPage:
    """One page of the accounts found; `counts` is the number of all accounts in each state."""

    accounts: list[AccountView]
    total: int
    page: int
    pages: int
    counts: dict[str, int]


def get_account(account_id: int) -> Account:
    """Return the row.

    Raises:
        AccountNotFound: there is none.
    """
    with read_session() as session:
        return load_account(session, account_id)


def load_account(session: Session, account_id: int, *, lock: bool = False) -> Account:
    """Return the row in the caller's transaction; with `lock`, nobody else changes it until the transaction ends.

    Raises:
        AccountNotFound: there is none.
    """
    # The database raises an error for an id that is larger than the column's type.
    account = session.get(Account, account_id, with_for_update=lock) if account_id <= LARGEST_ID else None
    if account is None:
        raise no_account(session, account_id)
    return account


def view_account(account_id: int, with_tokens: bool = False) -> AccountView:
    """Return one account as a page shows it; `with_tokens` adds the last four characters of each token.

    Raises:
        AccountNotFound: there is none.
    """
    with read_session() as session:
        return view_of(load_account(session, account_id), with_tokens, _is_paused(session))


def list_accounts(text: str = "", state: str = "", page: int = 1, order: Order = USUAL_ORDER) -> AccountPage:
    """Return one page of the accounts that contain each word of `text`, in this state if one is given."""
    query = _matching(text, state)
    ordered = query.order_by(*order.columns(utc_now(), services().keap.registration))
    with read_session() as session:
        total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
        pages = max(-(-total // PAGE_SIZE), 1)
        page = min(max(page, 1), pages)
        rows = session.scalars(ordered.limit(PAGE_SIZE).offset((page - 1) * PAGE_SIZE)).all()
    return AccountPage([view_of(row) for row in rows], total, page, pages, count_states())


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
    """Return the accounts with an id above `cursor`, and the cursor of the next page; None at the end.

    Args:
        only: the ids that the caller may see; None for all.
    """
    query = _matching(text or "", state or "").where(Account.id > cursor)
    if only is not None:
        query = query.where(Account.id.in_(only))
    if tenant_id is not None:
        query = query.where(Account.tenant_id == normalize_tenant_id(tenant_id))
    if external_id is not None:
        query = query.where(Account.external_id == external_id)
    with read_session() as session:
        rows = session.scalars(query.order_by(Account.id).limit(limit + 1)).all()
        is_paused = _is_paused(session)
    views = [view_of(row, is_paused=is_paused) for row in rows[:limit]]
    return views, views[-1].id if len(rows) > limit else None


def _matching(text: str, state: str) -> Select[Account]:
    columns = (
        Account.tenant_id,
        Account.business_name,
        Account.person_name,
        Account.person_email,
        Account.label,
        Account.external_id,
    )
    query = select(Account)
    for word in text.split():
        is_number = cast(Account.id, String) == word.lstrip("#")
        query = query.where(or_(is_number, *(column.icontains(word, autoescape=True) for column in columns)))
    return query.where(state_expression(utc_now(), services().keap.registration) == state) if state else query


def list_accounts_of(account_id: int, keap_user_id: str | None) -> list[AccountView]:
    """Return what one customer may see: all accounts of the Keap user if known, else the one they connected."""
    mine = Account.id == account_id if keap_user_id is None else Account.keap_user_id == keap_user_id
    with read_session() as session:
        return [view_of(row) for row in session.scalars(select(Account).where(mine).order_by(Account.id))]


def count_states(only: Collection[int] | None = None) -> dict[str, int]:
    """Count the accounts in each state; with `only`, those of these ids."""
    states = state_expression(utc_now(), services().keap.registration).label("state")
    query = select(states, func.count()).group_by(states)
    if only is not None:
        query = query.where(Account.id.in_(only))
    with read_session() as session:
        found = dict(session.execute(query).all())
    return {state.value: found.get(state.value, 0) for state in AccountState}


def list_refreshable_ids() -> list[int]:
    """Return the ids of the accounts that have a refresh token, soonest expiry first."""
    refreshable = select(Account.id).where(Account.refresh_token_sealed.is_not(None))
    with read_session() as session:
        return list(session.scalars(refreshable.order_by(Account.access_token_expires_at, Account.id)))


def view_of(account: Account, with_tokens: bool = False, is_paused: bool = False) -> AccountView:
    now, ours = utc_now(), services().keap.registration
    state = state_of(account, now, ours)
    issued_at = account.refresh_token_issued_at
    ends_at = issued_at + REFRESH_TOKEN_LIFE if issued_at and account.refused_at is None else None
    access_token, refresh_token = _masked(account, open_access_token), _masked(account, open_refresh_token)
    is_unreadable = state.is_alive and UNREADABLE in {access_token, refresh_token}
    return AccountView(
        **{name: getattr(account, name) for name in _COPIED},
        state=state,
        next_step=UNREADABLE_STEP if is_unreadable else next_step_of(account, state, ours, is_paused=is_paused),
        reasons=reasons_of(account, now, ours),
        refresh_token_expires_at=ends_at,
        # An hour is added so that a grant just made has 45 days left, not 44.
        refresh_days_left=max((ends_at - now + timedelta(hours=1)).days, 0) if ends_at else None,
        has_access_token=account.access_token_sealed is not None,
        is_being_confirmed=is_being_confirmed(account, state),
        is_unreadable=is_unreadable,
        access_token_masked=access_token if with_tokens else None,
        refresh_token_masked=refresh_token if with_tokens else None,
    )


def _is_paused(session: Session) -> bool:
    return session.scalar(select(Alarm.name).limit(1)) is not None


def _masked(account: Account, open_token: Callable[[Account], str | None]) -> str | None:
    try:
        token = open_token(account)
    except SealBroken:
        return UNREADABLE
    return f"…{token[-4:]}" if token and len(token) >= 16 else None
