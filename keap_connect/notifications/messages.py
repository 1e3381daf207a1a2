"""A mail as it is shown: a message is written once, and becomes text and HTML by templates/mail/."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP, EmailPolicy
from email.utils import format_datetime

from flask import current_app

from keap_connect.accounts.directory import AccountView
from keap_connect.accounts.state import AccountState, Cause
from keap_connect.clock import utc_now
from keap_connect.models import Delivery
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


def item_of(one: Trouble) -> Item:
    lines = [f"It {STATE_WORDS.get(one.account.state, 'needs attention')}. {one.why}"]
    if one.account.state is AccountState.AT_RISK and one.deadline:
        lines.append(f"It can be repaired until {minute(one.deadline)}; after that its customer must reconnect it.")
    if one.account.state is AccountState.RECONNECT_REQUIRED and services().settings.mails_customers:
        lines.append(_mailed(one))
    return Item(one.account.title, page_url(f"/accounts/{one.account.id}"), lines)


def _mailed(one: Trouble) -> str:
    if not one.account.person_email:
        return "Its customer has no known address, so was not written to."
    if one.mail is None or one.mail.status == "cancelled":
        return "Its customer was not written to."
    if one.mail.status == "given_up":
        return f"The mail to its customer failed: {one.mail.answer}"
    return f"Its customer is written to: {one.mail.recipient}."


def facts_of(account: AccountView, why: str, cause: Cause | None) -> list[tuple[str, str]]:
    tenant = account.tenant_id if account.tenant_id != account.public_title else None
    name = f"{account.public_title} ({tenant})" if tenant else account.public_title
    return [("Keap account", name), *([(why, CAUSES[cause])] if cause else [])]


def page_url(path: str) -> str:
    return services().settings.public_url + path


def minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
