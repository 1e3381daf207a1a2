"""Does jobs: a few items a second, as Keap allows; one process at a time for each job.

An item whose work ends without an answer of Keap is tried again later, up to a limit. Its result is written in the
transaction that changes the account, so no item is done twice, and none after the job was stopped. Only a refresh has
transactions of its own, and ends even if the job is stopped while Keap answers.
"""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

from flask import Flask
from sqlalchemy import or_, select, update
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from keap_connect.accounts.stored_state import FAR_AHEAD
from keap_connect.background import Background
from keap_connect.clock import seconds_since_boot, utc_now
from keap_connect.database import count_updated, purge_deleted, read_all, read_one, write_or_retry, write_transaction
from keap_connect.errors import ClientMisconfigured, KeapConnectError, TemporarilyUnavailable
from keap_connect.jobs.bulk import BULK, act_on, add_next_items
from keap_connect.jobs.imports import import_line
from keap_connect.jobs.records import Finish, ItemOutcome, JobView, Step, forget_past_jobs, view_job
from keap_connect.models import IMPORTS, Account, Job, JobItem, JobKind
from keap_connect.refresh.alarms import list_alarms
from keap_connect.refresh.due import reserve_calls
from keap_connect.services import services

log = logging.getLogger(__name__)
STEPS: dict[JobKind, Step] = {**dict.fromkeys(IMPORTS, import_line), **dict.fromkeys(BULK, act_on)}
# Items of one job in a turn of at least a second; then another job has its turn. Keap stops an app at 25 calls a second
# and 1,500 a minute, and an imported line takes two.
AT_ONCE = 5
AT_ONCE_WITHOUT_KEAP = 50
HELD_FOR = timedelta(minutes=2)  # longer than these items take while Keap is slow
MOST_TRIES = 10
PAUSE = timedelta(minutes=1)
IDLE_SECONDS = 2.0
FORGET_SECONDS = 3600.0
FAULT = "A fault of this program kept it from being done; it is in the log."


class JobRunner(Background):
    """Does jobs in a thread while it is entered; `do_due` and `do_job` do them in the caller's."""

    def __init__(self, app: Flask) -> None:
        super().__init__(app)
        self._forget_due = 0.0

    def do_due(self) -> None:
        while not self._stopping.is_set() and (job := _claim()) is not None:
            self._do_next(job)

    def do_job(self, job_id: int) -> Iterator[JobView]:
        """Do one job to its end, or until Keap gives no answers; yield how far it is."""
        yield (view := view_job(job_id))
        while view.job.finished_at is None and view.job.trouble is None:
            if (job := _claim(job_id)) is not None:
                self._do_next(job)
            else:  # another process is doing it
                self._stopping.wait(IDLE_SECONDS)
            yield (view := view_job(job_id))

    def _run(self) -> None:
        with self._app.app_context():
            while not self._stopping.is_set():
                try:
                    self.do_due()
                    if seconds_since_boot() >= self._forget_due:
                        self._forget_due = seconds_since_boot() + FORGET_SECONDS
                        forget_past_jobs()
                except SQLAlchemyError as problem:
                    log.error("No job is done: the database does not answer (%s).", type(problem).__name__)
                except Exception as fault:  # the thread has to go on with other jobs
                    log.error("A fault of this program keeps a job from being done.", exc_info=fault)
                self._stopping.wait(IDLE_SECONDS)

    def _do_next(self, job: Job) -> None:
        """Do the next items of a job that this process holds."""
        if job.kind == JobKind.REFRESH and (alarms := list_alarms()):
            _go_on(job, f"Refreshing is paused. {alarms[0].reason}")
            return
        ends_at = seconds_since_boot() + 1.0
        waiting = select(JobItem).where(JobItem.job_id == job.id, JobItem.outcome.is_(None))
        items = read_all(waiting.order_by(JobItem.tries, JobItem.number).limit(at_once(job)))
        if not items and job.rest:
            add_next_items(job.id)
        if job.kind == JobKind.REFRESH and items and self._stopping.wait(reserve_calls(len(items))):
            items = []  # the process ends

        def ask(item: JobItem) -> Finish | KeapConnectError:
            now = read_one(select(JobItem).where(JobItem.ref == item.ref))
            if now is None or now.outcome is not None:  # the job was stopped, or another process was faster
                return KeapConnectError("It does not wait any longer.")
            try:
                return STEPS[JobKind(job.kind)](job, _open(item))
            except KeapConnectError as refusal:
                return refusal
            except Exception as fault:  # the other items have to be done
                return _fault(item, fault)

        with ThreadPoolExecutor(AT_ONCE, initializer=lambda: self._app.app_context().push()) as threads:
            asked = list(threads.map(ask, items))
        done = [_settle(item, one) for item, one in zip(items, asked, strict=True)]
        if job.kind == JobKind.DISCONNECT:
            purge_deleted()
        trouble = None if any(done) else next((str(one) for one in asked if isinstance(one, KeapConnectError)), None)
        if _go_on(job, trouble):
            self._stopping.wait(max(ends_at - seconds_since_boot(), 0.0))


def at_once(job: Job) -> int:
    """Return how many items of a job are done in a second."""
    return AT_ONCE if job.kind in {*IMPORTS, JobKind.REFRESH} else AT_ONCE_WITHOUT_KEAP


def _claim(job_id: int | None = None) -> Job | None:
    """Hold the job that waits longest, or this one; return None if none is due."""
    now = utc_now()
    # What is far ahead was written before the clock was set back.
    is_due = Job.finished_at.is_(None), or_(Job.next_at <= now, Job.next_at > now + FAR_AHEAD)
    due = select(Job.id).where(*is_due).order_by(Job.next_at, Job.id).limit(1)
    if job_id is not None:
        due = due.where(Job.id == job_id)
    found = read_one(due)
    if found is None:
        return None
    claim = update(Job).where(Job.id == found, *is_due)
    with write_transaction() as session:
        is_ours = count_updated(session, claim.values(next_at=now + HELD_FOR))
        return session.get_one(Job, found) if is_ours else None


def _go_on(held: Job, trouble: str | None) -> bool:
    """Release a job, for a while if there is trouble; return whether more of it can be done at once."""
    waits = select(JobItem.ref).where(JobItem.job_id == held.id, JobItem.outcome.is_(None)).limit(1)
    with write_transaction() as session:
        job = session.get_one(Job, held.id, with_for_update=True)
        if job.next_at != held.next_at:
            return False  # this process was too slow, and another one holds it now
        if job.finished_at is None and job.rest is None and session.scalar(waits) is None:
            job.finished_at = utc_now()
        job.next_at, job.trouble = utc_now() + (PAUSE if trouble else timedelta(0)), trouble
        return job.finished_at is None and not trouble


def _open(item: JobItem) -> dict[str, Any]:
    opened: dict[str, Any] = json.loads(services().cipher.open(item.work_sealed or b"", "job_item", item.ref, "work"))
    return opened


def _settle(item: JobItem, asked: Finish | KeapConnectError) -> bool:
    """Write what became of an item; return False if it is tried again."""
    if isinstance(asked, ClientMisconfigured):
        return False  # no item is at fault, so it is no try
    this = update(JobItem).where(JobItem.ref == item.ref, JobItem.outcome.is_(None))
    if isinstance(asked, TemporarilyUnavailable) and item.tries + 1 < MOST_TRIES:
        values: dict[str, object] = {"tries": JobItem.tries + 1}
    else:
        refusal = asked if isinstance(asked, KeapConnectError) else _finish(item, asked)
        if refusal is None:
            return True
        details = {**item.details, "column": getattr(refusal, "field", ""), "problem": str(refusal)}
        values = {"outcome": ItemOutcome.REFUSED, "work_sealed": None, "details": details}
    with write_transaction() as session:
        session.execute(this.values(values))
    return "outcome" in values


def _finish(item: JobItem, finish: Finish) -> KeapConnectError | None:
    def store(session: Session) -> None:
        # What merges or erases accounts locks them before their items.
        session.get(Account, item.account_id or 0, with_for_update=True)
        row = session.get(JobItem, item.ref, with_for_update=True)
        if row is not None and row.outcome is None:  # or the job was stopped, or another process was faster
            account_id, details = finish(session)
            row.account_id = row.account_id if account_id is None else account_id
            row.details, row.outcome, row.work_sealed = {**row.details, **details}, ItemOutcome.DONE, None

    try:
        write_or_retry(store)
    except KeapConnectError as refusal:
        return refusal
    except Exception as fault:  # the other items have to be done
        if isinstance(fault, SQLAlchemyError) and not isinstance(fault, IntegrityError | DataError):
            raise  # the database fails for all of them
        return _fault(item, fault)
    return None


def _fault(item: JobItem, fault: Exception) -> KeapConnectError:
    log.error("A fault of this program ended the work on item %s.", item.ref, exc_info=fault)
    return KeapConnectError(FAULT)
