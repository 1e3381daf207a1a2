"""What is due, soonest expiry first, and the budget of calls that all workers share."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, and_, case, false, or_, select, update
from sqlalchemy.orm import aliased

from keap_connect.accounts.stored_state import FAR_AHEAD
from keap_connect.clock import utc_now
from keap_connect.database import database_clock, read_one, take_turns, write_transaction
from keap_connect.models import Account, RefreshBudget
from keap_connect.refresh.lease import is_free
from keap_connect.services import services

# Accounts that a worker claimed before it died are due again after this time.
CLAIMED_FOR = timedelta(seconds=60)
_other = aliased(Account)
NEVER = datetime.max.replace(tzinfo=UTC)


def claim_due(most: int, *, takes_unproven: bool = True) -> list[Account]:
    """Claim up to `most` due accounts, so that no other worker does, and return them, soonest expiry first.

    Imported pairs that were never refreshed come after all others, and one by one whatever the number of workers: many
    may be used up already.

    Args:
        takes_unproven: whether one of these may be among them.
    """
    now = utc_now()
    is_due = (Account.next_refresh_at <= now, _is_unclaimed(now), *_is_presentable())
    first = select(Account.id).where(Account.needs_first_refresh, *is_due).order_by(Account.next_refresh_at, Account.id)
    is_taken = or_(_other.lease_ends > database_clock(), _other.claimed_until.between(now, now + FAR_AHEAD))
    under_way = select(_other.id).where(_other.needs_first_refresh, _other.refused_at.is_(None), is_taken)
    is_next = and_(~under_way.exists(), Account.id == first.limit(1).scalar_subquery())
    due = (
        select(Account.id)
        .where(*is_due, or_(~Account.needs_first_refresh, is_next if takes_unproven else false()))
        .order_by(Account.needs_first_refresh, Account.access_token_expires_at, Account.id)
        .limit(most)
        .with_for_update(skip_locked=True)
        .cte("due")  # PostgreSQL may run a subquery that locks rows for each account, and so claim more than `most`
    )
    taken = (
        update(Account)
        .where(Account.id.in_(select(due.c.id)))
        .values(claimed_until=now + CLAIMED_FOR)
        .returning(Account)
        .execution_options(synchronize_session=False)
    )
    with write_transaction() as session:
        accounts = session.scalars(taken).all()
    return sorted(accounts, key=lambda one: (one.needs_first_refresh, one.access_token_expires_at or NEVER, one.id))


def lag_seconds() -> float:
    """Return for how long the account that waits longest has been due; imported pairs wait for each other."""
    now = utc_now()
    is_waiting = Account.next_refresh_at <= now, ~Account.needs_first_refresh, _is_unclaimed(now), *_is_presentable()
    longest = select(Account.next_refresh_at).where(*is_waiting).order_by(Account.next_refresh_at).limit(1)
    due_at = read_one(longest)
    return max((now - due_at).total_seconds(), 0.0) if due_at else 0.0


def reserve_calls(calls: int) -> float:
    """Reserve calls in the budget that all workers share; return in how many seconds the first may be sent."""
    per_minute = services().settings.refresh_rate_per_minute
    if per_minute == 0:
        return 0.0
    now = database_clock()
    spread = calls * 60.0 / per_minute
    start = case((RefreshBudget.next_call > now, RefreshBudget.next_call), else_=now)
    # Each process waits for the calls that it reserved: a second of them, or five. What 120 processes cannot have
    # reserved, or what is more than an hour ahead, is from before the clock was set back, or before a reboot.
    most_ahead = min(120 * max(1.0, 5 * 60.0 / per_minute), 3600.0)
    start = case((RefreshBudget.next_call > now + most_ahead, now), else_=start)
    statement = (
        update(RefreshBudget)
        .values(next_call=start + spread)
        .returning(RefreshBudget.next_call, now)
        .execution_options(synchronize_session=False)
    )
    with write_transaction() as session:
        row = session.execute(statement).one_or_none()
        if row is None:
            take_turns(session, "refresh_budget")  # the first two workers of an installation may come here together
            session.merge(RefreshBudget(id=1))
            session.flush()
            row = session.execute(statement).one()
    return max(float(row[0]) - spread - float(row[1]), 0.0)


def _is_unclaimed(now: datetime) -> ColumnElement[bool]:
    # A claim that is far ahead is from before the clock was set back.
    return or_(Account.claimed_until.is_(None), ~Account.claimed_until.between(now, now + FAR_AHEAD))


def _is_presentable() -> tuple[ColumnElement[bool], ...]:
    keap = services().keap
    return (*is_free(), Account.client_id == keap.client_id, Account.token_url == keap.token_url)
