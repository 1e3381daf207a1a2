"""What the integrator calls an account: a label for people, an external id for programs; what may be in them."""

import re
from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from keap_connect.accounts.directory import load_account
from keap_connect.database import write_transaction
from keap_connect.errors import ExternalIdTaken, NameRefused
from keap_connect.events.history import EventKind, record
from keap_connect.models import Account

LONGEST_NAME = 200
LABEL_CHARACTERS = r"[^\x00-\x1f\x7f-\x9f]"  # no control characters: PostgreSQL keeps no NUL, and a line is one line
EXTERNAL_ID_CHARACTERS = "[A-Za-z0-9._:-]"
KINDS = {"label": EventKind.LABEL_CHANGED, "external_id": EventKind.EXTERNAL_ID_CHANGED}


def change_account(account_id: int, actor: str, changes: Mapping[str, str | None]) -> None:
    """Set label, external id, or both; None or blanks take them away.

    Raises:
        AccountNotFound: there is none.
        NameRefused: the label or the external id breaks a rule.
        ExternalIdTaken: another account has this external id.
    """
    names = {name: tidy_name(changes[name]) for name in KINDS if name in changes}
    check_names(**names)
    try:
        _store(account_id, actor, names)
    except IntegrityError as clash:
        raise ExternalIdTaken from clash


def tidy_name(typed: str | None) -> str | None:
    """Return a label or an external id without needless blanks; None when nothing is left."""
    return " ".join((typed or "").split()) or None


def check_names(label: str | None = None, external_id: str | None = None) -> None:
    """Check what an account is to be called.

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


def _store(account_id: int, actor: str, names: Mapping[str, str | None]) -> None:
    with write_transaction() as session:
        account = load_account(session, account_id, lock=True)
        external_id = names.get("external_id")
        taken = select(Account.id).where(Account.external_id == external_id, Account.id != account_id)
        other_id = session.scalar(taken) if external_id else None
        if other_id is not None:
            raise ExternalIdTaken(f"Account {other_id} has this external id already.")
        for name, after in names.items():
            before = getattr(account, name)
            if before != after:
                setattr(account, name, after)
                record(session, KINDS[name], account_id, actor, before=_quoted(before), after=_quoted(after))


def _quoted(name: str | None) -> str:
    return f"“{name}”" if name else "none"
