"""Draws charts: from numbers to the shapes of an SVG, without a request and without a database.

The space is 10 wide for each value and 100 high, and the page stretches it, so no text is in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

STEP, HEIGHT = 10, 100
LEAST = 0.02  # of the scale: what is not zero can be seen
Values = Sequence[float | None]


@dataclass(frozen=True)
class Series:
    word: str  # for the legend
    mark: str  # of the style sheets; it has a shape and a color
    values: Values


@dataclass(frozen=True)
class Shape:
    series: Series
    path: str
    is_line: bool = False


@dataclass(frozen=True)
class Drawing:
    width: int
    top: float  # the end of the scale, which begins at 0
    shapes: list[Shape]
    zero: int = HEIGHT  # where the line is that the values begin at


def stack(*series: Series) -> Drawing:
    """Draw bars on top of each other, the first series at the bottom."""
    columns = list(zip(*(one.values for one in series), strict=True))
    top = round_up(max(sum(value or 0 for value in column) for column in columns))
    bases, shapes = [0.0] * len(columns), []
    for one in series:
        values = _visible(one.values, top)
        shapes.append(Shape(one, _bars(values, bases, top)))
        bases = [base + value for base, value in zip(bases, values, strict=True)]
    return Drawing(len(columns) * STEP, top, shapes)


def oppose(above: Series, below: Series) -> Drawing:
    """Draw bars up and down from a line in the middle."""
    top = round_up(max(value or 0 for value in (*above.values, *below.values)))
    falling = _visible(below.values, top)
    up = _bars(_visible(above.values, top), [top] * len(falling), 2 * top)
    down = _bars(falling, [top - value for value in falling], 2 * top)
    return Drawing(len(falling) * STEP, top, [Shape(above, up), Shape(below, down)], HEIGHT // 2)


def steps(*series: Series) -> Drawing:
    """Draw each series as a line that is level for the width of a value, with a gap where there is none."""
    top = round_up(max(value or 0 for one in series for value in one.values))
    shapes = [Shape(one, _line(one.values, top), is_line=True) for one in series]
    return Drawing(len(series[0].values) * STEP, top, shapes)


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
