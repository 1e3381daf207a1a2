"""The page Health; and, for programs, whether this process lives and the installation is ready, and nothing else.

Charts are drawn from numbers to the shapes of an SVG. The space is 10 wide for each value and 100 high, and the page
stretches it, so no text is in it.

/healthz is for load balancers: a process that lives returns valid tokens even while no worker runs. /readyz is for
alerts.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise

from flask import Response, render_template, request

from keap_connect.accounts.state import AccountState
from keap_connect.health.figures import Day, Health, Hour, read_health
from keap_connect.health.refreshing import is_ready, read_refreshing
from keap_connect.web.auth import Audience, Pages

STEP, HEIGHT = 10, 100
LEAST = 0.02  # of the scale: what is not zero can be seen
Values = Sequence[float | None]
# A series has the mark and the color of a state.
GOOD, BAD = AccountState.ACTIVE, AccountState.RECONNECT_REQUIRED
# Words for the buckets of counters.LIMITS["refresh_lead_seconds"], and of stored_state.AGAIN_LIMITS.
LEADS = ("after it", "up to 10 min", "10 min to 1 h", "1 to 4 h", "4 to 8 h", "8 h to 1 d", "1 to 10 d", "above 10 d")
WAITS = ("up to 1 h", "1 to 4 h", "4 h to 1 d", "1 to 3 d", "3 to 7 d", "7 to 14 d", "14 to 30 d", "above 30 d")
MOST_REASONS = 5  # in a cell, so that the page stays small
Cell = str | int | Mapping[str, int] | None  # a mapping has numbers by reason
bp = Pages("health", __name__)


@dataclass(frozen=True)
class Series:
    word: str  # for the legend
    mark: str  # of the style sheets; it has a shape and a color
    values: Values


@dataclass(frozen=True)
class Drawing:
    width: int
    top: float  # the end of the scale, which begins at 0
    paths: list[tuple[Series, str]]
    zero: int = HEIGHT  # where the line is that the values begin at
    has_lines: bool = False


def stack(*series: Series) -> Drawing:
    """Draw bars on top of each other, the first series at the bottom."""
    columns = list(zip(*(one.values for one in series), strict=True))
    top = round_up(max(sum(value or 0 for value in column) for column in columns))
    bases, paths = [0.0] * len(columns), []
    for one in series:
        values = _visible(one.values, top)
        paths.append((one, _bars(values, bases, top)))
        bases = [base + value for base, value in zip(bases, values, strict=True)]
    return Drawing(len(columns) * STEP, top, paths)


def oppose(above: Series, below: Series) -> Drawing:
    """Draw bars up and down from a line in the middle."""
    top = round_up(max(value or 0 for value in (*above.values, *below.values)))
    falling = _visible(below.values, top)
    up = _bars(_visible(above.values, top), [top] * len(falling), 2 * top)
    down = _bars(falling, [top - value for value in falling], 2 * top)
    return Drawing(len(falling) * STEP, top, [(above, up), (below, down)], HEIGHT // 2)


def steps(*series: Series) -> Drawing:
    """Draw each series as a line that is level for the width of a value, with a gap where there is none."""
    top = round_up(max(value or 0 for one in series for value in one.values))
    paths = [(one, _line(one.values, top)) for one in series]
    return Drawing(len(series[0].values) * STEP, top, paths, has_lines=True)


def round_up(most: float) -> float:
    """Return a round number at or above a value: the end of a scale; 1 for 0."""
    size = 1e-3
    while 10 * size < most:
        size *= 10
    return next(part * size for part in (1, 1.5, 2, 3, 5, 10) if most <= part * size) if most else 1.0


def _visible(values: Values, top: float) -> list[float]:
    return [max(value, LEAST * top) if value else 0.0 for value in values]


def _bars(values: Sequence[float], bases: Sequence[float], top: float) -> str:
    return "".join(
        f"M{number * STEP + 1} {_y(base, top)}V{_y(base + value, top)}h{STEP - 2}V{_y(base, top)}z"
        for number, (value, base) in enumerate(zip(values, bases, strict=True))
        if value
    )


def _line(values: Values, top: float) -> str:
    path = ""
    for number, (before, value) in enumerate(pairwise([None, *values])):
        if value is not None:
            path += f"{f'M{number * STEP} ' if before is None else 'V'}{_y(value, top)}h{STEP}"
    return path


def _y(value: float, top: float) -> str:
    return f"{HEIGHT * (1 - value / top):.1f}".removesuffix(".0")


@dataclass(frozen=True)
class Chart:
    title: str
    about: str
    unit: str
    drawing: Drawing
    heads: Sequence[str]
    rows: Sequence[tuple[datetime | str, Sequence[Cell]]]  # the cells of each place: an hour, a day, or a word
    totals: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # by reason, by a word for all of them

    @property
    def is_empty(self) -> bool:
        return not any(path for _, path in self.drawing.paths)

    @property
    def scale(self) -> str:
        return f"{self.unit}, up to {self.drawing.top:,.9g}"


def list_charts(health: Health) -> list[Chart]:
    leads = "How long before the token would have ended, in these hours."
    waits = "From “reconnect required” to the new grant, in the last four weeks."
    attention = "Accounts that need attention", AccountState.RECONNECT_REQUIRED, AccountState.AT_RISK
    return [
        _refreshes(health.hours),
        _distribution("Refreshed before expiry", leads, "refreshes", LEADS, health.leads),
        _answers(health.hours),
        _accounts(health.days, "Active and disconnected accounts", AccountState.DISCONNECTED, AccountState.ACTIVE),
        _accounts(health.days, *attention),
        _changes(health.days),
        _distribution("Time until connected again", waits, "accounts", WAITS, health.waits),
    ]


def _refreshes(hours: Sequence[Hour]) -> Chart:
    good, bad = [hour.refreshed for hour in hours], [hour.failed for hour in hours]
    drawing = stack(Series("failed", BAD, bad), Series("refreshed", GOOD, good))
    rows = [(hour.starts_at, (hour.refreshed, hour.failed)) for hour in hours]
    return Chart("Refreshes", "In each hour.", "refreshes", drawing, ("Hour, UTC", "Refreshed", "Failed"), rows)


def _answers(hours: Sequence[Hour]) -> Chart:
    median, worst = [hour.median_seconds for hour in hours], [hour.worst_seconds for hour in hours]
    drawing = steps(Series("worst", BAD, worst), Series("median", GOOD, median))
    rows = [(hour.starts_at, (_seconds(hour.median_seconds), _seconds(hour.worst_seconds))) for hour in hours]
    about = "Of all calls to Keap, in each hour."
    return Chart("Keap's answer time", about, "seconds", drawing, ("Hour, UTC", "Median", "Worst"), rows)


def _accounts(days: Sequence[Day], title: str, *states: AccountState) -> Chart:
    words = [state.replace("_", " ") for state in states]
    values = [[day.accounts.get(state) for day in days] for state in states]
    drawing = stack(*(Series(*one) for one in zip(words, states, values, strict=True)))
    rows = [(_day(day), [day.accounts.get(state) for state in states]) for day in days]
    heads = "Day (UTC)", *(word.capitalize() for word in words)
    return Chart(title, "As they were last counted on each day.", "accounts", drawing, heads, rows)


def _changes(days: Sequence[Day]) -> Chart:
    gained, lost = [sum(day.gained.values()) for day in days], [sum(day.lost.values()) for day in days]
    drawing = oppose(Series("gained", GOOD, gained), Series("lost", BAD, lost))
    rows = [
        (_day(day), (up, down, _largest({**day.gained, **day.lost})))
        for day, up, down in zip(days, gained, lost, strict=True)
    ]
    totals = {"Gained": _total(day.gained for day in days), "Lost": _total(day.lost for day in days)}
    about, heads = "Accounts that began to work, and that no longer do.", ("Day (UTC)", "Gained", "Lost", "Why")
    return Chart("Gained and lost", about, "accounts", drawing, heads, rows, totals)


def _distribution(title: str, about: str, unit: str, words: Sequence[str], numbers: Sequence[int]) -> Chart:
    rows = [(word, (number,)) for word, number in zip(words, numbers, strict=True)]
    return Chart(title, about, unit, stack(Series(unit, GOOD, numbers)), ("Time", unit.capitalize()), rows)


def _total(days: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add up the numbers of each reason; the largest comes first."""
    return dict(sum(map(Counter, days), Counter[str]()).most_common())


def _largest(reasons: Mapping[str, int]) -> dict[str, int]:
    largest = dict(Counter(reasons).most_common(MOST_REASONS))
    rest = sum(reasons.values()) - sum(largest.values())
    return {**largest, **({"other": rest} if rest else {})}


def _day(day: Day) -> str:
    return f"{day.starts_at.day}\u00a0{day.starts_at:%b}"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f} s"


@bp.page("/health", Audience.VIEWER)
def show() -> str:
    until = _moment(request.args.get("until", ""))
    health = read_health(until)
    charts = [] if health.is_empty and until is None else list_charts(health)
    values = {"health": health, "charts": charts, "is_newest": until is None}
    return render_template("health/show.html", refreshing=read_refreshing(), **values)


@bp.page("/healthz", Audience.ANYONE)
def healthz() -> Response:
    return Response("ok\n", mimetype="text/plain")


@bp.page("/readyz", Audience.ANYONE)
def readyz() -> Response:
    """Answer 200 when the database, the key and refreshing are in order, else 503."""
    text, status = ("ready\n", 200) if is_ready() else ("not ready\n", 503)
    return Response(text, status, mimetype="text/plain")


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
