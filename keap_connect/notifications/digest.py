"""The daily digest: what needs attention, and when an admin is written to about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select

from keap_connect.accounts.directory import list_accounts, view_of
from keap_connect.accounts.state import AccountState
from keap_connect.accounts.stored_state import registration
from keap_connect.clock import utc_now
from keap_connect.connect.journeys import Failures, list_failures
from keap_connect.database import read_session, take_turns, write_transaction
from keap_connect.events.mailing import CUSTOMER_MAIL, DIGEST, MAIL, STEADY_AFTER, WAIT, gets_mails, new_mail
from keap_connect.models import Account, Admin, Alarm, Delivery, WebhookEndpoint
from keap_connect.notifications.endpoints import list_endpoints
from keap_connect.notifications.messages import Trouble
from keap_connect.refresh.alarms import list_alarms
from keap_connect.services import services

EVERY = timedelta(hours=24)
MOST_NAMED = 20  # of each state


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
    mails = _mails([one.id for one in lost])
    # Most of those at risk are well again within the hour, and an alarm has a mail of its own.
    lately = utc_now() - STEADY_AFTER
    is_lasting = Account.state == AccountState.AT_RISK, Account.state_since <= lately
    oldest = select(Account).where(*is_lasting).order_by(Account.state_since, Account.id).limit(MOST_NAMED)
    with read_session() as session:
        ours, count = registration(session), session.scalar(select(func.count(Account.id)).where(*is_lasting)) or 0
        risky = [view_of(row, ours) for row in session.scalars(oldest)]
    troubles = [Trouble(one, mails.get(one.id)) for one in (*lost, *risky)]
    more = (found.total or 0) + count - len(troubles)
    lasting_alarms = [one for one in list_alarms() if one.raised_at <= lately]
    off = [one for one in list_endpoints() if one.failing_since and not one.is_on]
    return Attention(lasting_alarms, troubles, more, off, list_failures())


def write_digests() -> None:
    """Write a digest to each admin who wants one, if something needs attention and the last one is a day old."""
    if services().settings.mail is None or not _is_due() or not read_attention():
        return
    with write_transaction() as session:
        take_turns(session, "digest")  # of several workers
        if _is_due():
            now = utc_now()
            for address in session.scalars(select(Admin.email).where(*gets_mails(Admin.has_digest_mails))):
                session.add(new_mail(address, DIGEST, {}, now + WAIT))


def _is_due() -> bool:
    now = utc_now()  # a digest of later was written while the clock was ahead
    digests = select(Delivery.id).where(Delivery.channel == MAIL, Delivery.kind == DIGEST)
    lately = digests.where(Delivery.created_at.between(now - EVERY, now), Delivery.status != "cancelled")
    with read_session() as session:
        wanting = session.scalars(select(Admin.email).where(*gets_mails(Admin.has_digest_mails))).all()
        # By recipient, whose index leads past the mails to customers and the webhooks.
        return bool(wanting) and session.scalar(lately.where(Delivery.recipient.in_(wanting)).limit(1)) is None


def _mails(account_ids: Sequence[int]) -> dict[int, Delivery]:
    to_customer = (Delivery.account_id.in_(account_ids), Delivery.channel == CUSTOMER_MAIL)
    newest = select(func.max(Delivery.id)).where(*to_customer).group_by(Delivery.account_id)
    with read_session() as session:
        found = session.scalars(select(Delivery).where(Delivery.id.in_(newest))).all()
    return {mail.account_id: mail for mail in found if mail.account_id is not None}
