"""Requests that another site makes a signed-in browser send: refused, whatever they ask for, and nothing changed."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask
from limits import RateLimitItemPerMinute
from sqlalchemy import select, update

from keap_connect.access import rate_limits
from keap_connect.database import Base, db, write_transaction
from keap_connect.models import AuthorizationFlow
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD
from tests.support.engines import on_sqlite
from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor
from tests.web.direct import send
from tests.web.fixtures import World
from tests.web.inventory import address, posts

pytestmark = on_sqlite

# What each form sends besides its token. A new form needs a line here.
FORMS = {
    "connect.start": {},
    "connect.reconnect": {},
    "connect.confirm": {"choice": "connect"},
    "connect.forget_me": {},
    "accounts.refresh": {},
    "accounts.complete": {},
    "accounts.name": {"label": "Another name"},
    "accounts.resume": {"name": "mass_refusal"},
    "accounts.disconnect": {"password": ADMIN_PASSWORD},
    "accounts.erase": {"password": ADMIN_PASSWORD},
    "accounts.access_token": {"password": ADMIN_PASSWORD, "reveals": "0"},
    "reconnect_links.create": {},
    "reconnect_links.revoke": {},
    "reconnect_links.use": {},
    "reconnect_links.again": {},
    "invitations.use": {},
    "invitations.create": {"label": "Acme", "valid_days": "14"},
    "invitations.file": {},
    "invitations.change": {"act": "withdraw"},
    "api_keys.create": {
        "name": "job",
        "scopes": "tokens:read",
        "lifetime": "30",
        "accounts": "",
        "password": ADMIN_PASSWORD,
    },
    "api_keys.rotate": {"overlap": "24", "password": ADMIN_PASSWORD},
    "api_keys.revoke": {},
    "webhooks.create": {"url": "https://example.com/", "name": "job"},
    "webhooks.change": {"act": "test"},
    "webhooks.edit": {"url": "https://example.com/", "name": "another"},
    "webhooks.redeliver": {},
    "signin.sign_in": {"email": ADMIN_EMAIL, "password": ADMIN_PASSWORD},
    "signin.sign_out": {},
    "signin.second_step": {"code": "000000"},
    "signin.new_password": {"new_password": "a password of mine"},
    "setup.check": {},
    "imports.one": {},
    "imports.file": {},
    "jobs.links": {"password": ADMIN_PASSWORD},
    "jobs.stop": {},
    "bulk.choose": {"act": "label", "account": "1", "label": "Another name"},
    "exports.accounts": {"password": ADMIN_PASSWORD},
    "profile.password": {"password": ADMIN_PASSWORD, "new_password": "another password of mine"},
    "profile.prepare": {"password": ADMIN_PASSWORD},
    "profile.switch_on": {"code": "000000"},
    "profile.switch_off": {"password": ADMIN_PASSWORD},
    "profile.recovery_codes": {"password": ADMIN_PASSWORD},
    "profile.end_sign_ins": {},
    "profile.mails": {"mails": "alarms"},
    "mail.index": {},
    "mail.end": {},
    "admins.index": {"email": "new@example.com", "password": ADMIN_PASSWORD},
    "admins.show": {"act": "end_sign_ins", "password": ADMIN_PASSWORD},
}
# What a form says that has come through the door, where it is not sent on: a file, or that something is missing.
OTHER_ANSWERS = {
    "imports.one": 401,
    "imports.file": 401,
    "exports.accounts": 200,
    "jobs.links": 404,
    "mail.index": 200,
    "mail.end": 200,
}
# Those that find nothing to do: nothing is incomplete or sent, no code was asked for, no second factor is on, the
# message waits already, no file was chosen, and the job makes no links.
IDLE = {
    "mail.index",
    "accounts.complete",
    "accounts.resume",
    "signin.second_step",
    "profile.switch_on",
    "profile.switch_off",
    "profile.recovery_codes",
    "webhooks.redeliver",
    "invitations.file",
    "jobs.links",
}
# One check refuses them all: each kind of forgery is tried at these, and the plainest at all forms.
SOME = ("connect.start", "connect.confirm", "accounts.disconnect", "signin.sign_in", "imports.file")
SHOW_A_SECRET_ONCE = {
    "accounts.access_token",
    "reconnect_links.create",
    "api_keys.create",
    "api_keys.rotate",
    "webhooks.create",
    "invitations.create",
}
CROSS_SITE_HEADERS = (
    {"Origin": "http://localhost"},
    {"Origin": "http://localhost:1"},
    {"Origin": "https://localhost"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": ""},
    {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
    {"Sec-Fetch-Site": "nonsense"},
)


@pytest.fixture(autouse=True)
def many_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each refused form be answered as such, however many there are."""
    monkeypatch.setattr(rate_limits, "REFUSED_FORMS_PER_MINUTE", RateLimitItemPerMinute(10_000))


@pytest.fixture
def victim(world: World) -> Visitor:
    """Give a browser in which an admin and a customer, who came by a link, are signed in, with a decision to make."""
    came_by_link = update(AuthorizationFlow).where(AuthorizationFlow.ref == world.held_ref).values(reconnect_link_id=1)
    with world.app.app_context(), write_transaction() as session:
        session.execute(came_by_link)
    world.customer.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)
    return world.customer


@pytest.fixture
def everything(app: Flask, sandbox: Sandbox) -> Callable[[], dict[str, Any]]:
    """Give the function that reads all tables, but for who was seen when, and what the sandbox was sent."""

    def read() -> dict[str, Any]:
        queries = {
            name: select(*(column for column in table.columns if column.name not in {"last_seen_at", "opened_at"}))
            for name, table in Base.metadata.tables.items()
        }
        with app.app_context(), db.engine.connect() as connection:
            tables = {name: connection.execute(query).all() for name, query in queries.items()}
        return {**tables, "sent to Keap": sandbox.ledger()["presentations"]}

    return read


@pytest.fixture
def stored_again(app: Flask, victim: Visitor, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Give the function that puts all that is stored back to what it was when the people had come."""
    with app.app_context():
        file = db.engine.url.database
    with closing(sqlite3.connect(file)) as stored, closing(sqlite3.connect(tmp_path / "as it was.db")) as copy:
        stored.backup(copy)
        yield lambda: copy.backup(stored)


def token_of(visitor: Visitor) -> str:
    """Return the token of this browser's forms."""
    visitor.get("/signin")
    return visitor.fields("/signin")["csrf_token"]


def submit(world: World, visitor: Visitor, endpoint: str, token: str | None, **headers: str) -> requests.Response:
    """Send a form, with or without a token."""
    fields = FORMS[endpoint] | ({} if token is None else {"csrf_token": token})
    return send(visitor, "POST", address(endpoint, world.account_id, world.held_ref), headers, data=fields)


Refused = Callable[..., bool]


@pytest.fixture
def refused(world: World, victim: Visitor, everything: Callable[[], dict[str, Any]]) -> Refused:
    """Give the function that sends forms, and says whether each was refused and nothing changed."""

    def are_refused(forms: Iterable[str], token: str | None, **headers: str) -> bool:
        before = everything()
        statuses = {endpoint: submit(world, victim, endpoint, token, **headers).status_code for endpoint in forms}
        assert statuses == dict.fromkeys(forms, 403)
        assert everything() == before
        return True

    return are_refused


def test_every_form_is_known_here(app: Flask):
    assert set(posts(app)) == set(FORMS)


def test_a_form_of_our_own_goes_through(
    world: World, victim: Visitor, everything: Callable[[], dict[str, Any]], stored_again: Callable[[], None]
):
    cookies = victim.session.cookies.copy()
    statuses, idle = {}, set()
    for endpoint in FORMS:
        token, before = token_of(victim), everything()
        answer = submit(world, victim, endpoint, token, **{"Sec-Fetch-Site": "same-origin", "Origin": "null"})
        statuses[endpoint] = answer.status_code
        if everything() == before:
            idle.add(endpoint)
        stored_again()
        victim.session.cookies = cookies.copy()

    expected = {
        endpoint: {200} if endpoint in SHOW_A_SECRET_ONCE else {OTHER_ANSWERS.get(endpoint, 303), 200, 422}
        for endpoint in FORMS
    }
    assert {endpoint: status for endpoint, status in statuses.items() if status not in expected[endpoint]} == {}
    assert idle == IDLE


def test_every_kind_of_browser_gets_its_form_through(world: World, victim: Visitor):
    old = [{}, {"Origin": victim.base_url}, {"Origin": "null"}]  # the last: for want of a referrer
    new = [{"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "same-origin", "Origin": "null"}]
    token = token_of(victim)

    assert [submit(world, victim, "connect.start", token, **headers).status_code for headers in old + new] == [303] * 5


@pytest.mark.proves("R64")
def test_an_origin_of_null_is_no_token(world: World, refused: Refused):
    """A sandboxed frame of another site sends it too; that site knows no token."""
    for forged in (None, "0" * 64, token_of(world.anonymous)):
        assert refused(FORMS if forged is None else SOME, forged, Origin="null"), forged


@pytest.mark.proves("R64")
def test_no_form_is_taken_without_its_token(victim: Visitor, refused: Refused, new_visitor: Callable[[], Visitor]):
    own, foreign = token_of(victim), token_of(new_visitor())

    for token in (None, foreign):
        assert refused(FORMS, token), token
    for token in ("", "0" * 64, own[:-1], own.upper() + " ", own + "0", "é" * 64):
        assert refused(SOME, token), token


@pytest.mark.proves("R64")
def test_no_form_is_taken_from_another_site_even_with_the_right_token(victim: Visitor, refused: Refused):
    token = token_of(victim)

    assert refused(FORMS, token, Origin="https://evil.example")
    assert refused(FORMS, token, **{"Sec-Fetch-Site": "cross-site"})
    for headers in CROSS_SITE_HEADERS:
        assert refused(SOME, token, **headers), headers


@pytest.mark.proves("R64")
def test_no_link_changes_anything(world: World, victim: Visitor, everything: Callable[[], dict[str, Any]]):
    token, before = token_of(victim), everything()

    for endpoint, fields in FORMS.items():
        for method in ("GET", "HEAD", "OPTIONS"):
            query = {**fields, "csrf_token": token}
            send(victim, method, address(endpoint, world.account_id, world.held_ref), params=query)

    assert everything() == before


def test_a_token_in_the_address_or_in_json_is_none(
    world: World, victim: Visitor, everything: Callable[[], dict[str, Any]]
):
    token, before = token_of(victim), everything()
    path = address("accounts.disconnect", world.account_id)

    answers = [
        send(victim, "POST", path, params={"csrf_token": token}),
        send(victim, "POST", path, json={"csrf_token": token}),
        send(victim, "POST", path, {"X-CSRF-Token": token}),
        send(victim, "POST", path, {"Content-Type": "text/plain"}, data=f"csrf_token={token}"),
    ]

    assert [answer.status_code for answer in answers] == [403, 403, 403, 403]
    assert everything() == before


def test_a_method_in_disguise_is_not_taken(world: World, victim: Visitor, everything: Callable[[], dict[str, Any]]):
    before = everything()
    path = address("accounts.disconnect", world.account_id)

    for disguise in ({"X-HTTP-Method-Override": "POST"}, {"X-Method-Override": "POST"}):
        send(victim, "GET", path, disguise, params={"_method": "POST"})

    assert everything() == before


@pytest.mark.parametrize("changed", ["sign_in", "sign_out"])
def test_a_token_ends_with_the_sign_in_of_the_admin_that_it_was_made_under(world: World, changed: str):
    visitor = world.customer
    if changed == "sign_out":
        visitor.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD)
    old = token_of(visitor)
    submit(world, visitor, f"signin.{changed}", old)

    refused = submit(world, visitor, "connect.start", old)
    taken = submit(world, visitor, "connect.start", token_of(visitor))

    assert (refused.status_code, taken.status_code) == (403, 303)
    assert "too old" in refused.text


def test_a_first_visit_without_cookies_has_a_form_that_works(new_visitor: Callable[[], Visitor]):
    visitor = new_visitor()
    token = token_of(visitor)

    assert send(visitor, "POST", "/connect", data={"csrf_token": token}).status_code == 303

    visitor.session.cookies.clear()
    assert send(visitor, "POST", "/connect", data={"csrf_token": token}).status_code == 403


@pytest.mark.proves("F57")
def test_an_attackers_code_does_not_reach_keap_from_another_browser(
    world: World, sandbox: Sandbox, new_visitor: Callable[[], Visitor], everything: Callable[[], dict[str, Any]]
):
    attackers = sandbox.consent(new_visitor().set_out(), person="eve.stone@example.com", tenant="gh012")
    without_state = attackers.partition("&state=")[0]
    before = everything()

    pages = [world.customer.get(url) for url in (attackers, without_state, without_state + "&state=")]

    assert [page.status_code for page in pages] == [400, 400, 400]
    assert everything() == before
    assert "gh012" not in world.customer.get("/your-accounts").text


@pytest.mark.proves("F57")
def test_nobody_can_be_signed_in_as_somebody_else(world: World, everything: Callable[[], dict[str, Any]]):
    before = everything()

    answer = submit(world, world.anonymous, "signin.sign_in", None, Origin="https://evil.example")

    assert answer.status_code == 403
    assert everything() == before
    assert world.anonymous.get("/accounts").url.startswith(world.anonymous.base_url + "/signin")


@pytest.mark.proves("F97")
def test_a_browser_that_blocks_cookies_is_told_so(new_visitor: Callable[[], Visitor]):
    person = new_visitor()
    person.get("/")
    person.session.cookies.clear()

    page = person.press("/connect")

    assert page.status_code == 403
    assert "<h1>Your browser sent no cookie</h1>" in page.text
