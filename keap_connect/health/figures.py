"""What the page Health shows: the last hours and days, read from rows that hold sums. It reads no account and no event.

/metrics is written from the same counts, and today's accounts are those of the list.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from keap_connect.accounts.stored_state import AGAIN_LIMITS, count_states
from keap_connect.clock import utc_now
from keap_connect.counters import BUCKETS, LIMITS, hour_of
from keap_connect.models import Span
from keap_connect.refresh.figures import KEPT, day_of, read_periods
from keap_connect.refresh.storing import Outcome

HOURS, DAYS = 24, 28
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LEAD, ANSWER = "refresh_lead_seconds", "keap_latency_seconds"
FAILURES = [outcome.value for outcome in Outcome if outcome.is_failure]
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Hour:
    starts_at: datetime
    refreshed: int
    failed: int
    median_seconds: float | None  # of Keap's answers, estimated from buckets; None without a call
    worst_seconds: float | None


@dataclass(frozen=True)
class Day:
    starts_at: datetime
    accounts: dict[str, int]  # by state, as they were last counted on that day; empty if no worker ran
    gained: dict[str, int]  # by reason
    lost: dict[str, int]


@dataclass(frozen=True)
class Health:
    hours: list[Hour]
    days: list[Day]
    leads: list[int]  # refreshes of these hours, by how long before their deadline they were, in buckets
    waits: list[int]  # accounts of these days that work again, by how long that took, in buckets
    earlier: datetime | None  # until when the hours before these last; None if they are no longer kept
    is_empty: bool


def read_health(until: datetime | None = None) -> Health:
    """Read the last days, and the hours that begin before `until`; without it, the last ones."""
    now = utc_now()
    newest = hour_of(now) + HOUR
    oldest = newest - KEPT[Span.HOUR]
    hours_end = newest if until is None else max(min(hour_of(until), newest), oldest + HOURS * HOUR)
    hours, days = _read(Span.HOUR, hours_end, HOURS, HOUR), _read(Span.DAY, day_of(now) + DAY, DAYS, DAY)
    is_empty = not any(hours.values()) and not any(days.values())
    days[day_of(now)].update({f"accounts {state}": number for state, number in count_states().items()})
    return Health(
        hours=[_hour(at, figures) for at, figures in hours.items()],
        days=[_day(at, figures) for at, figures in days.items()],
        leads=_distribution(hours.values(), LEAD, LIMITS[LEAD]),
        waits=_distribution(days.values(), "again", AGAIN_LIMITS),
        earlier=min(hours) if min(hours) > oldest else None,
        is_empty=is_empty,
    )


def _read(span: Span, until: datetime, many: int, step: timedelta) -> dict[datetime, dict[str, float]]:
    starts = [until - number * step for number in range(many, 0, -1)]
    found = read_periods(span, starts[0], until)
    return {at: {**found.get(at, {})} for at in starts}


def _hour(starts_at: datetime, figures: Figures) -> Hour:
    outcomes = _by_label(figures, "refreshes")
    worst = figures.get(f"{ANSWER} max")
    return Hour(
        starts_at,
        refreshed=outcomes.get(Outcome.STORED, 0) + outcomes.get(Outcome.KEPT_ASIDE, 0),
        failed=sum(outcomes.get(outcome, 0) for outcome in FAILURES),
        median_seconds=None if worst is None else _median(_distribution([figures], ANSWER, BUCKETS), BUCKETS, worst),
        worst_seconds=worst,
    )


def _day(starts_at: datetime, figures: Figures) -> Day:
    again = sum(_by_label(figures, "again").values())
    gained = _by_label(figures, "gained") | ({"again": again} if again else {})
    return Day(starts_at, _by_label(figures, "accounts"), gained, _by_label(figures, "lost"))


def _by_label(figures: Figures, name: str) -> dict[str, int]:
    return {key.partition(" ")[2]: int(value) for key, value in figures.items() if key.partition(" ")[0] == name}


def _distribution(periods: Iterable[Figures], name: str, limits: Sequence[float]) -> list[int]:
    """Return how many values are in each bucket, and in the one above all limits."""
    periods = list(periods)
    return [int(sum(one.get(f"{name} {most}", 0) for one in periods)) for most in (*limits, "+Inf")]


def _median(counts: Sequence[int], limits: Sequence[float], worst: float) -> float | None:
    """Estimate a median, as if the values of the bucket that it is in were spread evenly."""
    half, passed = sum(counts) / 2, 0
    for count, low, high in zip(counts, (0.0, *limits), (*limits, worst), strict=True):
        if count and passed + count >= half:
            return min(low + (high - low) * (half - passed) / count, worst)
        passed += count
    return None
