"""How programs and people name an account from outside: by its id, or as `external:<external_id>`."""

import re

from sqlalchemy import select

from keap_connect.accounts.labels import EXTERNAL_ID_CHARACTERS, LONGEST_NAME
from keap_connect.database import read_session
from keap_connect.errors import AccountNotFound
from keap_connect.models import LARGEST_ID, Account

EXTERNAL = "external:"
NAME = re.compile(f"[0-9]+|{EXTERNAL}{EXTERNAL_ID_CHARACTERS}{{1,{LONGEST_NAME}}}")


def is_account_name(name: str) -> bool:
    """Whether it has the form of a name; there may still be no such account."""
    return NAME.fullmatch(name) is not None


def find_account_id(name: str) -> int:
    """Return the id of the account of this name.

    Raises:
        AccountNotFound: there is none.
    """
    named = Account.external_id == name.removeprefix(EXTERNAL)
    if not name.startswith(EXTERNAL):
        if not is_account_name(name) or int(name) > LARGEST_ID:
            raise AccountNotFound(f"There is no account {name}.")
        named = Account.id == int(name)
    with read_session() as session:
        account_id = session.scalar(select(Account.id).where(named))
    if account_id is None:
        raise AccountNotFound(f"There is no account {name}.")
    return account_id
