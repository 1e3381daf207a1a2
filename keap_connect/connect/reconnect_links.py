"""Reconnect links: an admin or a job sends one to a customer, who reconnects one account with it without signing in.

256 random bits, stored as a hash, for seven days and one use. A link is used up when a flow that it started ends with
a stored grant: whoever pressed Deny can use it again. Unknown, used, expired and revoked links look the same.
"""

import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, delete, select
from sqlalchemy.orm import Session

from keap_connect.accounts.directory import load_account
from keap_connect.clock import utc_now
from keap_connect.connect.flows import start_flow
from keap_connect.crypto import hash_secret
from keap_connect.database import read_session, write_transaction
from keap_connect.errors import LinkGone
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.models import LARGEST_ID, AuthorizationFlow, ReconnectLink
from keap_connect.services import services

TOKEN_BYTES = 32
LINK_LIFE = timedelta(days=7)
KEPT_FOR = timedelta(days=30)


@dataclass(frozen=True)
class MadeLink:
    """A new link. Its address holds the secret and is shown only once."""

    url: str = field(repr=False)
    expires_at: datetime


def make_link(account_id: int, actor: str) -> MadeLink:
    """Make a link for one account.

    Raises:
        AccountNotFound: there is none.
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    now = utc_now()
    with write_transaction() as session:
        load_account(session, account_id)
        session.execute(delete(ReconnectLink).where(ReconnectLink.expires_at <= now - KEPT_FOR))
        link = ReconnectLink(
            account_id=account_id, token_hash=hash_secret(token), made_by=actor, made_at=now, expires_at=now + LINK_LIFE
        )
        session.add(link)
        until = f"{link.expires_at:%Y-%m-%d %H:%M} UTC"
        record(session, EventKind.RECONNECT_LINK_MADE, account_id, actor, until=until)
    return MadeLink(f"{services().settings.public_url}/r/{token}", now + LINK_LIFE)


def list_open_links(account_id: int) -> list[ReconnectLink]:
    """Return the links of an account that still work, newest first."""
    query = select(ReconnectLink).where(ReconnectLink.account_id == account_id, _is_open())
    with read_session() as session:
        return list(session.scalars(query.order_by(ReconnectLink.id.desc())))


def revoke_link(account_id: int, link_id: int, actor: str) -> None:
    """Revoke a link, also for a flow that it has started; one that no longer works stays as it is.

    Raises:
        AccountNotFound: there is none.
    """
    with write_transaction() as session:
        load_account(session, account_id)
        link = session.get(ReconnectLink, min(link_id, LARGEST_ID), with_for_update=True)
        if link and link.account_id == account_id and link.used_at is None and link.revoked_at is None:
            link.revoked_at = utc_now()
            record(session, EventKind.RECONNECT_LINK_REVOKED, account_id, actor, made_by=link.made_by)


def check_link(token: str) -> None:
    """Find out whether a link works, and change nothing.

    Raises:
        LinkGone: it is unknown, used, expired or revoked.
    """
    _find_open(ReconnectLink.token_hash == hash_secret(token))


def start_by_link(token: str, browser: str) -> str:
    """Start the reconnect that a link is for and return the authorization URL.

    Raises:
        LinkGone: it is unknown, used, expired or revoked.
    """
    return _start(_find_open(ReconnectLink.token_hash == hash_secret(token)), browser)


def start_by_link_again(flow: AuthorizationFlow, browser: str) -> str:
    """Start once more by the link that started a flow of this browser.

    Raises:
        LinkGone: it is used, expired or revoked by now, or the flow was not started by a link.
    """
    return _start(_find_open(ReconnectLink.id == flow.reconnect_link_id), browser)


def still_works(session: Session, flow: AuthorizationFlow) -> bool:
    """Whether a flow may go on by the link that started it, if any; locks the link until the transaction ends.

    A flow outlives its link's seven days by its own ten minutes, but no other use of the link and no revocation.
    """
    if flow.reconnect_link_id is None:
        return True
    link = session.get(ReconnectLink, flow.reconnect_link_id, with_for_update=True)
    return link is not None and link.used_at is None and link.revoked_at is None


def use_up(session: Session, flow: AuthorizationFlow) -> None:
    """Mark the link that started a flow as used; without a link, do nothing."""
    link = session.get(ReconnectLink, flow.reconnect_link_id) if flow.reconnect_link_id else None
    if link is not None and link.used_at is None:
        link.used_at = utc_now()
        record(session, EventKind.RECONNECT_LINK_USED, link.account_id, Actor.CUSTOMER, made_by=link.made_by)


def _start(link: ReconnectLink, browser: str) -> str:
    return start_flow(browser, reconnects_account_id=link.account_id, reconnect_link_id=link.id)


def _find_open(which: ColumnElement[bool]) -> ReconnectLink:
    with read_session() as session:
        link = session.scalar(select(ReconnectLink).where(which, _is_open()))
    if link is None:
        raise LinkGone("The link is unknown, used, expired or revoked.")
    return link


def _is_open() -> ColumnElement[bool]:
    return and_(
        ReconnectLink.used_at.is_(None), ReconnectLink.revoked_at.is_(None), ReconnectLink.expires_at > utc_now()
    )
