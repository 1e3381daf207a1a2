"""Which mails an admin gets: chosen on the profile page, or ended by the link in a mail, which needs no sign-in."""

import hmac
from collections.abc import Collection
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.orm import Session

from keap_connect.database import read_session, write_transaction
from keap_connect.errors import UnsubscribeLinkGone
from keap_connect.events.history import EventKind, record
from keap_connect.models import Admin
from keap_connect.services import keyed_hash, page_url


class MailChoice(StrEnum):
    """The values are fields of forms, and in the links of mails."""

    ALARMS = "alarms"
    DIGEST = "digest"


COLUMNS = {MailChoice.ALARMS: Admin.has_alarm_mails, MailChoice.DIGEST: Admin.has_digest_mails}


def choose_mails(admin_id: int, choices: Collection[str]) -> None:
    with write_transaction() as session:
        _set(session, session.get_one(Admin, admin_id), {choice: choice in choices for choice in MailChoice})


def unsubscribe_url(email: str, choice: MailChoice) -> str:
    return page_url(f"/mail/unsubscribe/{_token(email, choice)}")


def read_unsubscribe(token: str) -> tuple[str, MailChoice]:
    """Return the address and the kind of mail that a link is for. Raises UnsubscribeLinkGone."""
    with read_session() as session:
        admin, choice = _read(session, token)
        return admin.email, choice


def unsubscribe(token: str) -> None:
    """Switch off what a link is for; a second time changes nothing. Raises UnsubscribeLinkGone."""
    with write_transaction() as session:
        admin, choice = _read(session, token)
        _set(session, admin, {choice: False})


def _token(email: str, choice: MailChoice) -> str:
    """Return what nobody without SECRET_KEY can make; it names no person, and can only switch off one kind of mail."""
    return f"{choice}-{keyed_hash('unsubscribe', choice, email)}"


def _read(session: Session, token: str) -> tuple[Admin, MailChoice]:
    choice = token.partition("-")[0]
    admins = session.scalars(select(Admin)).all() if choice in set(MailChoice) else ()
    for admin in admins:
        if hmac.compare_digest(_token(admin.email, MailChoice(choice)).encode(), token.encode()):
            return admin, MailChoice(choice)
    raise UnsubscribeLinkGone("The link is incomplete or changed, or its recipient is no longer an admin.")


def _set(session: Session, admin: Admin, wanted: dict[MailChoice, bool]) -> None:
    before = _chosen(admin)
    for choice, is_wanted in wanted.items():
        setattr(admin, COLUMNS[choice].key, is_wanted)
    if _chosen(admin) != before:
        mails = ", ".join(_chosen(admin)) or "none"
        record(session, EventKind.MAILS_CHOSEN, None, admin.email, email=admin.email, mails=mails)


def _chosen(admin: Admin) -> list[MailChoice]:
    return [choice for choice, column in COLUMNS.items() if getattr(admin, column.key)]
