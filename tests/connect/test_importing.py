"""Credentials brought by hand: each kind kept as its own, in the account it belongs to; or nothing is changed."""

import base64
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask, current_app
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from keap_connect.accounts.changes import change_account, disconnect, erase
from keap_connect.accounts.credentials import fingerprint
from keap_connect.accounts.directory import view_account
from keap_connect.accounts.state import AccountState
from keap_connect.accounts.stored_state import note_work, settle, store_registration
from keap_connect.connect import identifying, importing
from keap_connect.connect.identifying import identify_pending
from keap_connect.connect.importing import ImportedCredential, check_form, import_credential
from keap_connect.connect.matching import match_grant
from keap_connect.database import write_transaction
from keap_connect.deployment import check_deployment
from keap_connect.errors import (
    CredentialRefused,
    ImportRefused,
    NameRefused,
    NotRefreshable,
    ReconnectRequired,
    TemporarilyUnavailable,
    UnusualKey,
    WouldReplace,
)
from keap_connect.events.history import sentence_of
from keap_connect.keap.user_info import Identity
from keap_connect.models import Account, CredentialKind
from keap_connect.refresh.alarms import list_alarms
from keap_connect.refresh.serving import MAY_END_EARLIER, refresh_account, report_rejected, valid_token
from keap_connect.refresh.timing import REFRESH_WHEN_LEFT_SECONDS
from keap_connect.refresh.worker import RefreshWorker
from tests.conftest import MovedClock
from tests.connect.test_matching import count_lock_waits
from tests.faults.conftest import until
from tests.flows.stored import Stored, presented_twice
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.sandbox import ANN, Sandbox

ADMIN = "admin@example.com"
OAUTH, TOKEN_ONLY = CredentialKind.OAUTH, CredentialKind.ACCESS_TOKEN_ONLY
PERSONAL, SERVICE = CredentialKind.PERSONAL_ACCESS_TOKEN, CredentialKind.SERVICE_ACCOUNT_KEY
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
JWT_HEAD = "eyJhbGciOiJSUzI1NiJ9"
CLAIMS = base64.urlsafe_b64encode(b'{"iss":"https://login.labs.thryv.com/"}').decode().rstrip("=")
MCP_TOKEN = f"{JWT_HEAD}.{CLAIMS}.sig"


def bring(sandbox: Sandbox, kind: CredentialKind, tenant: str = "ab123") -> ImportedCredential:
    """Fetch a credential from the sandbox, as a person would."""
    if kind in {PERSONAL, SERVICE}:
        return ImportedCredential(sandbox.make_key(kind, tenant=tenant), kind=kind)
    access_token, refresh_token = sandbox.generate_token(tenant=tenant)
    return ImportedCredential(access_token, refresh_token if kind is OAUTH else None, kind=kind)


@pytest.mark.parametrize("kind", CredentialKind)
def test_each_kind_is_kept_as_its_own_with_whose_it_is_and_an_honest_expiry(
    kind: CredentialKind, stored: Stored, sandbox: Sandbox
):
    credential = bring(sandbox, kind)

    account = stored.account(import_credential(replace(credential, external_id="customer:7", label="Blue Door"), ADMIN))

    assert (account.tenant_id, account.keap_user_id, account.kind) == ("ab123", str(ANN), kind)
    assert (account.business_name, account.person_name) == ("Acme Plumbing", "Ann Lee")
    assert (account.external_id, account.label) == ("customer:7", "Blue Door")
    assert stored.tokens(account.id) == (credential.access_token, credential.refresh_token)
    now = datetime.now(UTC)
    latest = {OAUTH: now + timedelta(hours=1), TOKEN_ONLY: now + DAY}.get(kind)
    expires_at = account.access_token_expires_at
    assert expires_at == latest if latest is None else latest - MINUTE < expires_at <= latest
    assert view_account(account.id).state is AccountState.ACTIVE
    assert view_account(account.id).refresh_days_left == (44 if kind is OAUTH else None)
    assert stored.history(account.id) == ["imported"]
    assert credential.access_token not in str(stored.rows("account_event"))


@on_sqlite
@pytest.mark.parametrize(("seconds", "counted"), [(600, 600), (10**9, 86400)])
def test_expiry_that_somebody_knows_counts_up_to_a_day(seconds: int, counted: int, stored: Stored, sandbox: Sandbox):
    access_token, refresh_token = sandbox.generate_token()

    import_credential(ImportedCredential(access_token, refresh_token, seconds), ADMIN)

    left = stored.account().access_token_expires_at - datetime.now(UTC)
    assert timedelta(seconds=counted) - MINUTE < left <= timedelta(seconds=counted)


@on_postgresql
def test_imported_pair_is_refreshed_like_any_other_and_soon(stored: Stored, sandbox: Sandbox):
    credential = bring(sandbox, OAUTH)
    account_id = import_credential(credential, ADMIN)

    assert stored.account().next_refresh_at <= datetime.now(UTC)
    assert "not yet refreshed" in view_account(account_id).next_step
    refresh_account(account_id, ADMIN)
    assert "not yet refreshed" not in view_account(account_id).next_step

    account = stored.account()
    assert stored.tokens(account_id)[1] not in {None, credential.refresh_token}
    assert account.access_token_expires_at > datetime.now(UTC) + DAY - MINUTE
    assert sandbox.ledger()["totals"]["refreshes"] == 1


@on_sqlite
class TestKnownAccount:
    """The tenant and person are connected already."""

    @pytest.mark.parametrize("kind", [OAUTH, PERSONAL, SERVICE])
    def test_it_gets_the_credential_and_keeps_its_place(self, kind: CredentialKind, stored: Stored, sandbox: Sandbox):
        account_id = stored.place(label="Kept", external_id="kept", last_used_at=datetime.now(UTC))
        before = stored.account()
        credential = bring(sandbox, kind)

        assert import_credential(replace(credential, replaces=kind is OAUTH), ADMIN) == account_id

        after = stored.account()
        assert stored.tokens(account_id) == (credential.access_token, credential.refresh_token)
        assert (after.label, after.external_id, after.created_at) == ("Kept", "kept", before.created_at)
        assert after.generation == before.generation + 1
        assert stored.history(account_id) == ["connected", "imported_again"]

    def test_one_that_lasts_is_not_given_up_for_a_token_of_a_day(self, stored: Stored, sandbox: Sandbox):
        stored.place()
        before = stored.rows()

        with pytest.raises(ImportRefused, match="connected already, for longer"):
            import_credential(bring(sandbox, TOKEN_ONLY), ADMIN)

        assert stored.rows() == before

    def test_one_that_works_is_not_given_up_for_a_pair_that_may_be_stale(self, stored: Stored, sandbox: Sandbox):
        account_id = stored.place()
        credential, before = bring(sandbox, OAUTH), stored.rows()

        with pytest.raises(WouldReplace, match="connected already, and works"):
            import_credential(credential, ADMIN)

        assert stored.rows() == before
        assert import_credential(replace(credential, replaces=True), ADMIN) == account_id

    @pytest.mark.parametrize(
        "trouble",
        [
            {"failures": 1},
            {"failures": 5},
            {"access_token_expires_at": datetime.now(UTC) - HOUR, "next_refresh_at": datetime.now(UTC) - HOUR},
            {"outcome_unknown_since": datetime.now(UTC)},
        ],
    )
    def test_one_that_keap_has_not_refused_is_not_given_up_because_its_refresh_fails(
        self, trouble: dict[str, object], stored: Stored, sandbox: Sandbox
    ):
        stored.place(**trouble)
        before = stored.tokens(1)

        with pytest.raises(WouldReplace, match="connected already, and works"):
            import_credential(bring(sandbox, OAUTH), ADMIN)

        assert stored.tokens(1) == before

    @pytest.mark.parametrize(
        "trouble", [{"refused_at": datetime.now(UTC)}, {"refusals": 1}, {"client_id": "an-app-before-this-one"}]
    )
    def test_one_that_is_not_refreshed_or_was_refused_takes_a_pair(
        self, trouble: dict[str, object], stored: Stored, sandbox: Sandbox
    ):
        account_id = stored.place(**trouble)

        assert import_credential(bring(sandbox, OAUTH), ADMIN) == account_id

        assert view_account(account_id).state is AccountState.ACTIVE

    def test_one_that_was_disconnected_takes_even_a_token_of_a_day(self, stored: Stored, sandbox: Sandbox):
        account_id = stored.place()
        disconnect(account_id, ADMIN)

        import_credential(bring(sandbox, TOKEN_ONLY), ADMIN)

        assert stored.account().kind == TOKEN_ONLY
        assert view_account(account_id).state is AccountState.ACTIVE

    def test_pair_that_was_refreshed_here_cannot_come_back_over_its_own_successor(
        self, stored: Stored, sandbox: Sandbox
    ):
        credential = bring(sandbox, OAUTH)
        account_id = import_credential(credential, ADMIN)
        assert import_credential(credential, ADMIN) == account_id  # nothing was done with it yet
        refresh_account(account_id, ADMIN)
        before = stored.rows()

        with pytest.raises(ImportRefused, match="was imported before"):
            import_credential(credential, ADMIN)

        assert stored.rows() == before
        refresh_account(account_id, ADMIN)

    def test_pair_whose_refresh_is_under_way_cannot_be_sent_a_second_time(self, stored: Stored, sandbox: Sandbox):
        credential = bring(sandbox, OAUTH)
        account_id = import_credential(credential, ADMIN)
        stored.set(account_id, attempted_at=datetime.now(UTC))

        with pytest.raises(ImportRefused, match="was imported before"):
            import_credential(credential, ADMIN)

    def test_same_pair_again_does_not_cut_the_wait_after_a_refusal_short(self, stored: Stored, sandbox: Sandbox):
        credential = bring(sandbox, OAUTH)
        account_id = import_credential(credential, ADMIN)
        stored.set(account_id, refusals=1, blocked_until=1e9)
        before = stored.account()

        assert import_credential(replace(credential, label="Its new name"), ADMIN) == account_id

        after = stored.account()
        assert (after.refusals, after.blocked_until, after.generation) == (1, 1e9, before.generation)
        assert after.label == "Its new name"

    def test_same_token_of_a_day_may_come_again(self, stored: Stored, sandbox: Sandbox):
        credential = bring(sandbox, TOKEN_ONLY)

        assert import_credential(credential, ADMIN) == import_credential(credential, ADMIN)


@pytest.mark.proves("F91")
def test_one_refresh_token_that_comes_many_times_at_once_gets_into_one_account(
    app: Flask, stored: Stored, sandbox: Sandbox
):
    credential = bring(sandbox, OAUTH)
    sandbox.advance(25 * 3600)
    together = threading.Barrier(4)

    def bring_in(_number: int) -> int:
        with app.app_context():
            together.wait()
            return import_credential(credential, ADMIN)

    with ThreadPoolExecutor(4) as threads:
        ids = set(threads.map(bring_in, range(4)))

    assert ids == {stored.account().id}


@on_sqlite
def test_account_that_waits_for_its_turn_after_an_outage_of_the_workers_is_not_replaced(
    stored: Stored, sandbox: Sandbox, clock: MovedClock
):
    store_registration()
    note_work()
    stored.place(access_token_expires_at=datetime.now(UTC) + HOUR, next_refresh_at=datetime.now(UTC))
    clock.advance(hours=2)
    note_work()

    with pytest.raises(WouldReplace):
        import_credential(bring(sandbox, OAUTH), ADMIN)


@on_sqlite
def test_pending_pair_takes_the_place_of_an_expired_access_token_that_came_later(
    stored: Stored, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    with write_transaction() as session:
        grant = stored.grant()
        pending = match_grant(session, replace(grant, identity=Identity())).account_id
    token_only = import_credential(bring(sandbox, TOKEN_ONLY), ADMIN)
    stored.set(token_only, access_token_expires_at=datetime.now(UTC) - MINUTE)

    assert identify_pending(pending) == token_only

    assert stored.tokens(token_only)[1] == grant.token_response.refresh_token


@pytest.mark.proves("F91")
@on_postgresql
def test_pair_that_was_stored_while_the_same_one_waited_for_the_account_is_no_other_pair(
    app: Flask, stored: Stored, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    credential, lock = bring(sandbox, OAUTH), importing.lock_accounts

    def import_it() -> int:
        with app.app_context():
            return import_credential(credential, ADMIN)

    def lock_after_another(session: Session, *which: ColumnElement[bool]) -> dict[int, Account]:
        monkeypatch.setattr(importing, "lock_accounts", lock)
        with ThreadPoolExecutor(1) as thread:
            thread.submit(import_it).result()
        return lock(session, *which)

    monkeypatch.setattr(importing, "lock_accounts", lock_after_another)

    assert import_it() == stored.account().id


@pytest.mark.proves("F91")
@on_postgresql
def test_two_pairs_of_one_person_that_are_named_at_once_get_into_one_account(
    app: Flask, stored: Stored, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    pairs = [bring(sandbox, OAUTH) for _ in range(2)]
    sandbox.advance(25 * 3600)
    ids = [import_credential(pair, ADMIN) for pair in pairs]
    for account_id in ids:
        valid_token(account_id, "job")
    both, find, asked = threading.Barrier(2), identifying.lock_accounts, []

    def find_together(session: Session, *which: ColumnElement[bool]) -> dict[int, Account]:
        found = find(session, *which)
        asked.append(found)
        if len(asked) <= both.parties:
            both.wait(30)
        return found

    def identify(account_id: int) -> int:
        with app.app_context():
            return identify_pending(account_id)

    monkeypatch.setattr(identifying, "lock_accounts", find_together)
    with ThreadPoolExecutor(2) as threads:
        named = set(threads.map(identify, ids))

    assert named == {stored.account().id}


@on_postgresql
def test_merge_locks_both_rows_in_the_order_of_their_ids(app: Flask, stored: Stored, sandbox: Sandbox):
    pair = bring(sandbox, OAUTH)
    sandbox.advance(25 * 3600)
    known, pending = stored.place(), import_credential(pair, ADMIN)
    valid_token(pending, "job")

    def identify() -> int:
        with app.app_context():
            return identify_pending(pending)

    with ThreadPoolExecutor(1) as threads:
        with write_transaction() as session:
            session.get_one(Account, known, with_for_update=True)
            identified = threads.submit(identify)
            until(count_lock_waits)
            session.get_one(Account, pending, with_for_update={"nowait": True})
        assert identified.result(30) == known


@pytest.mark.proves("F91")
@on_sqlite
class TestExpiredAccessToken:
    """Only the first refresh of such a pair shows whether it works, and whose it is."""

    @pytest.fixture
    def expired(self, sandbox: Sandbox) -> ImportedCredential:
        credential = replace(bring(sandbox, OAUTH), external_id="customer:7", label="Blue Door")
        sandbox.advance(25 * 3600)
        return credential

    def test_it_waits_sealed_and_its_first_refresh_makes_it_an_account_with_names(
        self, app: Flask, expired: ImportedCredential, stored: Stored, sandbox: Sandbox
    ):
        account_id = import_credential(expired, ADMIN)

        account, view = stored.account(), view_account(account_id)
        assert (account.is_pending, account.needs_first_refresh, account.refresh_token_issued_at) == (True, True, None)
        assert account.access_token_expires_at <= datetime.now(UTC)
        assert (view.label, view.external_id, view.refresh_days_left) == ("Blue Door", "customer:7", None)
        assert "its first refresh" in view.next_step
        with pytest.raises(TemporarilyUnavailable, match="first refresh comes first"):
            identify_pending(account_id)
        RefreshWorker(app).run(until_idle=True)

        view = view_account(account_id)
        assert (view.state, view.tenant_id, view.person_name) == (AccountState.ACTIVE, "ab123", "Ann Lee")
        assert (view.label, view.external_id, view.refresh_days_left) == ("Blue Door", "customer:7", 45)
        assert stored.history(account_id) == ["imported", "refreshed", "details_filled_in"]
        assert stored.mixed_up() == []

    def test_one_that_a_caller_refreshes_first_is_named_by_the_worker_without_another_refresh(
        self, app: Flask, expired: ImportedCredential, sandbox: Sandbox
    ):
        account_id = import_credential(expired, ADMIN)
        valid_token(account_id, "job")
        assert view_account(account_id).is_pending

        RefreshWorker(app).run(until_idle=True)

        assert view_account(account_id).person_name == "Ann Lee"
        assert sandbox.ledger()["totals"]["refreshes"] == 1

    def test_two_that_ask_at_once_whose_it_is_keep_it(
        self, app: Flask, expired: ImportedCredential, stored: Stored, monkeypatch: pytest.MonkeyPatch
    ):
        account_id = import_credential(expired, ADMIN)
        valid_token(account_id, "job")
        both, ask = threading.Barrier(2), identifying.ask_identity

        def ask_together(*arguments: object) -> Identity:
            answer = ask(*arguments)
            both.wait(30)
            return answer

        def identify(_number: int) -> int:
            with app.app_context():
                return identify_pending(account_id)

        monkeypatch.setattr(identifying, "ask_identity", ask_together)
        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(identify, range(2))) == [account_id] * 2

        assert view_account(account_id).person_name == "Ann Lee"
        assert stored.history(account_id) == ["imported", "refreshed", "details_filled_in"]

    def test_it_takes_the_place_of_a_newer_pair_that_keap_refused(
        self, app: Flask, expired: ImportedCredential, stored: Stored, sandbox: Sandbox
    ):
        import_credential(expired, ADMIN)
        newer = import_credential(replace(bring(sandbox, OAUTH), refresh_token="x" * 32), ADMIN)
        stored.set(newer, refused_at=datetime.now(UTC), next_refresh_at=None)

        RefreshWorker(app).run(until_idle=True)

        assert [(account.id, account.refused_at) for account in stored.accounts()] == [(newer, None)]

    def test_it_does_not_undo_a_later_disconnect(
        self, app: Flask, expired: ImportedCredential, stored: Stored, sandbox: Sandbox
    ):
        account_id = stored.place()
        import_credential(expired, ADMIN)
        disconnect(account_id, "customer")

        RefreshWorker(app).run(until_idle=True)

        assert view_account(account_id).state is AccountState.DISCONNECTED
        assert stored.history(account_id)[-1] == "grant_dropped"

    def test_a_second_import_may_say_to_replace(
        self, app: Flask, expired: ImportedCredential, stored: Stored, sandbox: Sandbox
    ):
        account_id = stored.place()
        import_credential(expired, ADMIN)
        import_credential(replace(expired, replaces=True), ADMIN)

        RefreshWorker(app).run(until_idle=True)

        assert "moved_here" in stored.history(account_id)

    def test_one_whose_refresh_was_refused_since_replaces_nothing(
        self, app: Flask, expired: ImportedCredential, stored: Stored, sandbox: Sandbox
    ):
        account_id = import_credential(expired, ADMIN)
        valid_token(account_id, "job")
        stored.set(account_id, refused_at=datetime.now(UTC))

        with pytest.raises(TemporarilyUnavailable, match="may be used up"):
            identify_pending(account_id)

    def test_dead_one_says_so_and_can_be_erased(
        self, app: Flask, expired: ImportedCredential, stored: Stored, sandbox: Sandbox
    ):
        sandbox.advance(45 * 86400)
        account_id = import_credential(expired, ADMIN)
        for _ in range(2):
            stored.set(account_id, next_refresh_at=datetime.now(UTC), blocked_until=None)
            RefreshWorker(app).run(until_idle=True)

        view = view_account(account_id)
        assert (view.state, view.reasons[0][:45]) == (
            AccountState.RECONNECT_REQUIRED,
            "Keap refused the refresh token for good. Keap",
        )
        assert stored.history(account_id) == [
            "imported",
            "first_refresh_refused",
            "refresh_refused",
            "reconnect_required",
        ]
        assert list_alarms() == []
        with pytest.raises(ImportRefused, match="Keap refused it"):
            import_credential(expired, ADMIN)
        erase(account_id, ADMIN)
        assert stored.accounts() == []
        with pytest.raises(ImportRefused, match="may have been used"):
            import_credential(expired, ADMIN)

    def refuse(self, stored: Stored, account_id: int) -> None:
        stored.set(account_id, refused_at=datetime.now(UTC), refusals=2, next_refresh_at=None)
        settle([account_id])

    def test_import_with_the_external_id_of_a_dead_one_repairs_it(
        self, app: Flask, expired: ImportedCredential, stored: Stored, sandbox: Sandbox
    ):
        account_id = import_credential(expired, ADMIN)
        again = replace(bring(sandbox, OAUTH, "cd456"), external_id="customer:7")
        with pytest.raises(NameRefused, match="Another account"):
            import_credential(again, ADMIN)  # it may still work
        self.refuse(stored, account_id)
        assert "with the same external id" in view_account(account_id).next_step

        assert import_credential(again, ADMIN) == account_id

        view = view_account(account_id)
        assert (view.state, view.tenant_id, view.external_id) == (AccountState.ACTIVE, "cd456", "customer:7")
        assert stored.history(account_id)[1:] == ["reconnect_required", "imported_again", "recovered"]
        assert stored.mixed_up() == []

    @pytest.mark.parametrize("how", ["import", "rename"])
    def test_dead_one_gives_its_external_id_to_another_account(
        self, how: str, expired: ImportedCredential, stored: Stored, sandbox: Sandbox
    ):
        dead = import_credential(expired, ADMIN)
        known = stored.place("cd456")
        self.refuse(stored, dead)

        if how == "import":
            again = replace(bring(sandbox, OAUTH, "cd456"), external_id="customer:7", replaces=True)
            assert import_credential(again, ADMIN) == known
        else:
            with pytest.raises(NameRefused):
                change_account(known, "a key for one account", {"external_id": "customer:7"}, only=[known])
            change_account(known, ADMIN, {"external_id": "customer:7"})

        assert [one.external_id for one in stored.accounts()] == [None, "customer:7"]
        for account_id in (dead, known):
            assert stored.history(account_id)[-1] == "external_id_changed"

    def test_what_an_earlier_import_said_about_replacing_ends_with_its_pair(
        self, app: Flask, expired: ImportedCredential, stored: Stored, sandbox: Sandbox
    ):
        self.refuse(stored, import_credential(replace(expired, replaces=True), ADMIN))
        again = replace(bring(sandbox, OAUTH), external_id="customer:7")
        sandbox.advance(25 * 3600)
        known = stored.place()

        import_credential(again, ADMIN)
        RefreshWorker(app).run(until_idle=True)

        assert stored.history(known)[-1] == "import_dropped"

    @pytest.mark.parametrize("refused_at", [None, datetime.now(UTC)])
    def test_same_pair_again_is_moved_to_the_client_id_in_the_settings(
        self, refused_at: datetime | None, app: Flask, expired: ImportedCredential, stored: Stored, sandbox: Sandbox
    ):
        account_id = import_credential(expired, ADMIN)
        stored.set(account_id, client_id="another", refused_at=refused_at, blocked_until=1e9)
        if refused_at is None:
            assert "Import the same pair again" in view_account(account_id).next_step
        before = stored.account(account_id)

        assert import_credential(expired, ADMIN) == account_id

        assert stored.account(account_id).generation > before.generation, "a process that read the row sends nothing"
        assert "imported_same" in stored.history(account_id)
        RefreshWorker(app).run(until_idle=True)
        assert view_account(account_id).state is AccountState.ACTIVE
        assert (view_account(account_id).person_name, presented_twice(sandbox)) == ("Ann Lee", [])

    @pytest.mark.parametrize("times", [1, 3])
    def test_one_without_a_good_answer_says_what_keap_answered_and_when_it_is_tried_again(
        self, times: int, app: Flask, expired: ImportedCredential, stored: Stored, sandbox: Sandbox
    ):
        account_id = import_credential(expired, ADMIN)
        assert "failed" not in view_account(account_id).next_step
        sandbox.fault("reset_before" if times == 1 else "html_503", "refresh")
        for _ in range(times):
            stored.set(account_id, next_refresh_at=datetime.now(UTC), blocked_until=None, outcome_unknown_since=None)
            RefreshWorker(app).run(until_idle=True)

        account, view = stored.account(account_id), view_account(account_id)
        assert account.failures == times
        assert str(account.failure_reason) in " ".join([view.next_step, *view.reasons])
        assert view.next_step.endswith(f"It is tried again after {account.next_refresh_at:%Y-%m-%d %H:%M:%S} UTC.")

    @pytest.mark.parametrize("how", [erase, disconnect])
    def test_one_that_was_never_presented_may_come_again(
        self, how: Callable[[int, str], None], expired: ImportedCredential, stored: Stored
    ):
        assert import_credential(expired, ADMIN) == import_credential(replace(expired, label="New name"), ADMIN)
        assert stored.account().label == "New name"

        how(stored.account().id, ADMIN)

        again = import_credential(replace(expired, external_id=None), ADMIN)
        assert stored.account(again).needs_first_refresh

    def test_its_refresh_token_gets_into_no_second_account(
        self, app: Flask, expired: ImportedCredential, stored: Stored, sandbox: Sandbox
    ):
        account_id = import_credential(expired, ADMIN)
        works = replace(expired, access_token=bring(sandbox, OAUTH, "cd456").access_token)

        assert import_credential(works, ADMIN) == account_id, "as if the access token were of another account"
        assert stored.account().is_pending
        RefreshWorker(app).run(until_idle=True)
        for credential in (expired, works):
            with pytest.raises(ImportRefused, match="may have been used") as refusal:
                import_credential(credential, ADMIN)
            assert refusal.value.field == "refresh_token"
        assert len(stored.accounts()) == 1
        assert presented_twice(sandbox) == []

    @pytest.mark.parametrize(
        ("case", "event"),
        [
            ("works", "import_dropped"),
            ("works, and replace", "moved_here"),
            ("was refused", "moved_here"),
            ("at risk", "moved_here"),
        ],
    )
    def test_account_of_the_same_person_gets_it_unless_it_works_without_doubt(
        self, case: str, event: str, expired: ImportedCredential, stored: Stored
    ):
        now = datetime.now(UTC)
        facts = {"was refused": {"refused_at": now}, "at risk": {"outcome_unknown_since": now}}
        known = stored.place(external_id="old", **facts.get(case, {}))
        before = stored.tokens(known)
        pending = import_credential(replace(expired, replaces=case.endswith("replace")), ADMIN)

        RefreshWorker(current_app._get_current_object()).run(until_idle=True)

        account = stored.account()
        external_id = "old" if event == "import_dropped" else "customer:7"
        assert (account.id, account.external_id, account.label) == (known, external_id, "Blue Door")
        changes = ["label_changed"] if event == "import_dropped" else ["label_changed", "external_id_changed"]
        assert stored.history(known) == ["connected", *changes, event]
        assert (stored.tokens(known) == before) is (event == "import_dropped")
        assert view_account(known).state is AccountState.ACTIVE
        assert sentence_of(event, stored.details(known, event)).endswith(f"Account {pending} no longer exists.")
        assert stored.mixed_up() == []


@pytest.mark.proves("F91")
@pytest.mark.parametrize(
    ("access_token", "refresh_token", "column", "words"),
    [
        ("a" * 28, f'"{"r" * 30}"', "refresh_token", "has quotation marks"),
        ("a" * 28, f'="{"r" * 30}"', "refresh_token", "has quotation marks"),
        ("a" * 28, f"\u201c{'r' * 30}\u201d", "refresh_token", "has quotation marks"),
        ("a" * 28, f"refresh_token={'r' * 30}", "refresh_token", "has an equals sign"),
        ("a" * 28, "r" * 20 + "…", "refresh_token", "is cut short"),
        ("a" * 28, "r" * 20 + "...", "refresh_token", "is cut short"),
        ("a" * 28, "r" * 19, "refresh_token", "is too short"),
        ("a" * 28, "1.2E+10", "refresh_token", "is a number"),
        ("a" * 28, "12345678901234567000", "refresh_token", "is a number"),
        ("a" * 28, "a" * 28, "refresh_token", "is the same as the access token"),
        ("a" * 28, "KeapAK-" + "k" * 50, "refresh_token", "is a key"),
        ("a" * 28, None, "refresh_token", "is missing"),
        ("1,23e+25", "r" * 32, "access_token", "is a number"),
        ("a" * 20 + "…", "r" * 32, "access_token", "is cut short"),
        (MCP_TOKEN, "r" * 32, "access_token", "is of Keap's MCP server"),
        ("a" * 28, MCP_TOKEN, "refresh_token", "is of Keap's MCP server"),
    ],
)
def test_token_that_was_spoiled_on_its_way_is_refused_in_words(
    access_token: str, refresh_token: str | None, column: str, words: str
):
    with pytest.raises(ImportRefused, match=words) as refusal:
        check_form(ImportedCredential(access_token, refresh_token))

    assert refusal.value.field == column


@pytest.mark.parametrize("token", ["a" * 8192, f"{JWT_HEAD}.e30.sig-of-it", "a.b.c-and-more-of-it"])
def test_token_of_another_form_is_left_to_keap(token: str):
    check_form(ImportedCredential(token, "r" * 32))


@on_sqlite
class TestRefused:
    """Whatever is not clear is refused, and nothing is stored."""

    @pytest.mark.parametrize(
        ("credential", "names", "error"),
        [
            (ImportedCredential("", kind=TOKEN_ONLY), {}, ImportRefused),
            (ImportedCredential("two words of it", kind=TOKEN_ONLY), {}, ImportRefused),
            (ImportedCredential("x" * 8193, kind=TOKEN_ONLY), {}, ImportRefused),
            (ImportedCredential("tökentökentöken", kind=TOKEN_ONLY), {}, ImportRefused),
            (ImportedCredential("x" * 28, kind=OAUTH), {}, ImportRefused),
            (ImportedCredential("x" * 28, "not\none", kind=OAUTH), {}, ImportRefused),
            (ImportedCredential("x" * 28, "y" * 32, kind=TOKEN_ONLY), {}, ImportRefused),
            (ImportedCredential("KeapAK-" + "x" * 50, "y" * 32, kind=PERSONAL), {}, ImportRefused),
            (ImportedCredential("KeapAK-" + "x" * 50, kind=TOKEN_ONLY), {}, ImportRefused),
            (ImportedCredential("x" * 28, kind=PERSONAL), {}, UnusualKey),
            (ImportedCredential("x" * 28, kind=PERSONAL), {"external_id": "a b"}, NameRefused),
            (ImportedCredential("x" * 28, kind=PERSONAL), {"external_id": "x" * 201}, NameRefused),
            (ImportedCredential("x" * 28, kind=PERSONAL), {"label": "a\0b"}, NameRefused),
            (ImportedCredential("x" * 28, kind=PERSONAL), {"label": "x" * 201}, NameRefused),
        ],
        ids=str,
    )
    def test_what_breaks_a_rule_is_refused_before_keap_is_asked(
        self,
        credential: ImportedCredential,
        names: dict[str, str],
        error: type[Exception],
        stored: Stored,
        sandbox: Sandbox,
    ):
        with pytest.raises(error) as refusal:
            import_credential(replace(credential, **names), ADMIN)

        assert stored.rows() == sandbox.ledger()["presentations"] == []
        assert not credential.access_token or credential.access_token not in str(refusal.value) + repr(credential)

    @pytest.mark.parametrize(
        ("kind", "fault", "error"),
        [
            (TOKEN_ONLY, "unauthorized_401_plain", CredentialRefused),
            (PERSONAL, "unauthorized_401_plain", CredentialRefused),
            (OAUTH, "html_503", TemporarilyUnavailable),
            (OAUTH, "reset_after", TemporarilyUnavailable),
            (OAUTH, "ok_empty", TemporarilyUnavailable),
        ],
    )
    def test_what_keap_refuses_or_does_not_tell_is_not_stored(
        self, kind: CredentialKind, fault: str, error: type[Exception], stored: Stored, sandbox: Sandbox
    ):
        credential = bring(sandbox, kind)
        sandbox.fault(fault, "api")

        with pytest.raises(error):
            import_credential(credential, ADMIN)

        assert stored.rows() == stored.rows("account_event") == []

    def test_external_id_of_another_account_is_not_given_away(self, stored: Stored, sandbox: Sandbox):
        stored.place("ab123", external_id="taken")
        before = stored.rows()

        with pytest.raises(NameRefused, match="Another account"):
            import_credential(replace(bring(sandbox, PERSONAL, "cd456"), external_id="taken"), ADMIN)

        assert stored.rows() == before


@on_sqlite
class TestServed:
    """How what cannot be refreshed is handed out, and ends."""

    @pytest.mark.parametrize("kind", [PERSONAL, SERVICE])
    def test_key_is_served_without_a_date_and_never_refreshed(
        self, kind: CredentialKind, stored: Stored, sandbox: Sandbox
    ):
        account_id = import_credential(bring(sandbox, kind), ADMIN)

        served = valid_token(account_id, "job", min_validity_seconds=3600)

        assert (served.access_token, served.account.access_token_expires_at, served.warning) == (
            stored.tokens(account_id)[0],
            None,
            None,
        )
        with pytest.raises(NotRefreshable):
            refresh_account(account_id, ADMIN)

    def test_token_of_a_day_is_served_with_a_warning_until_its_latest_end(
        self, stored: Stored, sandbox: Sandbox, clock
    ):
        account_id = import_credential(bring(sandbox, TOKEN_ONLY), ADMIN)

        served = valid_token(account_id, "job")
        clock.advance(seconds=DAY.total_seconds() - REFRESH_WHEN_LEFT_SECONDS / 2)
        nearly_over = valid_token(account_id, "job")
        clock.advance(seconds=REFRESH_WHEN_LEFT_SECONDS)

        assert served.warning == MAY_END_EARLIER
        assert nearly_over.access_token == served.access_token
        with pytest.raises(ReconnectRequired):
            valid_token(account_id, "job")
        account = view_account(account_id)
        assert (account.state, account.reasons) == (
            AccountState.RECONNECT_REQUIRED,
            ["The access token has expired, and there is no refresh token."],
        )

    def test_key_is_no_grant_of_a_client_so_another_client_id_changes_nothing_for_it(
        self, stored: Stored, sandbox: Sandbox
    ):
        import_credential(bring(sandbox, PERSONAL), ADMIN)
        import_credential(bring(sandbox, TOKEN_ONLY, "cd456"), ADMIN)
        for account_id in (1, 2):
            stored.set(account_id, client_id="another")
        settle([1, 2])

        assert [warning[:20] for warning in check_deployment()] == ["1 stored grant belon"]

    def test_key_that_a_job_reports_as_refused_is_handed_out_no_more(self, stored: Stored, sandbox: Sandbox):
        credential = bring(sandbox, SERVICE)
        account_id = import_credential(credential, ADMIN)

        assert report_rejected(account_id, fingerprint(credential.access_token), "job")

        with pytest.raises(ReconnectRequired):
            valid_token(account_id, "job")
        assert view_account(account_id).state is AccountState.RECONNECT_REQUIRED
        assert stored.history(account_id) == ["imported", "credential_rejected", "reconnect_required"]
        assert stored.account().next_refresh_at is None
