"""The add-only history: what happened to which account, by whom, told in plain sentences."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import func, select
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
    REFRESH_REFUSED = "refresh_refused"
    ANSWER_LOST = "answer_lost"
    TOKEN_REJECTED = "token_rejected"  # noqa: S105
    OTHER_TENANT_ANSWERED = "other_tenant_answered"
    RECONNECT_FAILED = "reconnect_failed"
    RECONNECT_LINK_MADE = "reconnect_link_made"
    RECONNECT_LINK_USED = "reconnect_link_used"
    RECONNECT_LINK_REVOKED = "reconnect_link_revoked"
    TOKEN_REVEALED = "token_revealed"  # noqa: S105
    LABEL_CHANGED = "label_changed"
    EXTERNAL_ID_CHANGED = "external_id_changed"
    DISCONNECTED = "disconnected"
    ADMIN_CREATED = "admin_created"
    ADMIN_SIGNED_IN = "admin_signed_in"
    ADMIN_SIGN_IN_REFUSED = "admin_sign_in_refused"


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
    EventKind.REFRESH_REFUSED: "Keap refused the refresh token for good. {reason}",
    EventKind.ANSWER_LOST: (
        "Keap refused the refresh token for good. Our own last attempt with it was at {when}, and its answer was lost."
    ),
    EventKind.TOKEN_REJECTED: "A job reported that Keap refused the access token; it is refreshed next.",
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
    EventKind.ADMIN_CREATED: "Admin {email} was created.",
    EventKind.ADMIN_SIGNED_IN: "Admin {email} signed in.",
    EventKind.ADMIN_SIGN_IN_REFUSED: "A sign-in was refused.",
}


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


@dataclass(frozen=True)
class EventPage:
    """One page of a history."""

    events: list[EventView]
    total: int
    page: int
    pages: int


def record(session: Session, kind: EventKind, account_id: int | None, actor: str, **details: Any) -> None:
    """Add one line, in the transaction of what it tells of. No secrets in `details`."""
    session.add(AccountEvent(at=utc_now(), account_id=account_id, kind=kind, actor=actor, details=details))


def list_events(account_id: int, limit: int = 50) -> list[EventView]:
    """Return an account's newest events, newest first."""
    query = (
        select(AccountEvent).where(AccountEvent.account_id == account_id).order_by(AccountEvent.id.desc()).limit(limit)
    )
    with read_session() as session:
        return [EventView(row.at, row.kind, row.actor, _sentence(row)) for row in session.scalars(query)]


def page_events(account_id: int, page: int = 1) -> EventPage:
    """Return one page of an account's history, newest first; a page beyond the last one is the last one."""
    query = select(AccountEvent).where(AccountEvent.account_id == account_id)
    with read_session() as session:
        total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
        pages = max(-(-total // EVENTS_PER_PAGE), 1)
        page = min(max(page, 1), pages)
        rows = query.order_by(AccountEvent.id.desc()).limit(EVENTS_PER_PAGE).offset((page - 1) * EVENTS_PER_PAGE)
        events = [EventView(row.at, row.kind, row.actor, _sentence(row)) for row in session.scalars(rows)]
    return EventPage(events, total, page, pages)


def _sentence(event: AccountEvent) -> str:
    words = {"person": "a person Keap has not named yet", "reason": "", **event.details}
    return SENTENCES[EventKind(event.kind)].format_map(words).strip()
