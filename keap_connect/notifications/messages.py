"""What each mail says. A message is written once, and shown as text and as HTML by templates/mail/."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP, EmailPolicy
from email.utils import format_datetime

from flask import current_app

from keap_connect.access.admins import MailedInvitation
from keap_connect.accounts.directory import AccountView
from keap_connect.accounts.state import AccountState, Cause
from keap_connect.clock import utc_now
from keap_connect.connect.invitations import MadeInvitation
from keap_connect.connect.reconnect_links import MadeLink
from keap_connect.models import Alarm, Delivery
from keap_connect.refresh.alarms import ADVICE
from keap_connect.services import services

LONGEST_SUBJECT = 150
SHORT_LINES = SMTP.clone(cte_type="7bit", max_line_length=76)  # a blank, and a word of 75
# Customers read those of a state that a person must end; admins read all.
CAUSES = {
    Cause.OTHER_REGISTRATION: "It was connected with another client id or token URL than the settings name now.",
    Cause.REFRESHES_FAIL: "The last refreshes failed. They are tried again automatically.",
    Cause.OUTCOME_UNKNOWN: "A refresh got no usable answer from Keap. It is tried again automatically.",
    Cause.OVERDUE: "The access token has expired and was not refreshed yet.",
    Cause.UNUSED: "The permission was not renewed for weeks, and Keap ends it after 45 days.",
    Cause.REFUSED: "Keap no longer accepts the permission. It may have been withdrawn, or replaced by another program.",
    Cause.ANSWER_LOST: "Keap renewed the permission, and its answer did not arrive.",
    Cause.AGED_OUT: "The permission was not renewed for 45 days, so Keap ended it.",
    Cause.TOKEN_EXPIRED: "The access token has expired, and it cannot be renewed.",
    Cause.KEY_REFUSED: "Keap no longer accepts the key. It may have been deleted.",
}
STATE_WORDS = {AccountState.RECONNECT_REQUIRED: "must be reconnected", AccountState.AT_RISK: "is at risk"}
ALARM_HEADING = "Refreshing is paused for all accounts"


class MailPolicy(EmailPolicy):
    """Long lines, since a link that is folded is encoded as if it was words; short ones for words (RFC 2047)."""

    def fold_binary(self, name: str, value: str) -> bytes:
        return SHORT_LINES.fold_binary(name, value) if name in {"Subject", "From"} else super().fold_binary(name, value)


MAIL_POLICY = MailPolicy(cte_type="7bit", linesep="\r\n", max_line_length=998)


@dataclass(frozen=True)
class Item:
    title: str
    url: str
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Message:
    """One mail. `action` is the label and the address of its one button; customers also see whom they can ask."""

    heading: str
    paragraphs: Sequence[str]
    action: tuple[str, str]
    footer: str
    facts: Sequence[tuple[str, str]] = ()
    items: Sequence[Item] = ()
    after: Sequence[str] = ()
    unsubscribe_url: str | None = field(default=None, repr=False)
    is_for_customer: bool = False
    subject: str = ""  # if it is not the heading


@dataclass(frozen=True)
class Trouble:
    """An account in the digest, and the last mail to its customer."""

    account: AccountView
    mail: Delivery | None = None

    @property
    def why(self) -> str:
        return CAUSES[self.account.state_cause] if self.account.state_cause else " ".join(self.account.reasons)

    @property
    def deadline(self) -> datetime | None:
        """Until when it can be repaired without its customer, if that is known."""
        return self.account.refresh_token_expires_at if self.account.state_cause is Cause.UNUSED else None


def alarm_message(alarm: Alarm, unsubscribe_url: str) -> Message:
    return Message(
        heading=ALARM_HEADING,
        paragraphs=(alarm.reason, ADVICE[alarm.name]),
        facts=(("Since", _minute(alarm.raised_at)),),
        after=(
            "Access tokens that are still valid are handed out as before. No customer gets mail while refreshing is "
            "paused.",
        ),
        action=("Open the dashboard", _page("/accounts")),
        footer="You get this mail because an alarm has lasted for two minutes.",
        unsubscribe_url=unsubscribe_url,
    )


def unstable_message(account: AccountView, cause: Cause | None, unsubscribe_url: str) -> Message:
    return Message(
        heading=f"{account.title} is unstable",
        paragraphs=(
            "The state of this account changed more than four times within an hour. You get no other mail about that "
            "until a state has held for an hour.",
        ),
        facts=_facts(account, ("Why, the last time", CAUSES[cause]) if cause else None),
        after=("Look at its history: two programs may be refreshing the same tokens.",),
        action=("Open the account", _page(f"/accounts/{account.id}")),
        footer="You get this mail because you get the daily digest.",
        unsubscribe_url=unsubscribe_url,
    )


def digest_message(
    alarms: Sequence[Alarm], troubles: Sequence[Trouble], more: int, notes: Sequence[str], unsubscribe_url: str
) -> Message:
    """Return the daily digest; `more` is how many accounts need attention beside those listed."""
    count = len(troubles) + more
    need = "account needs" if count == 1 else "accounts need"
    heading = f"{count} {need} attention" if count else ALARM_HEADING if alarms else "A webhook is switched off"
    paused = [f"{ALARM_HEADING} since {_minute(one.raised_at)}. {one.reason}" for one in alarms]
    return Message(
        heading=heading,
        paragraphs=(*paused, *notes),
        items=[_item(one) for one in troubles],
        after=(f"And {more} more: the dashboard has them all.",) if more else (),
        action=("Open the dashboard", _page("/accounts")),
        footer="You get this mail once a day, and only if something needs attention.",
        unsubscribe_url=unsubscribe_url,
    )


def reconnect_message(
    account: AccountView, cause: Cause | None, since: datetime, link: MadeLink, number: int
) -> Message:
    """Return the mail to a customer; `number` is 1 for the first one and more for a reminder."""
    name, service = account.public_title, services().settings.service.name
    request = f"Please reconnect {name}"
    last = "This is the last reminder." if number == 3 else "We remind you twice at most." if number == 1 else ""
    return Message(
        subject=f"Reminder: please reconnect {name}" if number > 1 else "",
        heading=request,
        paragraphs=(
            f"{service} can no longer work with your Keap account, and needs your permission again. It takes a minute: "
            "sign in at Keap, pick the account, and press Allow.",
        ),
        facts=(*_facts(account, ("Why", CAUSES[cause]) if cause else None), ("Since", _minute(since))),
        action=("Reconnect at Keap", link.url),
        after=(f"The link works once, until {_minute(link.expires_at)}. Do not pass it on.",),
        footer=f"You get this mail because you have connected this Keap account to {service}. {last}".strip(),
        is_for_customer=True,
    )


def invitation_message(made: MadeInvitation) -> Message:
    service, invitation = services().settings.service.name, made.row
    request = f"Connect your Keap account with {service}"
    return Message(
        heading=request,
        paragraphs=(
            f"{service} asks for access to your Keap account. It takes a minute: sign in at Keap, pick the account, "
            "and press Allow.",
        ),
        facts=[
            (name, text)
            for name, text in (("For", invitation.label), ("Keap account", invitation.expected_tenant_id))
            if text
        ],
        action=("Connect Keap", made.url),
        after=(f"The link works once, until {_minute(invitation.expires_at)}. Do not pass it on.",),
        footer=f"You get this mail because {service} has invited you. If you did not expect it, do nothing.",
        is_for_customer=True,
    )


def admin_invitation_message(invitation: MailedInvitation) -> Message:
    host = services().settings.host_name
    return Message(
        heading=f"You are invited to Keap Connect at {host}",
        paragraphs=(
            "Keap Connect keeps the Keap accounts of customers connected. Choose a password, then sign in with it and "
            "this e-mail address.",
        ),
        facts=(("Invited by", invitation.invited_by), ("Your role", invitation.role)),
        action=("Choose a password", invitation.url),
        after=(f"The link works once, until {_minute(invitation.expires_at)}. Do not pass it on.",),
        footer="You get this mail because an admin has invited you. If you did not expect it, do nothing.",
    )


def trial_message() -> Message:
    return Message(
        subject="Test mail",
        heading="Mail works",
        paragraphs=("The mail server took this test mail over, and it has reached you.",),
        action=("Open the mail page", _page("/mail")),
        footer="You get this mail because an admin has asked for it.",
    )


def as_email(message: Message, sender: str, recipient: str, message_id: str) -> EmailMessage:
    """Return it as text and HTML. The same `message_id` in every attempt lets mail programs notice a repeated mail."""
    settings, templates = services().settings, current_app.jinja_env
    logo = settings.service.logo if message.is_for_customer else None
    mail = EmailMessage(policy=MAIL_POLICY)
    mail["From"], mail["To"] = sender, recipient
    mail["Subject"] = " ".join((message.subject or message.heading).split())[:LONGEST_SUBJECT]
    mail["Date"] = format_datetime(utc_now())
    mail["Message-ID"] = f"<{message_id}@{settings.host_name}>"
    mail["Auto-Submitted"] = "auto-generated"  # so that no absence note answers it (RFC 3834)
    if message.unsubscribe_url:  # RFC 8058: the mail program shows a button, and sends a POST
        mail["List-Unsubscribe"] = f"<{message.unsubscribe_url}>"
        mail["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    values = {"message": message, "service": settings.service, "public_url": settings.public_url, "has_logo": logo}
    mail.set_content(templates.get_template("mail/message.txt").render(values))
    mail.add_alternative(templates.get_template("mail/message.html").render(values), subtype="html")
    if logo:  # in the mail itself: mail programs load no picture from elsewhere before they are asked to
        _, html = mail.iter_parts()
        html.add_related(logo.content, "image", logo.kind, cid="<logo>", disposition="inline")
    return mail


def _item(one: Trouble) -> Item:
    lines = [f"It {STATE_WORDS.get(one.account.state, 'needs attention')}. {one.why}"]
    if one.account.state is AccountState.AT_RISK and one.deadline:
        lines.append(f"It can be repaired until {_minute(one.deadline)}; after that its customer must reconnect it.")
    if one.account.state is AccountState.RECONNECT_REQUIRED and services().settings.mails_customers:
        lines.append(_mailed(one))
    return Item(one.account.title, _page(f"/accounts/{one.account.id}"), lines)


def _mailed(one: Trouble) -> str:
    if not one.account.person_email:
        return "Its customer has no known address, so was not written to."
    if one.mail is None or one.mail.status == "cancelled":
        return "Its customer was not written to."
    if one.mail.status == "given_up":
        return f"The mail to its customer failed: {one.mail.answer}"
    return f"Its customer is written to: {one.mail.recipient}."


def _facts(account: AccountView, why: tuple[str, str] | None) -> list[tuple[str, str]]:
    tenant = account.tenant_id if account.tenant_id != account.public_title else None
    name = f"{account.public_title} ({tenant})" if tenant else account.public_title
    return [("Keap account", name), *([why] if why else [])]


def _page(path: str) -> str:
    return services().settings.public_url + path


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
