"""What the integrator calls an account: a label for people, an external id for programs."""

from collections.abc import Mapping

from sqlalchemy.exc import IntegrityError

from keap_connect.accounts.history import EventKind, record
from keap_connect.database import write_transaction
from keap_connect.errors import AccountNotFound, ExternalIdTaken
from keap_connect.models import Account

CHANGEABLE = ("label", "external_id")


def change_account(account_id: int, actor: str, changes: Mapping[str, str | None]) -> None:
    """Set label, external id, or both; None or blanks take them away.

    Raises:
        AccountNotFound: there is none.
        ExternalIdTaken: another account has this external id.
    """
    wanted = {name: (changes[name] or "").strip() or None for name in CHANGEABLE if name in changes}
    try:
        with write_transaction() as session:
            account = session.get(Account, account_id, with_for_update=True)
            if account is None:
                raise AccountNotFound(f"There is no account {account_id}.")
            new = {name: value for name, value in wanted.items() if getattr(account, name) != value}
            for name, value in new.items():
                setattr(account, name, value)
            if new:
                told = ", ".join(f"{name.replace('_', ' ')} {value or 'none'}" for name, value in new.items())
                record(session, EventKind.RENAMED, account_id, actor, told=told)
    except IntegrityError:
        raise ExternalIdTaken("Another account has this external id already.") from None
