"""What strangers can cause: few calls to Keap, few rows, and no refusal that costs anybody a connection."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import requests
from flask import Flask
from limits import RateLimitItemPerMinute
from sqlalchemy import func, select, update

from keap_connect.access import passwords, rate_limits
from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.clock import utc_now
from keap_connect.connect import flows
from keap_connect.connect.endings import Ending
from keap_connect.crypto import hash_secret
from keap_connect.database import Base, db, write_transaction
from keap_connect.errors import KeapBusy
from keap_connect.keap.call_slots import MOST_AT_ONCE, keap_call_slot
from keap_connect.models import AuthorizationFlow
from keap_connect.server.checks import prepare_to_serve
from tests.api.fixtures import Program
from tests.conftest import ADMIN_PASSWORD
from tests.flows.stored import Stored, token_calls
from tests.support.engines import on_sqlite
from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor
from tests.web.direct import move, send, visit
from tests.web.fixtures import World
from tests.web.inventory import AUDIENCES, address, posts
from tests.web.test_forged_requests import FORMS

pytestmark = on_sqlite


@pytest.fixture
def stored(app: Flask, sandbox: Sandbox) -> Stored:
    """Give a look into what the app has stored."""
    return Stored(app, sandbox)


@pytest.fixture
def all_slots_are_taken() -> Iterator[ExitStack]:
    """Let as many wait for Keap as may; closing the stack ends their waiting."""
    with ExitStack() as taken:
        for _ in range(MOST_AT_ONCE):
            taken.enter_context(keap_call_slot())
        yield taken


def a_minute_passes(app: Flask) -> None:
    """Forget what was counted; the storage of the limits has a clock of its own."""
    app.extensions["keap_connect_rate_limits"].strategy.storage.reset()


def state_in(url: str) -> str:
    return re.findall(r"[?&]state=([^&]+)", url)[0]


def is_busy(page: requests.Response) -> bool:
    """Whether a page says that Keap is busy, and when to come again."""
    is_told = page.status_code == 503 and f"<h1>{KeapBusy.heading}</h1>" in page.text
    return is_told and 1 <= int(page.headers["Retry-After"]) <= 60


# Callbacks


@pytest.mark.proves("F93", "R99")
def test_sixty_made_up_callbacks_from_one_address_cost_keap_ten_calls(app: Flask, stored: Stored, sandbox: Sandbox):
    made_up = []
    for number in range(3):  # since one address starts 20
        stranger = visit(app, address=f"192.0.2.{number}")
        made_up += [(stranger, f"/callback?state={state_in(stranger.set_out())}&code=made-up") for _ in range(20)]
        move(stranger, app, "192.0.2.99")

    answers = [send(stranger, "GET", path) for stranger, path in made_up]

    assert Counter(one.status_code for one in answers) == {303: 10, 503: 50}
    assert all(is_busy(one) for one in answers[10:])
    assert len(token_calls(sandbox)) == 10
    assert Counter(flow.ending for flow in stored.flows()) == {None: 50, Ending.CODE_REFUSED: 10}


@pytest.mark.proves("R99")
def test_a_callback_that_is_refused_works_when_it_is_loaded_again(app: Flask, sandbox: Sandbox):
    visitor = visit(app, sandbox)
    callback_url = sandbox.consent(visitor.set_out())
    for number in range(10):  # unknown states count, too
        assert send(visit(app), "GET", f"/callback?state=unknown-{number}&code=x").status_code == 303

    refused = send(visitor, "GET", callback_url.removeprefix(visitor.base_url))

    assert is_busy(refused)
    assert refused.headers["Refresh"] == refused.headers["Retry-After"]
    assert '<a class="button button-primary" href="">Try again</a>' in refused.text
    assert state_in(callback_url) not in refused.text
    assert "code=" not in refused.text
    assert token_calls(sandbox) == []
    a_minute_passes(app)
    assert "Your Keap account is connected" in visitor.get(callback_url).text


@pytest.mark.proves("R99", "R98")
def test_one_address_does_not_use_up_what_all_may_send(app: Flask, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rate_limits, "CALLBACKS_PER_MINUTE", RateLimitItemPerMinute(2))
    monkeypatch.setattr(rate_limits, "ALL_CALLBACKS_PER_MINUTE", RateLimitItemPerMinute(3, namespace="all"))

    def come_from(client_address: str) -> int:
        return send(visit(app, address=client_address), "GET", "/callback?state=unknown&code=x").status_code

    assert [come_from(f"2001:db8::{number}") for number in range(5)] == [303, 303, 503, 503, 503]
    assert [come_from(f"192.0.2.{number}") for number in range(2)] == [303, 503]


def test_a_callback_without_state_and_a_prefetch_do_not_count(app: Flask, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rate_limits, "CALLBACKS_PER_MINUTE", RateLimitItemPerMinute(1))
    for _ in range(3):
        assert send(visit(app), "GET", "/callback?error=access_denied").status_code == 303
        assert send(visit(app), "GET", "/callback?state=x", {"Sec-Purpose": "prefetch"}).status_code == 204

    assert send(visit(app), "GET", "/callback?state=unknown&code=x").status_code == 303


# Started flows


@pytest.mark.proves("R99")
def test_twenty_flows_a_minute_are_started_from_one_address(app: Flask, visitor: Visitor, stored: Stored):
    visitor.get("/")
    form = visitor.fields("/connect")

    answers = [send(visitor, "POST", "/connect", data=form) for _ in range(22)]

    assert Counter(one.status_code for one in answers) == {303: 20, 503: 2}
    assert is_busy(answers[-1])
    assert "go back, and press the button again" in answers[-1].text
    assert "Refresh" not in answers[-1].headers, "a form is not sent twice by itself"
    assert len(stored.flows()) == 20
    move(visitor, app, "192.0.2.7")
    assert send(visitor, "POST", "/connect", data=form).status_code == 303
    move(visitor, app, "127.0.0.1")
    a_minute_passes(app)
    assert send(visitor, "POST", "/connect", data=form).status_code == 303


@pytest.mark.proves("R99")
@pytest.mark.parametrize(
    "endpoint",
    ["connect.start", "connect.reconnect", "reconnect_links.use", "reconnect_links.again", "invitations.use"],
)
def test_each_way_to_start_a_flow_counts(world: World, endpoint: str, stored: Stored, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rate_limits, "STARTED_FLOWS_PER_MINUTE", RateLimitItemPerMinute(1, namespace="another"))
    came_by_link = update(AuthorizationFlow).where(AuthorizationFlow.ref == world.held_ref).values(reconnect_link_id=1)
    with world.app.app_context(), write_transaction() as session:
        session.execute(came_by_link)
    world.customer.get("/")
    form = world.customer.fields("/connect")
    path = address(endpoint, world.account_id, world.held_ref)
    assert send(world.customer, "POST", path, data=form).status_code == 303
    before = len(stored.flows())

    assert is_busy(send(world.customer, "POST", path, data=form))
    assert len(stored.flows()) == before


@pytest.mark.proves("R99")
def test_open_and_ended_flows_are_bounded_and_the_oldest_go_first(
    app: Flask, stored: Stored, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(flows, "MOST_UNUSED", 5)
    monkeypatch.setattr(flows, "MOST_ENDED", 3)
    early = visit(app, sandbox)
    early.set_out()
    held = state_in(early.set_out())
    with app.app_context(), write_transaction() as session:
        session.execute(update(AuthorizationFlow).values(consumed_at=utc_now()))
        by_state = AuthorizationFlow.state_hash == hash_secret(held)
        values = {
            "ending": Ending.DECISION_PENDING,
            "ended_at": utc_now(),
            "pending_until": utc_now() + flows.STATE_LIFE,
        }
        session.execute(update(AuthorizationFlow).where(by_state).values(**values))
    for number in range(5):
        stranger = visit(app, address=f"192.0.2.{number}")
        send(stranger, "GET", f"/callback?state={state_in(stranger.set_out())}&code=made-up")
    used = [flow.ref for flow in stored.flows()]

    waiting = [visit(app, sandbox, f"198.51.100.{number}") for number in range(7)]
    urls = [one.set_out() for one in waiting]

    left = [flow.ref for flow in stored.flows()]
    assert len(left) == 2 + 3 + 5
    assert left[:5] == [*used[:2], *used[-3:]], "what is under way or held stays"
    assert "not known here" in waiting[1].get(sandbox.consent(urls[1])).text
    assert "is connected" in waiting[-1].get(sandbox.consent(urls[-1])).text


# Calls to Keap at once


@pytest.mark.proves("R99", "F93")
def test_a_callback_beyond_the_calls_at_once_uses_nothing_up(
    app: Flask, sandbox: Sandbox, stored: Stored, all_slots_are_taken: ExitStack
):
    visitor = visit(app, sandbox)
    callback_url = sandbox.consent(visitor.set_out())

    assert is_busy(visitor.get(callback_url))
    assert (token_calls(sandbox), [flow.consumed_at for flow in stored.flows()]) == ([], [None])

    all_slots_are_taken.close()
    assert "Your Keap account is connected" in visitor.get(callback_url).text


def test_what_does_not_ask_keap_needs_no_slot(app: Flask, sandbox: Sandbox, request: pytest.FixtureRequest):
    visitor, other = visit(app, sandbox), visit(app, sandbox)
    callback_url = sandbox.consent(visitor.set_out())
    visitor.get(callback_url)
    denied_url = sandbox.consent(other.set_out(), allow=False)
    request.getfixturevalue("all_slots_are_taken")

    assert "Your Keap account is connected" in visitor.get(callback_url).text, "a second copy sees the result"
    assert "access denied" in other.get(denied_url).text


@pytest.mark.proves("R99")
def test_each_page_that_asks_keap_says_that_it_is_busy(
    world: World, sandbox: Sandbox, stored: Stored, request: pytest.FixtureRequest
):
    world.admin.get("/import/file")
    form = world.admin.fields("/import/file")
    stored.set(world.account_id, keap_user_id=None)
    with world.app.app_context(), write_transaction() as session:
        interrupted = {"ending": None, "pending_until": None, "consumed_at": utc_now() - flows.EXCHANGE_LIFE}
        held = AuthorizationFlow.ref == world.held_ref
        session.execute(update(AuthorizationFlow).where(held).values(**interrupted))
    before, calls = stored.rows(), len(sandbox.ledger()["presentations"])
    request.getfixturevalue("all_slots_are_taken")

    def press(path: str, **fields: str) -> requests.Response:
        return send(world.admin, "POST", path, data={**form, "password": ADMIN_PASSWORD, **fields})

    assert is_busy(world.customer.get(f"/connect/{world.held_ref}"))
    assert is_busy(press("/setup/check"))
    assert is_busy(press("/import", kind="personal_access_token", access_token=sandbox.make_key()))
    for act in ("refresh", "complete"):
        assert press(f"/accounts/1/{act}").status_code == 303
        assert "Keap is busy" in world.admin.get("/accounts/1").text
    assert (stored.rows(), len(sandbox.ledger()["presentations"])) == (before, calls)


@pytest.mark.proves("R99")
def test_an_import_by_api_beyond_the_calls_at_once_may_come_again(
    app: Flask, sandbox: Sandbox, all_slots_are_taken: ExitStack
):
    with app.app_context():
        program = Program(app, issue_api_key("job", [Scope.ACCOUNTS_WRITE], "x").text)
    body = {"kind": "personal_access_token", "access_token": sandbox.make_key()}

    def ask() -> requests.Response:
        return program.post("/api/v1/accounts", body)

    refused = ask()
    all_slots_are_taken.close()

    assert refused.status_code == 503
    assert (refused.json()["error"], refused.json()["is_retryable"]) == ("temporarily_unavailable", True)
    assert int(refused.headers["Retry-After"]) > 0
    assert ask().status_code == 201


# Forms


@pytest.mark.proves("R99")
def test_refused_forms_are_limited_by_address_and_right_ones_still_come_through(
    app: Flask, visitor: Visitor, stored: Stored, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rate_limits, "REFUSED_FORMS_PER_MINUTE", RateLimitItemPerMinute(3))
    monkeypatch.setattr(rate_limits, "STARTED_FLOWS_PER_MINUTE", RateLimitItemPerMinute(1))

    refused = [send(visitor, "POST", "/connect") for _ in range(5)]

    assert [one.status_code for one in refused] == [403] * 3 + [429] * 2
    assert 1 <= int(refused[-1].headers["Retry-After"]) <= 60
    assert stored.flows() == []
    assert visitor.set_out(), "none of them counts as a start"
    assert send(visit(app, address="192.0.2.7"), "POST", "/connect").status_code == 403


# Rows


@pytest.mark.proves("R99")
def test_strangers_fill_no_table(app: Flask, monkeypatch: pytest.MonkeyPatch):
    """Every page that is open to anyone, asked and pressed again and again, each time from another address."""
    monkeypatch.setattr(flows, "MOST_UNUSED", 4)
    monkeypatch.setattr(flows, "MOST_ENDED", 4)
    monkeypatch.setattr(flows, "MOST_RECORDED_AN_HOUR", 4)
    monkeypatch.setattr(passwords, "ATTEMPTS_OF_STRANGERS", 4)
    monkeypatch.setattr(passwords, "REFUSALS_IN_HISTORY", 4)
    open_to_anyone = [endpoint for endpoint, audience in AUDIENCES.items() if audience in {"anyone", "browser"}]
    with_a_form = set(posts(app)) & set(open_to_anyone)

    def count_rows() -> dict[str, int]:
        with app.app_context(), db.engine.connect() as connection:
            numbers = {
                t.name: connection.scalar(select(func.count()).select_from(t)) for t in Base.metadata.sorted_tables
            }
        return {name: number for name, number in numbers.items() if number}

    with app.app_context():
        prepare_to_serve(app.extensions["keap_connect"].settings)  # which stores rows of its own
    before = count_rows()
    for number in range(8):
        stranger = visit(app, address=f"192.0.2.{number}")
        state = state_in(stranger.set_out())
        send(stranger, "GET", f"/callback?state={state}&code=made-up")
        for endpoint in open_to_anyone:
            send(stranger, "GET", address(endpoint))
        stranger.get("/signin")
        token = stranger.fields("/signin")["csrf_token"]
        for endpoint in with_a_form:
            fields = {**FORMS[endpoint], "csrf_token": token, "email": f"{number}@example.com"}
            send(stranger, "POST", address(endpoint), data=fields)

    added = {name: number - before.get(name, 0) for name, number in count_rows().items()}
    most = {"authorization_flow": 4 + 4 + 1, "sign_in_attempt": 3 * 4 + 4, "account_event": 4 + 4}
    assert {name: number for name, number in added.items() if number > most.get(name, 0)} == {}
