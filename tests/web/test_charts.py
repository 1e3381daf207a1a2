"""What numbers become in a chart: paths in a space that is 10 wide for each value and 100 high."""

import pytest

from keap_connect.accounts.stored_state import AGAIN_LIMITS
from keap_connect.counters import LIMITS
from keap_connect.web.health import LEADS, WAITS, Drawing, Series, oppose, round_up, stack, steps


def paths(drawing: Drawing) -> list[str]:
    return [path for _, path in drawing.paths]


@pytest.mark.parametrize(
    ("most", "end"), [(0, 1), (0.004, 0.005), (0.11, 0.15), (1, 1), (1.51, 2), (60, 100), (412, 500), (1e6, 1e6)]
)
def test_a_scale_ends_at_a_round_number(most: float, end: float):
    assert round_up(most) == pytest.approx(end)


def test_bars_are_on_top_of_each_other_and_days_without_a_number_have_none():
    drawing = stack(Series("a", "x", [10, 0, None]), Series("b", "x", [30, 20, None]))

    assert (drawing.width, drawing.top, drawing.zero) == (30, 50, 100)
    assert paths(drawing) == ["M1 100V80h8V100z", "M1 80V20h8V80zM11 100V60h8V100z"]


def test_one_failure_among_a_thousand_can_be_seen():
    assert paths(stack(Series("a", "x", [1]), Series("b", "x", [999])))[0] == "M1 100V98h8V100z"


def test_bars_go_up_and_down_from_the_middle():
    drawing = oppose(Series("a", "x", [10, 5]), Series("b", "x", [0, 2]))

    assert (drawing.top, drawing.zero) == (10, 50)
    assert paths(drawing) == ["M1 50V0h8V50zM11 50V25h8V50z", "M11 60V50h8V60z"]


def test_a_line_is_level_for_each_value_and_has_gaps():
    drawing = steps(Series("a", "x", [1, 0.5, None, 2]))

    assert drawing.top == 2
    assert paths(drawing) == ["M0 50h10V75h10M30 0h10"]


def test_each_bucket_has_a_word():
    assert len(LEADS) == len(LIMITS["refresh_lead_seconds"]) + 1
    assert len(WAITS) == len(AGAIN_LIMITS) + 1
