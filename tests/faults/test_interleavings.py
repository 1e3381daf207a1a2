"""Random interleavings of all that can happen to an account, against a Keap that ends a grant when a token is replayed.

Attempts run in threads of their own and wait at Keap until the machine lets them go on, so every order of sending,
answering, losing, crashing, freezing, reconnecting and disconnecting comes up. Time is virtual. After each step the
invariants of docs/requirements.md hold (I1, I3, I4, I5).
"""

import math
import queue
import secrets
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace

import pycurl
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy.exc import OperationalError

from keap_connect import clock, database
from keap_connect.accounts.changes import disconnect
from keap_connect.accounts.credentials import (
    fingerprint,
    new_account,
    open_access_token,
    open_refresh_token,
    replace_credential,
)
from keap_connect.accounts.directory import view_of
from keap_connect.accounts.state import AccountState, Ours, standing_of
from keap_connect.accounts.stored_state import count_places, derive_anew
from keap_connect.clock import seconds_since_boot, utc_now
from keap_connect.connect.importing import Checked, ImportedCredential, store_checked
from keap_connect.connect.matching import Grant, match_grant
from keap_connect.database import read_session, write_transaction
from keap_connect.errors import ImportRefused, KeapConnectError
from keap_connect.keap.answers import Answer, Classification, GrantType, classify, no_answer, not_sent
from keap_connect.keap.token_response import TokenResponse
from keap_connect.keap.transport import Call, Cancelled
from keap_connect.keap.user_info import Identity
from keap_connect.models import Account, AccountEvent, StateCount
from keap_connect.refresh import alarms, recovery, refresher, replaying
from keap_connect.refresh.lease import look
from keap_connect.refresh.serving import report_rejected, valid_token
from keap_connect.refresh.timing import CONFIRM_WAIT_SECONDS, UNKNOWN_OUTCOME_WAIT_SECONDS
from keap_connect.services import services
from tests.faults.conftest import Stage
from tests.support.engines import on_sqlite

REFUSED = Answer(400, b'{"error": "invalid_grant", "error_description": "Invalid refresh token"}')
THROTTLED = Answer(429, b"")
GATEWAY = Answer(504, b"<html>")
TENANTS = ("ab123", "cd456")
STEPS = ["set out"] * 5 + ["go on"] * 6 + ["time passes"] * 4 + ["reconnect", "disconnect", "report", "clock steps"]
STEPS += ["crash", "crash", "crash", "database away", "import", "import"]
FATES = ["granted"] * 3 + ["answer lost", "false refusal", "504 before Keap acts", "throttled"]


class VirtualTime:
    """Stands in for the module `time` in the one place that asks for it, and for the wall clock."""

    CLOCK_BOOTTIME = CLOCK_MONOTONIC = 0

    def __init__(self) -> None:
        self.boot = 10_000.0
        self.wall_step = 0.0
        virtual = self

        class VirtualDatetime(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:
                return datetime.now(tz) + timedelta(seconds=virtual.boot - 10_000 + virtual.wall_step)

        self.datetime = VirtualDatetime

    def clock_gettime(self, _clock: int) -> float:
        """Return the seconds since boot."""
        return self.boot


class AtOnce(threading.Thread):
    """A thread whose work is done when `start` returns."""

    def start(self) -> None:
        """Do it now."""
        self.run()


@dataclass
class Presentation:
    """One refresh token that reached Keap. `wait_seconds`: how long nobody may present it again."""

    token: str
    at: float
    wait_seconds: float = UNKNOWN_OUTCOME_WAIT_SECONDS
    succeeded_before: float = math.inf  # the number of the first presentation after its pair was stored


class ModelKeap:
    """Rotates; a spent refresh token that comes back ends its whole grant."""

    def __init__(self) -> None:
        self.live: dict[str, str] = {}  # refresh token -> tenant
        self.grants: dict[str, str] = {}  # refresh token -> the first one of its grant
        self.spent: dict[str, str] = {}  # refresh token -> the token that followed it
        self.presented: list[Presentation] = []
        self.refusals: Counter[str] = Counter()

    def grant(self, tenant_id: str) -> TokenResponse:
        """Issue a pair of a new grant."""
        token = secrets.token_hex(8)
        self.live[token], self.grants[token] = tenant_id, token
        return self._pair(token, tenant_id)

    def present(self, token: str) -> TokenResponse | None:
        """Rotate a live token; end the grant of a spent one, and refuse."""
        if token in self.live:
            tenant_id = self.live.pop(token)
            fresh = secrets.token_hex(8)
            self.live[fresh], self.spent[token], self.grants[fresh] = tenant_id, fresh, self.grants[token]
            return self._pair(fresh, tenant_id)
        while token in self.spent:
            token = self.spent[token]
        self.live.pop(token, None)
        return None

    def _pair(self, token: str, tenant_id: str) -> TokenResponse:
        expires_at = utc_now() + timedelta(days=1)
        return TokenResponse("access-" + secrets.token_hex(8), token, expires_at, f"full|{tenant_id}")


class _Crash(BaseException):
    """The process is gone at this very point."""


@dataclass
class Flight:
    """One attempt, stopped at Keap's door: first before it is sent, then before the answer is read."""

    account_id: int
    fate: str
    at_door: queue.Queue[str] = field(default_factory=queue.Queue)
    go_on: queue.Queue[str] = field(default_factory=queue.Queue)
    presentation: Presentation | None = None

    def wait(self) -> str:
        """Return where it stands now: `claimed`, `sent` or `over`."""
        return self.at_door.get(timeout=30)


class Interleavings(RuleBasedStateMachine):
    """Two accounts of two tenants, and everything that may happen to them."""

    stage: Stage
    time: VirtualTime
    patch: pytest.MonkeyPatch

    def __init__(self) -> None:
        super().__init__()
        self.keap = ModelKeap()
        self.flights: list[Flight] = []
        self.lost_grants: set[int] = set()  # accounts whose present grant had an answer lost, or a crash
        self.local = threading.local()
        self.time.boot += 10_000
        self.time.wall_step = 0.0
        database.Trouble.last_at = 0.0
        self.patch.setattr(refresher, "refresh", self._refresh)
        self.patch.setattr(alarms, "LEAST_REFUSED", 1000)
        self.patch.setattr(replaying, "threading", SimpleNamespace(Thread=AtOnce))
        self.patch.setattr(recovery.RecoveryFile, "guard", lambda _slot, _pair: None)

    def teardown(self) -> None:
        for flight in list(self.flights):
            flight.go_on.put("crash")
            while flight.wait() != "over":
                flight.go_on.put("crash")

    # What the app believes it calls

    def _refresh(
        self, _keap: object, refresh_token: str, must_end_by: float, may_send: Callable[[], bool]
    ) -> Classification:
        flight: Flight = self.local.flight
        call = Call(must_end_by=must_end_by, may_send=may_send)
        self._stop_at_door(flight, "claimed")
        if call.last_check() != pycurl.PREREQFUNC_OK:
            assert isinstance(call.fault, Cancelled)
            return not_sent(str(call.fault))
        sent_at = utc_now()
        presentation = flight.presentation = Presentation(refresh_token, seconds_since_boot())
        self.keap.presented.append(presentation)
        classified = self._answer(flight, presentation, sent_at)
        self._stop_at_door(flight, "sent")
        return classified

    def _answer(self, flight: Flight, presentation: Presentation, sent_at: datetime) -> Classification:
        if flight.fate == "throttled":
            presentation.wait_seconds = 0.0
            return classify(GrantType.REFRESH_TOKEN, THROTTLED, sent_at)
        if flight.fate == "504 before Keap acts":
            return classify(GrantType.REFRESH_TOKEN, GATEWAY, sent_at)
        granted = None if flight.fate == "false refusal" else self.keap.present(presentation.token)
        if granted is None and flight.fate != "false refusal":
            # Keap ended the grant: the holder of the new pair was frozen for longer than the doubt, and may come yet.
            self.lost_grants.add(flight.account_id)
            newest = presentation.token
            while newest in self.keap.spent:
                newest = self.keap.spent[newest]
            self.spent_pairs.add(newest)
        if flight.fate == "answer lost":
            self.lost_grants.add(flight.account_id)
            return no_answer("Keap did not answer.", was_sent=True)
        if granted is None:
            presentation.wait_seconds = CONFIRM_WAIT_SECONDS
            self.keap.refusals[presentation.token] += 1
            return classify(GrantType.REFRESH_TOKEN, REFUSED, sent_at)
        return Classification(
            classify(GrantType.REFRESH_TOKEN, REFUSED, sent_at).verdict.GRANTED, "", token_response=granted
        )

    def _stop_at_door(self, flight: Flight, where: str) -> None:
        flight.at_door.put(where)
        if flight.go_on.get(timeout=30) == "crash":
            self.lost_grants.add(flight.account_id)
            raise _Crash

    # What happens

    @initialize()
    def connect(self) -> None:
        with self.stage.app.app_context(), write_transaction() as session:
            for table in (Account, AccountEvent, StateCount):
                session.query(table).delete()
            accounts = []
            for tenant_id in TENANTS:
                account = new_account(session, tenant_id, "1")
                replace_credential(account, self.keap.grant(tenant_id))
                accounts.append(account)
            session.flush()
            self.ids = [account.id for account in accounts]
            self.imported: dict[int, TokenResponse] = {}
            self.spent_pairs: set[str] = set()
            self.newest = {account.id: open_refresh_token(account) for account in accounts}

    @rule(
        what=st.sampled_from(STEPS),
        which=st.integers(0, 3),
        fate=st.sampled_from(FATES),
        by_worker=st.booleans(),
        seconds=st.sampled_from([1, 31, 61, 61, 91, 121, 121, 3600]),
    )
    def step(self, what: str, which: int, fate: str, by_worker: bool, seconds: int) -> None:
        """One thing happens: weighted, so that attempts meet each other often."""
        account = which % 2
        if what == "time passes":
            self.time.boot += seconds  # attempts under way are frozen then
        elif what == "clock steps":
            self.time.wall_step = float(seconds * (-1) ** which)
            with self.stage.app.app_context():
                derive_anew(0, len(TENANTS))  # as the worker does after a step
        elif what == "reconnect" or (what == "set out" and self._row(self.ids[account]).disconnected_at):
            self._reconnect(account)
        elif what == "disconnect":
            self._disconnect(account)
        elif what == "report":
            self._report(account)
        elif what == "import":
            self._import(account, again=which > 1)
        elif self.flights and (what != "set out" or len(self.flights) > 3):
            self._go_on(self.flights[which % len(self.flights)], what)
        else:
            self._set_out(account, fate, by_worker)

    def _set_out(self, which: int, fate: str, by_worker: bool) -> None:
        """A worker or a job sets out to refresh; it gets as far as Keap's door, or hears why not."""
        flight = Flight(self.ids[which], fate)

        def run() -> None:
            self.local.flight = flight
            with self.stage.app.app_context():
                try:
                    if by_worker:
                        refresher.refresh_once(look(flight.account_id).account, "worker")
                    else:
                        valid_token(flight.account_id, "job", min_validity_seconds=10**9, patience_seconds=0)
                except (KeapConnectError, _Crash):
                    pass
                finally:
                    flight.at_door.put("over")

        threading.Thread(target=run).start()
        if flight.wait() != "over":
            self.flights.append(flight)

    def _go_on(self, flight: Flight, how: str) -> None:
        """An attempt takes its next step: it is sent, or its answer is read and written down."""
        before = self._row(flight.account_id).generation
        with pytest.MonkeyPatch.context() as patch:
            if how == "database away" and flight.presentation:
                self._let_one_commit_fail(patch)
            flight.go_on.put("crash" if how == "crash" else "on")
            where = flight.wait()
        if where == "over":
            self.flights.remove(flight)
            is_stored = self._row(flight.account_id).generation > before
            if flight.presentation and flight.fate == "granted" and is_stored:
                flight.presentation.succeeded_before = len(self.keap.presented)

    def _reconnect(self, which: int) -> None:
        account_id, before = self.ids[which], self._row(self.ids[which])
        grant = Grant(self.keap.grant(TENANTS[which]), Identity(TENANTS[which], "1"))
        with self.stage.app.app_context(), write_transaction() as session:
            match = match_grant(session, grant, account_id)
        if match.is_stored:
            self.newest[account_id] = grant.token_response.refresh_token
            self.lost_grants.discard(account_id)
        else:  # the clock was set back, by so little that it may be another host's
            assert grant.came_at < (before.disconnected_at or before.connected_at), "the newest grant was dropped"

    def _disconnect(self, which: int) -> None:
        with self.stage.app.app_context():
            disconnect(self.ids[which], "customer")
        self.lost_grants.discard(self.ids[which])

    def _import(self, which: int, *, again: bool) -> None:
        """Somebody brings a pair of a new grant, or, without knowing better, the one that they brought before."""
        account_id = self.ids[which]
        row = self._row(account_id)
        brought = self.imported.get(account_id) if again else None
        granted = brought or self.keap.grant(TENANTS[which])
        credential = ImportedCredential(granted.access_token, granted.refresh_token, replaces=not brought)
        try:
            with self.stage.app.app_context(), write_transaction() as session:
                store_checked(session, Checked(credential, Identity(TENANTS[which], "1")), "admin")
        except ImportRefused:
            assert brought, "only what was here before may be refused"
            return
        self.imported[account_id], self.newest[account_id] = granted, self.keap.grants[granted.refresh_token]
        self.lost_grants.discard(account_id)
        if granted.refresh_token not in self.keap.live:
            with self.stage.app.app_context():
                is_well = view_of(row, Ours(*services().keap.registration)).state is AccountState.ACTIVE and not (
                    row.failures or row.refusals
                )
            assert not is_well, "a spent pair took the place of one that works"
            self.spent_pairs.add(granted.refresh_token)

    def _report(self, which: int) -> None:
        """A job says that Keap refused the token it has."""
        with self.stage.app.app_context():
            token = open_access_token(self._row(self.ids[which]))
            report_rejected(self.ids[which], fingerprint(token or ""), "job")

    # What holds after each step

    @invariant()
    def no_token_is_presented_too_early_or_after_a_success(self) -> None:
        """I1."""
        last: dict[str, Presentation] = {}
        for number, each in enumerate(self.keap.presented):
            earlier = last.get(each.token)
            if earlier:
                assert number < earlier.succeeded_before, "a spent token was presented again"
                assert each.at - earlier.at >= earlier.wait_seconds, "a token was presented again too early"
            last[each.token] = each

    @invariant()
    def each_account_has_the_newest_pair_or_says_what_is_wrong(self) -> None:
        """I3, I4, I5."""
        for account_id, tenant_id in zip(getattr(self, "ids", []), TENANTS, strict=False):
            account = self._row(account_id)
            with self.stage.app.app_context():
                token = open_refresh_token(account)
                state = view_of(account, Ours(*services().keap.registration)).state
            if token is None:
                assert state is AccountState.DISCONNECTED
                continue
            assert self.keap.live.get(token, tenant_id) == tenant_id
            assert self.keap.grants[token] == self.newest[account_id], "an older grant came back"
            assert account.refusals <= self.keap.refusals[token], "a refusal of another token was counted"
            if account.refused_at is not None:
                assert self.keap.refusals[token] >= 2, "marked without two refusals of the stored token"
            under_way = any(flight.account_id == account_id for flight in self.flights)
            if token not in self.keap.live and not under_way:
                if token in self.spent_pairs:
                    continue  # it was spent elsewhere before it came, and will be refused when it is tried
                assert account_id in self.lost_grants, "a grant was lost although every answer came"
                said = (
                    account.attempt_fingerprint
                    or account.outcome_unknown_since
                    or account.refused_at
                    or account.refusals
                )
                assert said, "silently wrong"

    @invariant()
    def the_stored_state_is_the_derived_one_unless_its_moment_has_come(self) -> None:
        for account_id in getattr(self, "ids", []):
            account = self._row(account_id)
            with self.stage.app.app_context():
                derived = standing_of(account, utc_now(), Ours(*services().keap.registration))
            has_come = account.state_changes_at is not None and account.state_changes_at <= utc_now()
            stored = account.state, account.state_cause
            assert has_come or stored == (derived.state, derived.cause), "nobody would derive it"
            changes_at = account.state_changes_at  # early is right, late is not
            assert has_come or derived.changes_at is None or (changes_at and changes_at <= derived.changes_at)

    @invariant()
    def the_counts_are_those_of_the_stored_states(self) -> None:
        with self.stage.app.app_context():
            assert {place: number for place, number in count_places().items() if number} == Counter(
                (account.state, account.state_cause) for account in map(self._row, getattr(self, "ids", []))
            )

    def _row(self, account_id: int) -> Account:
        with self.stage.app.app_context(), read_session() as session:
            return session.get_one(Account, account_id)

    def _let_one_commit_fail(self, patch: pytest.MonkeyPatch) -> None:
        steps = {"write_transaction": refresher.write_transaction}

        def fail_once(*_: object) -> None:
            for name, step in steps.items():
                patch.setattr(refresher, name, step)
            raise OperationalError("COMMIT", {}, Exception("the database is away"))

        for name in steps:
            patch.setattr(refresher, name, fail_once)


@pytest.fixture
def machine(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> type[Interleavings]:
    """Give the machine, with a clock of its own."""
    time = VirtualTime()
    monkeypatch.setattr(clock, "time", time)
    monkeypatch.setattr(clock, "datetime", time.datetime)
    return type("Machine", (Interleavings,), {"stage": stage, "time": time, "patch": monkeypatch})


def _run(machine: type[Interleavings], examples: int, steps: int, *, derandomize: bool = False) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=derandomize,
            phases=[Phase.generate],
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@on_sqlite
@pytest.mark.proves("R26", "R31", "R32", "R40", "F09", "F18", "F24")
def test_no_interleaving_breaks_an_invariant(machine: type[Interleavings]):
    _run(machine, examples=25, steps=40, derandomize=True)


@on_sqlite
def test_a_crash_before_the_clock_was_set_back_is_an_unknown_outcome_with_the_next_attempt(
    machine: type[Interleavings],
):
    """The mark of the crashed attempt lies in the future by then."""
    played = machine()
    played.connect()
    steps = [("set out", 1), ("crash", 1), ("clock steps", 3600), ("time passes", 961), ("set out", 1)]
    for what, seconds in steps:
        played.step(what, 1, "granted", False, seconds)
        played.the_stored_state_is_the_derived_one_unless_its_moment_has_come()
    played.teardown()


@pytest.mark.long
@on_sqlite
@pytest.mark.proves("R26", "R31", "R32", "R40", "F09", "F18", "F24")
def test_no_interleaving_of_many_breaks_an_invariant(machine: type[Interleavings]):
    _run(machine, examples=600, steps=80)
