"""Merging a pending account into the account of the same person: one row stays, with what refers to the other one."""

from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from keap_connect.accounts.changes import rename
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.events.mailing import CUSTOMER_MAIL, MAIL
from keap_connect.models import Account, AuthorizationFlow, Delivery, Invitation, JobItem, ReconnectLink, SignIn


def merge(session: Session, pending: Account, account: Account, kind: EventKind) -> None:
    """Delete a pending account in the caller's transaction; both are locked.

    Args:
        kind: the event that says what became of its grant.
    """
    gone, external_id = pending.id, pending.external_id
    for table in (SignIn, AuthorizationFlow, ReconnectLink, Invitation, JobItem):
        session.execute(update(table).where(table.account_id == gone).values(account_id=account.id))
    # Its mails have the address of the person, who is erased with the other account. What waits is about an old state.
    mails = Delivery.account_id == gone, Delivery.channel.in_((MAIL, CUSTOMER_MAIL))
    session.execute(delete(Delivery).where(*mails, Delivery.finished_at.is_(None)))
    session.execute(update(Delivery).where(*mails).values(account_id=account.id))
    names = {"label": account.label or pending.label, "external_id": account.external_id or external_id}
    session.delete(pending)
    session.flush()  # an external id is of one row only
    rename(session, account, names, Actor.SYSTEM)
    record(session, kind, account.id, Actor.SYSTEM, from_account=gone)
    # For webhooks: what is disconnected has no external id if that is of the other account now.
    keys = {"tenant_id": account.tenant_id, "external_id": external_id if external_id != account.external_id else None}
    record(session, EventKind.MOVED_AWAY, gone, Actor.SYSTEM, to_account=account.id, **keys)


def take_names(session: Session, pending: Account, account: Account) -> None:
    """Give an account the names of the pending one whose grant it is about to get: what is announced then has them."""
    names = {"label": pending.label or account.label, "external_id": pending.external_id or account.external_id}
    pending.label = pending.external_id = None
    session.flush()  # an external id is of one row only
    rename(session, account, names, Actor.SYSTEM)
