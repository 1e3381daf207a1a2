"""Reconnect links: with one, a customer reconnects one account without signing in. An admin, a job or a mail makes it.

A link has 256 random bits, stored as a hash, and works for seven days. It is used up when a flow that it started stores
a grant, so a person who pressed Deny can use it again. Unknown, used, expired and revoked links look the same.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, delete, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from keap_connect.accounts.directory import load_account
from keap_connect.clock import minute, utc_now
from keap_connect.connect.flows import start_flow
from keap_connect.crypto import hash_secret
from keap_connect.database import read_all, read_one, take_turns, write_one, write_or_retry, write_transaction
from keap_connect.errors import LinkGone, MailNotNeeded, TemporarilyUnavailable
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.events.mailing import ask_to_reconnect
from keap_connect.models import LARGEST_ID, AccountEvent, AuthorizationFlow, ReconnectLink
from keap_connect.services import keyed_hash, page_url, services

LINK_LIFE = timedelta(days=7)
MOST_LISTED = 20
STOPPED_LATELY = timedelta(minutes=1)  # longer than any request lasts


@dataclass(frozen=True)
class MadeLink:
    """A new link. Its URL contains the secret and is shown only once."""

    url: str = field(repr=False)
    expires_at: datetime


def make_link(account_id: int, actor: str) -> MadeLink:
    """Make a link for one account. Raises AccountNotFound."""
    token = secrets.token_urlsafe(32)

    def add(session: Session) -> MadeLink:
        load_account(session, account_id)
        refuse_after_stop(session, actor)
        return _add(session, account_id, token, actor)

    return write_or_retry(add)  # the account may be erased meanwhile


def refuse_after_stop(session: Session, actor: str) -> None:
    """Let no request make a link that was allowed before an emergency stop, which takes the same turn.

    Raises TemporarilyUnavailable.
    """
    take_turns(session, "admins")
    stopped = AccountEvent.at > utc_now() - STOPPED_LATELY, AccountEvent.kind == EventKind.EMERGENCY_STOPPED
    if actor != Actor.COMMAND_LINE and session.scalar(select(AccountEvent.id).where(*stopped).limit(1)):
        raise TemporarilyUnavailable("Everything was stopped a moment ago, so no link is made.", 60)


def make_link_for_mail(account_id: int, message_id: str) -> MadeLink:
    """Return the link of one mail. Those of earlier mails work until `revoke_links_of_earlier_mails`.

    A mail that is sent again, because nobody knows whether it arrived, has the same link: mail programs drop the second
    one. So the token is not random, but follows from the mail's random id and SECRET_KEY, which is not in the database.

    Raises AccountNotFound; LinkGone: the link of this mail was used or revoked.
    """
    token = keyed_hash("reconnect link", message_id)
    with write_transaction() as session:
        load_account(session, account_id, lock=True)
        of_mail = ReconnectLink.account_id == account_id, ReconnectLink.token_hash == hash_secret(token)
        made = session.scalar(select(ReconnectLink).where(*of_mail))
        if made is None:
            return _add(session, account_id, token, Actor.MAIL)
        if made.used_at or made.revoked_at:
            raise LinkGone("The link of this mail was used or revoked.")
        return MadeLink(page_url(f"/r/{token}"), made.expires_at)


def mail_link(account_id: int, actor: str) -> str:
    """Send the account's person a mail with a link, in the place of one that waits; return the address.

    Raises AccountNotFound; MailNotNeeded: the app cannot write to this person, or need not.
    """
    return write_or_retry(lambda session: mail_link_in(session, account_id, actor))


def mail_link_in(session: Session, account_id: int, actor: str) -> str:
    """Do so in the caller's transaction."""
    account = load_account(session, account_id, lock=True)  # two at once would write two mails
    if not services().settings.mails_customers:
        raise MailNotNeeded("This app writes to no customers: SMTP_URL is not set, or CUSTOMER_MAIL is off.")
    if account.person_email is None or not ask_to_reconnect(session, account):
        raise MailNotNeeded("It need not be reconnected, or its person's address is not known.")
    record(session, EventKind.RECONNECT_MAIL_ASKED_FOR, account_id, actor)
    return account.person_email


def add_derived_link(session: Session, account_id: int, key: str, actor: str) -> None:
    """Make a link whose URL follows from a random key, so that a job can show it later and stores no secret.

    Raises AccountNotFound.
    """
    load_account(session, account_id)
    _add(session, account_id, keyed_hash("reconnect link", key), actor)


def working_urls(keys: Iterable[str]) -> dict[str, str]:
    """Return the URL of each derived link that still works, by its key."""
    return urls_where(ReconnectLink.token_hash, _is_open(), keys, "reconnect link", "/r/")


def urls_where(
    token_hash: InstrumentedAttribute[str], works: ColumnElement[bool], keys: Iterable[str], purpose: str, path: str
) -> dict[str, str]:
    """Do so for the links of one table, whose tokens follow from their keys and a purpose."""
    tokens = {key: keyed_hash(purpose, key) for key in keys}
    hashes = {hash_secret(token): key for key, token in tokens.items()}
    found = read_all(select(token_hash).where(token_hash.in_(hashes), works))
    return {hashes[one]: page_url(f"{path}{tokens[hashes[one]]}") for one in found}


def revoke_links_of_earlier_mails(session: Session, account_id: int, message_id: str) -> None:
    """Revoke them once the mail server has taken this one over: until then, the customer has no other link."""
    this = hash_secret(keyed_hash("reconnect link", message_id))
    earlier = (ReconnectLink.made_by == Actor.MAIL, ReconnectLink.token_hash != this)
    links = select(ReconnectLink).where(ReconnectLink.account_id == account_id, _is_open(), *earlier)
    for link in session.scalars(links.with_for_update(skip_locked=True)):
        _revoke(session, link, Actor.MAIL)


def _add(session: Session, account_id: int, token: str, actor: str) -> MadeLink:
    now = utc_now()
    link = ReconnectLink(
        account_id=account_id, token_hash=hash_secret(token), made_by=actor, made_at=now, expires_at=now + LINK_LIFE
    )
    session.add(link)
    record(session, EventKind.RECONNECT_LINK_MADE, account_id, actor, until=minute(link.expires_at))
    return MadeLink(page_url(f"/r/{token}"), link.expires_at)


def forget_past_links(kept_for: timedelta) -> None:
    write_one(delete(ReconnectLink).where(ReconnectLink.expires_at <= utc_now() - kept_for))


def list_open_links(account_id: int) -> list[ReconnectLink]:
    """Return the newest links of an account that still work; a program may have made thousands."""
    query = select(ReconnectLink).where(ReconnectLink.account_id == account_id, _is_open())
    return read_all(query.order_by(ReconnectLink.id.desc()).limit(MOST_LISTED))


def revoke_link(account_id: int, link_id: int, actor: str) -> None:
    """Revoke a link, also for a flow that it has started. A used or revoked link is not changed.

    Raises AccountNotFound.
    """
    with write_transaction() as session:
        load_account(session, account_id)
        link = session.get(ReconnectLink, min(link_id, LARGEST_ID), with_for_update=True)
        if link and link.account_id == account_id and link.used_at is None and link.revoked_at is None:
            _revoke(session, link, actor)


def _revoke(session: Session, link: ReconnectLink, actor: str) -> None:
    link.revoked_at = utc_now()
    record(session, EventKind.RECONNECT_LINK_REVOKED, link.account_id, actor, made_by=link.made_by)


def revoke_open_links(session: Session, account_id: int) -> None:
    """Revoke the links of an account that got a new grant: nobody has to reconnect it any longer."""
    links = select(ReconnectLink).where(ReconnectLink.account_id == account_id, _is_open())
    # A link that is locked is being used by another flow at this moment; to wait for it could be a deadlock.
    for link in session.scalars(links.with_for_update(skip_locked=True)):
        _revoke(session, link, Actor.SYSTEM)


def check_link(token: str) -> None:
    """Check that a link works, and note when its page was shown first.

    Raises LinkGone: it is unknown, used, expired or revoked.
    """
    link = _find_open(ReconnectLink.token_hash == hash_secret(token))
    if link.opened_at is None:
        first = update(ReconnectLink).where(ReconnectLink.id == link.id, ReconnectLink.opened_at.is_(None))
        write_one(first.values(opened_at=utc_now()))


def start_by_link(token: str, browser: str) -> str:
    """Start the reconnect that a link is for and return the authorization URL. Raises LinkGone."""
    link = _find_open(ReconnectLink.token_hash == hash_secret(token))
    return start_flow(browser, link.account_id, link.id)


def start_by_link_again(flow: AuthorizationFlow, browser: str) -> str:
    """Start again with the link that started a flow of this browser. Raises LinkGone: also if no link did."""
    link = _find_open(ReconnectLink.id == flow.reconnect_link_id)
    return start_flow(browser, link.account_id, link.id)


def still_works(session: Session, flow: AuthorizationFlow) -> bool:
    """Whether the link that started a flow, if any, allows it to go on; locks the link until the transaction ends.

    A flow may end after its link has expired, but not after the link was used or revoked.
    """
    if flow.reconnect_link_id is None:
        return True
    link = session.get(ReconnectLink, flow.reconnect_link_id, with_for_update=True)
    return link is not None and link.used_at is None and link.revoked_at is None


def use_up(session: Session, flow: AuthorizationFlow) -> None:
    """Mark the link that started a flow, if any, as used."""
    link = session.get(ReconnectLink, flow.reconnect_link_id) if flow.reconnect_link_id else None
    if link is not None and link.used_at is None:
        link.used_at = utc_now()
        record(session, EventKind.RECONNECT_LINK_USED, link.account_id, Actor.CUSTOMER, made_by=link.made_by)


def _find_open(which: ColumnElement[bool]) -> ReconnectLink:
    link = read_one(select(ReconnectLink).where(which, _is_open()))
    if link is None:
        raise LinkGone("The link is unknown, used, expired or revoked.")
    return link


def _is_open() -> ColumnElement[bool]:
    return and_(
        ReconnectLink.used_at.is_(None), ReconnectLink.revoked_at.is_(None), ReconnectLink.expires_at > utc_now()
    )
