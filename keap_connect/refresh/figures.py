"""What happened in each hour and on each day, in one row each, for the page Health.

All who write a row take turns, so an addition is a read and a write: none is lost, and nobody waits in a circle.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from keap_connect.accounts.stored_state import count_states
from keap_connect.clock import utc_now
from keap_connect.counters import Counted, hour_of, together
from keap_connect.database import read_all, take_turns, write_transaction
from keap_connect.models import Period, Span, StateChange

TURN = "counters"
HOURLY = {"refreshes", "keap_latency_seconds", "refresh_lead_seconds"}
KEPT = {Span.HOUR: timedelta(days=14), Span.DAY: timedelta(days=400)}
MOST_AT_ONCE = 10_000


def add_to_hours(session: Session, counted: Counted) -> None:
    """Add what a process counted; the caller has the turn."""
    hours: dict[datetime, dict[str, float]] = defaultdict(dict)
    for (hour, name, labels), value in counted.items():
        if name in HOURLY:
            hours[hour][f"{name} {labels}"] = value
    for hour, figures in hours.items():
        _add(session, Span.HOUR, hour, figures)


def add_to_days() -> None:
    """Add the changes that transactions noted to their days, and write how many accounts are in each state today.

    A change is deleted in the transaction that adds it, so it is counted once, by any worker, also after a failure.
    """
    counts = {f"accounts {state}": float(number) for state, number in count_states().items()}
    taken = select(StateChange.id).order_by(StateChange.id).limit(MOST_AT_ONCE)
    days: dict[datetime, Counter[str]] = defaultdict(Counter)
    with write_transaction() as session:
        take_turns(session, TURN)
        changes = delete(StateChange).where(StateChange.id.in_(taken.scalar_subquery()))
        for at, change in session.execute(changes.returning(StateChange.at, StateChange.change)):
            days[day_of(at)][change] += 1
        for day, figures in days.items():
            _add(session, Span.DAY, day, figures)
        _add(session, Span.DAY, day_of(utc_now()), {}, counts)


def read_periods(span: Span, since: datetime, until: datetime) -> dict[datetime, dict[str, float]]:
    """Return the figures of the periods that begin at `since` or later, and before `until`."""
    periods = select(Period).where(Period.span == span, Period.starts_at >= since, Period.starts_at < until)
    return {one.starts_at: one.figures for one in read_all(periods)}


def delete_past_periods() -> None:
    with write_transaction() as session:
        for span, kept in KEPT.items():
            session.execute(delete(Period).where(Period.span == span, Period.starts_at < utc_now() - kept))


def day_of(moment: datetime) -> datetime:
    return hour_of(moment).replace(hour=0)


def _add(
    session: Session,
    span: Span,
    starts_at: datetime,
    figures: Mapping[str, float],
    latest: Mapping[str, float] | None = None,
) -> None:
    """Add figures to a period; those in `latest` take the place of what is there."""
    row = session.get(Period, (span, starts_at))
    if row is None:
        row = Period(span=span, starts_at=starts_at, figures={})
        session.add(row)
    added = {name: together(name, row.figures.get(name, 0.0), value) for name, value in figures.items()}
    row.figures = {**row.figures, **added, **(latest or {})}
