"""Making, reading and stopping jobs."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from keap_connect.clock import utc_now
from keap_connect.database import count_updated, read_rows, read_session, write_one, write_transaction
from keap_connect.errors import JobNotFound
from keap_connect.events.deleting import DELETED_AT_ONCE, delete_in_batches
from keap_connect.events.history import EventKind, record
from keap_connect.models import LARGEST_ID, Account, Invitation, Job, JobItem, JobKind
from keap_connect.services import services
from keap_connect.spreadsheet import csv_line

KEPT_FOR = timedelta(days=7)  # after its end
ROWS_AT_ONCE = 500
CSV_COLUMNS = (
    *("number", "outcome", "column", "problem", "note", "external_id", "label", "tenant_id", "account_id"),
    "invitation",
)
# What the work of one item is made of. A `Step` calls Keap, in no transaction; it raises TemporarilyUnavailable if the
# item is to be tried again later. The `Finish` that it returns writes to the account in the transaction that ends the
# item. It returns the details to show, and the account's id, or None to leave the item's own. Any other
# KeapConnectError refuses the item.
Finish = Callable[[Session], tuple[int | None, Mapping[str, Any]]]
Step = Callable[[Job, dict[str, Any]], Finish]


class ItemOutcome(StrEnum):
    DONE = "done"
    REFUSED = "refused"
    STOPPED = "stopped"


@dataclass(frozen=True)
class NewItem:
    """An item of a new job: `work` to do, which may hold secrets, or none if it is refused already."""

    work: Mapping[str, Any] | None
    details: Mapping[str, Any]
    account_id: int | None = None


@dataclass(frozen=True)
class JobView:
    """A job, and how many of its items wait or had each outcome."""

    job: Job
    waiting: int = 0
    done: int = 0
    refused: int = 0
    stopped: int = 0

    @property
    def total(self) -> int:
        return self.waiting + self.done + self.refused + self.stopped


def make_job(
    session: Session, kind: JobKind, made_by: str, items: Mapping[int, NewItem], *, rest: dict[str, Any] | None = None
) -> int:
    """Store a job in the caller's transaction, its work sealed, and return its id; `rest` becomes items later."""
    now = utc_now()
    is_finished = rest is None and not any(item.work for item in items.values())
    job = Job(kind=kind, made_by=made_by, made_at=now, next_at=now, finished_at=now if is_finished else None, rest=rest)
    session.add(job)
    session.flush()
    add_items(session, job.id, items)
    return job.id


def add_items(session: Session, job_id: int, items: Mapping[int, NewItem]) -> None:
    def row(number: int, item: NewItem) -> dict[str, object]:
        ref = f"{job_id}:{number}"
        sealed = services().cipher.seal(json.dumps(item.work), "job_item", ref, "work") if item.work else None
        outcome = None if item.work else ItemOutcome.REFUSED
        named = {"ref": ref, "job_id": job_id, "number": number, "account_id": item.account_id}
        return {**named, "details": dict(item.details), "work_sealed": sealed, "outcome": outcome}

    if items:
        session.execute(insert(JobItem), [row(number, item) for number, item in items.items()])


def view_job(job_id: int) -> JobView:
    """Return a job and how far it is. Raises JobNotFound."""
    with read_session() as session:
        job = session.get(Job, job_id) if job_id <= LARGEST_ID else None
        if job is None:
            raise JobNotFound(f"There is no job {job_id}.")
        return _view(session, job)


def list_jobs(kinds: Sequence[JobKind], most: int) -> list[JobView]:
    newest = select(Job).where(Job.kind.in_(kinds)).order_by(Job.id.desc()).limit(most)
    with read_session() as session:
        return [_view(session, job) for job in session.scalars(newest)]


def list_items(
    job_id: int, outcome: ItemOutcome | None, most: int, after: int = 0
) -> list[tuple[JobItem, Account | Invitation | None]]:
    """Return items with this outcome, or with any, in their order, and the account or invitation of each."""
    query = select(JobItem, Account, Invitation).outerjoin(Account, Account.id == JobItem.account_id)
    query = query.outerjoin(Invitation, Invitation.id == JobItem.details["invitation"].as_integer())
    query = query.where(JobItem.job_id == job_id, JobItem.number > after).order_by(JobItem.number).limit(most)
    if outcome is not None:
        query = query.where(JobItem.outcome == outcome)
    return [(item, account or invitation) for item, account, invitation in read_rows(query)]


def items_csv(job_id: int, outcome: ItemOutcome | None) -> Iterator[str]:
    """Yield a CSV file of the items in pieces, a few rows at a time, so that a slow download holds no transaction."""
    yield csv_line(CSV_COLUMNS)
    after = 0
    while found := [item for item, _ in list_items(job_id, outcome, ROWS_AT_ONCE, after)]:
        after = found[-1].number
        for item in found:
            facts = {"number": item.number, "outcome": item.outcome or "waiting", "account_id": item.account_id}
            yield csv_line((item.details | facts).get(name) for name in CSV_COLUMNS)


def stop_job(job_id: int, actor: str) -> None:
    """Leave undone what waits, and delete its secrets; what is done stays. Raises JobNotFound."""
    view_job(job_id)
    with write_transaction() as session:
        stop_in(session, job_id, actor)


def stop_in(session: Session, job_id: int, actor: str) -> None:
    """Stop a job in the caller's transaction."""
    job = session.get_one(Job, job_id, with_for_update=True)
    if job.finished_at is None:
        job.finished_at, job.trouble = utc_now(), None
        waiting = update(JobItem).where(JobItem.job_id == job_id, JobItem.outcome.is_(None))
        left = count_updated(session, waiting.values(outcome=ItemOutcome.STOPPED, work_sealed=None)) + _left(job)
        record(session, EventKind.JOB_STOPPED, None, actor, job=job_id, count=left)


def forget_past_jobs() -> None:
    is_past = Job.finished_at <= utc_now() - KEPT_FOR
    refs = select(JobItem.ref).where(JobItem.job_id.in_(select(Job.id).where(is_past))).limit(DELETED_AT_ONCE)
    delete_in_batches(delete(JobItem).where(JobItem.ref.in_(refs)))
    has_items = select(JobItem.ref).where(JobItem.job_id == Job.id).exists()
    write_one(delete(Job).where(is_past, ~has_items))


def _view(session: Session, job: Job) -> JobView:
    counts = select(JobItem.outcome, func.count()).where(JobItem.job_id == job.id).group_by(JobItem.outcome)
    found = {outcome or "waiting": count for outcome, count in session.execute(counts)}
    name = "stopped" if job.finished_at else "waiting"
    return JobView(job, **{**found, name: found.get(name, 0) + _left(job)})


def _left(job: Job) -> int:
    return job.rest["left"] if job.rest else 0
