"""The dashboard as a whole: every order alike on both databases, all of it in the address, and the strip on top."""

import html
import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from flask import Flask

from keap_connect.accounts.credentials import new_account, replace_credential
from keap_connect.accounts.directory import PAGE_SIZE
from keap_connect.accounts.search import SORTED_BY
from keap_connect.clock import utc_now
from keap_connect.database import write_transaction
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.keap.token_response import TokenResponse
from tests.support.engines import on_sqlite
from tests.support.visitor import Visitor

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def add(app: Flask) -> Callable[..., int]:
    """Give the function that stores an account with made-up tokens; `facts` set columns of its row."""

    def store(label: str | None, **facts: object) -> int:
        with app.app_context(), write_transaction() as session:
            account = new_account(session, None, "1")
            granted = TokenResponse("made-up-access-token", "made-up-refresh-token", utc_now() + DAY, "full")
            replace_credential(account, granted)
            for name, value in {"tenant_id": f"t{account.id}", "label": label, **facts}.items():
                setattr(account, name, value)
        return account.id

    return store


@on_sqlite
def test_an_account_shows_its_number_and_is_found_by_it(admin: Visitor, add: Callable[..., int]):
    numbers = [add(label) for label in ("Acme", "Bright")]

    found = admin.get(f"/accounts?q=%23{numbers[1]}").text

    assert "<small>No. 2</small>" in found
    assert "No. 1<" not in found
    assert "<dt>Number</dt>\n        <dd>2</dd>" in admin.get("/accounts/2").text


@on_sqlite
def test_the_page_is_sent_again_only_when_it_reads_otherwise(admin: Visitor, add: Callable[..., int]):
    add("Acme", connected_at=utc_now() - DAY)
    first = admin.get("/accounts", headers={"X-Live": "1"})
    known = {"X-Live": "1", "If-None-Match": first.headers["ETag"]}

    again = admin.get("/accounts", headers=known)
    assert (again.status_code, again.content, again.headers["Cache-Control"]) == (304, b"", "no-store")

    add("Bright", connected_at=utc_now() - DAY)
    assert admin.get("/accounts", headers=known).status_code == 200


@pytest.fixture
def varied(add: Callable[..., int]) -> None:
    """Let there be accounts for which each column has a small, a large and an unknown value."""
    now = utc_now()
    unknown = {
        "access_token_expires_at": None,
        "refresh_token_issued_at": None,
        "refreshed_at": None,
        "last_used_at": None,
    }
    add("eve", person_name="b", kind="personal_access_token", **unknown)
    add("Dan", person_name="ä", access_token_expires_at=now + HOUR, refreshed_at=now, last_used_at=now - DAY)
    add("adam", person_name=None, person_email="Z@x", access_token_expires_at=now + 3 * HOUR, last_used_at=now)
    add("Zoe", person_name="A", refresh_token_issued_at=now - 20 * DAY, refreshed_at=now - DAY)
    add("Ångström", disconnected_at=now, access_token_expires_at=None, refresh_token_issued_at=now - 30 * DAY)
    add("lost", refused_at=now, access_token_expires_at=now - HOUR, refresh_token_issued_at=now - 3 * DAY)


# What is not known comes last in both directions; equals follow by number.
ORDERS = {
    "": ["lost", "eve", "Dan", "adam", "Zoe", "Ångström"],
    "-state": ["Ångström", "eve", "Dan", "adam", "Zoe", "lost"],
    "account": ["adam", "Ångström", "Dan", "eve", "lost", "Zoe"],
    "-account": ["Zoe", "lost", "eve", "Dan", "Ångström", "adam"],
    "expires": ["lost", "Dan", "adam", "Zoe", "eve", "Ångström"],
    "-expires": ["Zoe", "adam", "Dan", "lost", "eve", "Ångström"],
    "used": ["Dan", "adam", "eve", "Zoe", "Ångström", "lost"],
    "-used": ["adam", "Dan", "eve", "Zoe", "Ångström", "lost"],
    "broken": ["lost", "eve", "Dan", "adam", "Zoe", "Ångström"],
    "nonsense": ["lost", "eve", "Dan", "adam", "Zoe", "Ångström"],
    "--used": ["lost", "eve", "Dan", "adam", "Zoe", "Ångström"],
}


def listed(admin: Visitor, **query: object) -> list[str]:
    """Return the titles on the dashboard, in their order."""
    page = admin.get("/accounts", params=query).text
    return [html.unescape(title) for title in re.findall(r'<a href="/accounts/\d+">(.*?)</a>', page)]


@pytest.mark.usefixtures("varied")
def test_every_order_is_the_same_on_both_databases_and_the_unknown_comes_last(admin: Visitor):
    assert {sort: listed(admin, sort=sort) for sort in ORDERS} == ORDERS


@on_sqlite
@pytest.mark.usefixtures("varied")
def test_heads_sort_one_way_then_the_other_and_say_which(admin: Visitor):
    def heads() -> dict[str, tuple[str, str]]:
        found = re.findall(
            r'<th scope="col" role="columnheader"(?: class="column-\w+")?( aria-sort="\w+")?><a href="([^"]+)">',
            admin.page.text,
        )
        return {html.unescape(path).rpartition("sort=")[2].lstrip("-"): (said, path) for said, path in found}

    admin.get("/accounts", params={"q": "adam", "state": "active"})
    assert len(heads()) == len(SORTED_BY)
    assert [said for said, _ in heads().values() if said] == [' aria-sort="ascending"']
    way = html.unescape(heads()["expires"][1])
    assert way == "/accounts?q=adam&state=active&sort=expires"

    for said, next_way in (("ascending", "-expires"), ("descending", "expires")):
        admin.get(way)
        assert [one for one in heads().values() if one[0]] == [heads()["expires"]]
        assert heads()["expires"][0] == f' aria-sort="{said}"'
        way = html.unescape(heads()["expires"][1])
        assert way == f"/accounts?q=adam&state=active&sort={next_way}"


@on_sqlite
def test_address_keeps_all_that_was_chosen(admin: Visitor, add: Callable[..., int]):
    for number in range(2 * PAGE_SIZE + 5):
        add(f"Acme {number:02}")

    admin.get(f"/accounts?q=acme&state=active&sort=-account&after=0~{PAGE_SIZE}~")

    links = {html.unescape(path) for path in re.findall(r'href="(/accounts\?[^"]*)"', admin.page.text)}
    assert f"/accounts?q=acme&state=active&sort=-account&after=0~{2 * PAGE_SIZE}" in links
    assert f"/accounts?q=acme&state=active&sort=-account&before=0~{PAGE_SIZE + 1}" in links
    assert "/accounts?q=acme&state=at_risk&sort=-account" in links
    assert "/accounts?q=acme&sort=-account" in links, "all states"
    search_form = admin.page.text.partition('role="search"')[2].partition("</form>")[0]
    hidden = re.findall(r'<input type="hidden" name="(state|sort)" value="([^"]*)">', search_form)
    assert hidden == [("state", "active"), ("sort", "-account")]


@on_sqlite
def test_each_account_shows_when_it_was_used_last_and_when_exactly_it_expires(admin: Visitor, add: Callable[..., int]):
    now = utc_now()
    add("Acme", access_token_expires_at=now + 3 * HOUR + timedelta(minutes=1), last_used_at=now - 5 * HOUR)

    admin.get("/accounts")

    assert "5 h ago" in admin.text
    assert re.search(rf'title="{now + 3 * HOUR + timedelta(minutes=1):%Y-%m-%d %H:%M}[^"]*">in 3 h<', admin.page.text)


@on_sqlite
def test_list_in_which_everything_is_lost_says_to_look_for_one_cause(admin: Visitor, add: Callable[..., int]):
    told = "All accounts need to be reconnected, so they probably have one cause."
    add("one", refused_at=utc_now())
    add("gone", disconnected_at=utc_now())
    assert told not in admin.get("/accounts").text

    add("two", refused_at=utc_now())
    assert told in admin.get("/accounts").text

    add("well")
    assert told not in admin.get("/accounts").text


@on_sqlite
def test_long_history_comes_in_pages_of_fifty(app: Flask, admin: Visitor, add: Callable[..., int]):
    account_id = add("Acme")
    with app.app_context(), write_transaction() as session:
        for number in range(101):
            record(session, EventKind.REFRESH_FAILED, account_id, Actor.SYSTEM, reason=f"Number {number}.")
    seen = []

    admin.get(f"/accounts/{account_id}")
    while True:
        seen += [int(number) for number in re.findall(r"Number (\d+)\.", admin.page.text)]
        older = re.search(r'rel="next" href="([^"]+)"', admin.page.text)
        if older is None:
            break
        admin.get(html.unescape(older[1]))

    assert seen == list(range(100, -1, -1))
    assert 'rel="first"' in admin.page.text
    for odd in ("0", "-3", "x", "99999999999999999999"):
        assert admin.get(f"/accounts/{account_id}?before={odd}").status_code == 200


@on_sqlite
@pytest.mark.proves("R61")
def test_page_that_asks_by_itself_keeps_no_session_alive(admin: Visitor, clock):
    for _ in range(4):
        clock.advance(minutes=8)
        admin.get("/accounts", headers={"X-Live": "1"})

    admin.get("/accounts")

    assert "/signin" in admin.page.url
