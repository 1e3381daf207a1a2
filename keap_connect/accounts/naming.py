"""The names of people and accounts: what pages show, what API and commands accept, and which characters are allowed."""

import re
from collections.abc import Collection
from unicodedata import category

from sqlalchemy import select
from sqlalchemy.orm import Session

from keap_connect.database import read_session
from keap_connect.errors import AccountAmbiguous, AccountNotFound, NameRefused
from keap_connect.events.history import EventKind
from keap_connect.keap.token_response import normalize_tenant_id
from keap_connect.keap.user_info import Identity
from keap_connect.models import LARGEST_ID, Account, AccountEvent

LONGEST_NAME = 200
LABEL_CHARACTERS = r"[^\x00-\x1f\x7f-\x9f]"  # no control characters: PostgreSQL stores no NUL, and a label is one line
# They turn the text beside them round, so that a label looks like another one (Unicode Technical Report 36, 2.5).
DIRECTION_CHARACTERS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
EXTERNAL_ID_CHARACTERS = "[A-Za-z0-9._:-]"
EXTERNAL, TENANT = "external:", "tenant:"
EXTERNAL_ID, TENANT_ID = f"{EXTERNAL_ID_CHARACTERS}{{1,{LONGEST_NAME}}}", "[A-Za-z0-9][A-Za-z0-9.-]{0,62}"
# The name of a group is that of the column.
NAME = re.compile(
    f"(?P<id>[1-9][0-9]{{0,{LONGEST_NAME - 1}}})|{EXTERNAL}(?P<external_id>{EXTERNAL_ID})"
    f"|{TENANT}(?P<tenant_id>{TENANT_ID})"
)


def person_of(named: Account | Identity) -> str:
    return named.person_name or named.person_email or "a person Keap has not named yet"


def read_typed_name(typed: str) -> str | None:
    """Return the name of an account from what a person typed: `ab123` stands for `tenant:ab123`, and `#7` for `7`."""
    text = typed.strip().lstrip("#")
    return next((name for name in (text, f"{TENANT}{text}") if NAME.fullmatch(name)), None)


def parse_account_name(name: str) -> tuple[str, int | str]:
    """Return a column of `Account`, and its value in the accounts that API and commands name so.

    Raises AccountNotFound: no account can have this name.
    """
    found = NAME.fullmatch(name)
    column = str(found.lastgroup) if found else ""
    text = found[column] if found else ""
    value = normalize_tenant_id(text) if column == "tenant_id" else int(text) if column == "id" else text
    if not value or (isinstance(value, int) and value > LARGEST_ID):
        raise AccountNotFound(f"There is no account {name}.")
    return column, value


def find_account_id(name: str, only: Collection[int] | None = None) -> int:
    """Return the id of the account that API and commands name so.

    Args:
        only: the ids of the accounts that the caller may see; None for all.

    Raises AccountNotFound; AccountAmbiguous: several accounts have this tenant.
    """
    ids = _find_account_ids(name, only)
    if len(ids) > 1:
        raise AccountAmbiguous(f"{name} is the name of several accounts: {ids}. Give the number of one of them.")
    return ids[0]


def find_ids_in_history(name: str) -> list[int]:
    """Return the ids of all accounts of this name; a number is also that of an erased account.

    Raises AccountNotFound.
    """
    column, value = parse_account_name(name)
    return [int(value)] if column == "id" else _find_account_ids(name)


def _find_account_ids(name: str, only: Collection[int] | None = None) -> list[int]:
    column, value = parse_account_name(name)
    query = select(Account.id).where(getattr(Account, column) == value).order_by(Account.id)
    with read_session() as session:
        ids = list(session.scalars(query if only is None else query.where(Account.id.in_(only))))
        if not ids and column == "id" and (only is None or int(value) in only):
            raise no_account(session, int(value))
    if not ids:
        raise AccountNotFound(f"There is no account {name}.")
    return ids


def no_account(session: Session, account_id: int) -> AccountNotFound:
    """Return the error that says why there is no account with this id."""
    ends = AccountEvent.kind.in_((EventKind.ERASED, EventKind.MOVED_AWAY))
    is_end = AccountEvent.account_id == min(account_id, LARGEST_ID), ends
    end = session.scalars(select(AccountEvent).where(*is_end).order_by(AccountEvent.id.desc()).limit(1)).first()
    if end is not None and end.kind == EventKind.ERASED:
        return AccountNotFound(f"Account {account_id} was erased for good.")
    if end is not None:
        return AccountNotFound(f"Account {account_id} was merged into account {end.details['to_account']}.")
    return AccountNotFound(f"There is no account {account_id}.")


def tidy_name(typed: str | None) -> str | None:
    """Return a label or an external id with single spaces and without direction characters; None if it is invisible."""
    words = DIRECTION_CHARACTERS.sub("", typed or "").split()
    is_visible = any(category(one) != "Cf" for one in "".join(words))  # such as spaces of no width
    return " ".join(words) if is_visible else None


def check_names(label: str | None = None, external_id: str | None = None) -> None:
    """Check the new names of an account. Raises NameRefused."""
    if label and not re.fullmatch(f"{LABEL_CHARACTERS}+", label):
        raise NameRefused("The label has characters that cannot be shown.", "label")
    if label and len(label) > LONGEST_NAME:
        raise NameRefused(f"The label may have at most {LONGEST_NAME} characters.", "label")
    if external_id and not re.fullmatch(f"{EXTERNAL_ID_CHARACTERS}+", external_id):
        raise NameRefused("Use letters from A to Z, digits and . _ : - only, without spaces.", "external_id")
    if external_id and len(external_id) > LONGEST_NAME:
        raise NameRefused(f"The external id may have at most {LONGEST_NAME} characters.", "external_id")
