"""Killed at any step, frozen, cut off: afterwards the row is right, or says that an answer was lost (R31, F24, F25)."""

import pytest

from keap_connect.accounts.state import AccountState, state_of
from keap_connect.clock import utc_now
from tests.faults.conftest import Stage, until

PACE = 60  # lease 1 s, doubt wait 2 s, confirm wait 1 s, deadline 0.5 s


def _ask_until_settled(stage: Stage, account_id: int) -> dict[str, object]:
    """Let a fresh process ask until it hears a token or that a person must authorize."""
    (process,) = stage.start(1, PACE=PACE)

    def settled() -> dict[str, object] | None:
        answer = process.ask("refresh", account_id)
        return answer if answer["ok"] or answer["error"] == "ReconnectRequired" else None

    found = until(settled)
    assert isinstance(found, dict)
    return found


@pytest.mark.proves("R31", "F25", "F29")
@pytest.mark.parametrize("family_revocation", [False, True])
@pytest.mark.parametrize(
    ("step", "is_spent"),
    [("after_lease", False), ("after_answer", True), ("before_commit", True), ("after_commit", False)],
)
def test_a_process_killed_at_any_step_leaves_the_truth_behind(
    stage: Stage, step: str, is_spent: bool, family_revocation: bool
):
    stage.sandbox.switch(family_revocation=family_revocation)
    (account_id,) = stage.add_accounts()
    (doomed,) = stage.start(1, PACE=PACE, CRASH_AT=step)

    assert doomed.ask("refresh", account_id) is None

    answer = _ask_until_settled(stage, account_id)
    account = stage.row(account_id)
    if is_spent:
        assert answer["error"] == "ReconnectRequired"
        assert "answer_lost" in stage.events(account_id)
        assert account.lost_at is not None
    else:
        assert answer["ok"]
        assert stage.is_reconciled(account_id)
        assert account.lost_at is None


@pytest.mark.proves("F25", "F29")
def test_a_process_killed_while_keap_answers_is_in_doubt_and_then_told_honestly(stage: Stage):
    (account_id,) = stage.add_accounts()
    (doomed,) = stage.start(1, PACE=PACE)
    stage.sandbox.hold("refresh", where="after")
    doomed.tell("refresh", account_id)
    stage.sandbox.wait_held(1)

    doomed.kill()
    stage.sandbox.release()

    assert stage.row(account_id).attempt_fingerprint is not None
    assert _ask_until_settled(stage, account_id)["error"] == "ReconnectRequired"
    assert "answer_lost" in stage.events(account_id)


@pytest.mark.proves("F24")
def test_a_process_frozen_between_claim_and_send_sends_nothing(stage: Stage):
    (account_id,) = stage.add_accounts()
    (frozen,) = stage.start(1, PACE=PACE, FREEZE_AT="after_lease")
    frozen.tell("refresh", account_id)
    until(lambda: stage.is_leased(account_id))
    until(frozen.is_stopped)

    answer = _ask_until_settled(stage, account_id)
    before = len(stage.refresh_presentations())
    frozen.thaw()
    frozen.hear()

    assert answer["ok"]
    assert len(stage.refresh_presentations()) == before == 1
    assert stage.is_reconciled(account_id)


@pytest.mark.proves("F24", "R40")
def test_a_pair_that_comes_back_after_the_lease_is_kept_if_its_generation_still_fits(stage: Stage):
    (account_id,) = stage.add_accounts()
    (frozen,) = stage.start(1, PACE=PACE)
    stage.sandbox.hold("refresh", where="after")
    frozen.tell("refresh", account_id)
    stage.sandbox.wait_held(1)
    frozen.freeze()
    stage.sandbox.release()
    until(stage.refresh_presentations)

    frozen.thaw()
    answer = frozen.hear()[0]

    assert answer["ok"] or answer["error"] == "TemporarilyUnavailable"
    if answer["ok"]:
        assert stage.is_reconciled(account_id)


@pytest.mark.proves("F24", "R40")
def test_a_late_refusal_marks_nothing(stage: Stage):
    (account_id,) = stage.add_accounts()
    (frozen,) = stage.start(1)
    stage.sandbox.fault("refused_although_valid", "refresh", calls=[1])
    stage.sandbox.hold("refresh", where="after")
    frozen.tell("refresh", account_id)
    stage.sandbox.wait_held(1)
    stage.change(account_id, generation=99)  # a reconnect moved the account on meanwhile
    stage.sandbox.release()

    answer = frozen.hear()[0]

    account = stage.row(account_id)
    assert (account.refusals, account.refused_at, account.generation) == (0, None, 99)
    assert answer["ok"] or answer["error"] == "TemporarilyUnavailable"


@pytest.mark.proves("F06", "R32")
def test_a_single_false_refusal_harms_nobody(stage: Stage):
    (account_id,) = stage.add_accounts()
    stage.sandbox.fault("refused_although_valid", "refresh", calls=[1])
    (process,) = stage.start(1, PACE=PACE)

    first = process.ask("refresh", account_id)
    state = state_of(stage.row(account_id), utc_now())
    second = until(lambda: process.ask("refresh", account_id).get("ok"))

    assert first["error"] == "TemporarilyUnavailable"
    assert state is AccountState.AT_RISK
    assert second
    assert stage.row(account_id).refusals == 0
    assert stage.is_reconciled(account_id)


@pytest.mark.proves("R32", "F07")
@pytest.mark.parametrize("wording", ["invalid_grant", "invalid_request"])
def test_a_withdrawn_grant_needs_two_refusals_and_then_a_person(stage: Stage, wording: str):
    (account_id,) = stage.add_accounts()
    stage.sandbox.switch(refresh_wording=wording)
    stage.sandbox.withdraw("ab123")

    answer = _ask_until_settled(stage, account_id)

    assert answer["error"] == "ReconnectRequired"
    assert stage.events(account_id).count("refresh_refused_once") == 2
    assert "refresh_refused" in stage.events(account_id)
    assert state_of(stage.row(account_id), utc_now()) is AccountState.RECONNECT_REQUIRED
