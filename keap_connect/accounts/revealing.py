"""Showing an access token to an admin, which audit log and history record before the token is shown."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from keap_connect.accounts.credentials import fingerprint, open_access_token
from keap_connect.accounts.directory import load_account
from keap_connect.database import read_session, write_transaction
from keap_connect.errors import AccountDisconnected, FormRefused
from keap_connect.events.hand_outs import record_hand_out
from keap_connect.events.history import EventKind, record
from keap_connect.models import AccountEvent


def count_reveals(account_id: int) -> int:
    """Return how often this account's token was shown. The form contains it, so that each form works once.

    Raises AccountNotFound.
    """
    with read_session() as session:
        load_account(session, account_id)
        return _count(session, account_id)


def reveal_access_token(account_id: int, actor: str, reveals_before: int, address: str | None) -> str:
    """Record in audit log and history that the access token is shown, and return it.

    Args:
        reveals_before: what `count_reveals` returned when the form was made.
        address: the network address that the token is sent to.

    Raises:
        AccountNotFound: there is none.
        AccountDisconnected: no access token is stored.
        FormRefused: the token was shown since, so the form was reloaded or sent again.
        SealBroken: the stored value does not open.
        HandOutUnrecorded: the audit log cannot be written.
    """
    with write_transaction() as session:
        account = load_account(session, account_id, lock=True)
        if _count(session, account_id) != reveals_before:
            raise FormRefused("The token was shown already. Enter your password to see it again.", "password")
        access_token = open_access_token(account)
        if access_token is None:
            raise AccountDisconnected("No access token is stored for this account.")
        # The audit log first: if it fails, the history gets no event for a token that was not shown.
        record_hand_out(account_id, fingerprint(access_token), actor, address)
        record(session, EventKind.TOKEN_REVEALED, account_id, actor)
    return access_token


def _count(session: Session, account_id: int) -> int:
    is_reveal = AccountEvent.account_id == account_id, AccountEvent.kind == EventKind.TOKEN_REVEALED
    return session.scalar(select(func.count()).where(*is_reveal)) or 0
