"""Bar charts as SVG paths: made on the server, without a style in them, so that the content policy holds."""

from dataclasses import dataclass
from datetime import timedelta

from keap_connect.accounts.outlook import GRANT_STEP, TOKEN_STEP, Outlook, RunningOut
from keap_connect.accounts.state import REFRESH_TOKEN_WARNING

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WIDTH, HEIGHT = 320, 72
GAP = 3
LOWEST_BAR = 3  # what is there at all can be seen


@dataclass(frozen=True)
class BarChart:
    """Bars of one chart, and the same numbers as rows of a table.

    Args:
        bars: the `d` of an SVG path over the usual bars, and `early_bars` over the first few, which call for a look.
        rows: the words for each step that is not empty, with its number.
    """

    bars: str
    early_bars: str
    highest: int
    total: int
    later: int
    rows: list[tuple[str, int]]


def draw_outlook(outlook: Outlook) -> dict[str, BarChart]:
    """Draw what runs out when, access tokens by hours and grants by days; grants at risk stand apart."""
    early = REFRESH_TOKEN_WARNING // GRANT_STEP
    return {
        "access_tokens": draw_bars(outlook.access_tokens, TOKEN_STEP // HOUR, "h"),
        "grants": draw_bars(outlook.grants, GRANT_STEP // DAY, "days", early),
    }


def draw_bars(counted: RunningOut, step: int, unit: str, early: int = 0) -> BarChart:
    """Draw one bar for each step, into a box of WIDTH by HEIGHT; the first `early` ones are drawn apart."""
    highest = max(counted.steps)
    width = WIDTH / len(counted.steps)
    bars = [_bar(number * width, width - GAP, count, highest) for number, count in enumerate(counted.steps)]
    rows = [
        (f"{number * step} to {(number + 1) * step} {unit}", count)
        for number, count in enumerate(counted.steps)
        if count
    ]
    return BarChart("".join(bars[early:]), "".join(bars[:early]), highest, counted.total, counted.later, rows)


def _bar(left: float, width: float, count: int, highest: int) -> str:
    if not count:
        return ""
    height = max(round(count / highest * HEIGHT), LOWEST_BAR)
    return f"M{left:.4g} {HEIGHT}v-{height}h{width:.4g}v{height}z"
