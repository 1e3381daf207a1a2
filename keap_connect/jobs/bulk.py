"""The jobs that do one thing to many accounts: to those that were ticked in the list, or to all that match its filter.

The accounts of a filter become items part by part: when the runner has done some, it makes the next. Accounts that are
connected later are not among them, and there are never more than were confirmed.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from keap_connect.accounts.changes import disconnect_locked, rename
from keap_connect.accounts.directory import list_accounts_after, load_account
from keap_connect.accounts.naming import tidy_name
from keap_connect.connect.reconnect_links import add_derived_link, derived_url
from keap_connect.database import read_session, write_transaction
from keap_connect.errors import AccountChanged, MailNotNeeded
from keap_connect.events.history import EventKind, record
from keap_connect.events.mailing import ask_to_reconnect
from keap_connect.jobs.records import (
    ROWS_AT_ONCE,
    Finish,
    ItemOutcome,
    NewItem,
    add_items,
    list_items,
    make_job,
    view_job,
)
from keap_connect.models import Account, Job, JobItem, JobKind
from keap_connect.refresh.serving import refresh_account
from keap_connect.spreadsheet import csv_line

# What the event of its start says.
BULK = {
    JobKind.LINKS: "make reconnect links",
    JobKind.MAILS: "send reconnect links by mail",
    JobKind.REFRESH: "refresh now",
    JobKind.LABEL: "set the label",
    JobKind.DISCONNECT: "disconnect",
}
LINK_COLUMNS = ("name", "address", "link", "account_id", "account")


def start_bulk(
    kind: JobKind,
    actor: str,
    count: int,
    *,
    ids: Sequence[int] = (),
    matching: Mapping[str, str] | None = None,
    work: Mapping[str, str] | None = None,
) -> int:
    """Make the job and return its id.

    Args:
        count: how many accounts a person was told it is for.
        ids: the accounts; without them, `matching` has the `text` and `state` of a filter.
        work: what each item needs besides its account.
    """
    with write_transaction() as session:
        there = select(Account.id).where(Account.id.in_(ids)).order_by(Account.id)
        found = session.scalars(there).all() if ids else []
        rest = None
        if matching is not None:
            last = session.scalar(select(func.max(Account.id))) or 0
            in_state = {"state": matching["state"], **(work or {})}
            rest = {**matching, "after": 0, "last": last, "left": count, "work": in_state}
        job_id = make_job(session, kind, actor, _items(found, 1, work or {}), rest=rest)
        record(session, EventKind.BULK_STARTED, None, actor, what=BULK[kind], count=count, job=job_id)
        return job_id


def add_next_items(job_id: int) -> None:
    """Turn the next accounts of a job's filter into items."""
    with read_session() as session:
        rest = session.get_one(Job, job_id).rest
        number = session.scalar(select(func.max(JobItem.number)).where(JobItem.job_id == job_id)) or 0
    if rest is None:
        return
    page = list_accounts_after(rest["after"], ROWS_AT_ONCE, state=rest["state"], text=rest["text"])
    ids = [one.id for one in page.accounts if one.id <= rest["last"]][: rest["left"]]
    with write_transaction() as session:
        job = session.get_one(Job, job_id, with_for_update=True)
        if job.finished_at is None and job.rest == rest:  # or it was stopped
            left = rest["left"] - len(ids)
            has_more = left > 0 and page.next_cursor is not None and page.next_cursor < rest["last"]
            job.rest = {**rest, "after": page.next_cursor, "left": left} if has_more else None
            add_items(session, job.id, _items(ids, number + 1, rest["work"]))


def _items(ids: Sequence[int], first: int, work: Mapping[str, str]) -> dict[int, NewItem]:
    return {number: NewItem({**work, "account": one}, {}, one) for number, one in enumerate(ids, first)}


def act_on(job: Job, work: dict[str, Any]) -> Finish:
    """Refresh one account if the job is for that; what is returned does the other things."""
    account_id, kind = int(work["account"]), JobKind(job.kind)
    if kind is JobKind.REFRESH:
        refresh_account(account_id, job.made_by)

    def finish(session: Session) -> tuple[None, Mapping[str, Any]]:
        if kind is JobKind.LINKS:
            key = str(uuid4())
            add_derived_link(session, account_id, key, job.made_by)
            return None, {"key": key}
        if kind is JobKind.LABEL:
            account = load_account(session, account_id, lock=True)
            rename(session, account, {"label": tidy_name(work["label"])}, job.made_by)
        if kind is JobKind.DISCONNECT:
            account = load_account(session, account_id, lock=True)
            _check_unchanged(account, job, work)
            disconnect_locked(session, account, job.made_by)
        if kind is JobKind.MAILS and not ask_to_reconnect(session, load_account(session, account_id)):
            raise MailNotNeeded("It need not be reconnected, or its person's address is not known.")
        return None, {"note": "Its mail will be sent."} if kind is JobKind.MAILS else {}

    return finish


def _check_unchanged(account: Account, job: Job, work: dict[str, Any]) -> None:
    if account.connected_at > job.made_at:
        raise AccountChanged("It was connected again since the job began.")
    if work.get("state") and account.state_since and account.state_since > job.made_at:
        raise AccountChanged("It came into another state since the job began.")


def links_csv(job_id: int, actor: str) -> Iterator[str]:
    """Record the download in the history, and return a CSV file of the links that a job made, in pieces.

    Raises:
        JobNotFound.
    """
    view = view_job(job_id)
    if view.job.kind == JobKind.LINKS:
        with write_transaction() as session:
            record(session, EventKind.LINKS_DOWNLOADED, None, actor, job=job_id, count=view.done)
    return _link_lines(job_id)


def _link_lines(job_id: int) -> Iterator[str]:
    yield csv_line(LINK_COLUMNS)
    after = 0
    while found := list_items(job_id, ItemOutcome.DONE, ROWS_AT_ONCE, after):
        after = found[-1][0].number
        yield "".join(
            csv_line((one.person_name, one.person_email, derived_url(item.details["key"]), one.id, one.title))
            for item, one in found
            if one is not None and "key" in item.details
        )
