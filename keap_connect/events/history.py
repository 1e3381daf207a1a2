"""The history: every kind of event with its sentence, and the one function that writes events."""

import re
import secrets
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from enum import StrEnum
from typing import Any
from uuid import uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from keap_connect.clock import utc_now
from keap_connect.events.mailing import plan_mails
from keap_connect.models import Account, AccountEvent, Delivery, WebhookEndpoint
from keap_connect.services import page_url

ACCOUNTS = "Accounts"
REFRESHING = "Refreshing"
LINKS = "Reconnect links"
INVITATIONS = "Invitations"
IMPORTS = "Imports and exports"
PEOPLE = "People"
API_KEYS = "API keys"
OPERATIONS = "Operations"
STORES_PAIR = True


class EventKind(StrEnum):
    """Each kind has a stored value, a group in the filter and a sentence, and says whether an account got new tokens.

    The names in braces are keys of the event's details.
    """

    group: str
    sentence: str
    stores_pair: bool

    def __new__(cls, value: str, group: str, sentence: str, stores_pair: bool = False) -> "EventKind":
        kind = str.__new__(cls, value)
        kind._value_ = value
        kind.group, kind.sentence, kind.stores_pair = group, sentence, stores_pair
        return kind

    @property
    def announced_as(self) -> str | None:
        """The type of the webhooks that announce it, if any do."""
        return ANNOUNCED_AS.get(self)

    CONNECTED = "connected", ACCOUNTS, "Connected by {person}.", STORES_PAIR
    RECONNECTED = "reconnected", ACCOUNTS, "Reconnected by {person}: new tokens, same account.", STORES_PAIR
    # Changes of the stored state. `cause` is from the closed list `Cause`; `deadline` is in ISO 8601, or null.
    AT_RISK = "at_risk", ACCOUNTS, "At risk. {why}"
    RECOVERED = "recovered", ACCOUNTS, "The connection works again."
    RECONNECT_REQUIRED = "reconnect_required", ACCOUNTS, "A person must authorize again. {why}"
    # `ending` is from the closed list `Ending`.
    CONNECTION_FAILED = "connection.failed", ACCOUNTS, "A person could not connect. {reason}"
    RECONNECT_FAILED = "reconnect_failed", ACCOUNTS, "A reconnect did not succeed. {reason}"
    PERSON_CHANGED = "person_changed", ACCOUNTS, "Reconnected by {person}, who replaces {before}.", STORES_PAIR
    OTHER_TENANT_CHOSEN = (
        "other_tenant_chosen",
        ACCOUNTS,
        "A reconnect ended at another Keap account, {tenant_id}. Nothing changed here.",
    )
    OTHER_PERSON_UPDATED = (
        "other_person_updated",
        ACCOUNTS,
        "A reconnect was authorized by {person}, who has an account of their own; that one was updated instead.",
        STORES_PAIR,
    )
    DETAILS_FILLED_IN = "details_filled_in", ACCOUNTS, "Keap returned the details: {tenant_id}, {person}."
    MOVED_HERE = (
        "moved_here",
        ACCOUNTS,
        "A grant of the same person, stored as account {from_account} before Keap said who it was, was moved here. "
        "Account {from_account} no longer exists.",
        STORES_PAIR,
    )
    NEWER_STAYED = (
        "newer_stayed",
        ACCOUNTS,
        "An older grant of the same person, stored as account {from_account} before Keap said who it was, was dropped: "
        "the newer one stays. Account {from_account} no longer exists.",
    )
    GRANT_DROPPED = (
        "grant_dropped",
        ACCOUNTS,
        "A grant of the same person, stored as account {from_account}, was dropped: this account was disconnected "
        "after it came. Account {from_account} no longer exists.",
    )
    MOVED_AWAY = (
        "moved_away",
        ACCOUNTS,
        "Keap said who it was: account {to_account} is of the same person. This account no longer exists, and API keys "
        "for it do not open the other one.",
    )
    LABEL_CHANGED = "label_changed", ACCOUNTS, "The label was changed from {before} to {after}."
    EXTERNAL_ID_CHANGED = "external_id_changed", ACCOUNTS, "The external id was changed from {before} to {after}."
    TOKEN_REVEALED = "token_revealed", ACCOUNTS, "The access token was shown."
    DISCONNECTED = "disconnected", ACCOUNTS, "Disconnected: the tokens are deleted."
    BULK_STARTED = "bulk_started", ACCOUNTS, "A job for many {of} started: {what}. Job {job}, {of}: {count}."
    ERASED = "erased", ACCOUNTS, "Erased: the account, its tokens, its names and its history are gone."

    REFRESHED = "refreshed", REFRESHING, "Refreshed: new tokens are stored.", STORES_PAIR
    REFRESH_FAILED = "refresh_failed", REFRESHING, "A refresh failed; the tokens are kept. {reason}"
    REFRESH_REFUSED_ONCE = ("refresh_refused_once", REFRESHING, "Keap refused the refresh token{again}. {reason}")
    FIRST_REFRESH_REFUSED = (
        "first_refresh_refused",
        REFRESHING,
        "Keap refused the imported refresh token{again}. {reason}",
    )
    REFRESH_REFUSED_LATE = (
        "refresh_refused_late",
        REFRESHING,
        "Keap refused refresh token number {sent}, but number {stored} was stored by then. {reason}",
    )
    REFRESH_REFUSED = "refresh_refused", REFRESHING, "Keap refused the refresh token for good. {reason}"
    ANSWER_LOST = (
        "answer_lost",
        REFRESHING,
        "Keap refused the refresh token for good. "
        "Our own last attempt with it was at {when}, and no usable answer came.",
    )
    OTHER_TENANT_ANSWERED = (
        "other_tenant_answered",
        REFRESHING,
        "Keap answered a refresh with a token of another account, {tenant_id}; it was not stored.",
    )
    SCOPE_CHANGED = "scope_changed", REFRESHING, "Keap granted the scope {scope} instead of full."
    TOKEN_REJECTED = "token_rejected", REFRESHING, "A job reported that Keap refused the access token."
    CREDENTIAL_REJECTED = "credential_rejected", REFRESHING, "A job reported that Keap refused the token or key."
    # `cause` is the name of the alarm.
    REFRESHING_PAUSED = "refreshing_paused", REFRESHING, "Refreshing is paused. {reason}"
    REFRESHING_RESUMED = "refreshing_resumed", REFRESHING, "Refreshing was resumed; it was paused since {since}."
    CLIENT_ACCEPTED = "client_accepted", REFRESHING, "Keap accepts the client again, so refreshing continues."

    RECONNECT_MAIL_ASKED_FOR = "reconnect_mail_asked_for", LINKS, "A mail with a reconnect link was asked for."
    RECONNECT_LINK_MADE = "reconnect_link_made", LINKS, "A reconnect link was made; it works once, until {until}."
    RECONNECT_LINK_USED = "reconnect_link_used", LINKS, "The reconnect link made by {made_by} was used."
    RECONNECT_LINK_REVOKED = "reconnect_link_revoked", LINKS, "The reconnect link made by {made_by} was revoked."

    INVITATION_MADE = "invitation_made", INVITATIONS, "Invitation {invitation} was made; it works once, until {until}."
    INVITATION_RESENT = (
        "invitation_resent",
        INVITATIONS,
        "Invitation {invitation} got a new link, which works until {until}; the one before no longer works.",
    )
    INVITATION_USED = "invitation_used", INVITATIONS, "Invitation {invitation} was used."
    INVITATION_FITS = (
        "invitation_fits",
        INVITATIONS,
        "Invitation {invitation} is for this account, which was connected already.",
    )
    EXTERNAL_ID_NOT_SET = (
        "external_id_not_set",
        INVITATIONS,
        "Invitation {invitation} gives the external id {external_id}, which was not set: {holder}.",
    )
    INVITATION_WAITING = (
        "invitation.waiting",
        INVITATIONS,
        "Somebody of Keap account {tenant_id} used invitation {invitation}. Confirm that this is whom you invited, or "
        "decline, until {until}.",
    )
    INVITATION_CONFIRMED = "invitation_confirmed", INVITATIONS, "The use of invitation {invitation} was confirmed."
    INVITATION_DECLINED = (
        "invitation_declined",
        INVITATIONS,
        "The use of invitation {invitation} was declined. {grant} Its link works until {until}.",
    )
    INVITATION_EXPIRED = "invitation.expired", INVITATIONS, "Invitation {invitation} has expired: {why}."
    INVITATION_WITHDRAWN = "invitation_withdrawn", INVITATIONS, "Invitation {invitation} was withdrawn."

    IMPORTED = "imported", IMPORTS, "Imported: {credential} of {person}.", STORES_PAIR
    IMPORTED_AGAIN = (
        "imported_again",
        IMPORTS,
        "Imported again: {credential} of {person} replaced what was stored.",
        STORES_PAIR,
    )
    IMPORTED_SAME = "imported_same", IMPORTS, "Imported again: {credential} of {person}. It was stored already.{now}"
    IMPORT_DROPPED = (
        "import_dropped",
        IMPORTS,
        "An imported pair of the same person, stored as account {from_account}, was dropped: this connection works, "
        "and the import did not say to replace it. Account {from_account} no longer exists.",
    )
    FILE_IMPORTED = "file_imported", IMPORTS, "The import of a file started; lines in it: {count}."
    JOB_STOPPED = "job_stopped", IMPORTS, "Job {job} was stopped; items that were not done: {count}."
    EXPORTED = "exported", IMPORTS, "All accounts were exported, without tokens: {count}."
    SELECTION_EXPORTED = "selection_exported", IMPORTS, "Selected accounts were exported, without tokens: {count}."
    LINKS_DOWNLOADED = (
        "links_downloaded",
        IMPORTS,
        "The links of job {job} that still worked were downloaded; it made {count}.",
    )

    ADMIN_CREATED = "admin_created", PEOPLE, "Admin {email} was created."
    ADMIN_INVITED = "admin_invited", PEOPLE, "{email} was invited with the role {role}, until {until}."
    ADMIN_JOINED = "admin_joined", PEOPLE, "{email} used the invitation by {invited_by} and has the role {role}."
    ADMIN_INVITATION_WITHDRAWN = "admin_invitation_withdrawn", PEOPLE, "The invitation of {email} was withdrawn."
    ADMIN_ROLE_CHANGED = "admin_role_changed", PEOPLE, "{email} got the role {role}."
    ADMIN_REMOVED = "admin_removed", PEOPLE, "{email} is no longer an admin."
    ADMIN_SIGNED_IN = "admin_signed_in", PEOPLE, "Admin {email} signed in."
    ADMIN_SIGN_IN_REFUSED = "admin_sign_in_refused", PEOPLE, "A sign-in of {email} was refused."
    ADMIN_SIGNED_OUT = "admin_signed_out", PEOPLE, "Admin {email} signed out."
    CUSTOMER_SIGNED_OUT = "customer_signed_out", PEOPLE, "The customer signed out."
    SIGN_INS_ENDED = "sign_ins_ended", PEOPLE, "Sign-ins of {email} were ended."
    PASSWORD_REFUSED = "password_refused", PEOPLE, "A wrong password was given before a dangerous action."
    PASSWORD_CHANGED = "password_changed", PEOPLE, "The password of {email} was changed."
    NEW_PASSWORD_CODE_ISSUED = (
        "new_password_code_issued",
        PEOPLE,
        "A link to set a new password was made for {email}.",
    )
    SIGN_IN_CODE_ISSUED = "sign_in_code_issued", PEOPLE, "A code to sign in from a new browser was made for {email}."
    SECOND_FACTOR_ON = "second_factor_on", PEOPLE, "Two-factor authentication of {email} was turned on."
    SECOND_FACTOR_OFF = "second_factor_off", PEOPLE, "Two-factor authentication of {email} was turned off."
    SECOND_FACTOR_REFUSED = "second_factor_refused", PEOPLE, "A wrong two-factor code was given for {email}."
    RECOVERY_CODE_USED = "recovery_code_used", PEOPLE, "A recovery code of {email} was used up."
    RECOVERY_CODES_MADE = "recovery_codes_made", PEOPLE, "New recovery codes were made for {email}."
    MAILS_CHOSEN = "mails_chosen", PEOPLE, "The mails that {email} gets were chosen: {mails}."

    API_KEY_ISSUED = "api_key_issued", API_KEYS, "API key {key_id} ({name}) was issued for {scopes}."
    API_KEY_ROTATED = (
        "api_key_rotated",
        API_KEYS,
        "API key {key_id} ({name}) takes the place of {old_id}, which ends {until}.",
    )
    API_KEY_REVOKED = "api_key_revoked", API_KEYS, "API key {key_id} ({name}) was revoked."

    CLIENT_CHECKED = "client_checked", OPERATIONS, "Client id and secret were checked at Keap. {reason}"
    HISTORY_PRUNED = "history_pruned", OPERATIONS, "Events from before {until} were deleted from the history: {count}."
    # The rest of the URL may be a secret.
    WEBHOOK_ADDED = "webhook_added", OPERATIONS, "Webhook {webhook} to {host} was added."
    WEBHOOK_CHANGED = "webhook_changed", OPERATIONS, "Webhook {webhook} to {host} was changed: {what}."
    WEBHOOK_REMOVED = "webhook_removed", OPERATIONS, "Webhook {webhook} to {host} was removed."
    WEBHOOK_SWITCHED_OFF = "webhook_switched_off", OPERATIONS, "Webhook {webhook} to {host} was switched off. {reason}"
    EMERGENCY_STOPPED = (
        "emergency_stopped",
        OPERATIONS,
        "Everything was stopped: all sign-ins, passwords, links and API keys ({keys}) ended, and refreshing is paused.",
    )


WITHOUT_DETAILS = {
    "email": "somebody who is no admin",
    "person": "a person Keap has not named yet",
    "reason": "",
    "now": "",
    "of": "accounts",
    "again": "; it is tried again before it counts",  # the second refusal says " again"
}
ANNOUNCED_AS = {
    EventKind.CONNECTED: "account.connected",
    EventKind.RECONNECTED: "account.reconnected",
    EventKind.IMPORTED: "account.connected",
    EventKind.IMPORTED_AGAIN: "account.reconnected",
    EventKind.AT_RISK: "account.at_risk",
    EventKind.RECOVERED: "account.recovered",
    EventKind.RECONNECT_REQUIRED: "account.reconnect_required",
    EventKind.PERSON_CHANGED: "account.reconnected",
    EventKind.MOVED_HERE: "account.reconnected",
    EventKind.DISCONNECTED: "account.disconnected",
    EventKind.ERASED: "account.disconnected",
    EventKind.MOVED_AWAY: "account.disconnected",
    EventKind.CONNECTION_FAILED: "connection.failed",
    EventKind.RECONNECT_FAILED: "connection.failed",
    EventKind.INVITATION_FITS: "account.reconnected",
    EventKind.INVITATION_WAITING: "invitation.waiting",
    EventKind.INVITATION_EXPIRED: "invitation.expired",
    EventKind.REFRESHING_PAUSED: "refreshing.paused",
    EventKind.REFRESHING_RESUMED: "refreshing.resumed",
    EventKind.CLIENT_ACCEPTED: "refreshing.resumed",
}
ANNOUNCED = tuple(dict.fromkeys(ANNOUNCED_AS.values()))
_SENTENCES = {kind.value: kind.sentence for kind in EventKind}
# What an event of these kinds says of another account, whose id it does not hold.
_OF_OTHERS: dict[str, str] = {
    EventKind.OTHER_TENANT_CHOSEN: "tenant_id",
    EventKind.OTHER_TENANT_ANSWERED: "tenant_id",
    EventKind.OTHER_PERSON_UPDATED: "person",
}
PAIR_STORED = "stored a pair"  # the key in `Session.info` of a transaction that stores new tokens
_ANNOUNCED = "announced"  # in `Session.info`, too: the accounts and types that a transaction has announced
# Events are deleted in the same transaction that writes one of these, or after it.
DELETED = (EventKind.ERASED, EventKind.HISTORY_PRUNED)
# The network address of the current request; the web and the API set it.
acting_from: ContextVar[str | None] = ContextVar("acting_from", default=None)


class Actor(StrEnum):
    """Who acted, when it was not a named admin."""

    CUSTOMER = "customer"
    SYSTEM = "system"
    MAIL = "mail"  # made the reconnect link in it
    COMMAND_LINE = "command line"


def record(session: Session, kind: EventKind, account_id: int | None, actor: str, **details: Any) -> None:
    """Write one event and what announces it, in the transaction of what it describes.

    `details` must hold no secrets.
    """
    address = acting_from.get()
    if address is not None:
        details["address"] = address
    event = AccountEvent(at=utc_now(), account_id=account_id, kind=kind, actor=actor, details=details)
    if kind.stores_pair:
        session.info[PAIR_STORED] = True
        event.pair_mark = secrets.token_hex(8)  # the mark of a host finds the newest stored pair by this value
    # A grant that moves is stored, and then said to have moved: that is one change to others.
    said = session.info.setdefault(_ANNOUNCED, set())
    announced_as = None if (account_id, kind.announced_as) in said else kind.announced_as
    if account_id is not None:
        said.add((account_id, announced_as))
    mails = plan_mails(session, event, announced_as) if announced_as else []
    session.add(event)
    if announced_as is not None:
        _announce(session, event, announced_as)
    if mails:
        session.flush()  # gives the event its id
        for mail in mails:
            mail.event_id = event.id
        session.add_all(mails)


def _announce(session: Session, event: AccountEvent, kind: str) -> None:
    """Write one delivery to each endpoint that wants this type.

    What it says is thin: ids and values of closed lists, no names, no secrets, no words of Keap.
    """
    wanted = select(WebhookEndpoint.id, WebhookEndpoint.types).where(WebhookEndpoint.switched_off_at.is_(None))
    recipients = [str(one.id) for one in session.execute(wanted) if one.types is None or kind in one.types]
    if not recipients:
        return
    account = session.get(Account, event.account_id) if event.account_id else None  # none if it is being erased
    if event.kind == EventKind.INVITATION_WAITING:
        account = None  # the account of the person who waits may have another external id than the invitation
    session.flush()  # gives the event its id
    invitation_id = event.details.get("invitation")
    page = "/accounts" if invitation_id is None else f"/invitations/{invitation_id}"
    if account is not None:
        needs_person = event.kind in {EventKind.AT_RISK, EventKind.RECONNECT_REQUIRED}
        page = f"/{'reconnect' if needs_person else 'accounts'}/{account.id}"
    data = {
        "event_id": event.id,
        "account_id": event.account_id,
        "external_id": account.external_id if account else event.details.get("external_id"),
        "tenant_id": account.tenant_id if account else event.details.get("tenant_id"),
        "invitation_id": invitation_id,
        "reason": event.details.get("cause") or event.details.get("ending"),
        "deadline": event.details.get("deadline"),
        "url": page_url(page),
    }
    payload = {"type": kind, "timestamp": event.at.isoformat(), "data": data}
    for recipient in recipients:
        session.add(
            Delivery(
                event_id=event.id,
                account_id=event.account_id,
                channel="webhook",
                recipient=recipient,
                kind=kind,
                payload=payload,
                message_id=f"msg_{uuid4()}",
                created_at=event.at,
                due_at=event.at,
            )
        )


def hide_others(kind: str, details: Mapping[str, Any], only: Collection[int]) -> dict[str, Any]:
    """Return an event's details without what they say of accounts other than `only`."""
    named = {"from_account", "to_account", _OF_OTHERS.get(kind)}
    shown = {name: "(not shown)" if name in named and value not in only else value for name, value in details.items()}
    if (holder := re.fullmatch("account ([0-9]+) has it", details.get("holder", ""))) and int(holder[1]) not in only:
        shown["holder"] = "another account has it"
    if details.get("ending") == "tenant_conflict":  # one of the two tenants may be another account's
        shown["reason"] = str(details.get("reason", "")).partition(".")[0] + "."
    return shown


def sentence_of(kind: str, details: Mapping[str, Any]) -> str:
    """Return an event in words, also one of a kind that another version wrote, so that no page fails."""
    sentence = _SENTENCES.get(kind) or f"{kind.replace('_', ' ').capitalize()}."
    words = {**WITHOUT_DETAILS, **{name: value for name, value in details.items() if value is not None}}
    return sentence.format_map(defaultdict(lambda: "unknown", words)).strip()
