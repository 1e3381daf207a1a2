"""The add-only history: what happened to which account, by whom, told in plain sentences."""

import secrets
from collections.abc import Collection
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import func, or_, select, text
from sqlalchemy.orm import Session

from keap_connect.clock import utc_now
from keap_connect.database import read_session
from keap_connect.models import AccountEvent

EVENTS_PER_PAGE = 50


class EventKind(StrEnum):
    """What can happen; the values are stored."""

    CONNECTED = "connected"
    RECONNECTED = "reconnected"
    PERSON_CHANGED = "person_changed"
    OTHER_TENANT_CHOSEN = "other_tenant_chosen"
    OTHER_PERSON_UPDATED = "other_person_updated"
    DETAILS_FILLED_IN = "details_filled_in"
    MOVED_HERE = "moved_here"
    NEWER_STAYED = "newer_stayed"
    SCOPE_CHANGED = "scope_changed"
    REFRESHED = "refreshed"
    REFRESH_FAILED = "refresh_failed"
    REFRESH_REFUSED_ONCE = "refresh_refused_once"
    REFRESH_REFUSED_LATE = "refresh_refused_late"
    REFRESH_REFUSED = "refresh_refused"
    ANSWER_LOST = "answer_lost"
    TOKEN_REJECTED = "token_rejected"  # noqa: S105
    CREDENTIAL_REJECTED = "credential_rejected"
    IMPORTED = "imported"
    IMPORTED_AGAIN = "imported_again"
    FILE_IMPORTED = "file_imported"
    EXPORTED = "exported"
    CLIENT_CHECKED = "client_checked"
    OTHER_TENANT_ANSWERED = "other_tenant_answered"
    RECONNECT_FAILED = "reconnect_failed"
    RECONNECT_LINK_MADE = "reconnect_link_made"
    RECONNECT_LINK_USED = "reconnect_link_used"
    RECONNECT_LINK_REVOKED = "reconnect_link_revoked"
    TOKEN_REVEALED = "token_revealed"  # noqa: S105
    LABEL_CHANGED = "label_changed"
    EXTERNAL_ID_CHANGED = "external_id_changed"
    DISCONNECTED = "disconnected"
    ERASED = "erased"
    ADMIN_CREATED = "admin_created"
    ADMIN_SIGNED_IN = "admin_signed_in"
    ADMIN_SIGN_IN_REFUSED = "admin_sign_in_refused"
    ADMIN_SIGNED_OUT = "admin_signed_out"
    CUSTOMER_SIGNED_OUT = "customer_signed_out"
    HISTORY_PRUNED = "history_pruned"
    API_KEY_ISSUED = "api_key_issued"
    API_KEY_REVOKED = "api_key_revoked"
    ADMIN_ROLE_CHANGED = "admin_role_changed"
    ADMIN_REMOVED = "admin_removed"
    PASSWORD_REFUSED = "password_refused"  # noqa: S105
    PASSWORD_CHANGED = "password_changed"  # noqa: S105
    NEW_PASSWORD_CODE_ISSUED = "new_password_code_issued"  # noqa: S105
    SIGN_INS_ENDED = "sign_ins_ended"
    SECOND_FACTOR_ON = "second_factor_on"
    SECOND_FACTOR_OFF = "second_factor_off"
    SECOND_FACTOR_REFUSED = "second_factor_refused"
    RECOVERY_CODE_USED = "recovery_code_used"
    RECOVERY_CODES_MADE = "recovery_codes_made"
    EMERGENCY_STOPPED = "emergency_stopped"
    REFRESHING_RESUMED = "refreshing_resumed"


# These say that an account got new tokens; each has a random value, by which the mark of a host finds it again.
PAIR_KINDS = {
    EventKind.CONNECTED,
    EventKind.RECONNECTED,
    EventKind.PERSON_CHANGED,
    EventKind.OTHER_PERSON_UPDATED,
    EventKind.MOVED_HERE,
    EventKind.REFRESHED,
    EventKind.IMPORTED,
    EventKind.IMPORTED_AGAIN,
}
PAIR_STORED = "stored a pair"  # what `Session.info` says of such a transaction
# Events are deleted in the same transaction as one of these is written, or later.
DELETED = (EventKind.ERASED, EventKind.HISTORY_PRUNED)
SENTENCES = {
    EventKind.CONNECTED: "Connected by {person}.",
    EventKind.RECONNECTED: "Reconnected by {person}: new tokens, same account.",
    EventKind.PERSON_CHANGED: "Reconnected by {person}, who takes the place of {before}.",
    EventKind.OTHER_TENANT_CHOSEN: "A reconnect ended at another Keap account, {tenant_id}. Nothing changed here.",
    EventKind.OTHER_PERSON_UPDATED: (
        "A reconnect was authorized by {person}, who has an account of their own; that one was updated instead."
    ),
    EventKind.DETAILS_FILLED_IN: "Keap told the details: {tenant_id}, authorized by {person}.",
    EventKind.MOVED_HERE: "A grant of the same person, connected before Keap told who it was, moved here.",
    EventKind.NEWER_STAYED: (
        "An older grant of the same person, connected before Keap told who it was, was dropped: the newer one stays."
    ),
    EventKind.SCOPE_CHANGED: "Keap granted the scope {scope} instead of full.",
    EventKind.REFRESHED: "Refreshed: new tokens are stored.",
    EventKind.REFRESH_FAILED: "A refresh failed; the tokens are kept. {reason}",
    EventKind.REFRESH_REFUSED_ONCE: "Keap refused the refresh token; it is tried once more before it counts. {reason}",
    EventKind.REFRESH_REFUSED_LATE: (
        "Keap refused refresh token number {sent}, but number {stored} was stored by then. {reason}"
    ),
    EventKind.REFRESH_REFUSED: "Keap refused the refresh token for good. {reason}",
    EventKind.ANSWER_LOST: (
        "Keap refused the refresh token for good. "
        "Our own last attempt with it was at {when}, and no usable answer came."
    ),
    EventKind.TOKEN_REJECTED: "A job reported that Keap refused the access token; it is refreshed next.",
    EventKind.CREDENTIAL_REJECTED: "A job reported that Keap refused the token or key; it is not handed out again.",
    EventKind.IMPORTED: "Imported: {credential} of {person}.",
    EventKind.IMPORTED_AGAIN: "Imported again: {credential} of {person} took the place of what was stored.",
    EventKind.FILE_IMPORTED: "A file of {count} accounts was imported.",
    EventKind.EXPORTED: "{count} accounts were exported, without tokens.",
    EventKind.CLIENT_CHECKED: "Client id and secret were checked at Keap. {reason}",
    EventKind.OTHER_TENANT_ANSWERED: (
        "Keap answered a refresh with a token of another account, {tenant_id}; it was not stored."
    ),
    EventKind.RECONNECT_FAILED: "A reconnect did not succeed. {reason}",
    EventKind.RECONNECT_LINK_MADE: "A reconnect link was made; it works once, until {until}.",
    EventKind.RECONNECT_LINK_USED: "The reconnect link made by {made_by} was used, and works no more.",
    EventKind.RECONNECT_LINK_REVOKED: "The reconnect link made by {made_by} was revoked before it was used.",
    EventKind.TOKEN_REVEALED: "The access token was shown.",
    EventKind.LABEL_CHANGED: "The label was changed from {before} to {after}.",
    EventKind.EXTERNAL_ID_CHANGED: "The external id was changed from {before} to {after}.",
    EventKind.DISCONNECTED: "Disconnected: the tokens are forgotten.",
    EventKind.ERASED: "Erased: the account, its tokens, its names and its history are gone.",
    EventKind.ADMIN_CREATED: "Admin {email} was created.",
    EventKind.ADMIN_SIGNED_IN: "Admin {email} signed in.",
    EventKind.ADMIN_SIGN_IN_REFUSED: "A sign-in was refused.",
    EventKind.ADMIN_SIGNED_OUT: "Admin {email} signed out.",
    EventKind.CUSTOMER_SIGNED_OUT: "The customer signed out.",
    EventKind.HISTORY_PRUNED: "{count} events from before {until} were deleted from the history.",
    EventKind.API_KEY_ISSUED: "API key {key_id} ({name}) was issued for {scopes}.",
    EventKind.API_KEY_REVOKED: "API key {key_id} ({name}) was revoked.",
    EventKind.ADMIN_ROLE_CHANGED: "{email} got the role {role}.",
    EventKind.ADMIN_REMOVED: "{email} is no longer an admin.",
    EventKind.PASSWORD_REFUSED: "A wrong password was given before a dangerous act.",
    EventKind.PASSWORD_CHANGED: "The password of {email} was changed.",
    EventKind.NEW_PASSWORD_CODE_ISSUED: "A link to choose a new password was made for {email}.",
    EventKind.SIGN_INS_ENDED: "Sign-ins of {email} were ended.",
    EventKind.SECOND_FACTOR_ON: "The second factor of {email} was switched on.",
    EventKind.SECOND_FACTOR_OFF: "The second factor of {email} was switched off.",
    EventKind.SECOND_FACTOR_REFUSED: "A wrong code was given as the second factor of {email}.",
    EventKind.RECOVERY_CODE_USED: "A recovery code of {email} was used up.",
    EventKind.RECOVERY_CODES_MADE: "New recovery codes were made for {email}.",
    EventKind.EMERGENCY_STOPPED: (
        "Everything was stopped: all sign-ins, passwords, links and {keys} API keys ended, and refreshing is held."
    ),
    EventKind.REFRESHING_RESUMED: "Refreshing was resumed; it had been paused since {since}.",
}


# The network address that the request under way came from; edges that have one set it.
acting_from: ContextVar[str | None] = ContextVar("acting_from", default=None)
# PostgreSQL gives ids before transactions commit: while an older transaction is under way, what is younger than it is
# not told yet, or a cursor would pass over what that one is about to add. SQLite's writers come one after the other.
IS_SETTLED = "age(account_event.xmin) > age(pg_snapshot_xmin(pg_current_snapshot())::xid)"
SETTLED_AFTER = timedelta(hours=1)  # transactions last milliseconds; this only outlives the numbers they bear


class Actor(StrEnum):
    """Who acted, when it was no named admin."""

    CUSTOMER = "customer"
    SYSTEM = "system"
    COMMAND_LINE = "command line"


@dataclass(frozen=True)
class EventView:
    """An event as a page shows it."""

    at: datetime
    kind: str
    actor: str
    sentence: str
    id: int = 0
    account_id: int | None = None
    address: str | None = None


@dataclass(frozen=True)
class EventPage:
    """One page of a history."""

    events: list[EventView]
    total: int
    page: int
    pages: int


def record(session: Session, kind: EventKind, account_id: int | None, actor: str, **details: Any) -> None:
    """Add one line, in the transaction of what it tells of. No secrets in `details`."""
    session.add(AccountEvent(**event_values(session, kind, account_id, actor, **details)))


def event_values(
    session: Session, kind: EventKind, account_id: int | None, actor: str, **details: Any
) -> dict[str, Any]:
    """Return the columns of one line of now; it names the address of the request under way."""
    pair_mark = None
    if kind in PAIR_KINDS:
        session.info[PAIR_STORED] = True
        pair_mark = secrets.token_hex(8)
    address = acting_from.get()
    if address is not None:
        details["address"] = address
    values = {"at": utc_now(), "account_id": account_id, "kind": kind, "actor": actor, "details": details}
    return {**values, "pair_mark": pair_mark}


def list_events(account_id: int, limit: int = 50) -> list[EventView]:
    """Return an account's newest events, newest first."""
    query = (
        select(AccountEvent).where(AccountEvent.account_id == account_id).order_by(AccountEvent.id.desc()).limit(limit)
    )
    with read_session() as session:
        return [_view(row) for row in session.scalars(query)]


def list_events_after(
    cursor: int,
    limit: int,
    only: Collection[int] | None = None,
    *,
    account_id: int | None = None,
    kind: str | None = None,
) -> tuple[list[EventView], bool]:
    """Return the events of accounts after the one with the id `cursor`, oldest first, and whether there are more.

    Args:
        only: the ids of the accounts that the asker may see; None for all.
    """
    query = select(AccountEvent).where(AccountEvent.id > cursor, AccountEvent.account_id.is_not(None))
    if only is not None:
        query = query.where(AccountEvent.account_id.in_(only))
    if account_id is not None:
        query = query.where(AccountEvent.account_id == account_id)
    if kind is not None:
        query = query.where(AccountEvent.kind == kind)
    with read_session() as session:
        if session.get_bind().dialect.name == "postgresql":
            query = query.where(or_(AccountEvent.at < utc_now() - SETTLED_AFTER, text(IS_SETTLED)))
        rows = session.scalars(query.order_by(AccountEvent.id).limit(limit + 1)).all()
    return [_view(row) for row in rows[:limit]], len(rows) > limit


def _view(row: AccountEvent) -> EventView:
    return EventView(row.at, row.kind, row.actor, sentence_of(row), row.id, row.account_id, row.details.get("address"))


def page_events(account_id: int, page: int = 1) -> EventPage:
    """Return one page of an account's history, newest first; a page beyond the last one is the last one."""
    query = select(AccountEvent).where(AccountEvent.account_id == account_id)
    with read_session() as session:
        total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
        pages = max(-(-total // EVENTS_PER_PAGE), 1)
        page = min(max(page, 1), pages)
        rows = query.order_by(AccountEvent.id.desc()).limit(EVENTS_PER_PAGE).offset((page - 1) * EVENTS_PER_PAGE)
        events = [_view(row) for row in session.scalars(rows)]
    return EventPage(events, total, page, pages)


def sentence_of(event: AccountEvent) -> str:
    """Tell an event in words."""
    words = {"person": "a person Keap has not named yet", "reason": "", **event.details}
    return SENTENCES[EventKind(event.kind)].format_map(words).strip()
