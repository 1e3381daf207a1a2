"""What people and programs change about an account: they rename it, disconnect it, or erase it."""

from collections.abc import Collection, Mapping
from datetime import timedelta

from sqlalchemy import ColumnElement, delete, exists, false, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from keap_connect.accounts.credentials import forget_credential
from keap_connect.accounts.directory import load_account, lock_accounts
from keap_connect.accounts.naming import check_names, tidy_name
from keap_connect.accounts.state import never_worked
from keap_connect.clock import utc_now
from keap_connect.database import purge_deleted, write_or_retry, write_transaction
from keap_connect.errors import ExternalIdTaken
from keap_connect.events.deleting import delete_history, newest_pair_id
from keap_connect.events.history import EventKind, record
from keap_connect.models import (
    LARGEST_ID,
    Account,
    AccountEvent,
    AuthorizationFlow,
    ImportedToken,
    JobItem,
    ReconnectLink,
)

CLOCKS_DIFFER = timedelta(minutes=1)
NAMES = {"label": EventKind.LABEL_CHANGED, "external_id": EventKind.EXTERNAL_ID_CHANGED}


def change_account(
    account_id: int, actor: str, changes: Mapping[str, str | None], only: Collection[int] | None = None
) -> None:
    """Set label, external id, or both; None or blanks remove them.

    Args:
        only: the ids of the accounts that the caller may see; None for all.

    Raises:
        AccountNotFound: there is none.
        NameRefused: the label or the external id breaks a rule.
        ExternalIdTaken: another account has this external id.
    """
    names = {name: tidy_name(changes[name]) for name in NAMES if name in changes}
    check_names(**names)
    external_id = names.get("external_id")
    has_it = Account.external_id == external_id if external_id else false()
    try:
        with write_transaction() as session:
            locked = lock_accounts(session, Account.id == min(account_id, LARGEST_ID), has_it)
            account = load_account(session, account_id)
            for other in locked.values():
                if other is not account:
                    if only is not None and other.id not in only:
                        raise ExternalIdTaken
                    give_up_external_id(session, other, actor)
            rename(session, account, names, actor)
    except IntegrityError as clash:
        raise ExternalIdTaken from clash


def rename(session: Session, account: Account, names: Mapping[str, str | None], actor: str) -> None:
    """Store label, external id, or both in the caller's transaction, with an event for each that changes."""
    for name, after in names.items():
        before = getattr(account, name)
        if before != after:
            setattr(account, name, after)
            record(session, NAMES[name], account.id, actor, before=_quoted(before), after=_quoted(after))


def give_up_external_id(session: Session, account: Account, actor: str) -> None:
    """Take the external id from an imported pair that never worked, for the account that replaces it.

    Raises ExternalIdTaken: the account works, or did.
    """
    if not never_worked(account):
        raise ExternalIdTaken(f"Account {account.id} has this external id already.")
    rename(session, account, {"external_id": None}, actor)
    session.flush()  # an external id is of one row only


def disconnect(account_id: int, actor: str) -> None:
    """Delete an account's tokens at once; a refresh in flight cannot bring them back. Raises AccountNotFound."""
    with write_transaction() as session:
        disconnect_locked(session, load_account(session, account_id, lock=True), actor)
    purge_deleted()


def disconnect_locked(session: Session, account: Account, actor: str) -> None:
    """Delete the tokens of a locked account in the caller's transaction; `purge_deleted` has to follow it."""
    if account.disconnected_at is None:
        now, connected_at = utc_now(), account.connected_at
        # A host whose clock is ahead may have connected it: no grant that came before must come after this.
        account.disconnected_at = connected_at if now < connected_at <= now + CLOCKS_DIFFER else now
        _let_import_again(session, account)
        forget_credential(account)
        record(session, EventKind.DISCONNECTED, account.id, actor)


def erase(account_id: int, actor: str) -> None:
    """Delete an account with its tokens, names, links, sign-ins and history; one event records it.

    A refresh in flight cannot bring it back, and its id is never used again. Raises AccountNotFound: there is none.
    """
    flow = AuthorizationFlow
    names_it = or_(flow.account_id == account_id, flow.reconnects_account_id == account_id)

    def delete_all(session: Session) -> None:
        # The flows before the account, as what stores or confirms a grant locks them: else both could wait forever.
        session.scalars(select(flow.id).where(names_it).order_by(flow.id).with_for_update()).all()
        account = load_account(session, account_id, lock=True)
        # Before the flows are updated: else PostgreSQL finds in them a link that the account takes along.
        session.execute(delete(ReconnectLink).where(ReconnectLink.account_id == account_id))
        session.execute(
            update(flow)
            .where(names_it)
            .values(pending_grant_sealed=None, pending_until=None, code_verifier_sealed=None, keap_said=None)
        )
        if account.tenant_id is not None:  # a check of a file may have named it before it was an account
            named = JobItem.details["tenant_id"].as_string() == account.tenant_id
            session.execute(delete(JobItem).where(JobItem.account_id.is_(None), named))
        newest_pair = session.scalar(newest_pair_id()) or 0
        delete_history(session, account_id)
        _let_import_again(session, account)
        session.delete(account)
        record(session, EventKind.ERASED, account_id, actor, newest_pair=newest_pair)

    write_or_retry(delete_all)  # its invitation may be locked by a callback that waits for the account
    purge_deleted()


def has_other_person() -> ColumnElement[bool]:
    """Return the condition for flows whose account another person has reconnected since they ended."""
    return exists().where(
        AccountEvent.account_id == AuthorizationFlow.account_id,
        AccountEvent.kind == EventKind.PERSON_CHANGED,
        AccountEvent.at > AuthorizationFlow.ended_at,
    )


def _let_import_again(session: Session, account: Account) -> None:
    """Forget that the account's refresh token was imported, unless it may have been presented."""
    if account.needs_first_refresh and not (account.attempted_at or account.failures or account.refusals):
        has_it = ImportedToken.account_id == account.id, ImportedToken.generation == account.generation
        session.execute(delete(ImportedToken).where(*has_it))


def _quoted(name: str | None) -> str:
    return f"“{name}”" if name else "none"
