"""Invitations: only a stored grant uses one up, its account has its names at once, and nobody else takes its place."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from flask import Flask
from sqlalchemy import Update, select, text, update
from sqlalchemy.orm import Session

from keap_connect.access import sign_ins
from keap_connect.accounts import changes
from keap_connect.accounts.changes import disconnect, erase
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.connect import callback, confirming, invitations
from keap_connect.connect.endings import Ending
from keap_connect.connect.flows import forget_past
from keap_connect.connect.identifying import identify_pending
from keap_connect.connect.invitations import NewInvitation, get_invitation, make_invitation
from keap_connect.connect.matching import match_grant
from keap_connect.connect.reconnect_links import make_link
from keap_connect.database import count_updated, db, read_session, write_or_retry, write_transaction
from keap_connect.emergency_stop import stop_everything
from keap_connect.errors import ExternalIdTaken, FormRefused, InvitationClosed, InvitationNotFound, SealBroken
from keap_connect.events.deleting import delete_history
from keap_connect.models import (
    Account,
    AccountEvent,
    AuthorizationFlow,
    Delivery,
    Invitation,
    InvitationWord,
    WebhookEndpoint,
)
from keap_connect.notifications.endpoints import add_endpoint
from keap_connect.refresh import worker
from keap_connect.refresh.retention import delete_past
from keap_connect.refresh.worker import RefreshWorker
from keap_connect.settings import Settings
from tests.conftest import MovedClock
from tests.connect.test_matching import count_lock_waits
from tests.flows.endings import assert_ended, heading_of, next_steps
from tests.flows.stored import Stored, presented_twice, token_calls
from tests.support.drills import wait_until
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.sandbox import ANN, CLEO, Sandbox
from tests.support.visitor import Visitor
from tests.web.direct import send, visit

ANN_LEE, BEN_ORTIZ = "ann.lee@example.com", "ben.ortiz@example.com"
CLEO_MARSH = "cleo.marsh@example.com"
USED, GONE = "This invitation was used already", "This link does not work"
CHECKED = "Your connection is being checked"
KEYS = ("account_id", "external_id", "tenant_id")
BACK = "https://app.example.com/keap?step=2"


@pytest.fixture
def environ(environ: dict[str, str], request: pytest.FixtureRequest) -> dict[str, str]:
    """Give the environment of the app; a test changes it by an indirect parameter."""
    origins = {"RETURN_ORIGINS": "https://app.example.com, http://localhost:8080"}
    return {**environ, **origins, **getattr(request, "param", {})}


@pytest.fixture
def new_visitor(app: Flask, sandbox: Sandbox) -> Callable[[], Visitor]:
    return lambda: visit(app, sandbox)


def invite(**wanted: object) -> str:
    """Make an invitation and return the path of its link."""
    return urlsplit(make_invitation(NewInvitation(**wanted), "admin@example.com").url).path


def follow(visitor: Visitor, link: str, person: str = ANN_LEE, tenant: str = "ab123", allow: bool = True) -> None:
    visitor.connect(action=link, page=link, person=person, tenant=tenant, allow=allow)


def state(invitation_id: int = 1) -> str:
    return get_invitation(invitation_id).state


def events(invitation_id: int = 1) -> list[tuple[str, int | None]]:
    with read_session() as session:
        rows = session.scalars(select(AccountEvent).order_by(AccountEvent.id)).all()
    return [(one.kind, one.account_id) for one in rows if one.details.get("invitation") == invitation_id]


def announced() -> list[dict[str, object]]:
    with read_session() as session:
        return [one.payload for one in session.scalars(select(Delivery).order_by(Delivery.id))]


@pytest.mark.proves("R15", "F51")
def test_an_account_has_its_names_at_once_and_the_event_names_the_invitation(
    visitor: Visitor, stored: Stored, sandbox: Sandbox
):
    add_endpoint("https://example.com/hook", None, None, "x")
    link = invite(label="Bright Dental", external_id="crm:7", return_url=BACK)

    for method in ("HEAD", "OPTIONS", "GET", "GET"):  # a mail scanner, which then presses the button, too
        assert send(visitor, method, link).status_code == 200
    assert "Bright Dental" in visitor.text
    visitor.set_out(link, link)
    assert (state(), token_calls(sandbox)) == ("opened", [])
    follow(visitor, link, allow=False)
    assert_ended(visitor, Ending.DENIED, 200, "Keap says: access denied")
    (again,) = next_steps(visitor)
    visitor.connect(action=again, page=visitor.page.url)

    assert_ended(visitor, Ending.CONNECTED, 200, "Your Keap account is connected")
    assert f'href="{BACK}&amp;invitation=1"' in visitor.page.text
    account = stored.account()
    assert (account.label, account.external_id) == ("Bright Dental", "crm:7")
    assert (state(), get_invitation(1).account_id) == ("connected", account.id)
    assert events() == [
        ("invitation_made", None),
        ("connection.failed", None),
        ("invitation_used", 1),
        ("connected", 1),
    ]
    _, connected = announced()
    assert (connected["type"], connected["data"]["invitation_id"]) == ("account.connected", 1)
    assert connected["data"]["external_id"] == "crm:7"
    visitor.get(link)
    assert heading_of(visitor) == USED
    assert next_steps(visitor) == [f"{BACK}&amp;invitation=1"]


@on_sqlite
@pytest.mark.proves("R16")
def test_there_is_no_way_back_to_an_origin_that_is_no_longer_allowed(app: Flask, visitor: Visitor):
    link = invite(return_url=BACK)
    settings = app.extensions["keap_connect"].settings
    object.__setattr__(settings, "return_origins", frozenset({"https://other.example.com"}))

    follow(visitor, link)

    assert heading_of(visitor) == "Your Keap account is connected"
    assert "app.example.com" not in visitor.page.text


@on_sqlite
def test_only_a_person_who_sees_the_page_opens_an_invitation(visitor: Visitor):
    link = invite()

    send(visitor, "HEAD", link)
    assert state() == "sent"
    visitor.get(link)
    assert (state(), get_invitation(1).opened_at is not None) == ("opened", True)


@on_postgresql
@pytest.mark.proves("R15")
def test_links_that_do_not_work_look_all_the_same_and_start_nothing(
    visitor: Visitor, clock: MovedClock, stored: Stored
):
    old, replaced, withdrawn = invite(valid_days=1), invite(), invite()
    invitations.resend(2, "x")
    invitations.withdraw(3, "x")
    clock.advance(days=1, minutes=1)

    links = [old, replaced, withdrawn, "/i/" + "A" * 43, "/i/x"]
    answers = [visitor.get(link) for link in links]

    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.text for answer in answers}) == 1
    assert heading_of(visitor) == GONE
    visitor.get("/")
    form = {"csrf_token": visitor.fields("/connect")["csrf_token"]}
    assert {visitor.session.post(visitor.base_url + one, data=form).status_code for one in links} == {404}
    assert stored.flows() == []


@pytest.mark.parametrize("act", [invitations.withdraw, invitations.resend])
@on_sqlite
def test_who_is_at_keap_when_the_link_ends_connects_nothing(
    visitor: Visitor, stored: Stored, sandbox: Sandbox, act: Callable[[int, str], object], clock: MovedClock
):
    link = invite()
    answer = sandbox.consent(visitor.set_out(link, link), ANN_LEE, "ab123")
    sandbox.clear_ledger()
    clock.advance(seconds=1)
    act(1, "x")

    visitor.get(answer)

    assert heading_of(visitor) == "This link no longer works"
    assert (token_calls(sandbox), stored.accounts()) == ([], [])


@pytest.mark.parametrize("is_connected", [False, True])
@on_sqlite
def test_used_up_between_the_last_look_and_the_answer_it_connects_nobody_new(
    new_visitor: Callable[[], Visitor],
    stored: Stored,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    is_connected: bool,
):
    link, second = invite(label="Acme"), new_visitor()
    answer = sandbox.consent(second.set_out(link, link), ANN_LEE if is_connected else BEN_ORTIZ, "ab123")
    monkeypatch.setattr("keap_connect.connect.callback._link_still_works", lambda _flow: True)
    follow(new_visitor(), link)
    before = stored.row(1)

    second.get(answer)

    assert len(stored.accounts()) == 1
    # Keap may have ended the earlier grant of the same person, so the fresh one is stored.
    assert (stored.row(1) != before) == is_connected
    assert heading_of(second) == (
        "Your Keap account is connected again" if is_connected else "This link no longer works"
    )


@on_sqlite
def test_names_that_are_taken_lose_no_grant_and_the_history_says_so(visitor: Visitor, stored: Stored):
    first, second = invite(external_id="crm:7", label="Acme"), invite(external_id="crm:7", label="Other")
    follow(visitor, first)
    follow(visitor, second, tenant="cd456")
    third = invite(external_id="crm:9", label="Third")
    follow(visitor, third)

    assert [(one.label, one.external_id) for one in stored.accounts()] == [("Acme", "crm:7"), ("Other", None)]
    assert [state(number) for number in (1, 2, 3)] == ["connected"] * 3
    assert stored.details(2, "external_id_not_set")["holder"] == "account 1 has it"
    assert stored.details(1, "external_id_not_set")["holder"] == "this account has crm:7 already"
    with pytest.raises(ExternalIdTaken, match="Account 1 has this external id already: make a reconnect link"):
        invite(external_id="crm:7")


@on_sqlite
def test_a_pending_account_keeps_its_names_and_its_invitation_when_keap_says_whose_it_is(
    visitor: Visitor, stored: Stored, sandbox: Sandbox
):
    known = stored.place("ab123", ANN_LEE)
    add_endpoint("https://example.com/hook", None, ["account.reconnected", "account.disconnected"], "x")
    sandbox.fault("html_503", "api")
    follow(visitor, invite(label="Acme", external_id="crm:7"))
    assert_ended(visitor, Ending.CONNECTED_PENDING, 200, "Connected; the details follow")
    sandbox.clear_faults()

    assert identify_pending(2) == known
    assert (stored.account().label, stored.account().external_id) == ("Acme", "crm:7")
    assert get_invitation(1).account_id == known
    named = [(one["type"], *(one["data"][name] for name in KEYS)) for one in announced()]
    assert named == [("account.reconnected", known, "crm:7", "ab123"), ("account.disconnected", 2, None, "ab123")]


@pytest.mark.proves("R28")
@on_sqlite
def test_of_two_pending_accounts_of_one_person_the_newer_grant_stays(
    visitor: Visitor, stored: Stored, sandbox: Sandbox, clock: MovedClock
):
    stored.place("ab123", ANN_LEE)
    sandbox.fault("html_503", "api")
    for _ in range(2):
        clock.advance(minutes=5)
        follow(visitor, invite())
    newer = stored.tokens(3)
    clock.advance(hours=1)
    sandbox.clear_faults()

    assert [identify_pending(2), identify_pending(3)] == [1, 1]
    assert stored.tokens(1) == newer


@pytest.mark.parametrize("environ", [{"CONNECT_MODE": "invitation"}], indirect=True)
@on_sqlite
def test_without_an_invitation_the_door_is_closed_and_reconnecting_works(
    visitor: Visitor, new_visitor: Callable[[], Visitor], stored: Stored, sandbox: Sandbox
):
    link = invite()
    visitor.get(link)
    form = {"csrf_token": visitor.fields(link)["csrf_token"]}
    for path in ("/", "/connect"):
        assert heading_of_page(visitor, path) == (200, "You need an invitation")
    refused = visitor.session.post(visitor.base_url + "/connect", data=form)
    assert (refused.status_code, stored.flows()) == (403, [])

    follow(visitor, link)
    visitor.reconnect(1)
    assert_ended(visitor, Ending.RECONNECTED, 200, "Your Keap account is connected again")
    visitor.get("/your-accounts")
    assert 'action="/connect"' not in visitor.page.text
    # Another Keap account would be a new one.
    visitor.reconnect(1, tenant="cd456")
    again, action = next_steps(visitor)
    assert again == "/reconnect/1"
    assert visitor.press(action, choice="connect").status_code == 400
    visitor.get(visitor.page.url.removesuffix("/confirm"))
    visitor.press(action, choice="discard")
    assert next_steps(visitor) == ["/reconnect/1"]
    assert len(stored.accounts()) == 1


@pytest.mark.proves("R15")
@pytest.mark.parametrize("environ", [{"CONNECT_MODE": "invitation"}], indirect=True)
@on_sqlite
def test_two_at_one_reconnect_link_are_no_door_to_a_new_account(
    new_visitor: Callable[[], Visitor], stored: Stored, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    stored.place("ab123", ANN_LEE)
    link = urlsplit(make_link(1, "x").url).path
    second = new_visitor()
    answer = sandbox.consent(second.set_out(link, link), CLEO_MARSH, "ef789")
    monkeypatch.setattr("keap_connect.connect.callback._link_still_works", lambda _flow: True)
    follow(new_visitor(), link)

    second.get(answer)

    assert heading_of(second) == "This link no longer works"
    assert (len(stored.accounts()), stored.flows()[0].pending_grant_sealed) == (1, None)


@pytest.mark.proves("R15", "R28")
@pytest.mark.parametrize("environ", [{"CONNECT_MODE": "invitation"}], indirect=True)
@pytest.mark.parametrize("meanwhile", ["", "connected again", "disconnected", "erased", "another person"])
@on_sqlite
def test_while_keap_names_nobody_a_reconnect_makes_no_account_but_waits(
    visitor: Visitor, stored: Stored, sandbox: Sandbox, clock: MovedClock, meanwhile: str
):
    stored.place("ab123", ANN_LEE)
    link = urlsplit(make_link(1, "x").url).path
    before = stored.tokens(1)
    sandbox.fault("html_503", "api")
    sandbox.fault("missing_scope")
    follow(visitor, link, person=BEN_ORTIZ if meanwhile == "another person" else ANN_LEE)
    assert_ended(visitor, Ending.IDENTITY_PENDING, 200, "Keap has not named your account yet")
    assert next_steps(visitor) == [urlsplit(visitor.page.url).path]
    assert (len(stored.accounts()), stored.tokens(1)) == (1, before)
    held = stored.held_tokens()
    clock.advance(minutes=1)
    if meanwhile in {"connected again", "another person"}:
        with write_transaction() as session:
            match_grant(session, stored.grant("ab123", ANN_LEE), 1)
    if meanwhile == "disconnected":
        disconnect(1, "x")
    if meanwhile == "erased":
        erase(1, "x")
        visitor.get(visitor.page.url)
        assert (heading_of(visitor), stored.accounts()) == ("This link no longer works", [])
        return
    after = stored.tokens(1)
    sandbox.clear_faults()
    visitor.get(visitor.page.url)
    assert stored.flows()[-1].ending == Ending.IDENTITY_PENDING  # only the worker asks Keap, however often it is opened

    for flow_id in confirming.list_waiting():
        confirming.identify_waiting(flow_id)

    assert len(stored.accounts()) == 1
    is_stored = meanwhile == ""
    assert stored.tokens(1) == (tuple(held) if is_stored else after)
    endings = {"disconnected": Ending.DISCONNECTED, "another person": Ending.LINK_GONE}
    ending = endings.get(meanwhile, Ending.RECONNECTED)
    assert (stored.flows()[-1].ending, stored.flows()[-1].pending_grant_sealed) == (ending, None)


@pytest.mark.proves("R28")
@pytest.mark.parametrize("environ", [{"CONNECT_MODE": "invitation"}], indirect=True)
@on_sqlite
def test_of_two_grants_that_wait_for_one_account_the_newer_stays_with_its_date(
    visitor: Visitor, stored: Stored, sandbox: Sandbox, clock: MovedClock
):
    stored.place("ab123", ANN_LEE)
    link = urlsplit(make_link(1, "x").url).path
    sandbox.fault("html_503", "api")
    sandbox.fault("missing_scope")
    follow(visitor, link)
    clock.advance(minutes=5)
    follow(visitor, link)
    came_at, held = utc_now(), stored.held_tokens()
    clock.advance(hours=12)
    sandbox.clear_faults()

    for flow_id in sorted(confirming.list_waiting()):
        confirming.identify_waiting(flow_id)

    assert stored.tokens(1) == tuple(held)
    assert [flow.ending for flow in stored.flows()] == [Ending.RECONNECTED] * 2
    account = stored.account()
    assert account.connected_at == account.refresh_token_issued_at
    assert abs(account.connected_at - came_at) < timedelta(minutes=1)


@pytest.mark.proves("R28")
@pytest.mark.parametrize("environ", [{"CONNECT_MODE": "invitation"}], indirect=True)
@on_sqlite
def test_whom_keap_has_not_named_after_a_day_gets_a_pending_account_until_a_refresh_lets_keap_name_it(
    app: Flask, visitor: Visitor, stored: Stored, sandbox: Sandbox, clock: MovedClock
):
    stored.place("ab123", ANN_LEE)
    link = urlsplit(make_link(1, "x").url).path
    sandbox.fault("html_503", "api")
    sandbox.fault("missing_scope")
    follow(visitor, link)
    clock.advance(minutes=1)
    follow(visitor, link)  # the first grant has not used it up
    came_at, held = utc_now(), stored.held_tokens()
    clock.advance(days=1, minutes=1)
    sandbox.clear_faults()
    sandbox.clear_ledger()

    forget_past()
    for _ in range(2):
        callback.complete_interrupted()

    assert [flow.ending for flow in stored.flows()] == [Ending.CONNECTED_PENDING] * 2
    assert (len(stored.accounts()), stored.tokens(3)) == (3, tuple(held))
    assert sandbox.ledger()["presentations"] == []
    RefreshWorker(app).run(until_idle=True)
    assert stored.owner(stored.account().id) == ("ab123", ANN)
    assert abs(stored.account().connected_at - came_at) < timedelta(minutes=1)
    assert presented_twice(sandbox) == []


@pytest.mark.parametrize("environ", [{"CONNECT_MODE": "invitation"}, {}], indirect=True)
@on_sqlite
def test_the_access_token_of_a_grant_that_waits_is_sent_to_no_server_that_the_settings_name_since_then(
    visitor: Visitor, stored: Stored, sandbox: Sandbox, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    stored.place("ab123", ANN_LEE)
    sandbox.fault("html_503", "api")
    sandbox.fault("missing_scope")
    is_reconnect = "CONNECT_MODE" in environ
    follow(visitor, urlsplit(make_link(1, "x").url).path if is_reconnect else invite(needs_confirmation=True))
    held = stored.held_tokens()
    other = create_app(Settings.from_env({**environ, "KEAP_TOKEN_URL": f"{sandbox.url}/other"}))
    monkeypatch.setattr(callback, "ask_identity", None)

    with other.app_context():
        for flow_id in confirming.list_waiting():
            confirming.identify_waiting(flow_id)
        db.engine.dispose()

    assert (len(held), stored.held_tokens()) == (2, held)


@pytest.mark.proves("R28")
@pytest.mark.parametrize("environ", [{"CONNECT_MODE": "invitation"}], indirect=True)
@on_sqlite
def test_named_late_another_person_gets_the_grant_though_the_account_to_reconnect_has_a_newer_one(
    visitor: Visitor, stored: Stored, sandbox: Sandbox, clock: MovedClock
):
    for person in (ANN_LEE, BEN_ORTIZ):
        stored.place("ab123", person)
    link = urlsplit(make_link(1, "x").url).path
    sandbox.fault("html_503", "api")
    sandbox.fault("missing_scope")
    follow(visitor, link, person=BEN_ORTIZ)
    held = stored.held_tokens()
    clock.advance(minutes=1)
    with write_transaction() as session:
        match_grant(session, stored.grant("ab123", ANN_LEE), 1)
    of_ann = stored.tokens(1)
    sandbox.clear_faults()

    for flow_id in confirming.list_waiting():
        confirming.identify_waiting(flow_id)

    assert (stored.tokens(1), stored.tokens(2)) == (of_ann, tuple(held))
    assert stored.mixed_up() == []


@pytest.mark.parametrize("environ", [{"CONNECT_MODE": "invitation"}], indirect=True)
@on_sqlite
def test_who_reconnects_an_account_that_is_erased_meanwhile_makes_no_new_one(
    visitor: Visitor, stored: Stored, sandbox: Sandbox
):
    follow(visitor, invite())
    visitor.get("/your-accounts")
    answer = sandbox.consent(visitor.set_out("/reconnect/1", "/reconnect/1"), ANN_LEE, "ab123")
    erase(1, "x")

    visitor.get(answer)

    assert (heading_of(visitor), stored.accounts()) == ("This link no longer works", [])


@pytest.mark.proves("R15")
@pytest.mark.parametrize("gone_by", ["erasing its account", "age"])
@on_sqlite
def test_who_is_at_keap_when_the_invitation_is_deleted_connects_nothing(
    new_visitor: Callable[[], Visitor], stored: Stored, sandbox: Sandbox, clock: MovedClock, gone_by: str
):
    link, second = invite(expected_tenant_id="ab123", valid_days=1), new_visitor()
    if gone_by == "age":
        clock.advance(days=1, minutes=-5)
    answer = sandbox.consent(second.set_out(link, link), CLEO_MARSH, "ef789")
    if gone_by == "age":
        clock.advance(minutes=6)
        invitations.forget_past_invitations(timedelta(0))
    else:
        follow(new_visitor(), link)
        erase(1, "x")

    second.get(answer)

    assert (heading_of(second), stored.accounts()) == ("This link no longer works", [])


@on_postgresql
def test_an_invitation_that_is_resent_while_it_is_deleted_stays(app: Flask):
    invite()
    with write_transaction() as session:
        session.execute(update(Invitation).values(state="expired", expires_at=utc_now() - timedelta(days=1)))

    def forget() -> None:
        with app.app_context():
            invitations.forget_past_invitations(timedelta(0))

    with ThreadPoolExecutor(1) as others:
        with write_transaction() as session:
            invitations.resend_in(session, 1, "x")
            session.flush()
            deleting = others.submit(forget)
            wait_until(lambda: count_lock_waits() > 0)
            session.execute(update(Invitation).values(expires_at=utc_now() + timedelta(days=1)))
        deleting.result()

    assert state() == "sent"


def heading_of_page(visitor: Visitor, path: str) -> tuple[int, str]:
    visitor.get(path)
    return visitor.page.status_code, heading_of(visitor)


class TestForwardedLink:
    """Ann was invited; Cleo, who got the link from somebody, opens it first, in a browser of his own."""

    @pytest.fixture
    def link(self, app: Flask, request: pytest.FixtureRequest) -> str:
        add_endpoint("https://example.com/hook", None, ["invitation.waiting", "invitation.expired"], "x")
        binding = getattr(request, "param", {"needs_confirmation": True})
        return invite(label="Acme", external_id="crm:7", return_url=BACK, **binding)

    @pytest.fixture
    def cleo(self, link: str, new_visitor: Callable[[], Visitor]) -> Visitor:
        person = new_visitor()
        follow(person, link, person=CLEO_MARSH, tenant="ef789")
        assert heading_of(person) == CHECKED
        assert next_steps(person) == [f"{BACK}&amp;invitation=1"]
        return person

    @pytest.mark.proves("R14", "R15")
    @pytest.mark.parametrize(
        "link", [{"needs_confirmation": True}, {"expected_tenant_id": "AB123.infusionsoft.com"}], indirect=True
    )
    @on_sqlite
    def test_connects_nobody_until_it_is_confirmed(
        self, link: str, cleo: Visitor, visitor: Visitor, stored: Stored, sandbox: Sandbox
    ):
        assert (stored.accounts(), state()) == ([], "waiting")
        waiting = confirming.view_waiting(1)
        assert waiting is not None
        assert (waiting.tenant_id, waiting.person_email) == ("ef789", CLEO_MARSH)
        assert confirming.list_waiting() == []  # Keap has nothing to say about it
        (payload,) = announced()
        assert payload["type"] == "invitation.waiting"
        data = payload["data"]
        assert (data["invitation_id"], data["external_id"], data["tenant_id"]) == (1, "crm:7", "ef789")
        assert data["url"].endswith("/invitations/1")
        # Cleo cannot confirm himself, and Ann's browser connects nothing meanwhile.
        path = f"{urlsplit(cleo.page.url).path}/confirm"
        cleo.get("/")
        form = {"csrf_token": cleo.fields("/connect")["csrf_token"]}
        for choice in ("connect", "discard"):
            cleo.session.post(cleo.base_url + path, data={**form, "choice": choice})
        visitor.get(link)
        assert (heading_of(visitor), stored.accounts(), state()) == (CHECKED, [], "waiting")
        assert ("If it was you" in visitor.text, "You have nothing more to do. " in visitor.text) == (True, False)
        assert stored.held_tokens()

    @pytest.mark.proves("R28")
    @on_sqlite
    def test_a_second_completion_of_its_interrupted_flow_keeps_the_grant_that_waits(
        self, link: str, visitor: Visitor, stored: Stored, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
    ):
        with monkeypatch.context() as dying:
            dying.setattr(callback, "identify_and_store", lambda _flow: None)
            follow(visitor, link, person=CLEO_MARSH, tenant="ef789")
        clock.advance(seconds=91)
        interrupted = stored.flows()[-1]  # as the page of the result and two workers read it

        for _ in range(2):
            callback.identify_and_store(interrupted)

        assert (state(), stored.flows()[-1].ending) == ("waiting", Ending.CONFIRMATION_PENDING)
        confirming.confirm(1, "x")
        assert stored.owner(stored.account().id) == ("ef789", CLEO)

    @on_postgresql
    @pytest.mark.parametrize("link", [{"expected_tenant_id": "ab123"}], indirect=True)
    def test_declined_the_grant_is_gone_and_the_right_person_connects(
        self, link: str, cleo: Visitor, visitor: Visitor, stored: Stored, database_url: str
    ):
        held = [flow.pending_grant_sealed for flow in stored.flows()][-1]
        assert held

        confirming.decline(1, "x")

        assert stored.flows()[-1].pending_grant_sealed is None
        if database_url.startswith("sqlite"):
            path = database_url.removeprefix("sqlite:///")
            for suffix in ("", "-wal"):
                with open(path + suffix, "rb") as file:
                    assert held[:40] not in file.read()
        cleo.get(cleo.page.url)
        assert_ended(cleo, Ending.CONFIRMATION_DECLINED, 200, "Your Keap account was not connected")
        follow(visitor, link)
        account = stored.account()
        assert (stored.owner(account.id), account.label, account.external_id) == (("ab123", ANN), "Acme", "crm:7")
        with pytest.raises(InvitationClosed):
            confirming.decline(1, "x")

    @on_sqlite
    def test_confirmed_it_is_connected_with_the_names_and_the_date_of_the_grant(
        self, link: str, cleo: Visitor, stored: Stored, clock: MovedClock
    ):
        came_at = utc_now()
        clock.advance(days=5)

        confirmed = confirming.confirm(1, "admin@example.com")

        account = stored.account()
        assert (confirmed.state, confirmed.account_id) == ("connected", account.id)
        assert (stored.owner(account.id), account.label, account.external_id) == (("ef789", CLEO), "Acme", "crm:7")
        assert account.state == "active"
        assert account.refresh_token_issued_at is not None
        assert abs(account.refresh_token_issued_at - came_at) < timedelta(minutes=1)
        assert account.connected_at == account.refresh_token_issued_at
        assert stored.flows()[-1].pending_grant_sealed is None
        assert stored.history(account.id) == ["invitation_used", "connected"]
        assert events()[-3][0] == "invitation_confirmed"
        with pytest.raises(InvitationClosed):
            confirming.confirm(1, "x")

    @on_sqlite
    def test_confirmed_late_it_takes_the_place_of_no_newer_grant(
        self, cleo: Visitor, stored: Stored, clock: MovedClock
    ):
        clock.advance(minutes=1)
        stored.place("ef789", CLEO_MARSH)
        newer = stored.tokens(1)

        confirming.confirm(1, "x")

        assert (stored.tokens(1), stored.account().external_id) == (newer, "crm:7")
        cleo.get(cleo.page.url)
        assert heading_of(cleo) == "Your Keap account is connected again"
        assert (stored.flows()[-1].pending_grant_sealed, stored.rows("sign_in")) == (None, [])

    @on_sqlite
    def test_confirmed_late_it_brings_back_no_account_that_was_disconnected_meanwhile(
        self, cleo: Visitor, stored: Stored, clock: MovedClock
    ):
        clock.advance(minutes=1)
        stored.place("ef789", CLEO_MARSH)
        disconnect(1, "x")

        with pytest.raises(InvitationClosed, match="disconnected after this person had allowed it"):
            confirming.confirm(1, "x")

        assert (stored.tokens(1), state()) == ((None, None), "waiting")
        assert confirming.decline(1, "x").state == "opened"

    @pytest.mark.parametrize("environ", [{"KEEP_JOURNEYS": "1"}], indirect=True)
    @on_sqlite
    def test_a_grant_that_nobody_confirms_is_deleted_after_seven_days(
        self, cleo: Visitor, stored: Stored, clock: MovedClock
    ):
        clock.advance(days=6, hours=23)
        forget_past()
        delete_past()
        invitations.expire_past()
        assert (state(), len(stored.held_tokens())) == ("waiting", 2)
        clock.advance(hours=2)

        invitations.expire_past()
        invitations.expire_past()

        assert (state(), stored.flows()[-1].pending_grant_sealed) == ("expired", None)
        assert [one["type"] for one in announced()] == ["invitation.waiting", "invitation.expired"]
        assert stored.flows()[-1].ending == Ending.CONFIRMATION_EXPIRED
        assert cleo.get(cleo.page.url).status_code == 404

    @on_sqlite
    def test_withdrawn_the_grant_is_deleted(self, cleo: Visitor, stored: Stored):
        with pytest.raises(InvitationClosed, match="waiting"):
            invitations.resend(1, "x")
        invitations.withdraw(1, "x")

        assert (state(), stored.flows()[-1].pending_grant_sealed) == ("withdrawn", None)
        assert "invitation_withdrawn" in dict(events())

    @on_sqlite
    def test_withdrawn_at_the_moment_when_it_comes_the_grant_is_deleted_too(
        self, cleo: Visitor, stored: Stored, monkeypatch: pytest.MonkeyPatch
    ):
        def look_too_early(*_: object) -> None:
            monkeypatch.undo()

        monkeypatch.setattr(invitations, "find_waiting", look_too_early)

        invitations.withdraw(1, "x")

        assert (state(), stored.flows()[-1].pending_grant_sealed) == ("withdrawn", None)

    @on_sqlite
    def test_a_grant_of_an_invitation_that_no_longer_waits_is_deleted_after_seven_days(
        self, cleo: Visitor, stored: Stored, clock: MovedClock
    ):
        with write_transaction() as session:
            session.execute(update(Invitation).values(state="withdrawn"))
        forget_past()
        assert stored.held_tokens()
        clock.advance(days=7, minutes=1)

        forget_past()

        assert (stored.flows()[-1].pending_grant_sealed, stored.flows()[-1].ending) == (None, "confirmation_expired")

    @on_sqlite
    def test_that_does_not_open_it_is_shown_as_such_and_can_be_declined(self, cleo: Visitor, stored: Stored):
        stored.edit_kept_grant()

        waiting = confirming.view_waiting(1)

        assert waiting is not None
        assert (waiting.is_unreadable, waiting.tenant_id) == (True, None)
        assert confirming.list_waiting() == []
        with pytest.raises(SealBroken):
            confirming.confirm(1, "x")
        assert confirming.decline(1, "x").state == "opened"

    @on_sqlite
    def test_of_another_client_it_is_stored_and_never_presented(
        self, cleo: Visitor, stored: Stored, settings: Settings, environ: dict[str, str], sandbox: Sandbox
    ):
        other = create_app(Settings.from_env({**environ, "KEAP_TOKEN_URL": f"{sandbox.url}/other"}))
        with other.app_context():
            confirming.confirm(1, "x")
            db.engine.dispose()

        assert stored.account().token_url == settings.keap.token_url

    @pytest.mark.parametrize("decide", [confirming.confirm, confirming.decline])
    @on_sqlite
    def test_who_was_connected_already_has_the_fresh_grant_at_once(
        self, link: str, visitor: Visitor, stored: Stored, decide: Callable[[int, str], Invitation]
    ):
        stored.place("ef789", CLEO_MARSH)
        old = stored.tokens(1)

        follow(visitor, link, person=CLEO_MARSH, tenant="ef789")

        assert (heading_of(visitor), state()) == (CHECKED, "waiting")
        assert not set(old) & set(stored.tokens(1))
        assert stored.account().external_id is None
        waiting = confirming.view_waiting(1)
        assert waiting is not None
        assert waiting.tenant_id == "ef789"
        with write_transaction() as session:
            session.execute(update(WebhookEndpoint).values(types=["account.reconnected"]))
        is_confirmed = decide(1, "x").state == "connected"
        assert stored.account().external_id == ("crm:7" if is_confirmed else None)
        assert is_confirmed == (decide is confirming.confirm)
        told = [one["data"] for one in announced() if one["type"] == "account.reconnected"]
        named = [(one["account_id"], one["external_id"], one["invitation_id"]) for one in told]
        assert named == ([(1, "crm:7", 1)] if is_confirmed else [])
        assert ("invitation_fits" in stored.history(1)) == is_confirmed

    @pytest.fixture
    def unnamed(self, link: str, new_visitor: Callable[[], Visitor], sandbox: Sandbox) -> Visitor:
        """Give Cleo, who has used the link while Keap did not say who he is."""
        sandbox.fault("html_503", "api")
        sandbox.fault("missing_scope")
        person = new_visitor()
        follow(person, link, person=CLEO_MARSH, tenant="ef789")
        assert heading_of(person) == CHECKED
        waiting = confirming.view_waiting(1)
        assert waiting is not None
        assert waiting.person_email is None
        sandbox.clear_faults()
        return person

    @pytest.mark.parametrize(
        ("link", "is_stored"),
        [({"needs_confirmation": True}, False), ({"expected_tenant_id": "ef789"}, True)],
        indirect=["link"],
    )
    @on_sqlite
    def test_whom_keap_does_not_name_is_asked_about_again_and_stored_if_nobody_must_confirm(
        self, app: Flask, unnamed: Visitor, stored: Stored, is_stored: bool
    ):
        until, tokens = stored.flows()[-1].pending_until, stored.held_tokens()

        RefreshWorker(app).run(until_idle=True)

        if is_stored:
            assert (state(), stored.owner(1), stored.account().external_id) == ("connected", ("ef789", CLEO), "crm:7")
            assert (stored.tokens(1), confirming.list_waiting()) == (tuple(tokens), [])
            return
        waiting = confirming.view_waiting(1)
        assert waiting is not None
        assert (waiting.person_email, waiting.until, stored.accounts()) == (CLEO_MARSH, until, [])
        assert stored.held_tokens() == tokens
        assert [one["data"]["tenant_id"] for one in announced()] == [None, "ef789"]
        confirming.confirm(1, "x")
        assert stored.owner(1) == ("ef789", CLEO)

    @pytest.mark.parametrize("meanwhile", ["", "newer", "disconnected"])
    @on_sqlite
    def test_whom_keap_names_late_gets_the_grant_unless_a_newer_one_is_there_or_the_account_has_ended(
        self, unnamed: Visitor, stored: Stored, clock: MovedClock, meanwhile: str
    ):
        clock.advance(minutes=-1 if not meanwhile else 1)
        stored.place("ef789", CLEO_MARSH)
        clock.advance(minutes=2)
        if meanwhile == "disconnected":
            disconnect(1, "x")
        before = stored.tokens(1)

        for flow_id in confirming.list_waiting():
            confirming.identify_waiting(flow_id)

        assert (stored.tokens(1) == before, state()) == (bool(meanwhile), "waiting")
        assert (stored.flows()[-1].account_id is None) == (meanwhile == "disconnected")

    @pytest.mark.parametrize("meanwhile", ["disconnected", "another person"])
    @on_sqlite
    def test_who_was_connected_already_is_not_confirmed_if_the_account_is_no_longer_theirs(
        self, link: str, visitor: Visitor, stored: Stored, clock: MovedClock, meanwhile: str
    ):
        stored.place("ef789", CLEO_MARSH, external_id="crm:8")
        follow(visitor, link, person=CLEO_MARSH, tenant="ef789")
        (waiting,) = announced()
        assert (waiting["data"]["external_id"], waiting["data"]["tenant_id"]) == ("crm:7", "ef789")
        assert waiting["data"]["url"].endswith("/invitations/1")
        clock.advance(minutes=1)
        if meanwhile == "disconnected":
            disconnect(1, "x")
        else:
            with write_transaction() as session:
                match_grant(session, stored.grant("ef789", ANN_LEE), 1)

        with pytest.raises(InvitationClosed, match=meanwhile):
            confirming.confirm(1, "x")

        assert (stored.account().external_id, state()) == ("crm:8", "waiting")
        confirming.decline(1, "x")
        assert "Their account keeps its grant." in stored.events()[-1].details["grant"]


@on_sqlite
def test_however_many_accounts_and_grants_are_unnamed_keap_is_asked_about_each_in_turn(
    app: Flask, monkeypatch: pytest.MonkeyPatch
):
    asked: list[int] = []
    beats = iter(range(0, 10_000, 400))
    ours = RefreshWorker(app)
    monkeypatch.setattr(ours.pool, "identify", lambda _ask, number: not asked.append(number))
    monkeypatch.setattr(worker, "MOST_IDENTIFIED", 1)
    monkeypatch.setattr(worker, "list_unidentified", lambda *, has_tenant=False: {(1, 1), (2, 1), (3, 1)})
    monkeypatch.setattr(worker, "list_waiting", lambda: [9])
    monkeypatch.setattr(worker, "seconds_since_boot", beats.__next__)

    for _ in range(8):
        ours._identify_pending()

    assert asked == [9, 1, 2, 3, 9, 1, 2, 3]


@on_sqlite
def test_an_invitation_that_nobody_used_expires_is_announced_once_and_is_deleted_later(
    app: Flask, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
):
    add_endpoint("https://example.com/hook", None, ["invitation.expired"], "x")
    invite(valid_days=1)
    invite(valid_days=90)
    clock.advance(days=2)

    invitations.expire_past()
    invitations.expire_past()

    assert [state(1), state(2)] == ["expired", "sent"]
    assert [one["data"]["invitation_id"] for one in announced()] == [1]
    assert invitations.resend(1, "x").row.expires_at == get_invitation(1).sent_at + timedelta(days=1)
    for _ in range(3):
        make_invitation(NewInvitation(label="Acme", valid_days=1), "x")
    make_invitation(NewInvitation(valid_days=90), "x")
    monkeypatch.setattr(invitations, "DELETED_AT_ONCE", 2)
    clock.advance(days=32)
    delete_past()
    for gone in (1, 3, 4, 5):
        with pytest.raises(InvitationNotFound):
            get_invitation(gone)
    assert [state(2), state(6)] == ["sent", "sent"]
    with read_session() as session:
        assert session.scalars(select(InvitationWord.word)).all() == []


@on_sqlite
def test_an_emergency_stop_ends_open_invitations_and_erasing_deletes_the_used_one(visitor: Visitor, stored: Stored):
    add_endpoint("https://example.com/hook", None, None, "x")
    follow(visitor, invite(email="ann@example.com", external_id="crm:7", needs_confirmation=True))
    confirming.confirm(1, "x")
    invite(external_id="crm:8")

    stop_everything("x")
    erase(1, "x")

    assert state(2) == "withdrawn"
    with pytest.raises(InvitationNotFound):
        get_invitation(1)
    assert [one for one in events() if one[0] != "erased"] == []
    kept = str([one.details for one in stored.events()]) + str(announced())
    assert ("crm:7" in kept, "ab123" in kept, "crm:8" in kept) == (False, False, True)


@on_postgresql
def test_an_account_is_erased_while_a_callback_locks_its_invitation_and_waits_for_it(
    app: Flask, visitor: Visitor, stored: Stored, monkeypatch: pytest.MonkeyPatch
):
    follow(visitor, invite())
    both, waited = threading.Barrier(2), set()

    def wait_once(who: str) -> None:
        if who not in waited:
            waited.add(who)
            both.wait(30)

    def delete_history_late(session: Session, account_id: int) -> None:
        wait_once("erase")
        delete_history(session, account_id)

    def lock_both(session: Session) -> None:
        session.execute(text("SET LOCAL deadlock_timeout = '5s'"))  # so that erasing is refused first
        session.get(Invitation, 1, with_for_update=True)
        wait_once("callback")
        session.get(Account, 1, with_for_update=True)

    def call_back() -> None:
        with app.app_context():
            write_or_retry(lock_both)

    monkeypatch.setattr(changes, "delete_history", delete_history_late)
    with ThreadPoolExecutor(1) as threads:
        callback_done = threads.submit(call_back)
        erase(1, "x")
        callback_done.result(30)

    assert (stored.accounts(), stored.rows("invitation")) == ([], [])


@on_postgresql
def test_a_person_is_signed_in_though_another_transaction_locks_their_flow_and_waits_for_the_account(
    app: Flask, visitor: Visitor, stored: Stored, monkeypatch: pytest.MonkeyPatch
):
    follow(visitor, invite())
    (flow,) = stored.flows()
    with app.app_context(), write_transaction() as session:
        session.get_one(AuthorizationFlow, flow.id).person_signed_in_at = None
    both = threading.Barrier(2)

    def wait_and_update(session: Session, statement: Update) -> int:
        monkeypatch.setattr(sign_ins, "count_updated", count_updated)
        both.wait(30)
        return count_updated(session, statement)

    def lock_both() -> None:
        with app.app_context(), write_transaction() as session:
            session.execute(text("SET LOCAL deadlock_timeout = '5s'"))  # so that the sign-in is refused first
            session.get(AuthorizationFlow, flow.id, with_for_update=True)
            both.wait(30)
            session.get(Account, 1, with_for_update=True)

    monkeypatch.setattr(sign_ins, "count_updated", wait_and_update)
    with ThreadPoolExecutor(1) as threads:
        locked = threads.submit(lock_both)
        assert sign_ins.sign_in_person(flow)
        locked.result(30)


@on_sqlite
def test_commands_make_list_decide_and_end_invitations(app: Flask, visitor: Visitor):
    def run(*arguments: str) -> tuple[int, str]:
        done = app.test_cli_runner().invoke(args=["invitations", *arguments])
        return done.exit_code, done.stdout.strip()

    assert run("create", "--label", "Acme", "--days", "3")[0] == 0
    _, first = run("create", "--needs-confirmation", "--external-id", "crm:7")
    _, link = run("resend", "2")
    assert visitor.get(first).status_code == 404
    follow(visitor, urlsplit(link).path)
    assert run("decline", "2") == (0, "Invitation 2 is opened.")
    follow(visitor, urlsplit(link).path)
    assert run("confirm", "2") == (0, "Invitation 2 is connected, as account 1.")
    assert run("withdraw", "1") == (0, "Invitation 1 is withdrawn.")
    listed = json.loads(run("list", "--json")[1])
    assert [(one["id"], one["state"], one["external_id"]) for one in listed] == [
        (2, "connected", "crm:7"),
        (1, "withdrawn", None),
    ]
    assert "url" not in listed[0]
    assert "Acme" in run("list", "--state", "withdrawn")[1]
    assert [run("confirm", "1")[0], run("resend", "9")[0]] == [1, 1]


@pytest.mark.proves("R16")
@on_sqlite
def test_what_breaks_a_rule_is_refused_at_its_field(app: Flask):
    unfit = [
        ("label", "a\x07b"),
        ("external_id", "with space"),
        ("email", "nobody"),
        ("email", "a@b.example\r\nBcc: c@example.com"),
        ("note", "x" * 501),
        ("expected_tenant_id", "no tenant!"),
        ("valid_days", 0),
        ("valid_days", 91),
        *(
            ("return_url", url)
            for url in (
                "https://evil.example/",
                "https://app.example.com.evil.example/",
                "https://app.example.com@evil.example/",
                "https://app.example.com\\@evil.example/",
                "https://app.example.com:444/",
                "https://app.example.com:80/",
                "http://app.example.com/",
                "//app.example.com/",
                "javascript:alert(1)",
                "https://app.example.com/#x",
                f"https://app.example.com/{'x' * 2000}",
            )
        ),
    ]
    for field, value in unfit:
        with pytest.raises(FormRefused) as refusal:
            invite(**{field: value})
        assert refusal.value.field == field
    for allowed in ("https://app.example.com", "https://APP.example.com/a?b=c&d=%20", "http://localhost:8080/x"):
        invite(return_url=allowed)
    invite(return_url="https://app.example.com:443/")
