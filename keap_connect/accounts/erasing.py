"""Erasing a customer for good: unlike a disconnect, nothing that tells of them stays in the database."""

from sqlalchemy import or_, update

from keap_connect.accounts.directory import load_account
from keap_connect.database import write_transaction
from keap_connect.events.deleting import delete_history
from keap_connect.events.history import EventKind, record
from keap_connect.models import AuthorizationFlow


def erase(account_id: int, actor: str) -> None:
    """Delete an account with its tokens, names, links, sign-ins and history; one event says that it was done.

    A refresh in flight cannot bring it back, and its id is never used again.

    Raises:
        AccountNotFound: there is none.
    """
    with write_transaction() as session:
        account = load_account(session, account_id, lock=True)
        concerned = or_(
            AuthorizationFlow.account_id == account_id, AuthorizationFlow.reconnects_account_id == account_id
        )
        session.execute(
            update(AuthorizationFlow)
            .where(concerned)
            .values(pending_grant_sealed=None, pending_until=None, code_verifier_sealed=None, keap_said=None)
        )
        delete_history(session, account_id)
        session.delete(account)
        record(session, EventKind.ERASED, account_id, actor)
