"""The names of people and accounts: what pages show, what API and commands accept, and which characters are allowed."""

import re

from sqlalchemy import select

from keap_connect.database import read_session
from keap_connect.errors import AccountNotFound, NameRefused
from keap_connect.keap.user_info import Identity
from keap_connect.models import LARGEST_ID, Account

LONGEST_NAME = 200
LABEL_CHARACTERS = r"[^\x00-\x1f\x7f-\x9f]"  # no control characters: PostgreSQL stores no NUL, and a label is one line
EXTERNAL_ID_CHARACTERS = "[A-Za-z0-9._:-]"
EXTERNAL = "external:"
NAME = re.compile(f"[0-9]{{1,{LONGEST_NAME}}}|{EXTERNAL}{EXTERNAL_ID_CHARACTERS}{{1,{LONGEST_NAME}}}")


def person_of(named: Account | Identity) -> str:
    return named.person_name or named.person_email or "a person Keap has not named yet"


def is_account_name(name: str) -> bool:
    """Whether API and commands accept it as the name of an account: an id, or `external:<external_id>`."""
    return NAME.fullmatch(name) is not None


def parse_account_name(name: str) -> int | str:
    """Return an id, or an external id.

    Raises:
        AccountNotFound: no account can have this name.
    """
    if is_account_name(name):
        if name.startswith(EXTERNAL):
            return name.removeprefix(EXTERNAL)
        if int(name) <= LARGEST_ID:
            return int(name)
    raise AccountNotFound(f"There is no account {name}.")


def find_account_id(name: str) -> int:
    """Return the id of the account that API and commands name so.

    Raises:
        AccountNotFound: there is none.
    """
    sought = parse_account_name(name)
    named = Account.id == sought if isinstance(sought, int) else Account.external_id == sought
    with read_session() as session:
        account_id = session.scalar(select(Account.id).where(named))
    if account_id is None:
        raise AccountNotFound(f"There is no account {name}.")
    return account_id


def tidy_name(typed: str | None) -> str | None:
    """Return a label or an external id with single spaces only; None if it is blank."""
    return " ".join((typed or "").split()) or None


def check_names(label: str | None = None, external_id: str | None = None) -> None:
    """Check the new names of an account.

    Raises:
        NameRefused: the label or the external id breaks a rule.
    """
    if label and not re.fullmatch(f"{LABEL_CHARACTERS}+", label):
        raise NameRefused("label", "The label has characters that cannot be shown.")
    if label and len(label) > LONGEST_NAME:
        raise NameRefused("label", f"The label may have at most {LONGEST_NAME} characters.")
    if external_id and not re.fullmatch(f"{EXTERNAL_ID_CHARACTERS}+", external_id):
        raise NameRefused("external_id", "Use letters from A to Z, digits and . _ : - only, without spaces.")
    if external_id and len(external_id) > LONGEST_NAME:
        raise NameRefused("external_id", f"The external id may have at most {LONGEST_NAME} characters.")
