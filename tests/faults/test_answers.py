"""What each bad answer of Keap does to an account, through the whole refresher (F01 to F18)."""

import socket
import socketserver
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import pytest
import requests

from keap_connect.accounts.credentials import fingerprint, open_access_token, open_refresh_token
from keap_connect.accounts.state import AccountState
from keap_connect.clock import utc_now
from keap_connect.errors import ClientMisconfigured, ReconnectRequired, TemporarilyUnavailable
from keap_connect.keap import transport
from keap_connect.models import Account
from keap_connect.refresh import alarms, timing
from keap_connect.refresh.serving import refresh_account, valid_token
from tests.faults.conftest import Stage, until
from tests.support.engines import on_sqlite

pytestmark = on_sqlite
PACE = 60  # lease 1 s, doubt wait 2 s, confirm wait 1 s, deadline 0.5 s
A_WHILE = 80_000


@pytest.fixture(autouse=True)
def inside_the_app(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the test itself be a process of the app."""
    monkeypatch.setattr(transport, "DEADLINE_SECONDS", 1.0)
    with stage.app.app_context():
        yield


def _refresh(account_id: int) -> str:
    try:
        refresh_account(account_id, "test")
    except (TemporarilyUnavailable, ReconnectRequired, ClientMisconfigured) as problem:
        return type(problem).__name__
    return "refreshed"


def _facts(stage: Stage, account: Account) -> tuple[bool, bool, int, int, bool]:
    has_marker = account.attempt_fingerprint is not None
    return has_marker, stage.is_held(account.id), account.failures, account.refusals, account.refused_at is not None


#                 marker held   failures refusals dead
IN_DOUBT = ("TemporarilyUnavailable", (True, True, 1, 0, False), [])
PLAIN_FAILURE = ("TemporarilyUnavailable", (False, False, 1, 0, False), [])
REFUSED_ONCE = ("TemporarilyUnavailable", (False, True, 0, 1, False), [])
OUR_CLIENT = ("ClientMisconfigured", (False, False, 0, 0, False), [alarms.CLIENT_REFUSED])
OUR_CLIENT_IN_DOUBT = ("ClientMisconfigured", (True, True, 0, 0, False), [alarms.CLIENT_REFUSED])
GRANTED = ("refreshed", (False, False, 0, 0, False), [])
# One answer or two for each outcome; tests/keap judges every fault that the sandbox knows.
TABLE = {
    "html_503": IN_DOUBT,
    "other_tenant_in_scope": IN_DOUBT,
    "lost_answer": IN_DOUBT,
    "drip_body": IN_DOUBT,
    "rate_limited_spike_429": PLAIN_FAILURE,
    "refused_although_valid": REFUSED_ONCE,
    "invalid_client_401": OUR_CLIENT,
    "unauthorized_401_plain": OUR_CLIENT_IN_DOUBT,
    "missing_refresh_token": GRANTED,
    "framing": GRANTED,
}
PARAMETERS = {"framing": {"way": "garbage after a chunk"}}


@pytest.mark.proves("R21", "R32", "F01", "F02", "F03", "F04", "F05", "F08", "F11", "F17", "F19")
@pytest.mark.parametrize("fault", TABLE)
def test_each_bad_answer_leaves_the_account_as_it_should(stage: Stage, fault: str):
    outcome, facts, alarms = TABLE[fault]
    (account_id,) = stage.add_accounts(expires_in_seconds=A_WHILE)
    before = stage.row(account_id)
    stage.sandbox.fault(fault, "refresh", **PARAMETERS.get(fault, {}))

    assert _refresh(account_id) == outcome

    account = stage.row(account_id)
    assert _facts(stage, account) == facts
    assert stage.alarms() == alarms
    if outcome != "refreshed":
        assert account.access_token_sealed == before.access_token_sealed
        assert account.refresh_token_sealed == before.refresh_token_sealed
        assert valid_token(account_id, "test").access_token == open_access_token(before)
        assert stage.state(account_id) is not AccountState.RECONNECT_REQUIRED
    assert len(stage.presentations()) == 1


@pytest.mark.proves("F03", "F17", "F18", "R32")
def test_a_lost_answer_is_tried_once_after_the_doubt_wait_and_confirmed_once(stage: Stage):
    faults = ["gateway_504_after_rotation", "lost_answer", "reset_after", "hang", "ok_html", "ok_truncated"]
    stage.sandbox.switch(family_revocation=True)
    ids = dict(zip(faults, stage.add_accounts(len(faults)), strict=True))
    marks = {fault: fingerprint(open_refresh_token(stage.row(account_id))) for fault, account_id in ids.items()}
    (process,) = stage.start(1, PACE=PACE, LEAST_REFUSED=1000)
    for fault, account_id in ids.items():
        number = stage.sandbox.fault(fault, "refresh", **({"rotate": True} if fault == "hang" else {}))
        assert process.ask("refresh", account_id)["error"] == "TemporarilyUnavailable"
        stage.sandbox.control("DELETE", f"/faults/{number}")

    def is_over() -> bool:
        answers = [process.ask("valid_token", account_id) for account_id in ids.values()]
        stage.change(*ids.values(), failures=0)  # leave the back-off aside: only doubt and confirmation count here
        return all(answer["ok"] or answer["error"] == "ReconnectRequired" for answer in answers)

    until(is_over)
    for fault, account_id in ids.items():
        at = [datetime.fromisoformat(p["at"]) for p in stage.presentations() if p["fingerprint"] == marks[fault]]
        gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(at)]
        assert gaps[0] > timing.UNKNOWN_OUTCOME_WAIT_SECONDS / PACE, fault
        if stage.makes_good:
            assert len(gaps) == 1, fault
            assert stage.is_reconciled(account_id)
            continue
        assert len(gaps) == 2, f"{fault}: one try and one confirming try"
        assert gaps[1] > timing.CONFIRM_WAIT_SECONDS / PACE, fault
        assert stage.events(account_id)[-1] == "answer_lost"
        assert stage.row(account_id).outcome_unknown_since is not None


@pytest.mark.proves("F01", "F18")
def test_an_answer_lost_before_keap_acted_costs_nothing(stage: Stage):
    (account_id,) = stage.add_accounts()
    stage.sandbox.switch(family_revocation=True)
    stage.sandbox.fault("gateway_504", "refresh", first=1)
    (process,) = stage.start(1, PACE=PACE)

    assert process.ask("refresh", account_id)["error"] == "TemporarilyUnavailable"
    until(lambda: process.ask("refresh", account_id)["ok"])

    assert len(stage.presentations()) == 2
    assert stage.is_reconciled(account_id)
    account = stage.row(account_id)
    assert (account.outcome_unknown_since, account.failures, account.attempt_fingerprint) == (None, 0, None)


@pytest.mark.proves("F16")
@pytest.mark.parametrize("trouble", ["no such name", "refused", "no answer to the connect"])
def test_what_was_known_not_to_be_sent_is_retried_plainly(stage: Stage, trouble: str, monkeypatch: pytest.MonkeyPatch):
    (account_id,) = stage.add_accounts()
    send = transport.KeapSession.send

    def go_elsewhere(session: transport.KeapSession, request: requests.PreparedRequest) -> requests.Response:
        request.url = elsewhere
        return send(session, request)

    with monkeypatch.context() as broken, socket.socket() as full, socket.socket() as early, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        elsewhere = f"http://127.0.0.1:{full.getsockname()[1]}/token"
        if trouble == "no such name":
            elsewhere = f"http://{'x' * 64}.example/token"
        elif trouble == "no answer to the connect":
            full.listen(0)  # a queue that takes two, and the system drops whoever comes then
            for waiting in (early, second):
                waiting.setblocking(False)
                waiting.connect_ex(full.getsockname())
        broken.setattr(transport.KeapSession, "send", lambda session, request, **_: go_elsewhere(session, request))
        assert _refresh(account_id) == "TemporarilyUnavailable"

    account = stage.row(account_id)
    assert _facts(stage, account) == (False, False, 1, 0, False)
    assert account.outcome_unknown_since is None
    assert stage.presentations() == []
    assert _refresh(account_id) == "refreshed"
    assert stage.is_reconciled(account_id)


@pytest.mark.proves("F05", "R35")
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_429_slows_its_account_and_the_whole_sweep_and_marks_nobody(stage: Stage, form: str):
    ids = stage.add_accounts(40)
    later = utc_now() + timedelta(seconds=900)
    retry_after = "900" if form == "seconds" else format_datetime(later, usegmt=True)
    stage.sandbox.fault("rate_limited_spike_429", "refresh", retry_after=retry_after)
    (process,) = stage.start(1)

    process.ask("sweep")
    asked = {row.id: row for row in stage.rows() if row.failures}
    stage.sandbox.clear_faults()
    stage.change(*ids, next_refresh_at=utc_now(), failures=0)
    process.ask("sweep")

    assert 1 <= len(asked) <= 17  # what was under way when the first answer came, and no more
    assert len(stage.presentations()) == len(asked), "the whole sweep pauses"
    assert all(row.next_refresh_at >= later - timedelta(seconds=30) for row in asked.values())
    assert all(_facts(stage, row) == (False, False, 1, 0, False) for row in asked.values())


@pytest.mark.proves("F12", "R22")
@pytest.mark.parametrize("value", ["missing", "86399", 3600.5, 0, 1, -5, 10**12, "soon", None, [], True])
def test_an_odd_expires_in_ends_in_a_sensible_expiry_and_no_tight_loop(stage: Stage, value: object):
    (account_id,) = stage.add_accounts()
    stage.sandbox.fault("odd_expires_in", "refresh", value=value)

    assert _refresh(account_id) == "refreshed"

    account, now = stage.row(account_id), utc_now()
    assert now < account.access_token_expires_at <= now + timedelta(days=8) or value == 1
    assert account.next_refresh_at > now + timedelta(seconds=30)
    assert stage.is_reconciled(account_id)


@pytest.mark.proves("F13", "R23")
def test_a_refresh_answer_without_a_refresh_token_keeps_the_old_one(stage: Stage):
    (account_id,) = stage.add_accounts()
    before = stage.row(account_id)
    stage.sandbox.switch(rotation=False)
    stage.sandbox.fault("missing_refresh_token", "refresh", first=1)

    assert _refresh(account_id) == "refreshed"

    account = stage.row(account_id)
    assert account.refresh_token_sealed == before.refresh_token_sealed
    assert account.access_token_sealed != before.access_token_sealed
    assert _refresh(account_id) == "refreshed"


@pytest.mark.proves("F14")
@pytest.mark.parametrize("unicode", [False, True])
def test_tokens_of_eight_kilobytes_are_stored_unchanged_and_work(stage: Stage, unicode: bool):
    (account_id,) = stage.add_accounts()
    stage.sandbox.fault("long_tokens", "refresh", first=1, unicode=unicode)

    assert _refresh(account_id) == "refreshed"
    token = valid_token(account_id, "test").access_token

    assert len(token) == 8192
    states = {one["fingerprint"]: one["state"] for one in stage.sandbox.ledger()["tokens"]}
    assert states[fingerprint(token)] == "live"
    assert stage.is_reconciled(account_id)
    assert _refresh(account_id) == "refreshed"


@pytest.mark.proves("F15", "R19")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_never_followed(stage: Stage, status: int):
    (account_id,) = stage.add_accounts()
    calls = []

    class Elsewhere(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            calls.append(self.request.recv(1000))

    with socketserver.TCPServer(("127.0.0.1", 0), Elsewhere) as elsewhere:
        threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
        location = f"http://127.0.0.1:{elsewhere.server_address[1]}/token"
        stage.sandbox.fault("redirect", "refresh", status=status, location=location)
        assert _refresh(account_id) == "TemporarilyUnavailable"
        elsewhere.shutdown()

    assert calls == []
    assert _facts(stage, stage.row(account_id)) == (True, True, 1, 0, False)


@pytest.mark.proves("F11")
def test_a_token_of_another_tenant_is_never_stored(stage: Stage):
    (account_id,) = stage.add_accounts(expires_in_seconds=A_WHILE)
    before = stage.row(account_id)
    stage.sandbox.fault("other_tenant_in_scope", "refresh", tenant_id="zz999")

    assert _refresh(account_id) == "TemporarilyUnavailable"

    account = stage.row(account_id)
    assert account.access_token_sealed == before.access_token_sealed
    assert (account.tenant_id, account.scope) == (before.tenant_id, before.scope)
    assert stage.events(account_id) == ["other_tenant_answered"]
