"""The job that imports a file of credentials, or only checks it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from keap_connect.accounts.naming import person_of
from keap_connect.connect.import_files import read_file
from keap_connect.connect.importing import UNPROVEN, ImportedCredential, check_at_keap, find_target, store_checked
from keap_connect.database import take_turns, write_transaction
from keap_connect.errors import FormRefused, ImportRefused, TenantConflict
from keap_connect.events.history import EventKind, record
from keap_connect.jobs.records import Finish, ItemOutcome, NewItem, make_job
from keap_connect.keap.user_info import Identity
from keap_connect.models import CredentialKind, Job, JobItem, JobKind

PERSON = ("tenant_id", "keap_user_id")


def start_import(content: bytes, actor: str, *, only_checks: bool, takes_unusual_keys: bool = False) -> int:
    """Store the lines of a file as a job and return its id; the lines that cannot be read are refused at once.

    Raises ImportRefused: the file as a whole cannot be read.
    """
    items = {number: _item(line) for number, line in read_file(content, takes_unusual_keys).items()}
    with write_transaction() as session:
        if not only_checks:
            record(session, EventKind.FILE_IMPORTED, None, actor, count=len(items))
        return make_job(session, JobKind.IMPORT_CHECK if only_checks else JobKind.IMPORT, actor, items)


def import_line(job: Job, work: dict[str, Any]) -> Finish:
    """Ask Keap whose the credential of a line is; what is returned stores it, or only looks where it would belong.

    Raises ImportRefused, TemporarilyUnavailable.
    """
    credential = ImportedCredential(**{**work, "kind": CredentialKind(work["kind"])})
    try:
        checked = check_at_keap(credential)
    except TenantConflict as conflict:
        raise ImportRefused(str(conflict)) from conflict

    def finish(session: Session) -> tuple[int | None, Mapping[str, Any]]:
        identity = checked.identity or Identity()
        account = find_target(session, checked).account
        is_same = [JobItem.account_id == account.id] if account else []
        if not account and identity.is_complete and job.kind == JobKind.IMPORT_CHECK:
            # A check makes no account, by which the next line of this person would find this one.
            take_turns(session, f"import check {job.id}")
            is_same = [JobItem.details[name].as_string() == getattr(identity, name) for name in PERSON]
        twin = select(JobItem.number).where(JobItem.job_id == job.id, JobItem.outcome == ItemOutcome.DONE, *is_same)
        if is_same and (number := session.scalar(twin.limit(1))) is not None:
            raise ImportRefused(f"It has the same Keap account and person as line {number}.")
        details = {
            **{name: getattr(identity, name) for name in PERSON},
            "business_name": identity.business_name,
            "person": person_of(identity),
            "updates": account.title if account else None,
        }
        if checked.identity is None:
            details["note"] = UNPROVEN if job.kind == JobKind.IMPORT_CHECK else f"Stored. {UNPROVEN}"
        if job.kind == JobKind.IMPORT_CHECK:
            return account.id if account else None, details
        return store_checked(session, checked, job.made_by), details

    return finish


def _item(line: ImportedCredential | FormRefused) -> NewItem:
    if isinstance(line, FormRefused):
        return NewItem(None, {"column": line.field, "problem": str(line)})
    names = {"kind": line.kind, "external_id": line.external_id, "label": line.label}
    return NewItem(asdict(line), names)
