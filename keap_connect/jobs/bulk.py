"""The jobs that do one thing to many accounts or invitations: those ticked in a list, or all that match its filter.

Those of a filter become items part by part: when the runner has done some, it makes the next. What is connected or made
later is not among them, and there are never more than were confirmed.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from keap_connect.accounts.changes import disconnect_locked, rename
from keap_connect.accounts.directory import load_account
from keap_connect.accounts.naming import tidy_name
from keap_connect.accounts.search import ACCOUNTS, INVITATIONS, list_ids_after
from keap_connect.accounts.stored_state import settle_before_a_list
from keap_connect.connect import invitations, reconnect_links
from keap_connect.connect.reconnect_links import add_derived_link, mail_link_in
from keap_connect.database import read_session, write_transaction
from keap_connect.errors import InvitationClosed, JobNotFound, KeapConnectError
from keap_connect.events.history import EventKind, record
from keap_connect.events.mailing import CUSTOMER_MAIL
from keap_connect.jobs import records
from keap_connect.models import OF_INVITATIONS, Account, AccountEvent, Delivery, Invitation, Job, JobItem, JobKind
from keap_connect.refresh.serving import refresh_account
from keap_connect.spreadsheet import csv_line

# What the event of its start says.
BULK = {
    JobKind.LINKS: "make reconnect links",
    JobKind.MAILS: "send reconnect links by mail",
    JobKind.REFRESH: "refresh now",
    JobKind.LABEL: "set the label",
    JobKind.DISCONNECT: "disconnect",
    JobKind.INVITATION_LINKS: "make new links",
    JobKind.INVITATION_MAILS: "send new links by mail",
    JobKind.WITHDRAW: "withdraw",
}
CONNECTS = [kind for kind in EventKind if kind.stores_pair and kind.announced_as]  # a refresh is not announced
STATE_CHANGED = "Its state has changed since you opened the page."
LINK_COLUMNS = {
    JobKind.LINKS: ("name", "address", "link", "account_id", "account"),
    JobKind.INVITATION_LINKS: ("name", "address", "link", "invitation", "external_id"),
}


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
        count: how many accounts or invitations a person saw it is for.
        ids: of these; without them, `matching` has the `text` and `state` of a filter.
        work: what each item needs besides its account.
    """
    row = Invitation if kind in OF_INVITATIONS else Account
    with write_transaction() as session:
        gone = set(ids).difference(session.scalars(select(row.id).where(row.id.in_(ids))))
        rest = None
        if matching is not None:
            last = session.scalar(select(func.max(row.id))) or 0
            in_state = {"state": matching["state"], **(work or {})}
            rest = {**matching, "after": 0, "last": last, "left": count, "work": in_state}
        job_id = records.make_job(session, kind, actor, _items(kind, ids, 1, work or {}, gone), rest=rest)
        of = f"{row.__tablename__}s"
        record(session, EventKind.BULK_STARTED, None, actor, what=BULK[kind], of=of, count=count, job=job_id)
        return job_id


def add_next_items(job_id: int) -> None:
    """Turn the next accounts of a job's filter into items."""
    with read_session() as session:
        job = session.get_one(Job, job_id)
        kind, rest = JobKind(job.kind), job.rest
        number = session.scalar(select(func.max(JobItem.number)).where(JobItem.job_id == job_id)) or 0
    if rest is None:
        return
    index = INVITATIONS if kind in OF_INVITATIONS else ACCOUNTS
    if index is ACCOUNTS:
        settle_before_a_list()
    found, cursor = list_ids_after(index, rest["after"], records.ROWS_AT_ONCE, rest["text"], rest["state"])
    ids = [one for one in found if one <= rest["last"]][: rest["left"]]
    with write_transaction() as session:
        job = session.get_one(Job, job_id, with_for_update=True)
        if job.finished_at is None and job.rest == rest:  # or it was stopped
            left = rest["left"] - len(ids)
            has_more = left > 0 and cursor is not None and cursor < rest["last"]
            job.rest = {**rest, "after": cursor, "left": left} if has_more else None
            records.add_items(session, job.id, _items(kind, ids, number + 1, rest["work"]))


def _items(
    kind: JobKind, ids: Sequence[int], first: int, work: Mapping[str, str], gone: Collection[int] = ()
) -> dict[int, records.NewItem]:
    """Return an item for each id; that of an account that is gone is refused when it is its turn."""
    if kind in OF_INVITATIONS:
        numbered = enumerate(ids, first)
        return {number: records.NewItem({**work, "invitation": one}, {"invitation": one}) for number, one in numbered}
    return {
        number: records.NewItem({**work, "account": one}, {}, None if one in gone else one)
        for number, one in enumerate(ids, first)
    }


def act_on(job: Job, work: dict[str, Any]) -> records.Finish:
    """Refresh one account if the job is for that; what is returned does the other things."""
    kind = JobKind(job.kind)
    if kind in OF_INVITATIONS:
        return lambda session: (None, _change_invitation(session, kind, job, work))
    account_id = int(work["account"])
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
            _check_unchanged(session, account, job, work)
            disconnect_locked(session, account, job.made_by)
        if kind is JobKind.MAILS:
            _check_unmailed(session, account_id, _seen_at(job, work))
            return None, {"note": f"Its mail goes to {mail_link_in(session, account_id, job.made_by)}."}
        return None, {}

    return finish


def _change_invitation(session: Session, kind: JobKind, job: Job, work: dict[str, Any]) -> Mapping[str, Any]:
    invitation_id, actor = int(work["invitation"]), job.made_by
    row = invitations.lock_invitation(session, invitation_id)
    if row.sent_at > _seen_at(job, work):
        raise InvitationClosed("It got a newer link after you opened the page.")
    if work.get("state") and row.state in invitations.UNUSED and row.state != work["state"]:
        raise InvitationClosed(STATE_CHANGED)
    if kind is JobKind.WITHDRAW:
        invitations.withdraw_unused(session, invitation_id, actor)
        return {}
    if kind is JobKind.INVITATION_MAILS:
        invitations.resend_in(session, invitation_id, actor, is_mailed=True)
        return {"note": "Its mail will be sent."}
    key = str(uuid4())
    invitations.resend_in(session, invitation_id, actor, is_mailed=False, key=key)
    return {"key": key}


def _check_unchanged(session: Session, account: Account, job: Job, work: dict[str, Any]) -> None:
    seen_at = _seen_at(job, work)
    # Not `connected_at`: of a grant that had to wait, that is when it came.
    stored = select(AccountEvent.id).where(AccountEvent.account_id == account.id, AccountEvent.at > seen_at)
    if session.scalar(stored.where(AccountEvent.kind.in_(CONNECTS)).limit(1)) is not None:
        raise KeapConnectError("It was connected again after you opened the page.")
    if work.get("state") and account.state_since and account.state_since > seen_at:
        raise KeapConnectError(STATE_CHANGED)


def _check_unmailed(session: Session, account_id: int, seen_at: datetime) -> None:
    sent = select(Delivery.id).where(Delivery.account_id == account_id, Delivery.channel == CUSTOMER_MAIL)
    if session.scalar(sent.where(Delivery.status == "sent", Delivery.finished_at > seen_at).limit(1)) is not None:
        raise KeapConnectError("A mail with a link was sent after you opened the page.")


def _seen_at(job: Job, work: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(work["seen_at"]) if "seen_at" in work else job.made_at


def links_csv(job_id: int, actor: str) -> Iterator[str]:
    """Record the download in the history, and return a CSV file of a job's links that still work, in pieces.

    Raises JobNotFound: also if the job is for something else.
    """
    view = records.view_job(job_id)
    if view.job.kind not in LINK_COLUMNS:
        raise JobNotFound(f"Job {job_id} makes no links.")
    with write_transaction() as session:
        record(session, EventKind.LINKS_DOWNLOADED, None, actor, job=job_id, count=view.done)
    return _link_lines(view.job)


def _link_lines(job: Job) -> Iterator[str]:
    yield csv_line(LINK_COLUMNS[JobKind(job.kind)])
    after = 0
    while found := records.list_items(job.id, records.ItemOutcome.DONE, records.ROWS_AT_ONCE, after):
        after = found[-1][0].number
        of_key = {item.details["key"]: one for item, one in found if one and "key" in item.details}
        links = invitations if job.kind == JobKind.INVITATION_LINKS else reconnect_links
        urls = links.working_urls(of_key)
        yield "".join(csv_line(_link_cells(one, urls[key])) for key, one in of_key.items() if key in urls)


def _link_cells(one: Account | Invitation, url: str) -> tuple[object, ...]:
    if isinstance(one, Invitation):
        return one.label, one.email, url, one.id, one.external_id
    return one.person_name, one.person_email, url, one.id, one.title
