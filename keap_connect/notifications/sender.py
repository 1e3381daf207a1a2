"""Sends what is due: at least once, in order per account and recipient, and no recipient waits for another.

A process that was killed between the answer and the commit sends again, with the same message id. What sends a message
is a channel; nothing here knows of HTTP or SMTP.
"""

import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from flask import Flask
from sqlalchemy import and_, func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, aliased

from keap_connect import counters
from keap_connect.background import Background
from keap_connect.clock import seconds_since_boot, utc_now
from keap_connect.database import count_updated, read_one, read_rows, read_session, take_turns, write_transaction
from keap_connect.errors import KeapConnectError
from keap_connect.events.mailing import ALARM, MAIL
from keap_connect.keap.answers import cut
from keap_connect.models import Alarm, Delivery
from keap_connect.refresh.alarms import UNKNOWN_INSTANCE
from keap_connect.refresh.clone_guard import check_before_lease

log = logging.getLogger(__name__)
# How long to wait after each attempt, in seconds: 48 hours in all. A tenth more or less is random.
WAITS = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 58_800)
FAILS_FOR_LONG = timedelta(hours=48)  # then a message is given up, also if there were fewer attempts
LONGEST_WAIT_SECONDS = 86_400  # of one message, whatever the recipient asks for
LONGEST_PAUSE_SECONDS = 3600.0  # of all to this recipient: it may be repaired, and nobody can end the pause
NOBODY_TRIED = timedelta(hours=25)  # longer than any wait: after such a gap failures count anew
SEND_SECONDS = 60.0  # a channel must have ended by then
CLAIM_SECONDS = 2 * SEND_SECONDS
AT_ONCE = 3  # messages to one lane
MOST_ENDPOINTS = 10  # each is a lane; the two channels of mail are two more
IDLE_SECONDS = 1.0
CLOCK_SECONDS = 60.0
REFRESHING = "refreshing."  # with it begin the kinds that are about all accounts
WAITING, SENT, GIVEN_UP, CANCELLED = "waiting", "sent", "given_up", "cancelled"
FAULT = "A fault of this program ended the attempt; it is in the log."
Lane = tuple[str, str | None]


@dataclass(frozen=True)
class Answer:
    is_done: bool
    text: str  # is stored and shown: short, without secrets and without what the recipient wrote
    code: int | None = None  # the status of HTTP or SMTP, if there was one
    is_gone: bool = False  # no other attempt can succeed
    is_cancelled: bool = False  # nobody needs the message any more
    retry_after_seconds: float | None = None  # the recipient is overloaded or away: send it nothing for this long


@dataclass(frozen=True)
class Channel:
    name: str  # as in `Delivery.channel`
    send: Callable[[Delivery], Answer]  # within `SEND_SECONDS`; an exception counts as a failed attempt
    # Returns the recipients that messages can be sent to now; None is all of them, one lane for the whole channel. A
    # lane that hangs holds up no other.
    list_lanes: Callable[[], Sequence[str | None]] = lambda: (None,)
    # In the transaction that writes how an attempt ended.
    note: Callable[[Session, Delivery], None] = lambda _session, _delivery: None
    plan: Callable[[], None] = lambda: None  # every minute: writes the messages that no change causes


class Sender(Background):
    """Sends in threads of its own while it is entered; `send_due` sends what is due now, and waits until it is sent."""

    def __init__(self, app: Flask, channels: Sequence[Channel]) -> None:
        super().__init__(app)
        self._channels = channels
        self._lock = threading.Lock()
        self._ended = threading.Event()  # an attempt, so the next message of its lane may be sent
        self._under_way: dict[int, Lane] = {}  # the ids of deliveries, with the lane of each
        self._paused_until: dict[Lane, float] = {}  # in seconds since boot
        self._clock_due = 0.0

    def stop(self) -> None:
        super().stop()
        self._ended.set()  # it may wait for the end of an attempt

    def send_due(self) -> None:
        with self._threads() as threads:
            while True:
                was_idle = not self._under_way
                if not self._submit_due(threads) and was_idle:
                    return
                self._wait()

    def _run(self) -> None:
        with self._app.app_context(), self._threads() as threads:
            while not self._stopping.is_set():
                try:
                    self._submit_due(threads)
                except SQLAlchemyError as problem:
                    log.error("Nothing is sent: the database does not answer (%s).", type(problem).__name__)
                except (KeapConnectError, OSError) as problem:
                    log.error("Nothing is sent: %s", problem)
                except Exception as fault:  # the thread has to go on
                    log.error("A fault of this program keeps notifications from being sent.", exc_info=fault)
                self._wait()

    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor((MOST_ENDPOINTS + 2) * AT_ONCE, "send", lambda: self._app.app_context().push())

    def _wait(self) -> None:
        self._ended.wait(IDLE_SECONDS)
        self._ended.clear()

    def _submit_due(self, threads: ThreadPoolExecutor) -> int:
        """Claim and submit what is due and has room; return how much that was."""
        check_before_lease()  # a copy must not send what the original wrote
        now = seconds_since_boot()
        if now >= self._clock_due:
            self._clock_due = now + CLOCK_SECONDS
            _hurry_future_dated()
            for channel in self._channels:
                channel.plan()
        submitted = 0
        for channel in self._channels:
            for recipient in channel.list_lanes():
                lane = channel.name, recipient
                with self._lock:
                    room = AT_ONCE - Counter(self._under_way.values())[lane]
                    busy = list(self._under_way)
                if room <= 0 or self._paused_until.get(lane, 0.0) > now:
                    continue
                for delivery, since in _claim(lane, room, busy):
                    with self._lock:
                        self._under_way[delivery.id] = lane
                    threads.submit(self._send, channel, lane, delivery, since, seconds_since_boot() + CLAIM_SECONDS)
                    submitted += 1
        return submitted

    def _send(self, channel: Channel, lane: Lane, delivery: Delivery, since: datetime, claimed_until: float) -> None:
        try:
            if seconds_since_boot() > claimed_until - SEND_SECONDS:
                return  # the process was suspended: another one may be sending it
            try:
                answer = channel.send(delivery)
            except Exception as fault:  # what comes after it must be sent
                log.error("A fault of this program ended delivery %s.", delivery.id, exc_info=fault)
                answer = Answer(False, FAULT)
            if answer.retry_after_seconds is not None:
                wait = min(answer.retry_after_seconds, LONGEST_PAUSE_SECONDS)
                self._paused_until[lane] = seconds_since_boot() + wait
            self._finish(channel, delivery, since, answer, claimed_until)
        finally:
            with self._lock:
                del self._under_way[delivery.id]
            self._ended.set()

    def _finish(
        self, channel: Channel, delivery: Delivery, since: datetime, answer: Answer, claimed_until: float
    ) -> None:
        """Write how an attempt ended; while the database is away, try until another process may send it."""
        while True:
            try:
                with write_transaction() as session:
                    _write(session, channel, delivery, since, answer)
                return
            except SQLAlchemyError as problem:
                log.error("Delivery %s is not written yet (%s).", delivery.id, type(problem).__name__)
                if seconds_since_boot() >= claimed_until or self._stopping.wait(IDLE_SECONDS):
                    return


def send_claimed(channel: Channel, delivery: Delivery) -> Delivery:
    """Send a message in the caller's thread, and return it with the answer.

    It must have been written with a `due_at` that is `CLAIM_SECONDS` ahead, so that no worker sends it, too.
    """
    answer = channel.send(delivery)
    with write_transaction() as session:
        _write(session, channel, delivery, delivery.created_at, answer)
        return session.get_one(Delivery, delivery.id)


def count_waiting() -> dict[str, int]:
    """Return how many messages of each channel wait."""
    counted = select(Delivery.channel, func.count()).where(Delivery.finished_at.is_(None)).group_by(Delivery.channel)
    return dict(read_rows(counted))


def _claim(lane: Lane, most: int, busy: Sequence[int]) -> list[tuple[Delivery, datetime]]:
    """Hold the deliveries that wait longest in this lane, at most one for each account and recipient.

    Returns each with the time from which its delay counts: when it was first due, or the first failure.
    """
    channel, recipient = lane
    now = utc_now()
    earlier = aliased(Delivery)
    is_same_line = earlier.recipient == Delivery.recipient, earlier.id < Delivery.id
    before = select(earlier.id).where(earlier.finished_at.is_(None), *is_same_line).limit(1)
    # A thousand invitations hold up no mail about an alarm.
    first = (Delivery.kind != ALARM,) if channel == MAIL else ()
    due = (
        select(Delivery)
        .where(Delivery.finished_at.is_(None), Delivery.channel == channel, Delivery.due_at <= now)
        .where(Delivery.id.not_in(busy))
        .order_by(*first, Delivery.due_at, Delivery.id)
        .limit(most)
    )
    # The condition on the channel is that of the index for channels that are one lane.
    due = due.where(Delivery.channel != "webhook" if recipient is None else Delivery.recipient == recipient)
    with read_session() as session:
        if asked := session.get(Alarm, UNKNOWN_INSTANCE):
            # A copy of the installation has the messages of the original, and finds its own tokens too old. Until
            # somebody answers, it sends only that it asks, and no older message delays that.
            due = due.where(Delivery.created_at >= asked.raised_at)
            due = due.where(Delivery.kind.startswith(REFRESHING) | (Delivery.kind == ALARM))
            before = before.where(earlier.created_at >= asked.raised_at)
        # Of what is about no account, only pauses and their ends have an order.
        pauses = before.where(earlier.account_id.is_(None), earlier.kind.startswith(REFRESHING))
        is_single = Delivery.account_id.is_not(None) | ~Delivery.kind.startswith(REFRESHING)
        # Not by EXISTS, from which PostgreSQL would make a join of all that waits with all that waits.
        due = due.where(before.where(earlier.account_id == Delivery.account_id).scalar_subquery().is_(None))
        found = session.scalars(due.where(is_single | pauses.scalar_subquery().is_(None))).all()
    if not found:
        return []
    until = utc_now() + timedelta(seconds=CLAIM_SECONDS)
    ours = []
    with write_transaction() as session:
        for one in found:
            unchanged = Delivery.finished_at.is_(None), Delivery.due_at == one.due_at
            still = update(Delivery).where(Delivery.id == one.id, *unchanged)
            if count_updated(session, still.values(due_at=until)):
                ours.append((one, one.failing_since or one.due_at))
    for one, _ in ours:
        one.due_at = until
    return ours


def _write(session: Session, channel: Channel, delivery: Delivery, since: datetime, answer: Answer) -> None:
    # Before any row is locked, since `channel.note` locks others.
    take_turns(session, f"{delivery.channel}:{delivery.recipient}")
    row = session.get(Delivery, delivery.id, with_for_update=True)
    if row is None or row.finished_at is not None:
        return
    if row.due_at != delivery.due_at and not answer.is_done:
        return  # this process was suspended, and another one has claimed it: that one's answer counts
    now = utc_now()
    fails = fails_since(row.failing_since, row.tried_at)
    row.attempts, row.tried_at, row.answer, row.answer_code = row.attempts + 1, now, cut(answer.text), answer.code
    if answer.is_done:
        row.status, row.finished_at = SENT, now
        counters.observe("delivery_delay_seconds", (now - since).total_seconds(), row.channel)
    elif answer.is_cancelled:
        row.status, row.finished_at = CANCELLED, now
    elif answer.is_gone or row.attempts > len(WAITS) or fails <= now - FAILS_FOR_LONG:
        row.status, row.finished_at = GIVEN_UP, now
    else:
        row.failing_since = fails
        wait = WAITS[row.attempts - 1] * random.uniform(0.9, 1.1)  # noqa: S311  (no secret)
        asked = min(answer.retry_after_seconds or 0.0, LONGEST_WAIT_SECONDS)
        row.due_at = now + timedelta(seconds=max(wait, asked))
    counters.count("deliveries", row.channel, "failed" if row.status == WAITING else row.status)
    channel.note(session, row)


def fails_since(before: datetime | None, tried_at: datetime | None) -> datetime:
    """Return since when attempts fail, if this one does; anew if nothing was tried for long."""
    now = utc_now()
    return before if before and tried_at and tried_at > now - NOBODY_TRIED else now


def _hurry_future_dated() -> None:
    """Bring forward what a backward step of the clock would hold up: what was written before it, and retries."""
    now = utc_now()
    is_future = Delivery.created_at > now
    is_too_late = and_(Delivery.attempts > 0, Delivery.due_at > now + timedelta(seconds=1.2 * LONGEST_WAIT_SECONDS))
    waits = update(Delivery).where(Delivery.finished_at.is_(None))
    found = read_one(select(Delivery.id).where(Delivery.finished_at.is_(None), is_future | is_too_late).limit(1))
    if found is not None:
        with write_transaction() as session:
            dates = select(Delivery.id, Delivery.created_at, Delivery.due_at)
            planned = dates.where(Delivery.finished_at.is_(None), is_future, Delivery.due_at > Delivery.created_at)
            for delivery_id, created_at, due_at in session.execute(planned).all():
                moved = waits.where(Delivery.id == delivery_id)
                session.execute(moved.values(due_at=now + (due_at - created_at), created_at=now))
            session.execute(waits.where(is_future).values(due_at=now, created_at=now))
            session.execute(waits.where(is_too_late).values(due_at=now))
