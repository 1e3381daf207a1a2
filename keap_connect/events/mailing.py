"""Which mails an event causes. They are written in its transaction, and sent by notifications/mail.py."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from keap_connect.clock import utc_now
from keap_connect.models import NOT_CHOSEN, Account, AccountEvent, Admin, Alarm, CredentialKind, Delivery, Role
from keap_connect.services import services

# The channels: customers get nothing while an alarm is raised, and hold up no mail to an admin.
MAIL, CUSTOMER_MAIL = "mail", "customer_mail"
ALARM, DIGEST, UNSTABLE, RECONNECT, INVITATION = "alarm", "digest", "unstable", "reconnect", "invitation"
ADMIN_INVITATION = "admin invitation"
KINDS_OF_STATE = ("at_risk", "recovered", "reconnect_required")
WAIT = timedelta(minutes=2)  # a change that is undone within this time sends no mail
# More changes of state within an hour make an account unstable, until one state lasts for an hour.
MOST_CHANGES, STEADY_AFTER = 4, timedelta(hours=1)
LONGEST_EMAIL, EMAIL = 254, r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*"
WRONG_EMAIL = "Enter an e-mail address, such as ann@example.com."


def is_address(text: str) -> bool:
    return len(text) <= LONGEST_EMAIL and re.fullmatch(EMAIL, text) is not None


def plan_mails(session: Session, event: AccountEvent, announced_as: str) -> list[Delivery]:
    """Return the mails that an announced event causes; the event itself is not in the session yet.

    Cancels the mails to the customer that the event makes needless, and marks the event of an unstable account.
    """
    if services().settings.mail is None:
        return []
    if announced_as == "refreshing.paused":
        alarm = session.get_one(Alarm, event.details["cause"])
        which = {"alarm": alarm.name, "raised_at": alarm.raised_at.isoformat()}
        return list(_to_admins(session, Admin.has_alarm_mails, event, ALARM, which))
    account = session.get(Account, event.account_id) if event.account_id else None
    if account is None or not announced_as.startswith("account."):
        return []
    _cancel_reconnect_mails(session, account.id, event.at)
    if event.kind not in KINDS_OF_STATE:
        return []
    changes = _changes_of_last_hour(session, account.id, event.at)
    was_unstable = bool(changes) and "is_unstable" in changes[0].details
    is_unstable = was_unstable or len(changes) >= MOST_CHANGES
    mails: list[Delivery] = []
    if is_unstable:
        event.details = {**event.details, "is_unstable": True}
        if not was_unstable:
            cause = next((one.details["cause"] for one in (event, *changes) if one.details.get("cause")), None)
            mails += _to_admins(session, Admin.has_digest_mails, event, UNSTABLE, {"cause": cause})
    # No mail for an imported account before its first refresh: its person has connected nothing here.
    is_connected = account.kind == CredentialKind.OAUTH and not account.needs_first_refresh
    is_wanted = services().settings.mails_customers and is_connected
    if event.kind == "reconnect_required" and account.person_email and is_wanted:
        payload = {"cause": event.details.get("cause"), "since": event.at.isoformat(), "number": 1}
        wait = STEADY_AFTER if is_unstable else WAIT
        mails.append(new_mail(account.person_email, RECONNECT, payload, event.at + wait, account_id=account.id))
    return mails


def new_mail(
    recipient: str, kind: str, payload: dict[str, Any], due_at: datetime, *, account_id: int | None = None
) -> Delivery:
    return Delivery(
        account_id=account_id,
        channel=CUSTOMER_MAIL if kind == RECONNECT else MAIL,
        recipient=recipient,
        kind=kind,
        payload=payload,
        message_id=str(uuid4()),
        created_at=utc_now(),
        due_at=due_at,
    )


def may_get(choice: InstrumentedAttribute[bool]) -> tuple[ColumnElement[bool], ...]:
    """Return the SQL conditions of the admins who can act and have not switched these mails off."""
    return choice.is_(True), Admin.role == Role.ADMIN


def gets_mails(choice: InstrumentedAttribute[bool]) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of those of them who have a password; an emergency stop ends all passwords."""
    return *may_get(choice), Admin.password_hash != NOT_CHOSEN


def _to_admins(
    session: Session, choice: InstrumentedAttribute[bool], event: AccountEvent, kind: str, payload: dict[str, Any]
) -> Iterator[Delivery]:
    for address in session.scalars(select(Admin.email).where(*gets_mails(choice)).order_by(Admin.email)):
        yield new_mail(address, kind, payload, event.at + WAIT, account_id=event.account_id)


def may_be_asked(state: str | None, cause: str | None) -> bool:
    """Whether a customer may be asked to reconnect an account: it has to be, or it must move to another client id."""
    return state == "reconnect_required" or cause == "other_registration"


def ask_to_reconnect(session: Session, account: Account) -> bool:
    """Write the mail with a reconnect link in the place of one that waits; return False if the account needs none."""
    if not may_be_asked(account.state, account.state_cause) or not account.person_email:
        return False
    now = utc_now()
    _cancel_reconnect_mails(session, account.id, now, "An admin asked for a newer one.")
    payload = {"cause": account.state_cause, "since": (account.state_since or now).isoformat(), "number": 1}
    session.add(new_mail(account.person_email, RECONNECT, payload, now, account_id=account.id))
    return True


def _cancel_reconnect_mails(
    session: Session, account_id: int, now: datetime, reason: str = "The state of the account changed."
) -> None:
    waiting = (Delivery.account_id == account_id, Delivery.channel == CUSTOMER_MAIL, Delivery.finished_at.is_(None))
    values = {"status": "cancelled", "finished_at": now, "answer": reason}
    session.execute(update(Delivery).where(*waiting).values(values))


def _changes_of_last_hour(session: Session, account_id: int, now: datetime) -> list[AccountEvent]:
    """Return the newest changes of its state, the last one first, as many as make it unstable."""
    changes = select(AccountEvent).where(AccountEvent.account_id == account_id, AccountEvent.kind.in_(KINDS_OF_STATE))
    found = session.scalars(changes.order_by(AccountEvent.id.desc()).limit(MOST_CHANGES)).all()
    return [event for event in found if event.at > now - STEADY_AFTER]
