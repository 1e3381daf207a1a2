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
        kind: the event that says what became of its grant. If that was moved, its names come first.
    """
    gone, was_moved = pending.id, kind is EventKind.MOVED_HERE
    for table in (SignIn, AuthorizationFlow, ReconnectLink, Invitation, JobItem):
        session.execute(update(table).where(table.account_id == gone).values(account_id=account.id))
    # Its mails have the address of the person, who is erased with the other account. What waits is about an old state.
    mails = Delivery.account_id == gone, Delivery.channel.in_((MAIL, CUSTOMER_MAIL))
    session.execute(delete(Delivery).where(*mails, Delivery.finished_at.is_(None)))
    session.execute(update(Delivery).where(*mails).values(account_id=account.id))
    first, second = (pending, account) if was_moved else (account, pending)
    names = {"label": first.label or second.label, "external_id": first.external_id or second.external_id}
    session.delete(pending)
    session.flush()  # an external id is of one row only
    rename(session, account, names, Actor.SYSTEM)
    record(session, kind, account.id, Actor.SYSTEM, from_account=gone)
    record(session, EventKind.MOVED_AWAY, gone, Actor.SYSTEM, to_account=account.id)
