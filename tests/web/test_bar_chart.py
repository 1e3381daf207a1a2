"""Bars that say what the numbers say."""

import re

from keap_connect.accounts.outlook import RunningOut
from keap_connect.web.bar_chart import HEIGHT, LOWEST_BAR, WIDTH, draw_bars


def heights(path: str) -> list[int]:
    return [int(height) for height in re.findall(r"v-(\d+)h", path)]


def test_bars_are_as_high_as_their_numbers_and_the_smallest_can_be_seen():
    chart = draw_bars(RunningOut((1000, 500, 0, 1), later=7), 2, "h")

    assert heights(chart.bars) == [HEIGHT, HEIGHT // 2, LOWEST_BAR]
    assert (chart.highest, chart.total, chart.later) == (1000, 1501, 7)
    assert chart.rows == [("0 to 2 h", 1000), ("2 to 4 h", 500), ("6 to 8 h", 1)]


def test_bars_stay_inside_their_box_in_their_order():
    lefts = [float(left) for left in re.findall(r"M([\d.]+) ", draw_bars(RunningOut((1,) * 9, 0), 5, "days").bars)]

    assert lefts == sorted(lefts)
    assert (lefts[0], lefts[-1] < WIDTH) == (0, True)


def test_early_bars_are_drawn_apart():
    chart = draw_bars(RunningOut((4, 2, 1), 0), 5, "days", early=2)

    assert (heights(chart.early_bars), heights(chart.bars)) == ([72, 36], [18])


def test_nothing_ahead_is_drawn_as_nothing():
    chart = draw_bars(RunningOut((0, 0), 0), 2, "h", early=1)

    assert (chart.bars, chart.early_bars, chart.rows) == ("", "", [])
