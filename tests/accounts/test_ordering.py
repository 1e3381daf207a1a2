"""Orders as they stand in addresses and in SQL; tests/web/test_dashboard.py sorts by each on both databases."""

import pytest
from sqlalchemy import select
from sqlalchemy.dialects import postgresql

from keap_connect.accounts.ordering import Order, SortKey
from keap_connect.clock import utc_now
from keap_connect.models import Account


@pytest.mark.parametrize("text", ["", "-state", *(f"{sign}{key}" for key in list(SortKey)[1:] for sign in ("", "-"))])
def test_an_order_is_read_as_it_was_written(text: str):
    assert str(Order.parse(text)) == text


@pytest.mark.parametrize("text", ["x", "-", "--used", "STATE", "used ", "state", "-x", "used,state"])
def test_what_is_no_order_is_the_usual_one(text: str):
    assert Order.parse(text) == Order()


def test_the_second_click_on_a_head_turns_its_order_around_and_one_elsewhere_begins_anew():
    assert str(Order().by("used")) == "used"
    assert str(Order.parse("used").by("used")) == "-used"
    assert str(Order.parse("-used").by("used")) == "used"
    assert str(Order.parse("-used").by("person")) == "person"
    assert str(Order().by("state")) == "-state"


def test_postgresql_compares_letters_whatever_its_language_is():
    query = select(Account.id).order_by(*Order(SortKey.PERSON).columns(utc_now(), ("client", "url")))

    assert 'COLLATE "C" ASC NULLS LAST' in str(query.compile(dialect=postgresql.dialect()))
