"""However many ask, each refresh token is presented once, and the newest grant wins (R26, R40, F09, F22, F23, F26)."""

from datetime import datetime
from urllib.parse import parse_qs, urlsplit

import pytest

from keap_connect.accounts.credentials import fingerprint, new_account, open_access_token, replace_credential
from keap_connect.accounts.state import AccountState
from keap_connect.clock import utc_now
from keap_connect.connect.identifying import identify_pending
from keap_connect.database import write_transaction
from keap_connect.errors import TemporarilyUnavailable
from keap_connect.keap.authorization import new_authorization_request
from keap_connect.keap.token_endpoint import exchange_code
from keap_connect.refresh.timing import UNKNOWN_OUTCOME_WAIT_SECONDS
from keap_connect.settings import Settings
from tests.faults.conftest import Process, Stage, until
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.oidc_provider import OIDCProvider
from tests.support.sandbox import ANN

PACE = 60  # lease 1 s, doubt wait 2 s, confirm wait 1 s
HONEST = {"TemporarilyUnavailable"}


@pytest.mark.proves("R26", "R27", "F22")
def test_four_processes_of_fifty_callers_spend_one_token(stage: Stage):
    _let_them_all_ask(stage, 0.2)


@on_sqlite
@pytest.mark.proves("R26", "R27", "F22")
def test_callers_beyond_their_patience_hear_so_while_keap_takes_twelve_seconds(stage: Stage):
    answers = _let_them_all_ask(stage, 12.0)

    assert len([answer for answer in answers if answer["ok"]]) == 1
    told = [str(answer["message"]) for answer in answers if not answer["ok"]]
    assert [one for one in told if "longer than you wanted" not in one and "Many callers wait" not in one] == []


def _let_them_all_ask(stage: Stage, token_delay_seconds: float) -> list[dict[str, object]]:
    (account_id,) = stage.add_accounts()
    stage.sandbox.switch(token_delay_seconds=token_delay_seconds, family_revocation=True)
    processes = stage.start(4)

    for process in processes:
        process.tell("valid_token", account_id, callers=50)
    answers = [answer for process in processes for answer in process.hear()]

    assert [p["outcome"] for p in stage.presentations()] == ["granted"]
    served = {answer["token"] for answer in answers if answer["ok"]}
    assert len(served) == 1
    assert {answer["error"] for answer in answers if not answer["ok"]} <= HONEST
    assert stage.is_reconciled(account_id)
    assert processes[0].ask("valid_token", account_id)["token"] in served
    stage.sandbox.switch(token_delay_seconds=0)
    assert processes[1].ask("refresh", account_id)["ok"], "the grant lives on"
    return answers


@pytest.mark.long
@on_postgresql
@pytest.mark.proves("R26", "R27", "F22")
def test_callers_beyond_their_patience_hear_so_on_postgresql_too(stage: Stage):
    _let_them_all_ask(stage, 12.0)


@on_sqlite
@pytest.mark.proves("R26", "R40", "F22", "F23", "F26")
@pytest.mark.parametrize("meanwhile", ["a worker sweeps", "an admin refreshes", "the customer reconnects"])
def test_two_hundred_callers_and_somebody_else_spend_each_token_once(stage: Stage, meanwhile: str):
    _let_them_all_ask_while(stage, meanwhile, 0.2)


@pytest.mark.long
@pytest.mark.proves("R26", "R40", "F22", "F23", "F26")
@pytest.mark.parametrize("token_delay_seconds", [0.2, 12.0])
@pytest.mark.parametrize("meanwhile", ["a worker sweeps", "an admin refreshes", "the customer reconnects"])
def test_two_hundred_callers_and_somebody_else_spend_each_token_once_however_long_keap_takes(
    stage: Stage, meanwhile: str, token_delay_seconds: float
):
    _let_them_all_ask_while(stage, meanwhile, token_delay_seconds)


def _let_them_all_ask_while(stage: Stage, meanwhile: str, token_delay_seconds: float) -> None:
    (account_id,) = stage.add_accounts()
    before = stage.row(account_id)
    stage.sandbox.switch(token_delay_seconds=token_delay_seconds, family_revocation=True)
    *jobs, other = stage.start(5)

    for process in jobs:
        process.tell("valid_token", account_id, callers=50)
    if meanwhile == "a worker sweeps":
        other.tell("sweep")
    elif meanwhile == "an admin refreshes":
        other.tell("refresh", account_id, callers=4)
    else:
        until(lambda: stage.is_leased(account_id) or stage.presentations())
        assert stage.reconnect(account_id).account_id == account_id
        other.tell("valid_token", account_id)
    answers = [answer for process in jobs for answer in process.hear()]
    others = other.hear()

    assert stage.presented_twice() == []
    assert {p["outcome"] for p in stage.presentations()} <= {
        "granted"
    }  # none, if the reconnect came before it was sent
    assert {answer["error"] for answer in answers + others if not answer["ok"]} <= HONEST
    assert any(answer["ok"] for answer in answers + others)
    assert stage.is_reconciled(account_id)
    assert stage.row(account_id).generation > before.generation
    stage.sandbox.switch(token_delay_seconds=0)
    assert jobs[1].ask("refresh", account_id)["ok"], "the grant lives on"
    assert stage.presented_twice() == []
    assert stage.is_reconciled(account_id)


@on_sqlite
@pytest.mark.proves("R26", "F18", "F22", "F23")
def test_after_a_504_that_hid_a_rotation_nobody_presents_the_token_before_the_doubt_wait(stage: Stage):
    stage.sandbox.switch(family_revocation=True)
    (account_id,) = stage.add_accounts()
    stage.sandbox.fault("gateway_504_after_rotation", "refresh", first=1)
    first, *jobs, worker = stage.start(4, PACE=PACE, AGE_SECONDS=1000)
    assert first.ask("refresh", account_id)["error"] == "TemporarilyUnavailable"
    worker.ask("work")

    while stage.is_held(account_id):
        for process in jobs:
            process.tell("valid_token", account_id, callers=5, patience_seconds=0)
        assert {answer["error"] for process in jobs for answer in process.hear()} <= HONEST | {"ReconnectRequired"}
    worker.ask("rest")
    until(lambda: first.ask("refresh", account_id) and len(stage.presentations()) > 1)

    first_at, second_at, *_ = [datetime.fromisoformat(p["at"]) for p in stage.presentations()]
    assert (second_at - first_at).total_seconds() > UNKNOWN_OUTCOME_WAIT_SECONDS / PACE
    assert [p for p in stage.presentations() if p["overlapped"]] == []
    if stage.makes_good:
        assert stage.is_reconciled(account_id)
    else:
        assert stage.row(account_id).outcome_unknown_since is not None, "it says what happened"


@pytest.mark.proves("F23", "F32")
def test_workers_a_hurried_admin_and_callers_spend_each_token_once(stage: Stage):
    ids = stage.add_accounts(20)
    stage.sandbox.switch(token_delay_seconds=0.1, family_revocation=True)
    worker_1, worker_2, admin, jobs = stage.start(4)

    worker_1.tell("sweep")
    worker_2.tell("sweep")
    admin.tell("refresh", ids[0], callers=4)
    jobs.tell("valid_token", ids[1], callers=20)
    answers = [process.hear() for process in (worker_1, worker_2, admin, jobs)]

    assert stage.presented_twice() == []
    assert {answer["error"] for answer in answers[2] + answers[3] if not answer["ok"]} <= HONEST
    assert stage.is_reconciled(*ids)
    assert all(stage.events(account_id) == ["refreshed"] for account_id in ids[1:])
    assert 1 <= stage.events(ids[0]).count("refreshed") <= 5  # each press of the admin may refresh anew


@pytest.mark.proves("F28")
def test_callers_beyond_eight_hear_at_once_that_many_wait_already(stage: Stage):
    (account_id,) = stage.add_accounts()
    stage.sandbox.hold("refresh")
    winner, others = stage.start(2)

    winner.tell("valid_token", account_id)
    stage.sandbox.wait_held(1)
    others.tell("valid_token", account_id, callers=50, patience_seconds=2)
    answers = others.hear()
    stage.sandbox.release()

    assert [answer["error"] for answer in answers] == ["TemporarilyUnavailable"] * 50
    many = [answer for answer in answers if "Many callers wait" in answer["message"]]
    patient = [answer for answer in answers if "longer than you wanted" in answer["message"]]
    assert (len(many), len(patient)) == (42, 8)
    assert winner.hear()[0]["ok"]
    assert stage.is_reconciled(account_id)


# The account moves on while its refresh is under way


def _hold_a_refresh(stage: Stage, account_id: int, where: str, **settings: object) -> Process:
    """Start a refresh and let Keap's answer wait."""
    (slow,) = stage.start(1, **settings)
    stage.sandbox.hold("refresh", where=where)
    slow.tell("refresh", account_id)
    stage.sandbox.wait_held(1)
    return slow


@pytest.mark.proves("F26", "R40")
@pytest.mark.parametrize("where", ["before", "after"])
def test_the_newest_grant_stays_when_the_customer_reconnects_during_a_refresh(stage: Stage, where: str):
    stage.sandbox.switch(family_revocation=True)
    (account_id,) = stage.add_accounts()
    slow = _hold_a_refresh(stage, account_id, where)

    assert stage.reconnect(account_id).account_id == account_id
    newest = stage.row(account_id)
    (jobs,) = stage.start(1)
    jobs.tell("valid_token", account_id, callers=20)
    served = {answer["token"] for answer in jobs.hear()}
    stage.sandbox.release()
    slow.hear()

    account = stage.row(account_id)
    assert account.refresh_token_sealed == newest.refresh_token_sealed
    assert account.access_token_sealed == newest.access_token_sealed
    assert account.attempt_fingerprint is None
    assert stage.events(account_id) == ["reconnected"]
    with stage.app.app_context():
        assert served == {open_access_token(newest)}
    assert jobs.ask("refresh", account_id)["ok"]
    assert stage.presented_twice() == []
    assert stage.is_reconciled(account_id)
    assert stage.state(account_id) is AccountState.ACTIVE


@pytest.mark.proves("F26", "R40")
def test_a_refusal_of_the_old_grant_marks_nothing_on_the_new_one(stage: Stage):
    (account_id,) = stage.add_accounts()
    stage.sandbox.withdraw("ab123")
    slow = _hold_a_refresh(stage, account_id, "after")

    stage.reconnect(account_id)
    stage.sandbox.release()
    slow.hear()

    account = stage.row(account_id)
    assert (account.refusals, account.refused_at, account.failures) == (0, None, 0)
    assert stage.is_reconciled(account_id)


@pytest.mark.proves("F27", "R25", "R40")
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_disconnected_account_stays_so_when_its_refresh_comes_back(stage: Stage, where: str):
    (account_id,) = stage.add_accounts()
    slow = _hold_a_refresh(stage, account_id, where)

    stage.disconnect(account_id)
    stage.sandbox.release()
    answer = slow.hear()[0]

    account = stage.row(account_id)
    assert not answer["ok"]
    assert (account.access_token_sealed, account.refresh_token_sealed) == (None, None)
    assert stage.state(account_id) is AccountState.DISCONNECTED
    assert stage.events(account_id) == ["disconnected"]
    assert slow.ask("valid_token", account_id)["error"] == "AccountDisconnected"
    assert len(stage.presentations()) == 1


@pytest.mark.proves("F26")
def test_a_pending_account_moves_only_once_its_refresh_is_stored(stage: Stage):
    stage.sandbox.switch(family_revocation=True)
    (account_id,) = stage.add_accounts()
    pending_id = stage.add_pending_account()
    slow = _hold_a_refresh(stage, pending_id, "after")

    with stage.app.app_context(), pytest.raises(TemporarilyUnavailable, match="changing right now"):
        identify_pending(pending_id)
    stage.sandbox.release()
    assert slow.hear()[0]["ok"]
    with stage.app.app_context():
        moved_to = identify_pending(pending_id)

    assert moved_to == account_id
    assert slow.ask("valid_token", pending_id)["error"] == "AccountNotFound"
    assert slow.ask("refresh", account_id)["ok"]
    assert stage.presented_twice() == []
    assert stage.is_reconciled(account_id)


@pytest.mark.proves("F26")
def test_a_grant_that_moves_here_during_a_refresh_is_kept_and_spent_once(stage: Stage):
    stage.sandbox.switch(family_revocation=True)
    (account_id,) = stage.add_accounts()
    pending_id = stage.add_pending_account()
    slow = _hold_a_refresh(stage, account_id, "after")

    with stage.app.app_context():
        assert identify_pending(pending_id) == account_id
    moved = stage.row(account_id)
    stage.sandbox.release()
    slow.hear()

    assert stage.row(account_id).refresh_token_sealed == moved.refresh_token_sealed
    assert stage.is_reconciled(account_id)
    assert stage.start(1)[0].ask("refresh", account_id)["ok"]
    assert stage.presented_twice() == []


@on_sqlite
@pytest.mark.proves("R26")
def test_a_process_without_the_newest_key_ends_no_lease_of_another(stage: Stage):
    stage.sandbox.switch(family_revocation=True)
    (account_id,) = stage.add_accounts()
    new_key = "YSBuZXcga2V5IG9mIDMyIGJ5dGVzIGZvciBhIHRlc3Q="
    (rotated,) = stage.start(1, TOKEN_KEYS=f"{new_key},{stage.environ['TOKEN_KEYS']}")
    assert rotated.ask("refresh", account_id)["ok"]  # sealed with the new key now
    stage.change(account_id, next_refresh_at=utc_now())
    (behind,) = stage.start(1)
    stage.sandbox.hold("refresh")
    rotated.tell("refresh", account_id)
    stage.sandbox.wait_held(1)

    taken = behind.ask("take_up", account_id)  # it took the account up just before the other process took the lease

    assert (taken["ok"], taken["failed"]) == (True, 1)
    assert stage.is_leased(account_id)
    assert stage.row(account_id).attempt_fingerprint is not None
    stage.sandbox.release()
    assert rotated.hear()[0]["ok"]
    assert stage.presented_twice() == []


# A job reports a token that Keap refused


@pytest.mark.proves("R76", "F10")
def test_a_hundred_reports_of_one_dead_token_lead_to_one_refresh(stage: Stage):
    stage.sandbox.switch(old_access_token_dies_on_refresh=True, token_delay_seconds=0.2)
    (account_id,) = stage.add_accounts(expires_in_seconds=80_000)
    with stage.app.app_context():
        dead = open_access_token(stage.row(account_id))
    processes = stage.start(4)

    for process in processes:
        process.tell("report", account_id, fingerprint=fingerprint(dead), callers=25)
    answers = [answer for process in processes for answer in process.hear()]
    straggler = processes[0].ask("report", account_id, fingerprint=fingerprint(dead))

    served = {answer["token"] for answer in answers if answer["ok"]}
    assert len(served) == 1
    assert dead not in served
    assert {answer["error"] for answer in answers if not answer["ok"]} <= HONEST
    assert (straggler["is_news"], straggler["token"]) == (False, *served)
    states = {token["fingerprint"]: token["state"] for token in stage.sandbox.ledger()["tokens"]}
    assert [states[fingerprint(token)] for token in (dead, *served)] == ["revoked", "live"]
    assert len(stage.presentations()) == 1
    assert stage.events(account_id) == ["token_rejected", "refreshed"]


@pytest.mark.proves("R76")
def test_a_report_of_another_token_changes_nothing(stage: Stage):
    (account_id,) = stage.add_accounts(expires_in_seconds=80_000)
    (process,) = stage.start(1)
    before = stage.row(account_id)

    answer = process.ask("report", account_id, fingerprint=fingerprint("a token of yesterday"))

    assert answer["is_news"] is False
    assert stage.row(account_id).access_token_expires_at == before.access_token_expires_at
    assert stage.events(account_id) == []
    assert stage.presentations() == []


# A strict server that we did not write


class TestIndependentServer:
    """oidc-provider: a refresh token presented twice kills the whole grant."""

    @pytest.fixture
    def environ(self, environ: dict[str, str], oidc_provider: OIDCProvider) -> dict[str, str]:
        """Give the environment of an app whose authorization server is the independent one."""
        oidc_provider.allow_redirect_uri(f"{environ['PUBLIC_URL']}/callback")
        return {
            **environ,
            "KEAP_CLIENT_ID": oidc_provider.client_id,
            "KEAP_CLIENT_SECRET": oidc_provider.client_secret,
            "KEAP_AUTHORIZE_URL": oidc_provider.authorization_url,
            "KEAP_TOKEN_URL": oidc_provider.token_url,
            "KEAP_API_URL": oidc_provider.api_url,
            "KEAP_PKCE": "on",
        }

    @on_sqlite
    @pytest.mark.proves("F09", "F22")
    @pytest.mark.parametrize(
        ("number", "callers"), [(2, 20), pytest.param(4, 50, marks=pytest.mark.long)], ids=["a few", "many"]
    )
    def test_processes_full_of_callers_spend_one_token(
        self, stage: Stage, settings: Settings, oidc_provider: OIDCProvider, number: int, callers: int
    ):
        account_id = self._connect(stage, settings, oidc_provider)
        before = len(oidc_provider.log())
        processes = stage.start(number)

        for process in processes:
            process.tell("valid_token", account_id, callers=callers)
        answers = [answer for process in processes for answer in process.hear()]
        assert processes[0].ask("refresh", account_id)["ok"], "the grant lives on"

        calls = oidc_provider.log()[before:]
        assert [call["status"] for call in calls] == [200, 200]
        assert len({call["fingerprint"] for call in calls}) == 2
        assert len({answer["token"] for answer in answers if answer["ok"]}) == 1
        assert {answer["error"] for answer in answers if not answer["ok"]} <= HONEST

    def _connect(self, stage: Stage, settings: Settings, provider: OIDCProvider) -> int:
        request = new_authorization_request(settings.keap)
        (code,) = parse_qs(urlsplit(provider.sign_in(request.url)).query)["code"]
        with stage.app.app_context():
            granted = exchange_code(settings.keap, code, request.code_verifier).token_response
            assert granted is not None
            with write_transaction() as session:
                account = new_account(session, None, f"{ANN}")
                replace_credential(account, granted)
                account.access_token_expires_at = utc_now()
        return account.id
