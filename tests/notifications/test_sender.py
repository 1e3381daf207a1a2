"""The sender sends at least once, in order per account and recipient, and nobody waits for anybody else."""

import re
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from math import inf

import pytest
from flask import Flask, current_app
from sqlalchemy import insert
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from keap_connect import counters
from keap_connect.access.admins import create_admin
from keap_connect.clock import seconds_since_boot, utc_now
from keap_connect.database import write_transaction
from keap_connect.models import Delivery
from keap_connect.notifications import mail, sender
from keap_connect.notifications.endpoints import add_endpoint, list_deliveries
from keap_connect.notifications.sender import SEND_SECONDS, WAITS, Answer, Channel, Sender
from keap_connect.refresh import alarms
from keap_connect.refresh.clone_guard import MARK, check_instance
from keap_connect.services import services
from tests.accounts.granted import store_account
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD, MovedClock
from tests.notifications.conftest import deliveries, write_delivery
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.plans import listening, plans_of
from tests.support.sandbox import Sandbox

DONE, FAILED = Answer(True, "200 OK", 200), Answer(False, "500", 500)


@dataclass
class Script:
    """A channel that gives the answers of the test, and notes what it was given."""

    answer: Answer | Callable[[Delivery], Answer] = DONE
    lanes: Sequence[str | None] = (None,)
    sent: list[tuple[str, int | None, int, str]] = field(default_factory=list)

    def send(self, one: Delivery) -> Answer:
        self.sent.append((one.recipient, one.account_id, one.id, one.message_id))
        return self.answer if isinstance(self.answer, Answer) else self.answer(one)

    def run(self) -> None:
        """Send what is due now, as a worker does that has just started."""
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        Sender(app, [Channel("test", self.send, lambda: self.lanes)]).send_due()

    @property
    def ids(self) -> list[int]:
        return [sent[2] for sent in self.sent]


@pytest.mark.proves("R85")
def test_messages_of_one_account_are_sent_in_order_each_once():
    unsent = []

    def note_earlier(one: Delivery) -> Answer:
        unsent.extend(each.id for each in deliveries() if each.id < one.id and each.status != "sent")
        return DONE

    script = Script(note_earlier)
    ids = [write_delivery() for _ in range(10)]

    script.run()
    script.run()

    assert script.ids == ids
    assert unsent == []
    assert {(one.status, one.attempts, one.answer, one.answer_code) for one in deliveries()} == {
        ("sent", 1, "200 OK", 200)
    }


@pytest.mark.proves("R85")
def test_a_message_that_fails_holds_up_its_own_account_and_recipient_alone():
    first = write_delivery("1", 7)
    script = Script(lambda one: FAILED if one.id == first else DONE)
    later, of_nobody = write_delivery("1", 7), write_delivery("1", None)
    others = [write_delivery("1", 8), write_delivery("2", 7), of_nobody]

    script.run()

    assert sorted(script.ids) == sorted([first, *others])
    assert {one.id: one.status for one in deliveries()} == {
        **dict.fromkeys(others, "sent"),
        **dict.fromkeys([first, later], "waiting"),
    }


@pytest.mark.proves("R81", "R82", "F75")
def test_retries_wait_longer_each_time_for_two_days_and_then_the_next_message_goes(clock: MovedClock):
    first, second = write_delivery(message_id="msg_1"), write_delivery()
    script = Script(lambda one: FAILED if one.id == first else DONE)

    for number, wait in enumerate(WAITS, 1):
        before = utc_now()
        script.run()
        row, after = deliveries()[0], utc_now()
        assert row.attempts == number
        assert before + timedelta(seconds=0.85 * wait) < row.due_at < after + timedelta(seconds=1.15 * wait)
        clock.advance(seconds=0.8 * wait)
        script.run()
        assert deliveries()[0].attempts == number or utc_now() > row.due_at, "it came too early"
        clock.advance(seconds=0.4 * wait)
    script.run()

    assert [one.status for one in deliveries()] == ["given_up", "sent"]
    assert set(script.sent[:-1]) == {("1", 7, first, "msg_1")}
    assert script.ids[-1] == second
    assert timedelta(hours=47) < timedelta(seconds=sum(WAITS)) < timedelta(hours=49)


@on_sqlite
@pytest.mark.proves("F75")
def test_two_days_of_failures_end_a_message_however_few_attempts_there_were(clock: MovedClock):
    first, second = write_delivery(), write_delivery()
    script = Script(lambda one: FAILED if one.id == first else DONE)

    for hours in (24, 24.1, 0):  # the recipient, or a worker that runs now and then, lets no other attempt happen
        script.run()
        clock.advance(hours=hours)

    assert [(one.status, one.attempts) for one in deliveries()] == [("given_up", 3), ("sent", 1)]
    assert script.ids == [first, first, first, second]


@on_sqlite
@pytest.mark.proves("F75")
def test_days_without_a_worker_end_no_message(clock: MovedClock):
    first, second = write_delivery(), write_delivery()
    script = Script(FAILED)
    script.run()
    clock.advance(days=3)
    script.run()
    assert [one.status for one in deliveries()] == ["waiting", "waiting"]

    script.answer = DONE
    clock.advance(minutes=6)
    script.run()

    assert [(one.status, one.attempts) for one in deliveries()] == [("sent", 3), ("sent", 1)]
    assert script.ids[-2:] == [first, second]


@on_sqlite
@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Answer(False, "550", is_gone=True), "given_up"),
        (Answer(False, "The account works again.", is_cancelled=True), "cancelled"),
    ],
)
def test_an_answer_can_end_a_message_at_once(answer: Answer, status: str):
    write_delivery()

    Script(answer).run()

    (row,) = deliveries()
    assert (row.status, row.attempts, row.answer, bool(row.finished_at)) == (status, 1, answer.text, True)


@on_sqlite
@pytest.mark.proves("R82")
def test_a_recipient_that_asks_for_a_pause_gets_nothing_else_meanwhile(clock: MovedClock):
    script = Script(Answer(False, "429", 429, retry_after_seconds=900.0), lanes=["1", "2"])
    for account_id in range(10):
        write_delivery("1", account_id)
    write_delivery("2", 1)
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    running = Sender(app, [Channel("test", script.send, lambda: script.lanes)])

    running.send_due()
    running.send_due()

    tried = [one for one in deliveries() if one.attempts]
    assert len(tried) <= sender.AT_ONCE + 1
    assert {one.recipient for one in tried} == {"1", "2"}
    assert min(one.due_at for one in tried) > utc_now() + timedelta(seconds=890)


@on_sqlite
@pytest.mark.proves("R82")
def test_no_recipient_asks_for_a_pause_of_all_that_is_longer_than_an_hour(monkeypatch: pytest.MonkeyPatch):
    boot = [seconds_since_boot()]
    monkeypatch.setattr(sender, "seconds_since_boot", lambda: boot[0])
    first = write_delivery(account_id=1)
    script = Script(lambda one: Answer(False, "503", 503, retry_after_seconds=1e20) if one.id == first else DONE)
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    running = Sender(app, [Channel("test", script.send)])
    running.send_due()
    other = write_delivery(account_id=2)
    running.send_due()
    assert script.ids == [first]

    boot[0] += 3601
    running.send_due()

    assert script.ids == [first, other]


@on_sqlite
@pytest.mark.proves("F73")
def test_a_fault_of_a_channel_is_a_failed_attempt(caplog: pytest.LogCaptureFixture):
    def fail(_: Delivery) -> Answer:
        raise ZeroDivisionError

    write_delivery()
    Script(fail).run()

    (row,) = deliveries()
    assert (row.status, row.attempts, row.answer) == ("waiting", 1, sender.FAULT)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.proves("F74", "R85")
def test_a_message_whose_sender_was_killed_before_the_commit_is_sent_again_with_its_id(
    clock: MovedClock, monkeypatch: pytest.MonkeyPatch
):
    write_delivery(message_id="msg_1")
    script = Script()
    with monkeypatch.context() as patch:
        patch.setattr(Sender, "_finish", lambda *_: None)  # as if it was killed there
        script.run()
    script.run()
    assert script.ids == [1]  # the claim of the dead sender lasts for a while

    clock.advance(seconds=sender.CLAIM_SECONDS + 1)
    script.run()

    assert [sent[3] for sent in script.sent] == ["msg_1", "msg_1"]
    assert deliveries()[0].status == "sent"


@pytest.mark.proves("F74")
def test_two_senders_send_each_message_once():
    ids = [write_delivery(account_id=number % 5) for number in range(40)]
    script = Script()
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]

    def run() -> None:
        with app.app_context():
            script.run()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    script.run()

    assert sorted(script.ids) == ids
    for account_id in range(5):
        assert (mine := [sent[2] for sent in script.sent if sent[1] == account_id]) == sorted(mine)


@on_sqlite
@pytest.mark.proves("F74")
def test_a_sender_that_was_suspended_sends_nothing_that_another_one_may_be_sending(monkeypatch: pytest.MonkeyPatch):
    write_delivery()
    script = Script()
    with monkeypatch.context() as patch:
        patch.setattr(sender, "CLAIM_SECONDS", SEND_SECONDS - 1)
        script.run()

    assert script.sent == []
    assert deliveries()[0].status == "waiting"


@on_sqlite
@pytest.mark.proves("F74")
def test_a_late_failure_changes_nothing_of_what_another_sender_holds_and_a_late_success_does():
    write_delivery()

    def claimed_by_another(_: Delivery, answer: Answer = FAILED) -> Answer:
        with write_transaction() as session:
            session.get_one(Delivery, 1).due_at += timedelta(seconds=100)
        return answer

    Script(claimed_by_another).run()
    assert (deliveries()[0].status, deliveries()[0].attempts) == ("waiting", 0)

    with write_transaction() as session:
        session.get_one(Delivery, 1).due_at = utc_now()
    Script(lambda one: claimed_by_another(one, DONE)).run()
    assert deliveries()[0].status == "sent"


@on_sqlite
@pytest.mark.proves("F74")
def test_a_database_that_is_away_costs_no_message_and_repeats_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    away = OperationalError("x", None, Exception())
    write, answers = sender.write_transaction, iter([None, away, away, None])  # the claim, and three tries to write

    def write_unless_away() -> AbstractContextManager[Session]:
        if fault := next(answers, None):
            raise fault
        return write()

    looks = iter([away])

    def list_lanes() -> list[None]:
        if fault := next(looks, None):
            raise fault
        return [None]

    write_delivery()
    script = Script()
    monkeypatch.setattr(sender, "write_transaction", write_unless_away)
    monkeypatch.setattr(sender, "IDLE_SECONDS", 0.01)
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    with Sender(app, [Channel("test", script.send, list_lanes)]):
        while deliveries()[0].status != "sent":
            threading.Event().wait(0.02)

    assert script.ids == [1]
    assert "Nothing is sent: the database does not answer" in caplog.text
    assert caplog.text.count("is not written yet") == 2


@on_sqlite
@pytest.mark.parametrize("failures", [0, 1])
def test_the_delay_of_a_message_that_is_meant_to_wait_begins_when_it_is_due(clock: MovedClock, failures: int):
    counters.take()  # of other tests
    write_delivery(due_at=utc_now() + timedelta(days=3))
    clock.advance(days=3)
    if failures:
        Script(FAILED).run()
        clock.advance(seconds=6)

    Script().run()

    delay = sum(
        value for (_, *names), value in counters.take().items() if names == ["delivery_delay_seconds", "test sum"]
    )
    assert 6 * failures <= delay < 3600


@on_sqlite
@pytest.mark.proves("F74")
def test_a_clock_that_steps_back_holds_up_no_message(clock: MovedClock):
    clock.advance(days=3)
    write_delivery(account_id=1)
    write_delivery(account_id=2)
    Script(lambda one: FAILED if one.account_id == 2 else DONE, lanes=[]).run()
    with write_transaction() as session:
        session.get_one(Delivery, 2).attempts = 1
    clock.advance(days=-3)
    script = Script()

    script.run()

    assert script.ids == [1, 2]


@on_sqlite
@pytest.mark.proves("F74")
def test_while_the_question_whether_this_is_a_copy_is_open_nothing_but_the_question_is_sent():
    held = [write_delivery(account_id=1), write_delivery(account_id=None)]
    with write_transaction() as session:
        alarms.raise_alarm(session, alarms.UNKNOWN_INSTANCE, "It may be a copy.")
    held.append(write_delivery(account_id=2, kind="account.at_risk"))
    asking = [write_delivery(account_id=None, kind="refreshing.paused"), write_delivery("a@b.c", None, kind="alarm")]
    script = Script()

    script.run()
    assert script.ids == asking

    assert alarms.resume([alarms.UNKNOWN_INSTANCE], "test")
    script.run()
    assert sorted(script.ids[2:]) == held


@on_sqlite
@pytest.mark.proves("F89")
def test_a_copy_sends_nothing_of_the_original_even_before_its_worker_has_refreshed(app: Flask, sandbox: Sandbox):
    store_account(sandbox)
    write_delivery()
    check_instance()
    (services().settings.instance_path / MARK).write_text("another-confirmation 0\n")
    app.extensions[MARK].checked_at = -inf  # as in a process that starts
    script = Script()

    script.run()

    assert script.ids == []
    assert [alarm.name for alarm in alarms.list_alarms()] == [alarms.UNKNOWN_INSTANCE]


@pytest.mark.proves("F76")
def test_who_looks_for_deliveries_reads_their_index_and_neither_all_that_waits_nor_all_that_was_sent():
    add_endpoint("https://example.com/", None, None, "x")
    create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
    same = {"kind": "x", "payload": {}, "message_id": "x", "created_at": utc_now(), "due_at": utc_now()}
    with write_transaction() as session:
        for lane in (
            {"channel": "webhook", "recipient": "1"},
            {"channel": "customer_mail", "recipient": "c@example.com"},
        ):
            session.connection().execute(insert(Delivery), [{**lane, "account_id": one, **same} for one in range(2000)])
    with listening() as said:
        for lane in (("webhook", "1"), ("mail", None)):
            sender._claim(lane, 3, [])
        list_deliveries(1, status="given_up")
        mail._is_digest_due()

    first = ["ix_delivery_recipient_due", "ix_delivery_channel_due", "ix_delivery_recipient_status_id"]
    plans = plans_of((one for one in said if "FROM delivery" in one[0]), "delivery")
    found = [re.findall(r"ix_delivery_\w+|Join", plan) for plan in plans]
    assert [names[0] for names in found[:3]] == first
    assert found[3][0].startswith("ix_delivery_recipient")
    assert all({"Join", "ix_delivery_finished_at"}.isdisjoint(names) for names in found)


@on_postgresql
@pytest.mark.proves("R85", "F76")
def test_a_recipient_that_hangs_holds_up_no_other_and_a_bounded_number_of_threads():
    released, reached = threading.Event(), threading.Semaphore(0)

    def hang(one: Delivery) -> Answer:
        if one.recipient == "1":
            reached.release()
            released.wait(30)
        return DONE

    for account_id in range(100):
        write_delivery("1", account_id)
    script = Script(hang, lanes=["1", "2"])
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    with Sender(app, [Channel("test", script.send, lambda: script.lanes)]):
        for _ in range(sender.AT_ONCE):
            assert reached.acquire(timeout=10)
        other = write_delivery("2")
        while deliveries()[other - 1].status != "sent":
            threading.Event().wait(0.02)
        hanging = [sent for sent in script.sent if sent[0] == "1"]
        released.set()

    assert len(hanging) == sender.AT_ONCE
