"""Finding accounts, and what a page or a program may see of one: never a whole token."""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from keap_connect.accounts import state as derived
from keap_connect.accounts.credentials import open_access_token, open_refresh_token
from keap_connect.accounts.naming import no_account
from keap_connect.accounts.search import Order, Position, search
from keap_connect.accounts.state import AccountState, Cause, Ours
from keap_connect.accounts.stored_state import count_states, registration, settle, settle_before_a_list
from keap_connect.clock import utc_now
from keap_connect.database import Page, read_all, read_page, read_rows, read_session
from keap_connect.errors import SealBroken
from keap_connect.keap.token_response import normalize_tenant_id
from keap_connect.models import CLIENT_REFUSED, LARGEST_ID, NAMELESS, Account, Alarm, SignIn

PAGE_SIZE = 50  # a full page stays under 60 kB, styles and scripts included
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
    state_since: datetime | None = None
    state_cause: Cause | None = None  # why it is at risk or must be reconnected
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


_COPIED = [
    one.name for one in fields(AccountView) if hasattr(Account, one.name) and one.name not in {"state", "state_cause"}
]


@dataclass(frozen=True)
class AccountPage:
    accounts: list[AccountView]
    counts: dict[str, int]  # of all accounts, by state
    total: int | None  # how many accounts the pages list; None for a search
    previous: str | None  # the positions from which the pages beside this one begin; None without one
    next: str | None
    note: str  # what the search says about itself
    is_behind: bool  # the worker has not derived the states of all accounts yet


def get_account(account_id: int) -> Account:
    """Return the row. Raises AccountNotFound."""
    with read_session() as session:
        return load_account(session, account_id)


def load_account(session: Session, account_id: int, *, lock: bool = False) -> Account:
    """Return the row in the caller's transaction; with `lock`, nobody else changes it until the transaction ends.

    Raises AccountNotFound.
    """
    # The database raises an error for an id that is larger than the column's type.
    account = session.get(Account, account_id, with_for_update=lock) if account_id <= LARGEST_ID else None
    if account is None:
        raise no_account(session, account_id)
    return account


def lock_accounts(session: Session, *which: ColumnElement[bool]) -> dict[int, Account]:
    """Load by id the accounts that any of these conditions finds, locked.

    Code that locks several accounts locks them here, in the order of their ids: two transactions that lock the same
    ones in another order would wait for each other.
    """
    query = select(Account).where(or_(*which)).order_by(Account.id).with_for_update()
    return {account.id: account for account in session.scalars(query.execution_options(populate_existing=True))}


def view_account(account_id: int, with_tokens: bool = False) -> AccountView:
    """Return one account as a page shows it; `with_tokens` adds the last four characters of each token.

    Raises AccountNotFound.
    """
    with read_session() as session:
        account, ours = load_account(session, account_id), registration(session)
        view = view_of(account, ours, with_tokens, _pause_step(session))
    if view.state != account.state:
        # A host whose clock is minutes ahead may have stored the state of then: two hosts would store theirs in turn.
        soon = utc_now() + derived.OVERDUE_AFTER
        if account.state != derived.state_of(account, soon, ours):
            with suppress(SQLAlchemyError):
                settle([account_id])
    return view


def list_accounts(
    text: str = "", state: str = "", order: Order = USUAL_ORDER, after: str = "", before: str = ""
) -> AccountPage:
    """Return one page of the accounts that a text finds, in this state if one is given.

    Args:
        after: the position of the last account of the page before. before: that of the first of the page after.
    """
    is_behind, counts = settle_before_a_list(), count_states()
    states = [state] if state else list(counts)
    place, note = Position.parse(before or after), ""
    with read_session() as session:
        if text:
            order = Order()  # what a search finds has one order
            found, note = search(text, *([Account.state == state] if state else ()))
            ids = _slice(found, place, is_back=bool(before))
        else:
            ids = order.find_ids(session, states, place, PAGE_SIZE + 1, is_back=bool(before))
        has_more = len(ids) > PAGE_SIZE
        ids = ids[:PAGE_SIZE][::-1] if before else ids[:PAGE_SIZE]
        rows = {row.id: row for row in session.scalars(select(Account).where(Account.id.in_(ids)))}
        ours = registration(session)
    accounts = [rows[account_id] for account_id in ids if account_id in rows]
    ends = [str(order.position_of(one, states)) if not text else f"0~{one.id}" for one in accounts[:1] + accounts[-1:]]
    return AccountPage(
        [view_of(account, ours) for account in accounts],
        counts,
        None if text else sum(counts.get(name, 0) for name in states),
        previous=ends[0] if ends and (has_more if before else after) else None,
        next=ends[1] if ends and (has_more or before) else None,
        note=note,
        is_behind=is_behind,
    )


def count_matching(text: str, state: str) -> tuple[int, str]:
    """Return how many accounts `list_accounts` lists on all its pages, and what the search says about itself."""
    if not text:
        counts = count_states()
        return counts.get(state, 0) if state else sum(counts.values()), ""
    ids, note = search(text, *([Account.state == state] if state else ()))
    return len(ids), note


def _slice(ids: Sequence[int], place: Position | None, *, is_back: bool) -> list[int]:
    if place and is_back:
        return [one for one in reversed(ids) if one < place.account_id][: PAGE_SIZE + 1]
    return [one for one in ids if place is None or one > place.account_id][: PAGE_SIZE + 1]


def list_accounts_after(
    cursor: int,
    limit: int,
    *,
    only: Collection[int] | None = None,
    state: str | None = None,
    text: str | None = None,
    tenant_id: str | None = None,
    external_id: str | None = None,
) -> Page[AccountView]:
    """Return the accounts with an id above `cursor`, oldest first.

    Args:
        only: the ids that the caller may see; None for all.
    """
    settle_before_a_list()
    conditions: list[ColumnElement[bool]] = [Account.id > cursor] if cursor else []
    if only is not None:
        conditions.append(Account.id.in_(only))
    if tenant_id is not None:
        conditions.append(Account.tenant_id == normalize_tenant_id(tenant_id))
    if external_id is not None:
        conditions.append(Account.external_id == external_id)
    if state:
        conditions.append(Account.state == state)
    note = ""
    if text:
        ids, note = search(text, *conditions, only=only, most=limit + 1)
        conditions = [Account.id.in_(ids)]
    found = read_page(select(Account).where(*conditions).order_by(Account.id), limit)
    with read_session() as session:
        ours, pause_step = registration(session), _pause_step(session)
    views = [view_of(row, ours, pause_step=pause_step) for row in found.rows]
    return Page(views, found.next_cursor, note)


def list_accounts_of(person: SignIn | None) -> list[AccountView]:
    """Return what a customer may see: all accounts of the Keap user if known, else the one they connected."""
    if person is None:
        return []
    is_known = person.keap_user_id is not None
    mine = Account.keap_user_id == person.keap_user_id if is_known else Account.id == person.account_id
    with read_session() as session:
        ours = registration(session)
        return [view_of(row, ours) for row in session.scalars(select(Account).where(mine).order_by(Account.id))]


def title_accounts(ids: Collection[int]) -> dict[int, str]:
    """Return the titles by id, of those that there are."""
    query = select(Account.id, Account.title).where(Account.id.in_(ids))
    return {account_id: title or NAMELESS for account_id, title in read_rows(query)}


def list_refreshable_ids() -> list[int]:
    """Return the ids of the accounts that have a refresh token, soonest expiry first."""
    refreshable = select(Account.id).where(Account.refresh_token_sealed.is_not(None))
    return read_all(refreshable.order_by(Account.access_token_expires_at, Account.id))


def view_of(account: Account, ours: Ours, with_tokens: bool = False, pause_step: str | None = None) -> AccountView:
    """Return what a page shows of an account; `ours` is the registration of the installation."""
    now = utc_now()
    standing = derived.standing_of(account, now, ours)
    state = standing.state
    ends_at = derived.refresh_token_ends_at(account) if account.refused_at is None else None
    access_token, refresh_token = _masked(account, open_access_token), _masked(account, open_refresh_token)
    is_unreadable = state.is_alive and UNREADABLE in {access_token, refresh_token}
    return AccountView(
        **{name: getattr(account, name) for name in _COPIED},
        state=state,
        state_cause=standing.cause,
        next_step=derived.UNREADABLE_STEP if is_unreadable else derived.next_step_of(account, state, ours, pause_step),
        reasons=derived.reasons_of(account, now, ours),
        refresh_token_expires_at=ends_at,
        # An hour is added so that a grant just made has 45 days left, not 44.
        refresh_days_left=max((ends_at - now + timedelta(hours=1)).days, 0) if ends_at else None,
        has_access_token=account.access_token_sealed is not None,
        is_being_confirmed=derived.is_being_confirmed(account, state),
        is_unreadable=is_unreadable,
        access_token_masked=access_token if with_tokens else None,
        refresh_token_masked=refresh_token if with_tokens else None,
    )


def _pause_step(session: Session) -> str | None:
    raised = set(session.scalars(select(Alarm.name)))
    if not raised:
        return None
    return derived.CLIENT_REFUSED_STEP if raised == {CLIENT_REFUSED} else derived.PAUSED_STEP


def _masked(account: Account, open_token: Callable[[Account], str | None]) -> str | None:
    try:
        token = open_token(account)
    except SealBroken:
        return UNREADABLE
    return f"…{token[-4:]}" if token and len(token) >= 16 else None
