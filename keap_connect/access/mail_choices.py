"""Which mails an admin gets: chosen on the profile page, or ended by the link in a mail, which needs no sign-in.

The link carries no secret of the admin: it is signed, works for good, and can only switch off one kind of mail.
"""

from collections.abc import Collection
from enum import StrEnum

from itsdangerous import BadData, URLSafeSerializer
from sqlalchemy.orm import Session

from keap_connect.database import read_session, write_transaction
from keap_connect.errors import UnsubscribeLinkGone
from keap_connect.events.history import EventKind, record
from keap_connect.models import Admin
from keap_connect.services import services


class MailChoice(StrEnum):
    """The values are fields of forms, and in the links of mails."""

    ALARMS = "alarms"
    DIGEST = "digest"

    @property
    def words(self) -> str:
        return {MailChoice.ALARMS: "mail about alarms", MailChoice.DIGEST: "the daily digest"}[self]


COLUMNS = {MailChoice.ALARMS: Admin.has_alarm_mails, MailChoice.DIGEST: Admin.has_digest_mails}


def choose_mails(admin_id: int, choices: Collection[str]) -> None:
    with write_transaction() as session:
        admin = session.get_one(Admin, admin_id)
        _set(session, admin, {choice: choice in choices for choice in MailChoice}, admin.email)


def chosen_mails(admin: Admin) -> list[MailChoice]:
    return [choice for choice, column in COLUMNS.items() if getattr(admin, column.key)]


def unsubscribe_url(admin: Admin, choice: MailChoice) -> str:
    token = _signer().dumps([admin.id, int(admin.created_at.timestamp()), choice])
    return f"{services().settings.public_url}/mail/unsubscribe/{token}"


def read_unsubscribe(token: str) -> tuple[str, MailChoice]:
    """Return the address and the kind of mail that a link is for. Raises UnsubscribeLinkGone."""
    with read_session() as session:
        admin, choice = _read(session, token)
        return admin.email, choice


def unsubscribe(token: str) -> None:
    """Switch off what a link is for; once more changes nothing. Raises UnsubscribeLinkGone."""
    with write_transaction() as session:
        admin, choice = _read(session, token)
        _set(session, admin, {choice: False}, admin.email)


def _read(session: Session, token: str) -> tuple[Admin, MailChoice]:
    try:
        admin_id, created_at, choice = _signer().loads(token)
    except BadData:
        raise UnsubscribeLinkGone("The link is incomplete or changed.") from None
    admin = session.get(Admin, admin_id)
    if admin is None or int(admin.created_at.timestamp()) != created_at:  # SQLite gives the id of a removed admin again
        raise UnsubscribeLinkGone("The link is for somebody who is no longer an admin.")
    return admin, MailChoice(choice)


def _set(session: Session, admin: Admin, wanted: dict[MailChoice, bool], actor: str) -> None:
    before = chosen_mails(admin)
    for choice, is_wanted in wanted.items():
        setattr(admin, COLUMNS[choice].key, is_wanted)
    after = chosen_mails(admin)
    if after != before:
        mails = ", ".join(after) or "none"
        record(session, EventKind.MAILS_CHOSEN, None, actor, email=admin.email, mails=mails)


def _signer() -> URLSafeSerializer:
    return URLSafeSerializer(services().settings.secret_key, salt="unsubscribe")
