"""Refreshing: a pair is replaced by a better one or stays byte for byte, and no refresh token is presented twice."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier, BrokenBarrierError

import pytest
from sqlalchemy import event, select

from keap_connect import database
from keap_connect.accounts import schedule
from keap_connect.accounts.changes import disconnect
from keap_connect.accounts.credentials import (
    fingerprint,
    forget_credential,
    open_access_token,
    open_refresh_token,
    replace_credential,
)
from keap_connect.accounts.directory import get_account, list_accounts, view_account
from keap_connect.accounts.state import AccountState
from keap_connect.clock import seconds_since_boot, utc_now
from keap_connect.database import database_clock, db, read_session, write_transaction
from keap_connect.errors import (
    AccountDisconnected,
    AccountNotFound,
    ClientMisconfigured,
    ReconnectRequired,
    SealBroken,
    TemporarilyUnavailable,
)
from keap_connect.events.history import EventKind
from keap_connect.events.search import Search, list_events
from keap_connect.keap import transport
from keap_connect.keap.token_response import TokenResponse
from keap_connect.models import Account, CredentialKind
from keap_connect.refresh import alarms, lease, serving, storing, timing
from keap_connect.refresh.alarms import CLIENT_REFUSED, Probe, list_alarms, raise_alarm
from keap_connect.refresh.refresher import Attempt, refresh_once
from keap_connect.refresh.serving import refresh_account, report_rejected, valid_token
from keap_connect.refresh.storing import Outcome
from tests.accounts.granted import row_of, store_account
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.quick_apps import make_app
from tests.support.server import free_port

A_DAY = timedelta(seconds=86399)
# What Keap's answers mean does not depend on the database.
# The columns of a credential: after a failure each of them is what it was before.
CREDENTIAL = (
    "kind",
    "client_id",
    "token_url",
    "scope",
    "generation",
    "access_token_sealed",
    "refresh_token_sealed",
    "access_token_expires_at",
    "refresh_token_issued_at",
    "refreshed_at",
    "connected_at",
    "disconnected_at",
)


@pytest.fixture
def app(settings):
    """Give the app without a port of its own."""
    built = make_app(settings)
    yield built
    with built.app_context():
        db.engine.dispose()


@pytest.fixture(autouse=True)
def inside_the_app(app, monkeypatch):
    """Work inside the app, in a process whose database has answered for long."""
    monkeypatch.setattr(database.Trouble, "last_at", seconds_since_boot() - 1000)
    with app.app_context():
        lease._clock().known_since = seconds_since_boot() - 1000
        yield


@pytest.fixture
def account(inside_the_app, sandbox):
    """Give the id of a connected account; the ledger starts empty."""
    account_id = store_account(sandbox)
    sandbox.clear_ledger()
    return account_id


@pytest.fixture
def in_background(app):
    """Give the function that starts another caller beside this one, and returns its future."""
    with ThreadPoolExecutor(16) as pool:

        def start(act, *arguments):
            def run():
                with app.app_context():
                    return act(*arguments)

            return pool.submit(run)

        yield start


def credential_of(account_id):
    row = row_of(account_id)
    return {name: row[name] for name in CREDENTIAL}


def kinds_of(account_id):
    return [one.kind for one in list_events(Search(account_id=account_id)).rows]


def served(account_id):
    return valid_token(account_id, "test").access_token


def let_the_database_clock_run(account_id, seconds):
    """Move what is written on the database's clock into the past instead."""
    with write_transaction() as session:
        row = session.get_one(Account, account_id)
        row.blocked_until = row.blocked_until and row.blocked_until - seconds
        row.lease_ends = row.lease_ends and row.lease_ends - seconds


def state_of(account_id):
    return view_account(account_id).state


def refreshes(sandbox):
    return sandbox.ledger()["totals"]["refreshes"]


def new_grant(sandbox, **choices):
    return TokenResponse.from_body(sandbox.grant(**choices)[0], utc_now())


def reconnect(account_id, granted):
    with write_transaction() as session:
        replace_credential(session.get_one(Account, account_id), granted)


def nearly_expired(clock, seconds_left=30):
    clock.advance(seconds=A_DAY.total_seconds() - seconds_left)


# A refresh that succeeds


def test_a_refresh_stores_the_new_pair(account, sandbox):
    before = row_of(account)
    started_at, statements = utc_now(), []
    event.listen(db.engine, "before_cursor_execute", lambda _c, _cursor, sql, *_: statements.append(sql))

    refresh_account(account, "test")

    writes = [sql for sql in statements if sql.startswith("UPDATE account ")]
    assert len(writes) == 2, "the lease; the new pair with its state"
    after = row_of(account)
    assert after["generation"] == before["generation"] + 1
    assert after["access_token_sealed"] != before["access_token_sealed"]
    assert after["refresh_token_sealed"] != before["refresh_token_sealed"]
    assert abs(after["access_token_expires_at"] - started_at - A_DAY) < timedelta(seconds=10)
    assert after["refresh_token_issued_at"] >= started_at
    assert after["refreshed_at"] >= started_at
    assert (after["attempted_at"], after["attempt_fingerprint"]) == (None, None)
    assert kinds_of(account) == [EventKind.REFRESHED]
    issued = {token["fingerprint"] for token in sandbox.ledger()["tokens"] if token["state"] == "live"}
    assert fingerprint(open_access_token(get_account(account))) in issued
    assert fingerprint(open_refresh_token(get_account(account))) in issued


@on_sqlite
def test_each_refresh_presents_the_token_of_the_one_before(account, sandbox):
    for _ in range(5):
        refresh_account(account, "test")

    totals = sandbox.ledger()["totals"]
    assert totals["refreshes"] == 5
    assert totals["refresh_tokens_presented_more_than_once"] == 0
    assert state_of(account) is AccountState.ACTIVE


@on_sqlite
def test_a_success_forgets_the_failures_before_it(account, sandbox):
    sandbox.fault("rate_limited_quota_429", first=3)
    for _ in range(3):
        with pytest.raises(TemporarilyUnavailable):
            refresh_account(account, "test")
    assert state_of(account) is AccountState.AT_RISK

    refresh_account(account, "test")

    row = row_of(account)
    assert (row["failures"], row["failed_at"], row["failure_reason"]) == (0, None, None)
    assert state_of(account) is AccountState.ACTIVE


@pytest.mark.proves("R23", "F13")
def test_without_a_new_refresh_token_the_old_one_stays(account, sandbox):
    sandbox.switch(rotation=False)
    before = row_of(account)

    refresh_account(account, "test")
    refresh_account(account, "test")

    after = row_of(account)
    assert after["refresh_token_sealed"] == before["refresh_token_sealed"]
    assert after["access_token_sealed"] != before["access_token_sealed"]
    assert after["kind"] == CredentialKind.OAUTH


@pytest.mark.proves("F13")
def test_the_age_of_an_imported_refresh_token_that_stays_is_counted_from_its_first_use(account, sandbox):
    """Nobody knows how old it was when it was imported; Keap counts from its last use."""
    sandbox.switch(rotation=False)
    long_ago = utc_now() - timedelta(days=40)
    with write_transaction() as session:
        row = session.get_one(Account, account)
        row.needs_first_refresh, row.refresh_token_issued_at = True, long_ago

    refresh_account(account, "test")
    first = row_of(account)["refresh_token_issued_at"]
    refresh_account(account, "test")

    assert first > long_ago + timedelta(days=39)
    assert row_of(account)["refresh_token_issued_at"] == first


@pytest.mark.proves("F13")
def test_a_reconnect_without_a_refresh_token_replaces_the_whole_grant(account, sandbox):
    granted = new_grant(sandbox)

    reconnect(account, TokenResponse(granted.access_token, None, granted.expires_at, granted.scope))

    row = row_of(account)
    assert row["kind"] == CredentialKind.ACCESS_TOKEN_ONLY
    assert (row["refresh_token_sealed"], row["refresh_token_issued_at"]) == (None, None)


@pytest.mark.proves("R26")
def test_of_two_who_want_one_lease_at_the_same_moment_one_gets_it(account, sandbox):
    other = store_account(sandbox, tenant_id="cd456")
    wanted = [
        lease.Lease(get_account(one), "r", seconds_since_boot() + 60, timing.UNASKED_WAIT_SECONDS, owner)
        for one, owner in ((account, "first"), (other, "another"), (account, "second"))
    ]

    assert lease.acquire_leases(wanted) == wanted[:2]
    assert [lease.is_still_held(one) for one in wanted] == [True, True, False]


@pytest.mark.proves("F82", "R26")
@pytest.mark.parametrize("change", ["the lease has ended by the database's clock", "refreshing was paused"])
def test_nothing_is_sent_under_a_lease_when_the_database_says_so_at_the_last_check(account, sandbox, change):
    """As after a jump of its clock, or a suspension that our boot clock does not count."""
    wanted = lease.Lease(get_account(account), "r", seconds_since_boot() + 60, timing.UNASKED_WAIT_SECONDS, "first")
    assert lease.acquire_leases([wanted]) == [wanted]
    assert lease.is_still_held(wanted)

    with write_transaction() as session:
        if change == "refreshing was paused":
            alarms.raise_alarm(session, alarms.MASS_REFUSAL, "Keap refused many.")
        else:
            session.get_one(Account, account).lease_ends = session.scalar(select(database_clock()))

    assert not lease.is_still_held(wanted)


@pytest.mark.proves("F85")
def test_use_does_not_put_off_a_refresh_that_is_due_at_once(account):
    """As after a refusal that came late."""
    due_at = utc_now() - timedelta(seconds=1)
    with write_transaction() as session:
        row = session.get_one(Account, account)
        row.next_refresh_at, row.last_used_at = due_at, utc_now() - timedelta(hours=2)

    valid_token(account, "job")

    assert get_account(account).last_used_at > due_at
    assert get_account(account).next_refresh_at == due_at


@pytest.mark.proves("R37")
def test_a_used_account_keeps_the_time_of_its_refresh(account, monkeypatch):
    """Were the jitter drawn anew with each use, the earliest time would stay, and accounts would be due together."""

    def use_with(jitter):
        monkeypatch.setattr(schedule.random, "random", lambda: jitter)
        with write_transaction() as session:
            session.get_one(Account, account).last_used_at = None
        valid_token(account, "job")
        return get_account(account).next_refresh_at

    first = use_with(0.0)

    assert first < utc_now() + timedelta(days=1)  # it was idle before
    assert use_with(0.9) == first


@pytest.mark.proves("F82")
def test_a_slow_commit_is_no_jump_of_the_clock(account, monkeypatch):
    """Else it would be taken for one, and all waits would begin anew again and again."""
    delays = []

    @contextlib.contextmanager
    def commit_slowly():
        with write_transaction() as session:
            yield session
        delays.append(2 * timing.JUMP_SECONDS)

    monkeypatch.setattr(lease, "write_transaction", commit_slowly)
    monkeypatch.setattr(lease, "seconds_since_boot", lambda: seconds_since_boot() + sum(delays))
    lease.restart_waits()

    with read_session() as session:
        ahead = session.scalar(select(database_clock())) - seconds_since_boot()
    assert lease._clock().ahead_seconds == pytest.approx(ahead, abs=timing.JUMP_SECONDS)


@pytest.mark.proves("R28")
@pytest.mark.parametrize("is_read_first", [True, False])
def test_a_token_in_doubt_rests_while_its_holder_could_not_reach_the_database(
    account, sandbox, monkeypatch, is_read_first
):
    """Also for whoever read the account before the attempt that left it in doubt."""
    as_read = get_account(account)
    with write_transaction() as session:
        row = session.get_one(Account, account)
        row.attempt_fingerprint, row.attempted_at = "0123456789abcdef", utc_now()
        # Nobody has written how it ended: its holder may have the new pair.
        row.lease_owner, row.lease_ends = "gone", session.scalar(select(database_clock())) - 1000
    as_read = as_read if is_read_first else get_account(account)

    with monkeypatch.context() as patch:
        patch.setattr(database.Trouble, "last_at", seconds_since_boot() - timing.UNKNOWN_OUTCOME_WAIT_SECONDS + 5)
        assert refresh_once(as_read, "test", timing.UNKNOWN_OUTCOME_WAIT_SECONDS).outcome is Outcome.NOT_TAKEN
    assert refreshes(sandbox) == 0

    assert refresh_once(get_account(account), "test", timing.UNKNOWN_OUTCOME_WAIT_SECONDS).outcome is Outcome.STORED


@pytest.mark.proves("R23")
def test_a_pair_is_stored_as_a_whole_or_not_at_all(account, sandbox, monkeypatch):
    class KilledBetweenTwoStatements(BaseException):
        pass

    def crash(*_, **__):
        raise KilledBetweenTwoStatements

    monkeypatch.setattr(storing, "record", crash)
    before = credential_of(account)

    with pytest.raises(KilledBetweenTwoStatements):
        refresh_account(account, "test")

    assert credential_of(account) == before
    assert row_of(account)["attempted_at"] is not None


@on_postgresql
@pytest.mark.proves("F14")
@pytest.mark.parametrize("unicode", [False, True])
def test_tokens_of_8_kilobytes_are_stored_and_returned_unchanged(account, sandbox, unicode):
    sandbox.fault("long_tokens", first=1, unicode=unicode)

    refresh_account(account, "test")

    handed_out = served(account)
    assert len(handed_out) == 8192
    assert fingerprint(handed_out) in {token["fingerprint"] for token in sandbox.ledger()["tokens"]}
    refresh_account(account, "test")


@on_sqlite
@pytest.mark.proves("F12")
@pytest.mark.parametrize("value", ["missing", None, "86399", "soon", 0, -5, 10**12, 1e300, True, []])
def test_an_odd_lifetime_neither_crashes_nor_leads_to_a_refresh_each_time(account, sandbox, value):
    sandbox.fault("odd_expires_in", value=value)

    refresh_account(account, "test")
    for _ in range(3):
        served(account)

    life = row_of(account)["access_token_expires_at"] - utc_now()
    assert timedelta(minutes=59) < life <= timedelta(days=365)
    assert refreshes(sandbox) == 1


# A refresh that fails

KEPT_IN_DOUBT = [
    "html_503",
    "json_500",
    "gateway_504",
    "gateway_504_after_rotation",
    "html_400",
    "html_403",
    "bot_filter_403",
    "redirect",
    "ok_html",
    "ok_empty",
    "ok_truncated",
    "ok_list",
    "ok_error_field",
    "ok_null_tokens",
    "missing_access_token",
    "wrong_token_type",
    "reset_before",
    "reset_after",
    "lost_answer",
    "huge_body",
]
KEPT = ["rate_limited_quota_429", "rate_limited_spike_429", "rate_limited_fault_429"]
CLIENT_REFUSALS = ["unable_to_authenticate_401", "invalid_client_401", "client_id_not_approved_fault"]
BARE_CLIENT_REFUSALS = ["unauthorized_401_plain", "developer_inactive_403"]


@on_sqlite
@pytest.mark.proves("F02", "F03", "F04", "F05", "F15", "R21")
@pytest.mark.parametrize(
    ("fault", "is_outcome_unknown"), [(name, True) for name in KEPT_IN_DOUBT] + [(name, False) for name in KEPT]
)
def test_a_failure_keeps_the_tokens_and_the_connection(account, sandbox, fault, is_outcome_unknown):
    sandbox.fault(fault)
    before = credential_of(account)

    with pytest.raises(TemporarilyUnavailable):
        refresh_account(account, "test")

    row = row_of(account)
    assert credential_of(account) == before
    assert (row["attempted_at"] is not None) is is_outcome_unknown
    assert (row["outcome_unknown_since"] is not None) is is_outcome_unknown
    assert (row["failures"], row["refusals"], row["refused_at"]) == (1, 0, None)
    assert state_of(account) is (AccountState.AT_RISK if is_outcome_unknown else AccountState.ACTIVE)
    at_risk = [EventKind.AT_RISK] if is_outcome_unknown else []
    assert kinds_of(account) == [*at_risk, EventKind.REFRESH_FAILED]
    assert served(account) == open_access_token(get_account(account))


@on_sqlite
@pytest.mark.proves("R21")
@pytest.mark.parametrize(
    "body",
    [
        "null",
        "[]",
        "{}",
        '"text"',
        '{"access_token": "a", "token_type": "bearer", "refresh_token": 5}',
        '{"access_token": {"a": 1}, "token_type": "bearer", "refresh_token": "r"}',
        '{"access_token": "a", "token_type": "bearer", "refresh_token": "r", "error": "server_error"}',
        '{"access_token": "\\ud800", "token_type": "bearer", "refresh_token": "r"}',
        "[" * 100_000,
    ],
    ids=lambda body: body[:60],
)
def test_no_odd_body_is_ever_stored(account, sandbox, body):
    sandbox.fault("status", status=200, body=body)
    before = credential_of(account)

    with pytest.raises(TemporarilyUnavailable):
        refresh_account(account, "test")

    assert credential_of(account) == before


def test_no_character_of_an_answer_keeps_a_good_pair_from_being_stored(account, sandbox):
    body = (
        '{"access_token": "new", "refresh_token": "newer", "token_type": "bearer",'
        ' "scope": "full\\u0000|ab123.infusionsoft.com"}'
    )
    sandbox.fault("status", status=200, body=body)

    refresh_account(account, "test")

    assert open_refresh_token(get_account(account)) == "newer"


@pytest.mark.proves("F17")
def test_a_token_whose_answer_was_lost_rests_for_two_minutes(account, sandbox):
    sandbox.fault("reset_before", first=1)
    with pytest.raises(TemporarilyUnavailable):
        refresh_account(account, "test")

    for seconds in (0, timing.UNKNOWN_OUTCOME_WAIT_SECONDS - 10):
        let_the_database_clock_run(account, seconds)
        with pytest.raises(TemporarilyUnavailable, match="rests before it is tried again"):
            refresh_account(account, "test")
    assert refreshes(sandbox) == 1
    assert "no usable answer came. Keap may have replaced the token" in view_account(account).reasons[0]

    let_the_database_clock_run(account, 10)
    refresh_account(account, "test")

    assert refreshes(sandbox) == 2
    assert state_of(account) is AccountState.ACTIVE


@pytest.mark.proves("F18")
def test_a_token_that_was_rotated_unheard_of_leads_to_a_reconnect_that_tells_why(account, sandbox):
    sandbox.fault("lost_answer", first=1)
    with pytest.raises(TemporarilyUnavailable):
        refresh_account(account, "test")
    outcome_unknown_since = row_of(account)["attempted_at"]
    let_the_database_clock_run(account, timing.UNKNOWN_OUTCOME_WAIT_SECONDS)
    with pytest.raises(TemporarilyUnavailable):
        refresh_account(account, "test")
    let_the_database_clock_run(account, timing.CONFIRM_WAIT_SECONDS)

    with pytest.raises(ReconnectRequired):
        refresh_account(account, "test")

    shown = view_account(account)
    assert shown.state is AccountState.RECONNECT_REQUIRED
    assert f"{outcome_unknown_since:%Y-%m-%d %H:%M:%S} UTC, and no usable answer came" in " ".join(shown.reasons)
    assert kinds_of(account)[:2] == [EventKind.RECONNECT_REQUIRED, EventKind.ANSWER_LOST]
    assert refreshes(sandbox) == 3


@on_sqlite
@pytest.mark.proves("F17")
def test_a_server_that_hangs_leaves_doubt(account, sandbox, monkeypatch):
    monkeypatch.setattr(transport, "DEADLINE_SECONDS", 0.6)
    sandbox.fault("hang")
    before = credential_of(account)

    with pytest.raises(TemporarilyUnavailable):
        refresh_account(account, "test")

    assert credential_of(account) == before
    assert row_of(account)["attempted_at"] is not None


class TestWithoutAServer:
    """Nobody listens where Keap should be."""

    @pytest.fixture
    def environ(self, environ):
        return environ | {"KEAP_TOKEN_URL": f"http://127.0.0.1:{free_port()}/token"}

    @pytest.mark.proves("F16")
    def test_what_is_known_not_sent_leaves_no_doubt_and_may_be_tried_at_once(self, account, sandbox):
        before = credential_of(account)

        for _ in range(2):
            with pytest.raises(TemporarilyUnavailable, match="could not be reached"):
                refresh_account(account, "test")

        row = row_of(account)
        assert credential_of(account) == before
        assert (row["failures"], row["outcome_unknown_since"]) == (2, None)
        assert (row["attempted_at"], row["attempt_fingerprint"], row["blocked_until"]) == (None, None, None)


@on_sqlite
@pytest.mark.proves("F05")
@pytest.mark.parametrize(("retry_after", "seconds"), [("77", 77), (None, 30), ("nonsense", 30)])
def test_the_caller_hears_when_to_come_back(account, sandbox, retry_after, seconds):
    sandbox.fault("rate_limited_spike_429", retry_after=retry_after)

    with pytest.raises(TemporarilyUnavailable) as refusal:
        refresh_account(account, "test")

    assert refusal.value.retry_after_seconds == seconds


@on_sqlite
@pytest.mark.parametrize("fault", CLIENT_REFUSALS)
def test_a_refusal_of_our_client_is_an_alarm_and_leaves_the_account_as_it_is(account, sandbox, fault):
    sandbox.fault(fault)
    before = row_of(account)

    for _ in range(4):
        with pytest.raises(ClientMisconfigured):
            refresh_account(account, "test")

    assert row_of(account) == before
    assert state_of(account) is AccountState.ACTIVE
    assert [alarm.name for alarm in list_alarms()] == [CLIENT_REFUSED]


@pytest.mark.proves("R33", "F08")
def test_two_accounts_that_raise_the_same_alarm_at_once_both_end_their_lease(account, sandbox, in_background):
    other = store_account(sandbox, tenant_id="cd456")
    sandbox.fault("invalid_client_401", "refresh")
    sandbox.hold("refresh", "after")
    started = [in_background(refresh_account, each, "test") for each in (account, other)]
    sandbox.wait_held(2)
    both_look, is_raised = Barrier(2), alarms.is_raised

    def look_together(session, name):
        found = is_raised(session, name)
        with contextlib.suppress(BrokenBarrierError):  # where writers wait for each other anyway, only one comes
            both_look.wait(1)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alarms, "is_raised", look_together)
        sandbox.release()
        refusals = [each.exception(30) for each in started]

    assert [type(refusal) for refusal in refusals] == [ClientMisconfigured, ClientMisconfigured]
    assert [row_of(each)["lease_owner"] for each in (account, other)] == [None, None]


@on_sqlite
@pytest.mark.proves("R33", "F08")
def test_jobs_ask_keap_once_in_a_while_whether_it_still_refuses_our_client(account, sandbox, clock, monkeypatch):
    monkeypatch.setattr(serving, "_probe", Probe())
    sandbox.fault(CLIENT_REFUSALS[0])
    with pytest.raises(ClientMisconfigured):
        refresh_account(account, "a person may always ask")
    clock.advance(seconds=86_399)

    for _ in range(4):
        with pytest.raises(ClientMisconfigured, match="401"):
            valid_token(account, "test")
    asked = refreshes(sandbox)
    sandbox.clear_faults()
    serving._probe.give_back()

    assert asked == 2
    assert served(account)
    assert list_alarms() == []


@on_sqlite
@pytest.mark.proves("R33")
def test_a_call_that_sends_nothing_leaves_the_probe_to_the_next(account, sandbox, clock, monkeypatch):
    monkeypatch.setattr(serving, "_probe", Probe())
    other = store_account(sandbox, "cd456")
    with write_transaction() as session:
        raise_alarm(session, CLIENT_REFUSED, "Keap refused our client.")
        waiting = session.get_one(Account, account)
        waiting.failures, waiting.next_refresh_at = 1, utc_now() + timedelta(days=2)
        session.get_one(Account, other).refresh_token_sealed = b"does not open"
    clock.advance(seconds=86_399)

    with pytest.raises(TemporarilyUnavailable):
        valid_token(account, "it backs off")
    with pytest.raises(SealBroken):
        valid_token(other, "it does not open")
    with write_transaction() as session:
        session.get_one(Account, account).failures = 0

    assert served(account)
    assert list_alarms() == []


@on_sqlite
def test_a_refresh_whose_lease_went_to_somebody_else_is_not_done(account, monkeypatch):
    def lose_the_lease(*_arguments):
        with write_transaction() as session:
            row = session.get_one(Account, account)
            row.lease_owner, row.lease_ends = "another", session.scalar(select(database_clock())) + 50
        return Attempt(Outcome.LATE)

    monkeypatch.setattr(serving, "refresh_once", lose_the_lease)

    with pytest.raises(TemporarilyUnavailable, match="A refresh is under way"):
        refresh_account(account, "test", patience_seconds=0.2)


@on_sqlite
@pytest.mark.parametrize("fault", BARE_CLIENT_REFUSALS)
def test_a_refusal_of_our_client_that_says_nothing_of_the_token_leaves_it_in_doubt(account, sandbox, fault):
    sandbox.fault(fault)
    before = credential_of(account)

    with pytest.raises(ClientMisconfigured):
        refresh_account(account, "test")

    row = row_of(account)
    assert credential_of(account) == before
    assert (row["failures"], row["refused_at"]) == (0, None)
    assert row["outcome_unknown_since"] == row["attempted_at"] is not None


def refuse_for_good(account_id, sandbox):
    with pytest.raises(TemporarilyUnavailable, match=r"(?i)invalid refresh token"):
        refresh_account(account_id, "test")
    assert state_of(account_id) is AccountState.ACTIVE
    let_the_database_clock_run(account_id, timing.CONFIRM_WAIT_SECONDS)
    with pytest.raises(ReconnectRequired, match=r"(?i)invalid refresh token"):
        refresh_account(account_id, "test")


@on_sqlite
@pytest.mark.parametrize("wording", ["invalid_request", "invalid_grant"])
def test_a_refusal_that_was_confirmed_asks_for_a_reconnect_and_deletes_nothing(account, sandbox, wording):
    sandbox.switch(refresh_wording=wording)
    sandbox.withdraw("ab123")
    before = credential_of(account)

    refuse_for_good(account, sandbox)

    assert credential_of(account) == before
    assert row_of(account)["refused_at"] is not None
    assert state_of(account) is AccountState.RECONNECT_REQUIRED
    assert kinds_of(account)[:2] == [EventKind.RECONNECT_REQUIRED, EventKind.REFRESH_REFUSED]
    told = [one.sentence for one in list_events(Search(account_id=account)).rows]
    assert [sentence.partition(" Keap answered")[0] for sentence in told[:4]] == [
        "A person must authorize again. Keap refused the refresh token for good.",
        "Keap refused the refresh token for good.",
        "Keap refused the refresh token again.",
        "Keap refused the refresh token; it is tried again before it counts.",
    ]
    assert served(account) == open_access_token(get_account(account))


@on_sqlite
def test_a_refused_token_is_not_presented_a_third_time(account, sandbox):
    sandbox.withdraw("ab123")
    refuse_for_good(account, sandbox)

    with pytest.raises(ReconnectRequired):
        refresh_account(account, "test")

    assert refreshes(sandbox) == 2


def test_a_reconnect_heals_what_was_refused(account, sandbox):
    sandbox.fault("refused_although_valid", first=2)
    refuse_for_good(account, sandbox)

    reconnect(account, new_grant(sandbox))
    refresh_account(account, "test")

    assert state_of(account) is AccountState.ACTIVE


@pytest.mark.proves("F11")
def test_a_pair_of_another_tenant_is_not_stored(account, sandbox):
    sandbox.fault("other_tenant_in_scope", tenant_id="zz999")
    before = credential_of(account)

    with pytest.raises(TemporarilyUnavailable, match="another account"):
        refresh_account(account, "test")

    assert credential_of(account) == before
    assert row_of(account)["attempted_at"] is not None
    assert kinds_of(account) == [EventKind.AT_RISK, EventKind.OTHER_TENANT_ANSWERED]
    assert "zz999" in list_events(Search(account_id=account)).rows[1].sentence


@on_sqlite
@pytest.mark.proves("R07")
def test_another_scope_than_full_is_told(account, sandbox):
    body = '{"access_token": "new", "refresh_token": "newer", "token_type": "bearer", "scope": "basic|ab123"}'
    sandbox.fault("status", status=200, body=body)

    refresh_account(account, "test")

    sentences = [event.sentence for event in list_events(Search(account_id=account)).rows]
    assert "Keap granted the scope basic|ab123 instead of full." in sentences


@on_sqlite
@pytest.mark.parametrize("fault", ["missing_scope", None])
def test_a_pair_that_names_no_tenant_or_the_right_one_is_stored(account, sandbox, fault):
    if fault:
        sandbox.fault(fault)

    refresh_account(account, "test")

    assert row_of(account)["scope"] == "full|ab123.infusionsoft.com"


# Later decisions win over late answers


def change_by_disconnecting(account_id, sandbox):
    disconnect(account_id, "test")


def change_by_reconnecting(account_id, sandbox):
    reconnect(account_id, new_grant(sandbox))


def change_by_deleting(account_id, sandbox):
    with write_transaction() as session:
        session.delete(session.get_one(Account, account_id))


changes = pytest.mark.parametrize("change", [change_by_disconnecting, change_by_reconnecting])
REFUSALS = {change_by_disconnecting: AccountDisconnected, change_by_deleting: AccountNotFound}


def assert_ends_as_decided(refreshing, change):
    """Whoever asked hears of the later decision, not of the late answer; a reconnect leaves nothing to ask for."""
    if change in REFUSALS:
        with pytest.raises(REFUSALS[change]):
            refreshing()
    else:
        refreshing()


@pytest.mark.proves("R25", "R40", "F26", "F27")
@changes
@pytest.mark.parametrize("answer", ["granted", "refused", "failed"])
def test_a_late_answer_changes_nothing(account, sandbox, in_background, change, answer):
    if answer != "granted":
        sandbox.fault("refused_although_valid" if answer == "refused" else "html_503")
    sandbox.hold("refresh", "after")
    late = in_background(refresh_account, account, "test")
    sandbox.wait_held(1)
    change(account, sandbox)
    decided, told = row_of(account), kinds_of(account)

    sandbox.release()
    assert_ends_as_decided(lambda: late.result(30), change)

    assert row_of(account) == decided
    assert kinds_of(account) == [EventKind.REFRESH_REFUSED_LATE] * (answer == "refused") + told
    assert refreshes(sandbox) == 1


@pytest.mark.proves("F27")
def test_a_late_answer_does_not_bring_a_deleted_row_back(account, sandbox, in_background):
    sandbox.hold("refresh", "after")
    late = in_background(refresh_account, account, "test")
    sandbox.wait_held(1)
    change_by_deleting(account, sandbox)

    sandbox.release()
    assert_ends_as_decided(lambda: late.result(30), change_by_deleting)

    with pytest.raises(AccountNotFound):
        get_account(account)


@pytest.mark.proves("R40")
@changes
def test_a_decision_between_looking_and_marking_stops_the_attempt(account, sandbox, monkeypatch, change):
    def open_and_lose_the_race(row):
        token = open_refresh_token(row)
        change(account, sandbox)
        return token

    monkeypatch.setattr(lease, "open_refresh_token", open_and_lose_the_race)

    assert_ends_as_decided(lambda: refresh_account(account, "test"), change)

    assert refreshes(sandbox) == 0
    assert row_of(account)["attempted_at"] is None


# One presentation


def test_a_second_caller_waits_and_is_served_what_the_first_one_got(account, sandbox, in_background, clock):
    nearly_expired(clock)
    sandbox.hold("refresh", "before")
    callers = [in_background(served, account) for _ in range(4)]
    sandbox.wait_held(1)

    sandbox.release()

    assert {caller.result(30) for caller in callers} == {open_access_token(get_account(account))}
    totals = sandbox.ledger()["totals"]
    assert (totals["refreshes"], totals["overlapping_presentations"]) == (1, 0)


@on_sqlite
def test_a_caller_without_patience_hears_that_a_refresh_is_under_way(account, sandbox, in_background, monkeypatch):
    monkeypatch.setattr(timing, "PATIENCE_SECONDS", 0.3)
    sandbox.hold("refresh", "before")
    first = in_background(refresh_account, account, "test")
    sandbox.wait_held(1)

    with pytest.raises(TemporarilyUnavailable, match="under way"):
        refresh_account(account, "test")
    sandbox.release()
    first.result(30)

    assert refreshes(sandbox) == 1


@pytest.mark.proves("R29")
def test_without_a_durable_mark_nothing_is_sent_and_a_token_that_holds_is_served(account, sandbox, clock):
    read_only = {"sqlite": "PRAGMA query_only=ON", "postgresql": "SET default_transaction_read_only = on"}
    statement = read_only[db.engine.dialect.name]

    @event.listens_for(db.engine, "checkout")
    def forbid_writing(connection, *_):
        connection.execute(statement)

    with pytest.raises(TemporarilyUnavailable, match="database fails"):
        refresh_account(account, "test")
    clock.advance(seconds=86_399 - 30)
    late = valid_token(account, "test")

    assert refreshes(sandbox) == 0
    assert late.access_token == open_access_token(get_account(account))
    assert late.warning == "The database fails right now. Nothing is lost; try again."


def test_the_mark_names_the_token_and_stands_before_it_is_sent(account, sandbox, in_background):
    presented = fingerprint(open_refresh_token(get_account(account)))
    sandbox.hold("refresh", "before")
    caller = in_background(refresh_account, account, "test")
    sandbox.wait_held(1)

    row = row_of(account)
    assert row["attempt_fingerprint"] == presented
    assert utc_now() - row["attempted_at"] < timedelta(seconds=30)
    assert row["lease_owner"]
    assert row["blocked_until"] > row["lease_ends"]
    assert state_of(account) is AccountState.ACTIVE

    sandbox.release()
    caller.result(30)


@pytest.mark.proves("R43")
def test_nobody_waits_for_the_database_while_keap_is_slow(account, sandbox, in_background):
    other = store_account(sandbox, "cd456")
    sandbox.hold("refresh", "before")
    slow = in_background(refresh_account, account, "test")
    sandbox.wait_held(1)

    def write_often():
        for number in range(25):
            with write_transaction() as session:
                session.get_one(Account, other, with_for_update=True).label = f"label {number}"

    writers = [in_background(write_often) for _ in range(4)]
    for writer in writers:
        writer.result(30)
    assert list_accounts().total == 2
    assert not slow.done()

    sandbox.release()
    slow.result(30)


@pytest.mark.proves("R24")
def test_refresh_tokens_arrive_at_one_path_only(account, sandbox, clock):
    refresh_account(account, "test")
    nearly_expired(clock)
    served(account)

    paths = [one["path"] for one in sandbox.ledger()["presentations"] if one["kind"] == "refresh_token"]

    assert paths == ["/token", "/token"]


# A valid token is always served


@on_sqlite
def test_a_token_with_time_left_is_served_without_asking_keap(account, sandbox, clock):
    nearly_expired(clock, seconds_left=90)

    assert served(account) == open_access_token(get_account(account))
    assert refreshes(sandbox) == 0


@on_sqlite
@pytest.mark.parametrize("seconds_left", [30, 0, -3600])
def test_a_token_with_less_than_a_minute_left_is_refreshed_first(account, sandbox, clock, seconds_left):
    before = open_access_token(get_account(account))
    nearly_expired(clock, seconds_left)

    after = served(account)

    assert after != before
    assert fingerprint(after) in {token["fingerprint"] for token in sandbox.ledger()["tokens"]}
    assert refreshes(sandbox) == 1


FAILURES = {
    "html_503": TemporarilyUnavailable,
    "lost_answer": TemporarilyUnavailable,
    "refused_although_valid": TemporarilyUnavailable,
    "invalid_client_401": ClientMisconfigured,
}


@on_sqlite
@pytest.mark.proves("F01")
@pytest.mark.parametrize("fault", FAILURES)
def test_a_token_that_still_holds_is_served_with_a_warning_although_refreshing_fails(account, sandbox, clock, fault):
    sandbox.fault(fault)
    held = open_access_token(get_account(account))
    nearly_expired(clock)

    token = valid_token(account, "test")

    assert token.access_token == held
    assert token.warning
    assert refreshes(sandbox) == 1


@on_sqlite
@pytest.mark.parametrize("fault", FAILURES)
def test_an_expired_token_is_never_served(account, sandbox, clock, fault):
    sandbox.fault(fault)
    nearly_expired(clock, seconds_left=-1)

    with pytest.raises(FAILURES[fault]) as refused:
        served(account)

    if fault == "refused_although_valid":
        assert refused.value.retry_after_seconds == timing.CONFIRM_WAIT_SECONDS


@on_sqlite
@pytest.mark.parametrize("min_validity_seconds", [1800, 100_000])
def test_a_life_that_was_asked_for_is_met_or_refused(account, sandbox, clock, min_validity_seconds):
    nearly_expired(clock, seconds_left=600)

    if min_validity_seconds > A_DAY.total_seconds():
        with pytest.raises(TemporarilyUnavailable, match="lasts as long"):
            valid_token(account, "test", min_validity_seconds)
    else:
        token = valid_token(account, "test", min_validity_seconds)
        assert token.account.access_token_expires_at > utc_now() + timedelta(seconds=min_validity_seconds)
    assert refreshes(sandbox) == 1


@on_sqlite
def test_a_token_that_still_holds_is_served_although_the_refresh_token_does_not_open(account, sandbox, clock):
    with write_transaction() as session:
        session.get_one(Account, account).refresh_token_sealed = b"edited"
    nearly_expired(clock)

    assert served(account) == open_access_token(get_account(account))

    clock.advance(seconds=60)
    with pytest.raises(SealBroken):
        served(account)
    assert refreshes(sandbox) == 0


@on_sqlite
def test_a_key_that_does_not_expire_is_served_without_asking_keap(sandbox):
    key = store_account(
        sandbox, kind=CredentialKind.SERVICE_ACCOUNT_KEY, access_token_expires_at=None, refresh_token_sealed=None
    )

    assert served(key) == open_access_token(get_account(key))
    assert refreshes(sandbox) == 0


@on_sqlite
def test_an_access_token_without_refresh_token_is_served_until_it_expires(sandbox, clock):
    lonely = store_account(sandbox, kind=CredentialKind.ACCESS_TOKEN_ONLY, refresh_token_sealed=None)
    nearly_expired(clock)

    assert served(lonely)

    clock.advance(seconds=60)
    with pytest.raises(ReconnectRequired):
        served(lonely)
    assert refreshes(sandbox) == 0


@on_sqlite
@pytest.mark.parametrize("act", [refresh_account, valid_token])
def test_a_disconnected_account_has_nothing_to_serve(account, sandbox, act):
    disconnect(account, "test")

    with pytest.raises(AccountDisconnected):
        act(account, "test")

    assert refreshes(sandbox) == 0


def report_a_token(account_id, actor):
    report_rejected(account_id, "0" * 16, actor)


@on_postgresql
@pytest.mark.parametrize("account_id", [999, 2**31, 10**30])
@pytest.mark.parametrize("act", [refresh_account, valid_token, report_a_token])
def test_an_account_that_is_not_there_is_not_found(act, account_id):
    with pytest.raises(AccountNotFound):
        act(account_id, "test")


@on_sqlite
def test_forgetting_a_credential_leaves_no_secret_in_the_row(account):
    with write_transaction() as session:
        forget_credential(session.get_one(Account, account))

    row = row_of(account)
    assert [name for name, value in row.items() if isinstance(value, bytes)] == []
    assert row["attempt_fingerprint"] is None
