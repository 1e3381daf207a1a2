"""Grants that are stored later than they came: none takes the place of a newer one, ends a disconnect, or is lost."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from flask import Flask
from sqlalchemy import update

from keap_connect.accounts.changes import disconnect
from keap_connect.clock import utc_now
from keap_connect.connect import callback, confirming, flows, matching
from keap_connect.connect.identifying import identify_pending
from keap_connect.connect.importing import ImportedCredential, import_credential
from keap_connect.connect.invitations import NewInvitation, get_invitation, make_invitation
from keap_connect.connect.matching import match_grant
from keap_connect.connect.reconnect_links import make_link
from keap_connect.database import write_transaction
from keap_connect.keap.user_info import Identity, ask_identity
from keap_connect.models import AuthorizationFlow
from keap_connect.refresh.serving import valid_token
from keap_connect.refresh.worker import RefreshWorker
from tests.conftest import MovedClock
from tests.connect.test_matching import count_lock_waits
from tests.flows.endings import heading_of, next_steps
from tests.flows.stored import Stored
from tests.support.drills import wait_until
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.sandbox import ANN, BEN, Sandbox
from tests.support.visitor import Visitor
from tests.web.direct import visit

ANN_LEE, BEN_ORTIZ = "ann.lee@example.com", "ben.ortiz@example.com"

pytestmark = pytest.mark.proves("R28")


@pytest.fixture
def environ(environ: dict[str, str], request: pytest.FixtureRequest) -> dict[str, str]:
    """Give the environment of the app; a test changes it by an indirect parameter."""
    return {**environ, **getattr(request, "param", {})}


@pytest.fixture
def new_visitor(app: Flask, sandbox: Sandbox) -> Callable[[], Visitor]:
    return lambda: visit(app, sandbox)


@pytest.fixture
def interrupt(
    stored: Stored, new_visitor: Callable[[], Visitor], monkeypatch: pytest.MonkeyPatch, clock: MovedClock
) -> Callable[..., list[str]]:
    """Give the function that lets a process die once it has a grant, a minute ago, and returns that grant's tokens."""

    def interrupt(action: str, **choices: str) -> list[str]:
        with monkeypatch.context() as dying:
            dying.setattr(callback, "identify_and_store", lambda _flow: None)
            new_visitor().connect(action=action, page=page_of(action), **choices)
        clock.advance(minutes=1)
        return stored.held_tokens()

    return interrupt


@pytest.fixture
def complete(clock: MovedClock) -> Callable[[], None]:
    """Give what a worker does with what was interrupted, once its process must be dead."""

    def complete() -> None:
        clock.advance(minutes=1)
        callback.complete_interrupted()

    return complete


def page_of(action: str) -> str:
    return "/" if action == "/connect" else action


def link_to(account_id: int = 1) -> str:
    return urlsplit(make_link(account_id, "x").url).path


def invite(**wanted: object) -> str:
    return urlsplit(make_invitation(NewInvitation(**wanted), "x").url).path


def connect_again(stored: Stored, person: str = ANN_LEE, tenant: str = "ab123", wanted: int | None = None) -> None:
    """Store a grant that comes just now."""
    with write_transaction() as session:
        match_grant(session, stored.grant(tenant, person), wanted)


def end(stored: Stored) -> tuple[str | None, int | None]:
    """Return how the first flow ended, whose grant is no longer kept."""
    flow = stored.flows()[0]
    assert flow.pending_grant_sealed is None
    return flow.ending, flow.account_id


class TestInterrupted:
    """A process dies with a fresh grant, and a worker completes its journey after others."""

    @pytest.mark.parametrize("way", ["link", "invitation", "open door"])
    def test_the_pair_of_the_journey_after_it_stays(
        self, stored: Stored, new_visitor: Callable[[], Visitor], interrupt: Callable, complete: Callable, way: str
    ):
        stored.place()
        action = {"link": link_to, "invitation": lambda: invite(label="Acme"), "open door": lambda: "/connect"}[way]()
        interrupt(action)
        new_visitor().connect(action=action, page=page_of(action))
        newer, history = stored.tokens(1), stored.history(1)

        complete()

        assert (stored.tokens(1), end(stored)) == (newer, ("reconnected", 1))
        assert stored.history(1) == history

    @pytest.mark.parametrize("way", ["link", "invitation", "open door"])
    @on_sqlite
    def test_an_account_that_was_disconnected_after_it_stays_so(
        self, stored: Stored, interrupt: Callable, complete: Callable, way: str
    ):
        stored.place()
        interrupt({"link": link_to, "invitation": invite, "open door": lambda: "/connect"}[way]())
        disconnect(1, "x")

        complete()

        assert (stored.tokens(1), end(stored)) == ((None, None), ("disconnected", None))
        assert len(stored.accounts()) == 1

    @on_sqlite
    def test_an_account_that_was_disconnected_before_it_is_connected_with_the_date_of_the_grant(
        self, stored: Stored, interrupt: Callable, complete: Callable, clock: MovedClock
    ):
        stored.place()
        disconnect(1, "x")
        before = utc_now()
        held = interrupt("/connect")

        complete()

        assert (stored.tokens(1), end(stored)) == (tuple(held), ("reconnected", 1))
        assert 0 <= (stored.account().connected_at - before).total_seconds() < 60

    @pytest.mark.parametrize("environ", [{}, {"CONNECT_MODE": "invitation"}], indirect=True)
    @pytest.mark.parametrize("meanwhile", ["connected again", "disconnected"])
    @on_sqlite
    def test_another_person_does_not_take_an_account_over_that_changed_after_their_grant(
        self, stored: Stored, interrupt: Callable, complete: Callable, environ: dict[str, str], meanwhile: str
    ):
        stored.place()
        held = interrupt(link_to(), person=BEN_ORTIZ)
        if meanwhile == "disconnected":
            disconnect(1, "x")
        else:
            connect_again(stored)
        before = stored.tokens(1)

        complete()

        assert stored.tokens(1) == before
        if "CONNECT_MODE" in environ:
            assert end(stored) == ("link_gone", None)
        else:
            assert (stored.tokens(2), end(stored)) == (tuple(held), ("connected", 2))
            assert stored.owner(2) == ("ab123", BEN)

    @pytest.mark.parametrize("is_confirmed", [True, False])
    @on_sqlite
    def test_by_an_invitation_that_asks_for_confirmation_it_waits_without_replacing_a_newer_one(
        self, stored: Stored, interrupt: Callable, complete: Callable, is_confirmed: bool
    ):
        stored.place()
        interrupt(invite(needs_confirmation=True, external_id="crm:7"))
        connect_again(stored)
        newer = stored.tokens(1)

        complete()

        assert (stored.tokens(1), end(stored)) == (newer, ("confirmation_pending", 1))
        decided = confirming.confirm(1, "x") if is_confirmed else confirming.decline(1, "x")
        assert decided.state == ("connected" if is_confirmed else "opened")
        assert (stored.tokens(1), stored.account().external_id) == (newer, "crm:7" if is_confirmed else None)

    @on_sqlite
    def test_an_invitation_is_used_by_the_newer_grant_of_the_same_person(
        self, stored: Stored, interrupt: Callable, complete: Callable
    ):
        stored.place()
        interrupt(invite(external_id="crm:7"))
        connect_again(stored)
        newer = stored.tokens(1)

        complete()

        assert (stored.tokens(1), end(stored)) == (newer, ("reconnected", 1))
        assert (stored.account().external_id, get_invitation(1).state) == ("crm:7", "connected")

    @on_sqlite
    def test_unnamed_it_gets_an_account_with_the_date_on_which_it_came_and_replaces_no_newer_one(
        self, stored: Stored, interrupt: Callable, complete: Callable, sandbox: Sandbox
    ):
        stored.place()
        interrupt("/connect")
        connect_again(stored)
        newer = stored.tokens(1)
        sandbox.fault("html_503", "api")
        complete()
        sandbox.clear_faults()

        assert identify_pending(2) == 1

        assert (stored.account().id, stored.tokens(1)) == (1, newer)

    @on_sqlite
    def test_it_replaces_a_pair_that_was_refused_since_then(
        self, stored: Stored, interrupt: Callable, complete: Callable
    ):
        held = interrupt("/connect")
        stored.place(refused_at=utc_now())

        complete()

        assert (stored.tokens(1), end(stored)) == (tuple(held), ("reconnected", 1))


@on_sqlite
def test_a_journey_that_is_overtaken_while_keap_names_its_person_does_not_replace_the_newer_pair(
    stored: Stored, new_visitor: Callable[[], Visitor], monkeypatch: pytest.MonkeyPatch
):
    def overtake(*asked: object) -> Identity:
        monkeypatch.setattr(callback, "ask_identity", ask_identity)
        new_visitor().connect()
        return ask_identity(*asked)

    monkeypatch.setattr(callback, "ask_identity", overtake)

    slow = new_visitor()
    slow.connect()

    assert [flow.ending for flow in stored.flows()] == ["reconnected", "connected"]
    assert heading_of(slow) == "Your Keap account is connected again"
    assert stored.history(1) == ["connected"]


@pytest.mark.parametrize("meanwhile", ["connected", "connected and disconnected"])
@on_sqlite
def test_who_decides_late_to_connect_another_keap_account_does_not_replace_its_newer_pair(
    stored: Stored, new_visitor: Callable[[], Visitor], clock: MovedClock, meanwhile: str
):
    stored.place()
    person = new_visitor()
    link = link_to()
    person.connect(action=link, page=link, tenant="cd456")
    held = stored.held_tokens()
    clock.advance(minutes=1)
    connect_again(stored, tenant="cd456")
    newer = stored.tokens(2)
    if meanwhile != "connected":
        disconnect(2, "x")

    person.press(next_steps(person)[1], choice="connect")

    # Who disconnected the account has decided before this person did.
    assert stored.tokens(2) == (newer if meanwhile == "connected" else tuple(held))
    assert end(stored) == ("reconnected", 2)


@pytest.mark.parametrize("meanwhile", ["connected again", "disconnected"])
@on_sqlite
def test_a_pending_account_that_is_named_late_takes_no_account_over_that_changed_since_then(
    stored: Stored, new_visitor: Callable[[], Visitor], sandbox: Sandbox, clock: MovedClock, meanwhile: str
):
    stored.place()
    link = link_to()
    sandbox.fault("html_503", "api")
    new_visitor().connect(action=link, page=link, person=BEN_ORTIZ)
    sandbox.clear_faults()
    held = stored.tokens(2)
    clock.advance(minutes=1)
    if meanwhile == "disconnected":
        disconnect(1, "x")
    else:
        connect_again(stored, wanted=1)
    before = stored.row(1)

    assert identify_pending(2) == 2

    assert (stored.row(1), stored.tokens(2), stored.owner(2)) == (before, held, ("ab123", BEN))
    assert stored.account(2).reconnects_account_id is None


@pytest.mark.parametrize("environ", [{"CONNECT_MODE": "invitation"}], indirect=True)
@pytest.mark.parametrize("meanwhile", ["", "connected again", "disconnected"])
@on_sqlite
def test_by_invitation_one_that_is_never_named_is_kept_unless_the_account_to_reconnect_changed_since_then(
    stored: Stored, new_visitor: Callable[[], Visitor], sandbox: Sandbox, clock: MovedClock, meanwhile: str
):
    stored.place()
    link = link_to()
    sandbox.fault("html_503", "api")
    sandbox.fault("missing_scope")
    new_visitor().connect(action=link, page=link)
    clock.advance(minutes=1)
    if meanwhile == "disconnected":
        disconnect(1, "x")
    elif meanwhile:
        connect_again(stored, wanted=1)
    before = stored.tokens(1)
    clock.advance(days=1)

    callback.complete_interrupted()

    assert stored.tokens(1) == before
    assert end(stored) == (("link_gone", None) if meanwhile else ("connected_pending", 2))
    assert len(stored.accounts()) == (1 if meanwhile else 2)


@on_sqlite
def test_a_grant_that_an_older_version_kept_came_when_its_flow_says(
    stored: Stored, interrupt: Callable, complete: Callable, monkeypatch: pytest.MonkeyPatch
):
    to_json = matching.Grant.to_json
    monkeypatch.setattr(matching.Grant, "to_json", lambda grant: to_json(grant).replace('"came_at"', '"gone"'))
    stored.place()
    interrupt(link_to())
    connect_again(stored)
    newer = stored.tokens(1)

    complete()

    assert (stored.tokens(1), end(stored)) == (newer, ("reconnected", 1))


@on_sqlite
def test_a_grant_that_is_confirmed_unnamed_after_its_access_token_ended_is_refreshed_at_once_and_then_named(
    app: Flask, stored: Stored, new_visitor: Callable[[], Visitor], sandbox: Sandbox, clock: MovedClock
):
    link = invite(needs_confirmation=True)
    sandbox.fault("html_503", "api")
    new_visitor().connect(action=link, page=link)
    sandbox.clear_faults()
    clock.advance(days=2)
    confirming.confirm(1, "x")
    assert stored.flows()[0].ending == "connected_pending"

    RefreshWorker(app).run(until_idle=True)

    assert stored.account().keap_user_id == str(ANN)


@pytest.mark.parametrize("is_disconnected", [False, True])
@on_sqlite
def test_dates_that_a_wrong_clock_wrote_stop_no_reconnect(
    stored: Stored, new_visitor: Callable[[], Visitor], clock: MovedClock, is_disconnected: bool
):
    clock.advance(days=400)
    stored.place()
    if is_disconnected:
        disconnect(1, "x")
    before = stored.tokens(1)
    clock.advance(days=-400)

    new_visitor().connect()

    assert (stored.tokens(1) == before, stored.flows()[0].ending) == (False, "reconnected")


@pytest.mark.parametrize("way", ["link", "invitation", "open door"])
@pytest.mark.parametrize("before", ["connected", "disconnected"])
@on_sqlite
def test_a_fresh_grant_is_stored_though_the_clock_of_the_host_before_was_ahead(
    stored: Stored, new_visitor: Callable[[], Visitor], clock: MovedClock, before: str, way: str
):
    clock.advance(seconds=40)
    new_visitor().connect()
    if before == "disconnected":
        disconnect(1, "x")
    older = stored.tokens(1)
    clock.advance(seconds=-40)
    action = {"link": link_to, "invitation": lambda: invite(label="Acme"), "open door": lambda: "/connect"}[way]()

    for _ in range(1 if way == "invitation" else 2):  # the second comes to an account with a date ahead
        new_visitor().connect(action=action, page=page_of(action))
        assert (stored.tokens(1) == older, stored.flows()[-1].ending) == (False, "reconnected")
        older = stored.tokens(1)
        action = link_to() if way == "link" else action


@on_sqlite
def test_an_account_stays_disconnected_though_a_host_whose_clock_is_ahead_had_connected_it(
    stored: Stored, interrupt: Callable, complete: Callable, clock: MovedClock
):
    stored.place()
    clock.advance(seconds=40)
    interrupt("/connect")
    clock.advance(minutes=-1)
    connect_again(stored)
    clock.advance(seconds=-40)
    disconnect(1, "x")
    clock.advance(minutes=2)

    complete()

    assert (stored.tokens(1), end(stored)[0]) == ((None, None), "disconnected")


@on_sqlite
def test_a_fresh_grant_takes_the_place_of_an_imported_pair_that_was_named_after_it_came(
    stored: Stored, sandbox: Sandbox, interrupt: Callable, complete: Callable, clock: MovedClock
):
    access_token, refresh_token = sandbox.generate_token(tenant="ab123")
    sandbox.advance(25 * 3600)
    stored.set(stored.place(), refused_at=utc_now(), next_refresh_at=None)
    pending = import_credential(ImportedCredential(access_token, refresh_token), "admin@example.com")
    clock.advance(seconds=5)
    held = interrupt("/connect")

    valid_token(pending, "job")
    identify_pending(pending)
    complete()

    assert stored.tokens(1) == tuple(held)


@pytest.mark.parametrize("environ", [{"KEEP_JOURNEYS": "1"}], indirect=True)
@on_sqlite
def test_an_outage_that_is_longer_than_journeys_are_kept_loses_no_grant(
    stored: Stored, interrupt: Callable, complete: Callable, clock: MovedClock
):
    held = interrupt("/connect")
    clock.advance(days=2)

    flows.forget_past()
    complete()

    assert stored.tokens(1) == tuple(held)


@on_postgresql
def test_a_journey_that_comes_back_while_it_is_dropped_as_unused_stays(
    app: Flask, stored: Stored, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(flows, "MOST_UNUSED_PER_BROWSER", 1)
    flows.start_flow("browser")

    def start() -> None:
        with app.app_context():
            flows.start_flow("browser")

    with ThreadPoolExecutor(1) as others:
        with write_transaction() as session:
            session.execute(update(AuthorizationFlow).values(consumed_at=utc_now()))  # its callback has come
            starting = others.submit(start)
            wait_until(lambda: count_lock_waits() > 0)
        starting.result()

    assert [flow.consumed_at is None for flow in stored.flows()] == [False, True]
