"""However many ask, each refresh token is presented once (R26, F22, F23)."""

import pytest

from tests.faults.conftest import Stage, until

HONEST = {"TemporarilyUnavailable"}


@pytest.mark.proves("R26", "R27", "F22")
@pytest.mark.parametrize(("seconds", "family_revocation"), [(0.2, False), (12.0, True)])
def test_four_processes_of_fifty_callers_spend_one_token(stage: Stage, seconds: float, family_revocation: bool):
    (account_id,) = stage.add_accounts()
    stage.sandbox.switch(token_delay_seconds=seconds, family_revocation=family_revocation)
    processes = stage.start(4)

    for process in processes:
        process.tell("valid_token", account_id, callers=50)
    answers = [answer for process in processes for answer in process.hear()]

    presentations = stage.refresh_presentations()
    assert [p["outcome"] for p in presentations] == ["granted"]
    served = {answer["token"] for answer in answers if answer["ok"]}
    assert len(served) == 1
    assert {answer["error"] for answer in answers if not answer["ok"]} <= HONEST
    assert stage.is_reconciled(account_id)
    again = processes[0].ask("valid_token", account_id)
    assert again["ok"]
    assert again["token"] in served


@pytest.mark.proves("F23", "F32")
def test_workers_a_hurried_admin_and_callers_spend_each_token_once(stage: Stage):
    ids = stage.add_accounts(10)
    stage.sandbox.switch(token_delay_seconds=0.1, family_revocation=True)
    worker_1, worker_2, admin, jobs = stage.start(4)

    worker_1.tell("sweep")
    worker_2.tell("sweep")
    admin.tell("refresh", ids[0], callers=4)
    jobs.tell("valid_token", ids[1], callers=20)
    answers = [process.hear() for process in (worker_1, worker_2, admin, jobs)]

    used = [p["fingerprint"] for p in stage.refresh_presentations()]
    assert len(used) == len(set(used))
    assert {answer["error"] for answer in answers[2] + answers[3] if not answer["ok"]} <= HONEST
    assert all(stage.is_reconciled(account_id) for account_id in ids)


@pytest.mark.proves("F28")
def test_callers_beyond_eight_hear_at_once_that_many_wait_already(stage: Stage):
    (account_id,) = stage.add_accounts()
    stage.sandbox.hold("refresh")
    (winner, others) = stage.start(2)

    winner.tell("valid_token", account_id)
    stage.sandbox.wait_held(1)
    others.tell("valid_token", account_id, callers=50, patience_seconds=2)
    answers = others.hear()
    stage.sandbox.release()

    assert [a["error"] for a in answers] == ["TemporarilyUnavailable"] * 50
    patient = [a for a in answers if a["seconds"] > 1.5]
    assert len(patient) <= 8
    assert winner.hear()[0]["ok"]
    until(lambda: stage.is_reconciled(account_id))
