"""Random orders of two journeys, a disconnect, names that come late and confirmations: the newest of them decides."""

from datetime import timedelta
from random import Random
from urllib.parse import urlsplit

import pytest
from flask import Flask
from sqlalchemy import select

from keap_connect.accounts.changes import disconnect
from keap_connect.accounts.credentials import open_refresh_token
from keap_connect.clock import utc_now
from keap_connect.connect import callback, confirming, identifying
from keap_connect.connect.flows import claim_flow, start_flow
from keap_connect.connect.invitations import NewInvitation, get_invitation, make_invitation
from keap_connect.connect.invited import start_by_invitation
from keap_connect.connect.matching import Grant, match_grant
from keap_connect.connect.reconnect_links import make_link, start_by_link
from keap_connect.database import read_session, write_transaction
from keap_connect.errors import InvitationClosed
from keap_connect.keap.token_response import TokenResponse
from keap_connect.keap.user_info import Identity
from keap_connect.models import Account, AuthorizationFlow, InvitationState
from tests.conftest import MovedClock
from tests.support.engines import on_sqlite

BROWSER = "b" * 43
WAYS = ["signed in", "link", "invitation", "invitation to confirm", "open door"]


@pytest.fixture
def environ(environ: dict[str, str], request: pytest.FixtureRequest) -> dict[str, str]:
    return {**environ, **request.param}


class Play:
    """One account, two journeys of its person, and what must be stored in the end."""

    def __init__(self, chance: Random, tenant: str, ways: list[str], clock: MovedClock) -> None:
        self.clock, self.tenant, self.is_named, self.told = clock, tenant, True, []
        self.count, self.newest, self.disconnected_at = 0, None, None
        with write_transaction() as session:
            self.account_id = match_grant(session, self.grant(Identity(tenant, "1"))).account_id
        self.flow_ids = [self.start(way) for way in chance.choices(ways, k=2)]

    def run(self, chance: Random) -> None:
        """Let everything happen once, in any order."""
        steps = [(self.come, 0), (self.come, 1), (self.disconnect, 0), (self.confirm, 0), (self.confirm, 1)]
        steps += [(self.store, 0), (self.store, 1), (self.store_unnamed, 0), (self.store_unnamed, 1)]
        for step, which in chance.sample(steps, len(steps)):
            self.clock.advance(seconds=chance.choice([1, 20, 61]))
            self.told.append(f"{step.__name__} {which}")
            step(which)

    def grant(self, identity: Identity) -> Grant:
        self.count += 1
        expires_at = utc_now() + timedelta(days=1)
        pair = TokenResponse(f"access-{self.count}", f"refresh-{self.count}", expires_at, "full")
        self.newest = Grant(pair, identity)
        return self.newest

    def start(self, way: str) -> int:
        self.told.append(way)
        if way == "link":
            start_by_link(urlsplit(make_link(self.account_id, "x").url).path.removeprefix("/r/"), BROWSER)
        elif way.startswith("invitation"):
            made = make_invitation(NewInvitation(needs_confirmation="confirm" in way), "x")
            start_by_invitation(urlsplit(made.url).path.removeprefix("/i/"), BROWSER)
        else:
            start_flow(BROWSER, self.account_id if way == "signed in" else None)
        with read_session() as session:
            return session.scalars(select(AuthorizationFlow.id).order_by(AuthorizationFlow.id.desc())).first()

    def flow(self, which: int) -> AuthorizationFlow:
        with read_session() as session:
            return session.get_one(AuthorizationFlow, self.flow_ids[which])

    def come(self, which: int) -> None:
        """Keap answers with a grant, which is kept, and the process stops."""
        flow = self.flow(which)
        if flow.consumed_at is None and claim_flow(flow) and callback._link_still_works(flow):
            with write_transaction() as session:
                callback.keep_pending(session, flow, self.grant(Identity()))

    def ask_identity(self, *_: object) -> Identity:
        return Identity(self.tenant, "1") if self.is_named else Identity()

    def store_unnamed(self, which: int) -> None:
        self.is_named = False
        self.store(which)
        self.is_named = True

    def store(self, which: int) -> None:
        """Ask Keap whose a grant is, as the callback or a worker does."""
        flow = self.flow(which)
        if flow.ending is None:
            callback.identify_and_store(flow)
            return
        confirming.identify_waiting(flow.id)
        if self.is_named and flow.ending == "connected_pending" and flow.account_id:
            identifying.identify_pending(flow.account_id)

    def confirm(self, which: int) -> None:
        invitation_id = self.flow(which).invitation_id
        if invitation_id is None or get_invitation(invitation_id).state != InvitationState.WAITING:
            return
        try:
            confirming.confirm(invitation_id, "x")
        except InvitationClosed:
            assert self.disconnected_at, self.told
            confirming.decline(invitation_id, "x")

    def disconnect(self, _: int) -> None:
        disconnect(self.account_id, "x")
        self.disconnected_at = utc_now()

    def finish(self) -> None:
        """Let all that waits be named and confirmed, and see what is stored."""
        for which in (0, 1) * 3:
            self.store(which)
            self.confirm(which)
        assert [self.flow(which).pending_grant_sealed for which in (0, 1)] == [None, None], self.told
        with read_session() as session:
            accounts = session.scalars(select(Account).where(Account.tenant_id.in_([self.tenant]))).all()
            assert session.scalars(select(Account.id).where(Account.keap_user_id.is_(None))).all() == [], self.told
        is_disconnected = self.disconnected_at is not None and self.disconnected_at > self.newest.came_at
        expected = None if is_disconnected else self.newest.token_response.refresh_token
        found = [(account.id, open_refresh_token(account)) for account in accounts]
        assert found == [(self.account_id, expected)], self.told


@pytest.mark.proves("R28")
@pytest.mark.parametrize("environ", [{}, {"CONNECT_MODE": "invitation"}], indirect=True, ids=["open", "by invitation"])
@pytest.mark.parametrize("seed", range(5))
@on_sqlite
def test_in_every_order_the_newest_grant_is_stored_unless_the_account_was_disconnected_after_it(
    app: Flask, environ: dict[str, str], clock: MovedClock, monkeypatch: pytest.MonkeyPatch, seed: int
):
    chance, ways = Random(seed), WAYS[:-1] if "CONNECT_MODE" in environ else WAYS
    for number in range(3):
        play = Play(chance, f"ab{seed}{number}", ways, clock)
        for module in (callback, identifying):
            monkeypatch.setattr(module, "ask_identity", play.ask_identity)
        play.run(chance)
        play.finish()
