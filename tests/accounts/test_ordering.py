"""Orders as they stand in addresses and in SQL; tests/web/test_dashboard.py sorts by each on both databases."""

import pytest

from keap_connect.accounts.search import SORTED_BY, Order, Position


@pytest.mark.parametrize("text", ["", "-state", *(f"{sign}{key}" for key in list(SORTED_BY)[1:] for sign in ("", "-"))])
def test_an_order_is_read_as_it_was_written(text: str):
    assert str(Order.parse(text)) == text


@pytest.mark.parametrize("text", ["x", "-", "--used", "STATE", "used ", "state", "-x", "used,state"])
def test_what_is_no_order_is_the_usual_one(text: str):
    assert Order.parse(text) == Order()


def test_the_second_click_on_a_head_turns_its_order_around_and_one_elsewhere_begins_anew():
    assert str(Order().by("used")) == "used"
    assert str(Order.parse("used").by("used")) == "-used"
    assert str(Order.parse("-used").by("used")) == "used"
    assert str(Order.parse("-used").by("account")) == "account"
    assert str(Order().by("state")) == "-state"


@pytest.mark.parametrize(
    "text", ["", "x", "1", "1~x~", "~1~", "-1~2~", "1~9999999999~", "9" * 5000 + "~1~", "1~" + "9" * 5000]
)
def test_what_is_no_position_begins_at_the_first_page(text: str):
    assert Position.parse(text) is None


def test_a_position_is_read_as_it_was_written():
    for position in (Position(0, 7), Position(1, 7, "acme ~ sons"), Position(1, 7, "2026-11-29T12:00:00+00:00")):
        assert Position.parse(str(position)) == position
