"""Pairs that are stored in one transaction: each where it belongs, each with its own story."""

import os
import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from keap_connect.accounts.credentials import open_access_token, open_refresh_token
from keap_connect.accounts.directory import lock_accounts
from keap_connect.clock import utc_now
from keap_connect.database import write_transaction
from keap_connect.keap.answers import not_sent
from keap_connect.keap.token_response import TokenResponse
from keap_connect.models import Account
from keap_connect.refresh import recovery, refresher, replaying
from keap_connect.refresh.lease import build_lease
from keap_connect.refresh.storing import NewPair, Outcome, store_granted
from tests.faults.conftest import Stage, until
from tests.support.engines import on_sqlite


@pytest.fixture(autouse=True)
def inside_the_app(stage: Stage) -> Iterator[None]:
    with stage.app.app_context():
        yield


def new_pair(account_id: int, name: str = "new", scope: str | None = "full|ab123.infusionsoft.com"):
    granted = TokenResponse(f"access-{name}", f"refresh-{name}", utc_now() + timedelta(days=1), scope)
    return NewPair(account_id, 1, granted, "tester")


def pair_of(stage: Stage, account_id: int) -> tuple[str | None, str | None, int]:
    account = stage.row(account_id)
    return open_access_token(account), open_refresh_token(account), account.generation


def store_together(*pairs: NewPair) -> list[Outcome]:
    with write_transaction() as session:
        accounts = lock_accounts(session, Account.id.in_([pair.account_id for pair in pairs]))
        return [store_granted(session, accounts.get(pair.account_id), pair) for pair in pairs]


def test_each_pair_of_a_group_ends_where_it_belongs(stage: Stage):
    fine, other, gone, last = stage.add_accounts(4)
    before = pair_of(stage, other)
    stage.disconnect(gone)

    outcomes = store_together(
        new_pair(last, "last"),
        new_pair(other, scope="full|zz999.infusionsoft.com"),
        new_pair(gone),
        new_pair(fine, "fine"),
        new_pair(9999),
    )

    assert outcomes == [Outcome.STORED, Outcome.FAILED, Outcome.LATE, Outcome.STORED, Outcome.LATE]
    assert pair_of(stage, fine) == ("access-fine", "refresh-fine", 2)
    assert pair_of(stage, last) == ("access-last", "refresh-last", 2)
    assert pair_of(stage, other) == before
    assert pair_of(stage, gone)[:2] == (None, None)
    assert [stage.events(each) for each in (fine, other, last)] == [
        ["refreshed"],
        ["other_tenant_answered"],
        ["refreshed"],
    ]
    assert stage.row(fine).refreshed_at is not None


def test_of_two_pairs_that_came_from_the_same_one_the_first_is_kept(stage: Stage):
    (account_id,) = stage.add_accounts()

    assert store_together(new_pair(account_id, "first"), new_pair(account_id, "second")) == ["stored", "late"]

    assert pair_of(stage, account_id) == ("access-first", "refresh-first", 2)
    assert stage.events(account_id) == ["refreshed"]


def test_a_pair_without_a_refresh_token_leaves_the_old_one(stage: Stage):
    (account_id,) = stage.add_accounts()
    _, kept, _ = pair_of(stage, account_id)
    granted = TokenResponse("access-new", None, utc_now() + timedelta(days=1))

    assert store_together(NewPair(account_id, 1, granted, "tester")) == ["stored"]

    assert pair_of(stage, account_id) == ("access-new", kept, 2)
    assert stage.row(account_id).scope == "full|ab123.infusionsoft.com"


def test_a_scope_that_changed_is_told_before_the_refresh(stage: Stage):
    (account_id,) = stage.add_accounts()

    store_together(new_pair(account_id, scope="some|ab123.infusionsoft.com"))

    assert stage.events(account_id) == ["scope_changed", "refreshed"]


def present_together(stage: Stage, ids: list[int]) -> list[refresher.Presentation]:
    """Present several tokens, as a worker does; nothing is stored yet."""
    presentations = refresher.prepare([build_lease(stage.row(each)) for each in ids], "tester")
    for presentation in presentations:
        refresher.present(presentation)
    return presentations


def test_a_fault_with_one_pair_of_a_group_keeps_that_one_aside_and_stores_the_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    ids = stage.add_accounts(3)
    presentations = present_together(stage, ids)

    def stumble(session: Session, account: Account | None, pair: NewPair, is_confirmed: bool = False) -> Outcome:
        if pair.account_id == ids[1]:
            raise KeyError("a fault")
        return store_granted(session, account, pair, is_confirmed)

    with monkeypatch.context() as patch:
        for module in (refresher, replaying):
            patch.setattr(module, "store_granted", stumble)
        attempts = refresher.settle(presentations)
        assert [stage.row(each).generation for each in ids] == [2, 1, 2]

    assert [attempt.outcome for attempt in attempts] == ["stored", "kept_aside", "stored"]
    assert [type(attempt.fault) for attempt in attempts] == [type(None), KeyError, type(None)]

    def is_stored() -> bool:
        replaying.replay()
        return stage.is_reconciled(*ids)

    until(is_stored)


def test_pairs_of_a_group_are_on_the_disk_even_when_no_thread_is_to_be_had(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    ids = stage.add_accounts(3)
    presentations = present_together(stage, ids)

    def fail(*_: object) -> Outcome:
        raise OperationalError("UPDATE", {}, Exception("the server closed the connection"))

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(refresher, "store_granted", fail)
        patch.setattr(threading.Thread, "start", start)
        refresher.settle(presentations)

    assert len(recovery.list_kept()) == 3
    for each in presentations:
        os.close(each.file.handle)  # as when the process ends
    replaying.replay()
    assert recovery.list_kept() == []
    assert stage.is_reconciled(*ids)


@on_sqlite
def test_a_recovery_folder_that_was_deleted_or_replaced_is_noticed_before_the_next_attempt(stage: Stage):
    recovery.give_back(recovery.allocate(2))
    moved = stage.recovery_folder.with_name("moved")
    stage.recovery_folder.rename(moved)
    shutil.copytree(moved, stage.recovery_folder)

    (file,) = recovery.allocate(1)

    assert file.path.read_bytes() == bytes(recovery.FILE_BYTES)
    os.pwrite(file.handle, b"a pair", 0)
    assert file.path.read_bytes().startswith(b"a pair")
    file.abandon()


def fail_as_in_an_outage(*_: object) -> None:
    raise OperationalError("UPDATE", {}, Exception("the server closed the connection"))


def row_after_an_attempt(stage: Stage, account_id: int) -> Account:
    """Return the account once nobody has its lease, as a worker that looks for recovery files would find it."""

    def is_over() -> bool:
        replaying.replay()
        return stage.row(account_id).lease_owner is None

    until(is_over)
    return stage.row(account_id)


@pytest.mark.proves("F33", "F38")
def test_what_an_outage_keeps_from_being_sent_leaves_no_doubt(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    (account_id,) = stage.add_accounts()
    presentations = refresher.prepare([build_lease(stage.row(account_id))], "tester")
    presentations[0].answer = not_sent("Nothing was sent to Keap.")
    with monkeypatch.context() as patch:
        patch.setattr(refresher, "_settle_all", fail_as_in_an_outage)
        assert [each.outcome for each in refresher.settle(presentations)] == ["failed"]

    row = row_after_an_attempt(stage, account_id)

    assert (row.attempted_at, row.outcome_unknown_since, row.blocked_until) == (None, None, None)
    assert (row.failures, row.state, stage.events(account_id)) == (0, "active", [])


@pytest.mark.proves("F34", "F38")
def test_a_refusal_that_comes_during_an_outage_is_written_after_it(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    (account_id,) = stage.add_accounts()
    stage.sandbox.withdraw("ab123")
    presentations = present_together(stage, [account_id])
    with monkeypatch.context() as patch:
        patch.setattr(refresher, "_settle_all", fail_as_in_an_outage)
        refresher.settle(presentations)

    row = row_after_an_attempt(stage, account_id)

    assert (row.refusals, row.outcome_unknown_since) == (1, None)
    assert stage.events(account_id) == ["refresh_refused_once"]


def test_a_database_that_fails_is_asked_once_for_a_group_and_all_its_pairs_are_kept_aside(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    ids = stage.add_accounts(3)
    presentations = present_together(stage, ids)
    asked: list[int] = []

    def fail(_session: Session, account: Account, _pair: NewPair) -> Outcome:
        asked.append(account.id)
        raise OperationalError("UPDATE", {}, Exception("the server closed the connection"))

    with monkeypatch.context() as patch:
        patch.setattr(refresher, "store_granted", fail)
        attempts = refresher.settle(presentations)

    assert asked == ids[:1]
    assert [(attempt.outcome, attempt.fault) for attempt in attempts] == [("kept_aside", None)] * 3
    until(lambda: stage.is_reconciled(*ids))
    assert all(row.refreshed_at for row in stage.rows())
