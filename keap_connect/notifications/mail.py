"""The channels of mail, and what each mail says: to admins, and to customers; and what became of the last ones.

Whether a mail is still needed is decided when it is sent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from uuid import uuid4

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from keap_connect.access.admins import find_mailed_invitation
from keap_connect.access.mail_choices import COLUMNS, MailChoice, unsubscribe_url
from keap_connect.accounts.directory import list_accounts, view_account, view_of
from keap_connect.accounts.state import AccountState, Cause
from keap_connect.accounts.stored_state import count_states, registration
from keap_connect.clock import minute, utc_now
from keap_connect.connect.flows import Failures, list_failures
from keap_connect.connect.invitations import mailed_link
from keap_connect.connect.reconnect_links import make_link_for_mail, revoke_links_of_earlier_mails
from keap_connect.database import read_all, read_one, read_session, take_turns, write_transaction
from keap_connect.errors import AccountNotFound, LinkGone, MailNotNeeded
from keap_connect.events import mailing
from keap_connect.models import Account, Admin, Alarm, CredentialKind, Delivery, WebhookEndpoint
from keap_connect.notifications.endpoints import list_endpoints
from keap_connect.notifications.sender import SENT, Answer, Channel
from keap_connect.notifications.smtp import Conversation, Message, Trouble, as_email, facts_of, give_to_server, item_of
from keap_connect.refresh.alarms import ADVICE, LEAST_REFUSED, REFUSED_SHARE, WINDOW, list_alarms
from keap_connect.services import page_url, services

EVERY = timedelta(hours=24)
MOST_NAMED = 20  # of each state
# The time since the mail before: three and seven days after the first one. There are no more.
REMINDERS = {2: timedelta(days=3), 3: timedelta(days=4)}
MANY_LOST = 20  # within ten minutes; fewer in a small installation, as in a mass refusal
HELD_FOR = timedelta(days=1)  # so that an admin reads the digest first
MOST_LOOKED_AT = 3000  # more in a day would be over 20 in some ten minutes, too
SERVER_PAUSE_SECONDS = 60.0  # when a mail server is away, not each mail has to find out
MOST_READ, MOST_LISTED = 500, 50
ALARM_HEADING = "Refreshing is paused for all accounts"
HELD = (
    "Many accounts were lost within ten minutes, so the fault is hardly their customers': these are written to a day "
    "later, if they still have to reconnect. To cancel that, set CUSTOMER_MAIL=off."
)
WORKS_ONCE = "The link works once, until {}. Do not pass it on."
# The condition on the channel is that of the index on mails.
_TRIED = select(Delivery).where(Delivery.channel != "webhook", Delivery.tried_at.is_not(None))
_NEWEST_FIRST = _TRIED.order_by(Delivery.id.desc())


@dataclass(frozen=True)
class Attention:
    """What a person should look at; `more` is how many accounts there are beside those listed."""

    alarms: Sequence[Alarm]
    troubles: Sequence[Trouble]
    more: int
    webhooks: Sequence[WebhookEndpoint]  # that were switched off for failing
    failures: Sequence[Failures]  # of connecting; too common to write a mail for

    def __bool__(self) -> bool:
        return bool(self.alarms or self.troubles or self.more or self.webhooks)


def read_attention() -> Attention:
    found = list_accounts(state=AccountState.RECONNECT_REQUIRED)
    lost = found.accounts[:MOST_NAMED]
    to_customer = Delivery.account_id.in_([one.id for one in lost]), Delivery.channel == mailing.CUSTOMER_MAIL
    newest = select(func.max(Delivery.id)).where(*to_customer).group_by(Delivery.account_id)
    # Most of those at risk are well again within the hour, and an alarm has a mail of its own.
    lately = utc_now() - mailing.STEADY_AFTER
    is_lasting = Account.state == AccountState.AT_RISK, Account.state_since <= lately
    oldest = select(Account).where(*is_lasting).order_by(Account.state_since, Account.id).limit(MOST_NAMED)
    with read_session() as session:
        ours, count = registration(session), session.scalar(select(func.count(Account.id)).where(*is_lasting)) or 0
        risky = [view_of(row, ours) for row in session.scalars(oldest)]
        mails = {mail.account_id: mail for mail in session.scalars(select(Delivery).where(Delivery.id.in_(newest)))}
    troubles = [Trouble(one, mails.get(one.id)) for one in (*lost, *risky)]
    more = (found.total or 0) + count - len(troubles)
    lasting_alarms = [one for one in list_alarms() if one.raised_at <= lately]
    off = [one for one in list_endpoints() if one.failing_since and not one.is_on]
    return Attention(lasting_alarms, troubles, more, off, list_failures())


def write_digests() -> None:
    """Write a digest to each admin who wants one, if something needs attention and the last one is a day old."""
    if services().settings.mail is None or not _is_digest_due() or not read_attention():
        return
    with write_transaction() as session:
        take_turns(session, "digest")  # of several workers
        if _is_digest_due():
            now = utc_now()
            for address in session.scalars(select(Admin.email).where(*mailing.gets_mails(Admin.has_digest_mails))):
                session.add(mailing.new_mail(address, mailing.DIGEST, {}, now + mailing.WAIT))


def _is_digest_due() -> bool:
    now = utc_now()  # one with a later time was written while the clock was ahead
    digests = select(Delivery.id).where(Delivery.channel == mailing.MAIL, Delivery.kind == mailing.DIGEST)
    lately = digests.where(Delivery.created_at.between(now - EVERY, now), Delivery.status != "cancelled")
    wanting = read_all(select(Admin.email).where(*mailing.gets_mails(Admin.has_digest_mails)))
    # By recipient, whose index leads past the mails to customers and the webhooks.
    return bool(wanting) and read_one(lately.where(Delivery.recipient.in_(wanting)).limit(1)) is None


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
    message = Message(
        subject="Test mail",
        heading="Mail works",
        paragraphs=("The mail server took this test mail over, and it has reached you.",),
        action=("Open the mail page", page_url("/mail")),
        footer="You get this mail because an admin has asked for it.",
    )
    return _give(recipient, lambda: message, str(uuid4()))


def _give(recipient: str, make: Callable[[], Message], message_id: str) -> Conversation:
    mail = services().settings.mail
    sender = mail.sender if mail else ""
    return give_to_server(recipient, lambda: as_email(make(), sender, recipient, message_id))


# Each returns the function that makes the message, once the server is ready for it, or raises MailNotNeeded.


def _alarm(delivery: Delivery) -> Callable[[], Message]:
    unsubscribe = _unsubscribe_url(delivery, MailChoice.ALARMS)
    for alarm in list_alarms():
        # One that was ended and raised again has a mail of its own.
        if alarm.name == delivery.payload["alarm"] and alarm.raised_at.isoformat() == delivery.payload["raised_at"]:
            break
    else:
        raise MailNotNeeded("The alarm has ended.")
    return lambda: Message(
        heading=ALARM_HEADING,
        paragraphs=(alarm.reason, ADVICE[alarm.name]),
        facts=(("Since", minute(alarm.raised_at)),),
        after=(
            "Access tokens that are still valid are handed out as before. No customer gets mail while refreshing is "
            "paused.",
        ),
        action=("Open the list of accounts", page_url("/accounts")),
        footer="You get this mail because an alarm has lasted for two minutes.",
        unsubscribe_url=unsubscribe,
    )


def _digest(delivery: Delivery) -> Callable[[], Message]:
    unsubscribe = _unsubscribe_url(delivery, MailChoice.DIGEST)
    if delivery.created_at < utc_now() - EVERY:
        raise MailNotNeeded("It is more than a day old, and a newer one follows.")
    found = read_attention()
    if not found:
        raise MailNotNeeded("Nothing needs attention any longer.")
    count = len(found.troubles) + found.more
    need = "account needs" if count == 1 else "accounts need"
    paused = [f"{ALARM_HEADING} since {minute(one.raised_at)}. {one.reason}" for one in found.alarms]
    said = [*paused, HELD] if services().settings.mails_customers and _were_many_lost() else paused
    return lambda: Message(
        heading=f"{count} {need} attention" if count else ALARM_HEADING if paused else "A webhook is switched off",
        paragraphs=[*said, *(one.sentence for one in found.webhooks), *(one.sentence for one in found.failures)],
        items=[item_of(one) for one in found.troubles],
        after=(f"And {found.more} more: the list of accounts has them all.",) if found.more else (),
        action=("Open the list of accounts", page_url("/accounts")),
        footer="You get this mail once a day, and only if something needs attention.",
        unsubscribe_url=unsubscribe,
    )


def _unstable(delivery: Delivery) -> Callable[[], Message]:
    unsubscribe = _unsubscribe_url(delivery, MailChoice.DIGEST)
    account = view_account(delivery.account_id or 0)
    return lambda: Message(
        heading=f"{account.title} is unstable",
        paragraphs=(
            "The state of this account changed more than four times within an hour. You get no other mail about that "
            "until a state has held for an hour.",
        ),
        facts=facts_of(account, "Why, the last time", _cause(delivery)),
        after=("Look at its history: two programs may be refreshing the same tokens.",),
        action=("Open the account", page_url(f"/accounts/{account.id}")),
        footer="You get this mail because you get the daily digest.",
        unsubscribe_url=unsubscribe,
    )


def _reconnect(delivery: Delivery) -> Callable[[], Message]:
    if not services().settings.mails_customers:
        raise MailNotNeeded("CUSTOMER_MAIL is off.")
    account = view_account(delivery.account_id or 0)
    if not mailing.may_be_asked(account.state, account.state_cause):
        raise MailNotNeeded("The account does not have to be reconnected any longer.")
    since, number = datetime.fromisoformat(delivery.payload["since"]), delivery.payload["number"]
    name, service = account.public_title, services().settings.service.name
    last = "This is the last reminder." if number == 3 else "We remind you twice at most." if number == 1 else ""

    def make() -> Message:
        link = make_link_for_mail(account.id, delivery.message_id)
        return Message(
            subject=f"Reminder: please reconnect {name}" if number > 1 else "",
            heading=f"Please reconnect {name}",
            paragraphs=(
                f"{service} can no longer work with your Keap account, and needs your permission again. It takes a "
                "minute: sign in at Keap, pick the account, and press Allow.",
            ),
            facts=(*facts_of(account, "Why", _cause(delivery)), ("Since", minute(since))),
            action=("Reconnect at Keap", link.url),
            after=(WORKS_ONCE.format(minute(link.expires_at)),),
            footer=f"You get this mail because you have connected this Keap account to {service}. {last}".strip(),
            is_for_customer=True,
        )

    return make


def _cause(delivery: Delivery) -> Cause | None:
    cause = delivery.payload.get("cause")
    return Cause(cause) if cause in set(Cause) else None


def _unsubscribe_url(delivery: Delivery, choice: MailChoice) -> str:
    """Check that the recipient still wants the mail, and return the link that ends such mails."""
    wanted = select(Admin.id).where(Admin.email == delivery.recipient, *mailing.may_get(COLUMNS[choice]))
    if read_one(wanted) is None:
        raise MailNotNeeded("Its recipient is no longer an admin, or has switched these mails off.")
    return unsubscribe_url(delivery.recipient, choice)


def _invitation(delivery: Delivery) -> Callable[[], Message]:
    service = services().settings.service.name

    def make() -> Message:
        made = mailed_link(delivery.payload["invitation"], delivery.message_id)
        facts = ("For", made.row.label), ("Keap account", made.row.expected_tenant_id)
        return Message(
            heading=f"Connect your Keap account with {service}",
            paragraphs=(
                f"{service} asks for access to your Keap account. It takes a minute: sign in at Keap, pick the "
                "account, and press Allow.",
            ),
            facts=[(name, text) for name, text in facts if text],
            action=("Connect Keap", made.url),
            after=(WORKS_ONCE.format(minute(made.row.expires_at)),),
            footer=f"You get this mail because {service} has invited you. If you did not expect it, do nothing.",
            is_for_customer=True,
        )

    make()  # raises if it is not needed
    return make


def _admin_invitation(delivery: Delivery) -> Callable[[], Message]:
    def make() -> Message:
        admin, until, url = find_mailed_invitation(delivery.message_id)
        return Message(
            heading=f"You are invited to Keap Connect at {services().settings.host_name}",
            paragraphs=(
                "Keap Connect keeps the Keap accounts of customers connected. Choose a password, then sign in with it "
                "and this e-mail address.",
            ),
            facts=(("Invited by", admin.invited_by or ""), ("Your role", admin.role)),
            action=("Choose a password", url),
            after=(WORKS_ONCE.format(minute(until)),),
            footer="You get this mail because an admin has invited you. If you did not expect it, do nothing.",
        )

    make()  # raises if it is not needed
    return make


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
    return () if list_alarms() or _were_many_lost() else (None,)  # then the fault is hardly the customers'


def _were_many_lost() -> bool:
    """Whether so many grants ended within ten minutes of the last day that the clock, or this app, may be at fault."""
    now = utc_now()
    waiting = (Delivery.channel == mailing.CUSTOMER_MAIL, Delivery.finished_at.is_(None), Delivery.due_at <= now)
    if read_one(select(Delivery.id).where(*waiting).limit(1)) is None:
        return False
    lost = select(Account.state_since).where(
        Account.state == AccountState.RECONNECT_REQUIRED,
        Account.state_since.between(now - HELD_FOR, now),
        Account.kind == CredentialKind.OAUTH,
        ~Account.needs_first_refresh,
    )
    moments = read_all(lost.order_by(Account.state_since.desc()).limit(MOST_LOOKED_AT))
    counts = count_states()
    connected = sum(counts.values()) - counts.get(AccountState.DISCONNECTED, 0)
    many = min(max(LEAST_REFUSED, ceil(REFUSED_SHARE * connected)), MANY_LOST)
    pairs = zip(moments, moments[many - 1 :], strict=False)
    return any(last and first and last - first <= WINDOW for last, first in pairs)


def list_results() -> list[Delivery]:
    """Return the last mail to each recipient that was tried, the newest first."""
    newest = read_all(_NEWEST_FIRST.limit(MOST_READ))
    last: dict[str, Delivery] = {}
    for mail in newest:
        last.setdefault(mail.recipient, mail)
    return list(last.values())[:MOST_LISTED]


def find_last_failure() -> Delivery | None:
    """Return the newest mail that was tried, unless it was sent."""
    newest = read_one(_NEWEST_FIRST.where(Delivery.status != "cancelled").limit(1))
    return newest if newest and newest.status != "sent" else None


CHANNELS = (
    Channel(mailing.MAIL, send, plan=write_digests),
    Channel(mailing.CUSTOMER_MAIL, send, list_lanes=_customers_lanes, note=_note_end),
)
