"""Invitations: by one, a customer connects an account that has its label and external id at once.

Only a stored grant uses an invitation up, not opening its link and not an attempt that failed. If it names the tenant
that it expects, a grant of another tenant waits in its flow; so does every grant if it asks for a confirmation
(connect/confirming.py).
"""

import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from urllib.parse import urlsplit

from sqlalchemy import ColumnElement, and_, delete, insert, or_, select
from sqlalchemy.orm import Session

from keap_connect.accounts.naming import LABEL_CHARACTERS, check_names, tidy_name
from keap_connect.accounts.words import words_of_names
from keap_connect.addresses import WEB_PORTS
from keap_connect.clock import minute, utc_now
from keap_connect.connect.endings import Ending
from keap_connect.connect.flows import end_flow
from keap_connect.connect.reconnect_links import refuse_after_stop, urls_where
from keap_connect.crypto import hash_secret
from keap_connect.database import purge_deleted, read_all, read_one, read_session, write_transaction
from keap_connect.errors import ExternalIdTaken, InvitationClosed, InvitationNotFound, InvitationRefused, LinkGone
from keap_connect.events.deleting import DELETED_AT_ONCE, delete_in_batches
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.events.mailing import INVITATION, WRONG_EMAIL, is_address, new_mail
from keap_connect.keap.token_response import normalize_tenant_id
from keap_connect.models import (
    LARGEST_ID,
    Account,
    AuthorizationFlow,
    Delivery,
    Invitation,
    InvitationState,
    InvitationWord,
)
from keap_connect.services import keyed_hash, page_url, services

USUAL_DAYS, LONGEST_DAYS = 14, 90
LONGEST_NOTE, LONGEST_URL = 500, 2000
CONFIRM_WITHIN = timedelta(days=7)
EXPIRED_AT_ONCE = 200
OPEN = (InvitationState.SENT, InvitationState.OPENED)
UNUSED = (*OPEN, InvitationState.EXPIRED)
# It allows no user, backslash or fragment: browsers and this program could read another host out of them.
RETURN_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(/[!$-;=?-\[\]_a-z~]*)?(\?[!$-;=?-\[\]_a-z~]*)?")


@dataclass(frozen=True)
class NewInvitation:
    """Whom to invite; blank texts count as None."""

    label: str | None = None
    external_id: str | None = None
    email: str | None = None
    note: str | None = None
    return_url: str | None = None
    expected_tenant_id: str | None = None
    needs_confirmation: bool = False
    valid_days: int = USUAL_DAYS
    is_mailed: bool = False  # the app sends this link, and those that replace it


@dataclass(frozen=True)
class MadeInvitation:
    """An invitation with its link, which is a secret and is shown only once."""

    row: Invitation
    url: str = field(repr=False)


def make_invitation(wanted: NewInvitation, actor: str) -> MadeInvitation:
    """Make an invitation.

    Raises:
        InvitationRefused, NameRefused: something in it breaks a rule.
        ExternalIdTaken: an account has this external id already.
    """
    with write_transaction() as session:
        refuse_after_stop(session, actor)
        return add_invitation(session, wanted, actor)


def add_invitation(session: Session, wanted: NewInvitation, actor: str) -> MadeInvitation:
    """Do so in the caller's transaction."""
    now, texts = utc_now(), _checked(wanted)
    has_it = select(Account.id).where(Account.external_id == texts["external_id"])
    if texts["external_id"] and (account_id := session.scalar(has_it)):
        raise ExternalIdTaken(f"Account {account_id} has this external id already: make a reconnect link for it.")
    row = Invitation(
        **texts,
        state=InvitationState.SENT,
        needs_confirmation=wanted.needs_confirmation,
        is_mailed=wanted.is_mailed,
        made_by=actor,
        made_at=now,
        sent_at=now,
        expires_at=now + timedelta(days=wanted.valid_days),
    )
    token, mail = _new_token(row)
    session.add(row)
    session.flush()
    words = sorted(words_of_names((row.label, row.external_id, row.email)))
    if words:
        session.execute(insert(InvitationWord), [{"word": word, "invitation_id": row.id} for word in words])
    _mail_it(session, row, mail)
    record_about(session, EventKind.INVITATION_MADE, row, actor, until=minute(row.expires_at))
    return MadeInvitation(row, page_url(f"/i/{token}"))


def _checked(wanted: NewInvitation) -> dict[str, str | None]:
    """Return the texts as they are stored."""
    texts = {
        name: tidy_name(value) for name, value in asdict(wanted).items() if value is None or isinstance(value, str)
    }
    check_names(texts["label"], texts["external_id"])
    email, note, return_url, tenant = (texts[one] for one in ("email", "note", "return_url", "expected_tenant_id"))
    if email and not is_address(email):
        raise InvitationRefused(WRONG_EMAIL, "email")
    if note and (len(note) > LONGEST_NOTE or not re.fullmatch(f"{LABEL_CHARACTERS}*", note)):
        raise InvitationRefused(
            f"The note may have at most {LONGEST_NOTE} characters, all of which can be shown.", "note"
        )
    if return_url and not is_allowed_return_url(return_url):
        raise InvitationRefused("The return URL must begin with one of RETURN_ORIGINS in the settings.", "return_url")
    _check_mail(email, is_mailed=wanted.is_mailed)
    if tenant:
        texts["expected_tenant_id"] = normalize_tenant_id(tenant)
        if texts["expected_tenant_id"] is None:
            raise InvitationRefused("Enter Keap's id of the account, such as ab123.", "expected_tenant_id")
    if not 1 <= wanted.valid_days <= LONGEST_DAYS:
        raise InvitationRefused(f"An invitation is valid for 1 to {LONGEST_DAYS} days.", "valid_days")
    return texts


def _check_mail(email: str | None, *, is_mailed: bool) -> None:
    if is_mailed and not email:
        raise InvitationRefused("There is no address that the mail could go to.", "email")
    if is_mailed and services().settings.mail is None:
        raise InvitationRefused("This app sends no mail: SMTP_URL is not set.", "is_mailed")


def is_allowed_return_url(url: str) -> bool:
    if len(url) > LONGEST_URL or RETURN_URL.fullmatch(url) is None:
        return False
    parts = urlsplit(url.lower())
    host = parts.netloc.removesuffix(f":{WEB_PORTS[parts.scheme]}")  # that of the scheme, which browsers leave out
    return f"{parts.scheme}://{host}" in services().settings.return_origins


def resend(invitation_id: int, actor: str) -> MadeInvitation:
    """Make a new link, which works for as long as the first one did. The one before no longer works.

    Raises InvitationNotFound; InvitationClosed: it is connected, waiting or withdrawn.
    """
    with write_transaction() as session:
        refuse_after_stop(session, actor)
        return resend_in(session, invitation_id, actor)


def resend_in(
    session: Session, invitation_id: int, actor: str, *, is_mailed: bool | None = None, key: str | None = None
) -> MadeInvitation:
    """Do so in the caller's transaction.

    Args:
        is_mailed: whether the app sends this link and those that replace it; None leaves that as it is.
        key: a random text that the link follows from, so that a job can show it later and stores no secret.

    Raises InvitationRefused: the app cannot mail it.
    """
    now, row = utc_now(), lock_invitation(session, invitation_id)
    if row.state not in UNUSED:
        raise InvitationClosed(f"It is {row.state}, so it gets no new link.")
    row.state, row.opened_at = InvitationState.SENT, None
    if is_mailed is not None:
        _check_mail(row.email, is_mailed=is_mailed)
        row.is_mailed = is_mailed
    token, mail = _new_token(row, key)
    _mail_it(session, row, mail)
    row.sent_at, row.expires_at = now, now + (row.expires_at - row.sent_at)
    record_about(session, EventKind.INVITATION_RESENT, row, actor, until=minute(row.expires_at))
    return MadeInvitation(row, page_url(f"/i/{token}"))


def working_urls(keys: Iterable[str]) -> dict[str, str]:
    """Return the URL of each derived link that still works, by its key."""
    is_open = and_(Invitation.state.in_(OPEN), Invitation.expires_at > utc_now())
    return urls_where(Invitation.token_hash, is_open, keys, "invitation", "/i/")


def withdraw(invitation_id: int, actor: str) -> Invitation:
    """End an invitation, also for people who are at Keap just now, and delete a grant that waits.

    Raises InvitationNotFound; InvitationClosed: it is connected.
    """
    for is_last in (False, True):
        with write_transaction() as session:
            flow = find_waiting(session, invitation_id)
            row = lock_invitation(session, invitation_id)
            if row.state == InvitationState.WAITING and flow is None and not is_last:
                continue  # a grant came between the two; its flow must be locked first
            if flow is not None:
                end_flow(session, flow.id, Ending.CONFIRMATION_DECLINED, flow.account_id)
            if row.state == InvitationState.CONNECTED:
                raise InvitationClosed("It is connected. Disconnect its account instead.")
            if row.state != InvitationState.WITHDRAWN:
                _withdraw(session, row, actor)
        break
    purge_deleted()
    return row


def withdraw_unused(session: Session, invitation_id: int, actor: str) -> None:
    """Withdraw an invitation that has connected nobody: the grant of somebody who waits is decided about one by one.

    Raises InvitationNotFound; InvitationClosed: somebody has connected by it, or it is withdrawn.
    """
    row = lock_invitation(session, invitation_id)
    if row.state == InvitationState.WAITING:
        raise InvitationClosed("Somebody has connected by it. Confirm or decline that on its page.")
    if row.state not in UNUSED:
        raise InvitationClosed(f"It is {row.state} already.")
    _withdraw(session, row, actor)


def _withdraw(session: Session, row: Invitation, actor: str) -> None:
    row.state = InvitationState.WITHDRAWN
    record_about(session, EventKind.INVITATION_WITHDRAWN, row, actor)


def get_invitation(invitation_id: int) -> Invitation:
    """Return the row. Raises InvitationNotFound."""
    expire_past()
    with read_session() as session:
        return lock_invitation(session, invitation_id)


def find_waiting(session: Session, invitation_id: int) -> AuthorizationFlow | None:
    """Return the flow whose grant waits for an invitation to be confirmed, locked; lock the invitation after it."""
    flow = AuthorizationFlow
    waits = flow.invitation_id == min(invitation_id, LARGEST_ID), flow.pending_until.is_not(None)
    return session.scalar(select(flow).where(*waits).with_for_update())


def expire_past() -> None:
    """Expire the invitations that nobody used in time, and delete the grants that nobody confirmed in time."""
    now, flow = utc_now(), AuthorizationFlow
    waits = select(flow.id).where(flow.invitation_id == Invitation.id, flow.pending_until > now).exists()
    is_past = or_(
        Invitation.state.in_(OPEN) & (Invitation.expires_at <= now),
        (Invitation.state == InvitationState.WAITING) & ~waits,
    )
    ids: Sequence[int] = read_all(select(Invitation.id).where(is_past).limit(EXPIRED_AT_ONCE))
    if not ids:
        return
    with write_transaction() as session:
        undecided = select(flow).where(flow.invitation_id.in_(ids), flow.pending_until <= now).order_by(flow.id)
        for one in session.scalars(undecided.with_for_update()).all():
            end_flow(session, one.id, Ending.CONFIRMATION_EXPIRED, one.account_id)
        past = select(Invitation).where(Invitation.id.in_(ids), is_past).order_by(Invitation.id)
        for row in session.scalars(past.with_for_update()).all():
            new = select(flow.id).where(flow.invitation_id == row.id, flow.pending_until > now).limit(1)
            if session.scalar(new) is not None:
                continue  # a grant came meanwhile: `is_past`, read again with the lock, does not see its flow
            why = "nobody used it" if row.state in OPEN else "nobody confirmed in time who had connected"
            row.state = InvitationState.EXPIRED
            record_about(session, EventKind.INVITATION_EXPIRED, row, Actor.SYSTEM, why=why)


def forget_past_invitations(kept_for: timedelta) -> None:
    """Delete the oldest of those whose last day is so long ago, at most MOST_AT_ONCE; the worker comes back."""
    # The states that are left, since only `IN` uses the index.
    settled = [one for one in InvitationState if one is not InvitationState.WAITING]
    is_over = Invitation.expires_at <= utc_now() - kept_for, Invitation.state.in_(settled)
    oldest = select(Invitation.id).where(*is_over).order_by(Invitation.expires_at).limit(DELETED_AT_ONCE)
    # PostgreSQL checks only the conditions of the DELETE again when it has waited for a row that was resent.
    delete_in_batches(delete(Invitation).where(Invitation.id.in_(oldest.scalar_subquery()), *is_over))


def lock_invitation(session: Session, invitation_id: int) -> Invitation:
    """Return the row, which nobody else changes until the transaction ends. Raises InvitationNotFound."""
    row = session.get(Invitation, min(invitation_id, LARGEST_ID), with_for_update=True, populate_existing=True)
    if row is None:
        raise InvitationNotFound(f"There is no invitation {invitation_id}.")
    return row


def is_sent_by_mail(row: Invitation) -> bool:
    """Whether the app itself sends the links; it shows them if SMTP_URL is no longer set."""
    return row.is_mailed and services().settings.mail is not None


def mailed_link(invitation_id: int, message_id: str) -> MadeInvitation:
    """Return the link of one mail, the same in every attempt to send it (as in `make_link_for_mail`).

    Raises LinkGone: the invitation was used or ended, or has a newer link.
    """
    token = keyed_hash("invitation", message_id)
    row = get_by_link(and_(Invitation.id == invitation_id, Invitation.token_hash == hash_secret(token)))
    if row.state not in OPEN:
        raise LinkGone("The invitation was used.")
    return MadeInvitation(row, page_url(f"/i/{token}"))


def _new_token(row: Invitation, key: str | None = None) -> tuple[str, Delivery | None]:
    """Return the secret of a new link, and the mail that takes it to the customer, if the app sends it."""
    mail = new_mail(row.email, INVITATION, {}, utc_now()) if row.email and is_sent_by_mail(row) else None
    key = mail.message_id if mail else key
    token = keyed_hash("invitation", key) if key else secrets.token_urlsafe(32)
    row.token_hash = hash_secret(token)
    return token, mail


def _mail_it(session: Session, row: Invitation, mail: Delivery | None) -> None:
    if mail is not None:
        mail.payload = {"invitation": row.id}
        session.add(mail)


def get_by_link(which: ColumnElement[bool]) -> Invitation:
    """Return the invitation of a link. Raises LinkGone: the link is unknown, expired, withdrawn, or replaced."""
    row = read_one(select(Invitation).where(which))
    is_closed = row is None or row.state in {InvitationState.EXPIRED, InvitationState.WITHDRAWN}
    if row is None or is_closed or (row.state in OPEN and row.expires_at <= utc_now()):
        raise LinkGone("The invitation is unknown, expired or withdrawn.")
    return row


def record_about(
    session: Session, kind: EventKind, row: Invitation, actor: str, account_id: int | None = None, **details: object
) -> None:
    record(session, kind, account_id, actor, invitation=row.id, external_id=row.external_id, **details)
