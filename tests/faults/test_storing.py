"""Pairs that are stored in one transaction: each where it belongs, each with its own story."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import text

from keap_connect.accounts.credentials import open_access_token, open_refresh_token
from keap_connect.accounts.history import acting_from
from keap_connect.clock import utc_now
from keap_connect.database import read_session, write_transaction
from keap_connect.keap.token_response import TokenResponse
from keap_connect.refreshing.storing import NewPair, Outcome, _store_all
from tests.faults.conftest import Stage


@pytest.fixture(autouse=True)
def inside_the_app(stage: Stage) -> Iterator[None]:
    with stage.app.app_context():
        yield


def new_pair(account_id: int, name: str = "new", scope: str | None = "full|ab123.infusionsoft.com", **more: object):
    granted = TokenResponse(f"access-{name}", f"refresh-{name}", utc_now() + timedelta(days=1), scope)
    return NewPair(account_id, 1, granted, "tester", **more)


def store_together(*pairs: NewPair) -> list[Outcome]:
    with write_transaction() as session:
        return _store_all(session, pairs)


def pair_of(stage: Stage, account_id: int) -> tuple[str | None, str | None, int]:
    account = stage.row(account_id)
    return open_access_token(account), open_refresh_token(account), account.generation


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


def test_who_writes_for_others_does_not_write_its_own_address_to_them(stage: Stage):
    mine, of_another, of_nobody = stage.add_accounts(3)
    token = acting_from.set("192.0.2.1")
    try:
        pair = new_pair(mine)
        others = [new_pair(of_another, address="192.0.2.2"), new_pair(of_nobody, address=None)]
        store_together(pair, *others)
    finally:
        acting_from.reset(token)

    with read_session() as session:
        rows = session.execute(text("SELECT account_id, details FROM account_event")).all()
    assert {row.account_id: str(row.details).count("192.0.2") for row in rows} == {mine: 1, of_another: 1, of_nobody: 0}
    assert "192.0.2.2" in str(dict(map(tuple, rows))[of_another])
