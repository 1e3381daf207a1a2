"""The channels of mail: to admins, and to customers; and what became of the last mail to each recipient.

Whether a mail is still needed is decided when it is sent.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from math import ceil
from uuid import uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from keap_connect.access.admins import find_mailed_invitation
from keap_connect.access.mail_choices import COLUMNS, MailChoice, unsubscribe_url
from keap_connect.accounts.directory import view_account
from keap_connect.accounts.state import AccountState, Cause
from keap_connect.accounts.stored_state import count_states
from keap_connect.clock import utc_now
from keap_connect.connect.invitations import mailed_link
from keap_connect.connect.reconnect_links import make_link_for_mail, revoke_links_of_earlier_mails
from keap_connect.database import read_session
from keap_connect.errors import AccountNotFound, LinkGone, MailNotNeeded
from keap_connect.events import mailing
from keap_connect.models import Account, Admin, CredentialKind, Delivery
from keap_connect.notifications import messages
from keap_connect.notifications.digest import EVERY, read_attention, write_digests
from keap_connect.notifications.sender import SENT, Answer, Channel
from keap_connect.notifications.smtp import Conversation, give_to_server
from keap_connect.refresh.alarms import LEAST_REFUSED, REFUSED_SHARE, WINDOW, list_alarms
from keap_connect.services import services

# How long after the mail before: three and seven days after the first one. Then the customer is left in peace.
REMINDERS = {2: timedelta(days=3), 3: timedelta(days=4)}
MANY_LOST = 20  # within ten minutes; fewer in a small installation, as in a mass refusal
HELD_FOR = timedelta(days=1)  # so that an admin reads the digest first
MOST_LOOKED_AT = 3000  # in a day are over 20 in some ten minutes, so no more are read
SERVER_PAUSE_SECONDS = 60.0  # when a mail server is away, not each mail has to find out
MOST_READ, MOST_LISTED = 500, 50
# The condition on the channel is that of the index on mails.
_TRIED = select(Delivery).where(Delivery.channel != "webhook", Delivery.tried_at.is_not(None))
_NEWEST_FIRST = _TRIED.order_by(Delivery.id.desc())


def send(delivery: Delivery) -> Answer:
    try:
        if services().settings.mail is None:
            raise MailNotNeeded("SMTP_URL is no longer set.")
        make = PREPARED_BY[delivery.kind](delivery)
        ended = _give(delivery.recipient, make, delivery.message_id)
    except (MailNotNeeded, AccountNotFound, LinkGone) as reason:
        return Answer(False, str(reason), is_cancelled=True)
    pause = SERVER_PAUSE_SECONDS if ended.is_server_fault else None
    return Answer(ended.is_accepted, ended.text, ended.code, ended.is_refused, retry_after_seconds=pause)


def send_trial(recipient: str) -> Conversation:
    """Send a test mail at once, whatever else waits."""
    return _give(recipient, messages.trial_message, str(uuid4()))


def _give(recipient: str, make: Callable[[], messages.Message], message_id: str) -> Conversation:
    mail = services().settings.mail
    sender = mail.sender if mail else ""
    return give_to_server(recipient, lambda: messages.as_email(make(), sender, recipient, message_id))


# Each returns the function that makes the message, once the server is ready for it, or raises MailNotNeeded.


def _alarm(delivery: Delivery) -> Callable[[], messages.Message]:
    unsubscribe = _unsubscribe_url(delivery, MailChoice.ALARMS)
    for alarm in list_alarms():
        # One that was ended and raised again has a mail of its own.
        if alarm.name == delivery.payload["alarm"] and alarm.raised_at.isoformat() == delivery.payload["raised_at"]:
            return lambda: messages.alarm_message(alarm, unsubscribe)
    raise MailNotNeeded("The alarm has ended.")


def _digest(delivery: Delivery) -> Callable[[], messages.Message]:
    unsubscribe = _unsubscribe_url(delivery, MailChoice.DIGEST)
    if delivery.created_at < utc_now() - EVERY:
        raise MailNotNeeded("It is more than a day old, and a newer one follows.")
    found = read_attention()
    if not found:
        raise MailNotNeeded("Nothing needs attention any longer.")
    notes = [*(one.sentence for one in found.webhooks), *(one.sentence for one in found.failures)]
    return lambda: messages.digest_message(found.alarms, found.troubles, found.more, notes, unsubscribe)


def _unstable(delivery: Delivery) -> Callable[[], messages.Message]:
    unsubscribe = _unsubscribe_url(delivery, MailChoice.DIGEST)
    account = view_account(delivery.account_id or 0)
    return lambda: messages.unstable_message(account, _cause(delivery), unsubscribe)


def _reconnect(delivery: Delivery) -> Callable[[], messages.Message]:
    if not services().settings.mails_customers:
        raise MailNotNeeded("CUSTOMER_MAIL is off.")
    account = view_account(delivery.account_id or 0)
    if not mailing.may_be_asked(account.state, account.state_cause):
        raise MailNotNeeded("The account does not have to be reconnected any longer.")
    since = datetime.fromisoformat(delivery.payload["since"])
    return lambda: messages.reconnect_message(
        account,
        _cause(delivery),
        since,
        make_link_for_mail(account.id, delivery.message_id),
        delivery.payload["number"],
    )


def _cause(delivery: Delivery) -> Cause | None:
    cause = delivery.payload.get("cause")
    return Cause(cause) if cause in set(Cause) else None


def _unsubscribe_url(delivery: Delivery, choice: MailChoice) -> str:
    """Check that the recipient still wants the mail, and return the link that ends such mails."""
    wanted = select(Admin.id).where(Admin.email == delivery.recipient, *mailing.may_get(COLUMNS[choice]))
    with read_session() as session:
        if session.scalar(wanted) is None:
            raise MailNotNeeded("Its recipient is no longer an admin, or has switched these mails off.")
    return unsubscribe_url(delivery.recipient, choice)


def _invitation(delivery: Delivery) -> Callable[[], messages.Message]:
    invitation_id, message_id = delivery.payload["invitation"], delivery.message_id
    mailed_link(invitation_id, message_id)
    return lambda: messages.invitation_message(mailed_link(invitation_id, message_id))


def _admin_invitation(delivery: Delivery) -> Callable[[], messages.Message]:
    message_id = delivery.message_id
    find_mailed_invitation(message_id)
    return lambda: messages.admin_invitation_message(find_mailed_invitation(message_id))


PREPARED_BY = {
    mailing.ADMIN_INVITATION: _admin_invitation,
    mailing.ALARM: _alarm,
    mailing.DIGEST: _digest,
    mailing.UNSTABLE: _unstable,
    mailing.RECONNECT: _reconnect,
    mailing.INVITATION: _invitation,
}


def _note_end(session: Session, delivery: Delivery) -> None:
    if delivery.status != SENT or delivery.account_id is None:
        return
    revoke_links_of_earlier_mails(session, delivery.account_id, delivery.message_id)
    number = delivery.payload["number"] + 1
    if number in REMINDERS:
        payload = {**delivery.payload, "number": number}
        due_at = utc_now() + REMINDERS[number]
        session.add(
            mailing.new_mail(delivery.recipient, mailing.RECONNECT, payload, due_at, account_id=delivery.account_id)
        )


def _customers_lanes() -> tuple[None, ...]:
    return () if list_alarms() or _were_many_lost() else (None,)  # the fault is hardly theirs


def _were_many_lost() -> bool:
    """Return whether so many grants ended within ten minutes of the last day that the clock may be at fault, or we."""
    now = utc_now()
    waiting = (Delivery.channel == mailing.CUSTOMER_MAIL, Delivery.finished_at.is_(None), Delivery.due_at <= now)
    with read_session() as session:
        if session.scalar(select(Delivery.id).where(*waiting).limit(1)) is None:
            return False
        lost = select(Account.state_since).where(
            Account.state == AccountState.RECONNECT_REQUIRED,
            Account.state_since.between(now - HELD_FOR, now),
            Account.kind == CredentialKind.OAUTH,
            ~Account.needs_first_refresh,
        )
        moments = session.scalars(lost.order_by(Account.state_since.desc()).limit(MOST_LOOKED_AT)).all()
    counts = count_states()
    connected = sum(counts.values()) - counts.get(AccountState.DISCONNECTED, 0)
    many = min(max(LEAST_REFUSED, ceil(REFUSED_SHARE * connected)), MANY_LOST)
    pairs = zip(moments, moments[many - 1 :], strict=False)
    return any(last and first and last - first <= WINDOW for last, first in pairs)


def list_results() -> list[Delivery]:
    """Return the last mail to each recipient that was tried, the newest first."""
    with read_session() as session:
        newest = session.scalars(_NEWEST_FIRST.limit(MOST_READ)).all()
    last: dict[str, Delivery] = {}
    for mail in newest:
        last.setdefault(mail.recipient, mail)
    return list(last.values())[:MOST_LISTED]


def find_last_failure() -> Delivery | None:
    """Return the newest mail that was tried, unless it was sent."""
    with read_session() as session:
        newest = session.scalars(_NEWEST_FIRST.where(Delivery.status != "cancelled").limit(1)).first()
    return newest if newest and newest.status != "sent" else None


CHANNELS = (
    Channel(mailing.MAIL, send, plan=write_digests),
    Channel(mailing.CUSTOMER_MAIL, send, list_lanes=_customers_lanes, note=_note_end),
)
