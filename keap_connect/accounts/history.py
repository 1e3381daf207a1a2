"""The add-only history: what happened to which account, by whom, told in plain sentences."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import or_, select, text
from sqlalchemy.orm import Session

from keap_connect.clock import utc_now
from keap_connect.database import read_session
from keap_connect.models import AccountEvent


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
    DISCONNECTED = "disconnected"
    RENAMED = "renamed"
    ADMIN_CREATED = "admin_created"
    ADMIN_SIGNED_IN = "admin_signed_in"
    ADMIN_SIGN_IN_REFUSED = "admin_sign_in_refused"
    API_KEY_ISSUED = "api_key_issued"
    API_KEY_REVOKED = "api_key_revoked"


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
    EventKind.DISCONNECTED: "Disconnected: the tokens are forgotten.",
    EventKind.RENAMED: "Called something else from now on: {told}.",
    EventKind.ADMIN_CREATED: "Admin {email} was created.",
    EventKind.ADMIN_SIGNED_IN: "Admin {email} signed in.",
    EventKind.ADMIN_SIGN_IN_REFUSED: "A sign-in was refused.",
    EventKind.API_KEY_ISSUED: "API key {key_id} ({name}) was issued for {scopes}.",
    EventKind.API_KEY_REVOKED: "API key {key_id} ({name}) was revoked.",
}


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


def record(session: Session, kind: EventKind, account_id: int | None, actor: str, **details: Any) -> None:
    """Add one line, in the transaction of what it tells of. No secrets in `details`."""
    session.add(AccountEvent(at=utc_now(), account_id=account_id, kind=kind, actor=actor, details=details))


def list_events(account_id: int, limit: int = 50) -> list[EventView]:
    """Return an account's newest events, newest first."""
    query = (
        select(AccountEvent).where(AccountEvent.account_id == account_id).order_by(AccountEvent.id.desc()).limit(limit)
    )
    with read_session() as session:
        return [_view(row) for row in session.scalars(query)]


def list_events_after(cursor: int, limit: int, only: Collection[int] | None = None) -> tuple[list[EventView], bool]:
    """Return the events of accounts after the one with the id `cursor`, oldest first, and whether there are more.

    Args:
        only: the ids of the accounts that the asker may see; None for all.
    """
    query = select(AccountEvent).where(AccountEvent.id > cursor, AccountEvent.account_id.is_not(None))
    if only is not None:
        query = query.where(AccountEvent.account_id.in_(only))
    with read_session() as session:
        if session.get_bind().dialect.name == "postgresql":
            query = query.where(or_(AccountEvent.at < utc_now() - SETTLED_AFTER, text(IS_SETTLED)))
        rows = session.scalars(query.order_by(AccountEvent.id).limit(limit + 1)).all()
    return [_view(row) for row in rows[:limit]], len(rows) > limit


def _view(row: AccountEvent) -> EventView:
    return EventView(row.at, row.kind, row.actor, _sentence(row), row.id, row.account_id)


def _sentence(event: AccountEvent) -> str:
    words = {"person": "a person Keap has not named yet", "reason": "", **event.details}
    return SENTENCES[EventKind(event.kind)].format_map(words).strip()
