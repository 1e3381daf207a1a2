"""Which account a grant belongs to. No account mixes the grants of two people, and no grant is lost.

A callback, a decision about another tenant, a confirmation, and a pending account whose details come later all use the
same rule. What counts is when a grant came, not when it is stored: it takes the place of no newer one, and connects no
account that was disconnected since then.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, false, select, update
from sqlalchemy.orm import Session

from keap_connect.accounts.changes import CLOCKS_DIFFER, rename
from keap_connect.accounts.credentials import new_account, replace_credential
from keap_connect.accounts.directory import lock_accounts
from keap_connect.accounts.naming import person_of
from keap_connect.accounts.schedule import next_refresh_at
from keap_connect.accounts.state import state_of
from keap_connect.accounts.stored_state import registration
from keap_connect.clock import utc_now
from keap_connect.connect.endings import Ending
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.events.mailing import CUSTOMER_MAIL, MAIL
from keap_connect.keap.token_response import TokenResponse
from keap_connect.keap.user_info import Identity
from keap_connect.models import (
    Account,
    AccountEvent,
    AuthorizationFlow,
    CredentialKind,
    Delivery,
    Invitation,
    InvitationState,
    JobItem,
    ReconnectLink,
    SignIn,
)
from keap_connect.services import services


def merge(session: Session, pending: Account, account: Account, kind: EventKind) -> None:
    """Delete a pending account in the caller's transaction; both are locked.

    Args:
        kind: the event that says what became of its grant.
    """
    gone, external_id = pending.id, pending.external_id
    for table in (SignIn, AuthorizationFlow, ReconnectLink, Invitation, JobItem):
        session.execute(update(table).where(table.account_id == gone).values(account_id=account.id))
    # Its mails have the address of the person, who is erased with the other account. What waits is about an old state.
    mails = Delivery.account_id == gone, Delivery.channel.in_((MAIL, CUSTOMER_MAIL))
    session.execute(delete(Delivery).where(*mails, Delivery.finished_at.is_(None)))
    session.execute(update(Delivery).where(*mails).values(account_id=account.id))
    names = {"label": account.label or pending.label, "external_id": account.external_id or external_id}
    session.delete(pending)
    session.flush()  # an external id is of one row only
    rename(session, account, names, Actor.SYSTEM)
    record(session, kind, account.id, Actor.SYSTEM, from_account=gone)
    # For webhooks: what is disconnected has no external id if that is of the other account now.
    keys = {"tenant_id": account.tenant_id, "external_id": external_id if external_id != account.external_id else None}
    record(session, EventKind.MOVED_AWAY, gone, Actor.SYSTEM, to_account=account.id, **keys)


def take_names(session: Session, pending: Account, account: Account) -> None:
    """Give an account the names of the pending one whose grant it is about to get: what is announced then has them."""
    names = {"label": pending.label or account.label, "external_id": pending.external_id or account.external_id}
    pending.label = pending.external_id = None
    session.flush()  # an external id is of one row only
    rename(session, account, names, Actor.SYSTEM)


@dataclass(frozen=True)
class Grant:
    """A token response, whose it is, when it came, and the registration of the settings then."""

    token_response: TokenResponse = field(repr=False)
    identity: Identity
    registration: tuple[str, str] | None = None
    came_at: datetime = field(default_factory=utc_now)

    @property
    def is_ours(self) -> bool:
        """Whether it came with the client id and token URL that the settings name now."""
        return self.registration in {None, services().keap.registration}

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=datetime.isoformat)

    @classmethod
    def from_json(cls, text: str, came_at: datetime) -> "Grant":
        """Read a grant; `came_at` is for one that version 0.2.0 stored without it."""
        values = json.loads(text)
        token_response = TokenResponse(**values["token_response"])
        expires_at = datetime.fromisoformat(values["token_response"]["expires_at"])
        client_id, token_url = values.get("registration") or services().keap.registration
        came_at = datetime.fromisoformat(values["came_at"]) if values.get("came_at") else came_at
        identity = Identity(**values["identity"])
        return cls(replace(token_response, expires_at=expires_at), identity, (client_id, token_url), came_at)


@dataclass(frozen=True)
class Match:
    """The account that a grant belongs to; with an ending that waits, the one to reconnect; None if no account gets it.

    Args:
        is_stored: False if the account did not change: it waits for something, or has a newer grant.
    """

    ending: Ending
    account_id: int | None
    is_stored: bool = False


def match_grant(
    session: Session,
    grant: Grant,
    reconnects_account_id: int | None = None,
    invitation: Invitation | None = None,
    *,
    adds: bool = True,
    agreed_at: datetime | None = None,
) -> Match:
    """Store a grant in the account that it belongs to; the account of an invitation gets its names.

    A reconnect of account A, where Keap names:
    - the same tenant and person: A gets the pair.
    - the same tenant and another person: A changes to that person. If they have an account B, B gets the pair, and A
      is merged into B if A is pending and does not work. If A has a newer grant, or was disconnected since this one
      came, A does not change, and this one gets an account of its own.
    - another tenant: A does not change. The account of that (tenant, person) gets the pair; without one, the grant
      waits until the person decides.
    - nobody: it gets a pending account; if it may not add one, it waits.

    The account of the (tenant, person) keeps a newer grant, and is not connected if it was disconnected since then.

    Args:
        adds: whether the grant may get a new account.
        agreed_at: when the person decided about the account, if that was after the grant came.

    Raises IntegrityError: the same (tenant, person) was stored at the same moment; call this again.
    """
    identity = grant.identity
    is_wanted = Account.id == reconnects_account_id if reconnects_account_id else false()
    locked = lock_accounts(session, is_of(identity), is_wanted)
    known, wanted = find_by_identity(locked.values(), identity), locked.get(reconnects_account_id or 0)
    if known and was_disconnected(known, agreed_at or grant.came_at):
        return Match(Ending.DISCONNECTED, None)
    if wanted and wanted.tenant_id and identity.tenant_id and wanted.tenant_id != identity.tenant_id:
        record(session, EventKind.OTHER_TENANT_CHOSEN, wanted.id, Actor.CUSTOMER, tenant_id=identity.tenant_id)
        if known is None:
            return Match(Ending.DECISION_PENDING, wanted.id)
        return _store(session, grant, known, Ending.OTHER_TENANT_UPDATED)
    if known and wanted and known is not wanted:
        return _store_in_other(session, grant, known, wanted)
    if known:
        return _store(session, grant, known, Ending.RECONNECTED, invitation=invitation)
    if not identity.is_complete and wanted and not adds:
        return Match(Ending.IDENTITY_PENDING, wanted.id)
    if identity.is_complete and wanted and has_moved_on(session, wanted, grant):
        wanted = None
    if not adds and (wanted is None or not identity.is_complete):
        return Match(Ending.LINK_GONE, None)
    if not identity.is_complete:
        pending = new_account(session, identity.tenant_id, identity.keap_user_id)
        pending.reconnects_account_id = wanted.id if wanted else None
        return _store(session, grant, pending, Ending.CONNECTED_PENDING, EventKind.CONNECTED, invitation=invitation)
    if wanted and wanted.keap_user_id is None:
        _forget_people(session, wanted)
        return _store(session, grant, wanted, Ending.RECONNECTED)
    if wanted:
        before = person_of(wanted)
        return _store(session, grant, wanted, Ending.PERSON_CHANGED, EventKind.PERSON_CHANGED, before=before)
    account = new_account(session, identity.tenant_id, identity.keap_user_id)
    return _store(session, grant, account, Ending.CONNECTED, EventKind.CONNECTED, invitation=invitation)


def is_of(identity: Identity) -> ColumnElement[bool]:
    """Return the SQL condition of the account of this (tenant, person); none fulfills it if either is unknown."""
    if identity.tenant_id is None or identity.keap_user_id is None:
        return false()
    return and_(Account.tenant_id == identity.tenant_id, Account.keap_user_id == identity.keap_user_id)


def find_by_identity(accounts: Iterable[Account], identity: Identity) -> Account | None:
    """Return that account out of these, which are locked; None if another transaction stored it since then."""
    if identity.tenant_id is None or identity.keap_user_id is None:
        return None
    sought = identity.tenant_id, identity.keap_user_id
    return next((one for one in accounts if (one.tenant_id, one.keap_user_id) == sought), None)


def take_identity(account: Account, identity: Identity) -> None:
    """Store what Keap said. Other values stay, but the name and e-mail address of another person do not."""
    if identity.keap_user_id and identity.keap_user_id != account.keap_user_id:
        account.person_name = account.person_email = None
    for name, value in asdict(identity).items():
        if value is not None:
            setattr(account, name, value)


def _forget_people(session: Session, account: Account) -> None:
    """End the sign-ins by an earlier grant: nobody knew whose they were, and the account may be somebody else's now."""
    session.execute(delete(SignIn).where(SignIn.account_id == account.id))
    flows = update(AuthorizationFlow).where(AuthorizationFlow.account_id == account.id)
    session.execute(flows.values(account_id=None))


def use_invitation(session: Session, invitation: Invitation, account: Account) -> None:
    """Give an account the names of the invitation that it was connected by, which no longer works from now on.

    A grant is never lost for a name: one that the account has stays, and one of another account is not taken from it.
    """
    has_it = select(Account.id).where(Account.external_id == invitation.external_id, Account.id != account.id)
    other_id = session.scalar(has_it) if invitation.external_id else None
    account.label = account.label or invitation.label
    if other_id is None:
        account.external_id = account.external_id or invitation.external_id
    invitation.state, invitation.account_id = InvitationState.CONNECTED, account.id
    mails = Delivery.recipient == invitation.email, Delivery.payload["invitation"].as_integer() == invitation.id
    session.execute(update(Delivery).where(*mails).values(account_id=account.id))  # they are erased with the account
    record(session, EventKind.INVITATION_USED, account.id, Actor.CUSTOMER, invitation=invitation.id)
    if invitation.external_id != account.external_id and invitation.external_id:
        holder = f"account {other_id} has it" if other_id else f"this account has {account.external_id} already"
        details = {"external_id": invitation.external_id, "invitation": invitation.id, "holder": holder}
        record(session, EventKind.EXTERNAL_ID_NOT_SET, account.id, Actor.SYSTEM, **details)


def _store_in_other(session: Session, grant: Grant, known: Account, wanted: Account) -> Match:
    """Store a grant in the account of its person, though another one was to be reconnected."""
    if wanted.is_pending and not state_of(wanted, utc_now(), registration(session)).is_alive:
        _forget_people(session, wanted)
        merge(session, wanted, known, EventKind.NEWER_STAYED)  # first, so that what is announced has its names
        return _store(session, grant, known, Ending.RECONNECTED)
    match = _store(session, grant, known, Ending.OTHER_PERSON_UPDATED)
    if match.is_stored:
        person = person_of(grant.identity)
        record(session, EventKind.OTHER_PERSON_UPDATED, wanted.id, Actor.CUSTOMER, person=person)
    return match


def _store(
    session: Session,
    grant: Grant,
    account: Account,
    ending: Ending,
    kind: EventKind = EventKind.RECONNECTED,
    *,
    invitation: Invitation | None = None,
    **details: Any,
) -> Match:
    if has_newer_grant(session, account, grant):  # Keap may have ended this one
        if invitation is not None:
            fit_invitation(session, invitation, account)
        return Match(Ending.RECONNECTED, account.id)
    granted, now = grant.token_response, utc_now()
    take_identity(account, grant.identity)
    replace_credential(account, granted)
    if grant.registration is not None:
        account.client_id, account.token_url = grant.registration
    account.connected_at = grant.came_at
    if account.refresh_token_issued_at is not None:
        account.refresh_token_issued_at = grant.came_at  # Keap counts its 45 days from when it gave the grant
        is_unasked = account.is_pending and granted.expires_at <= now  # a new access token lets Keap say whose it is
        account.next_refresh_at = now if is_unasked else next_refresh_at(account, now)
    if invitation is not None:
        details["invitation"] = invitation.id
        use_invitation(session, invitation, account)  # first, so that what is announced has the external id
    record(session, kind, account.id, Actor.CUSTOMER, person=person_of(grant.identity), **details)
    if not granted.has_full_scope:
        record(session, EventKind.SCOPE_CHANGED, account.id, Actor.SYSTEM, scope=granted.scope)
    return Match(ending, account.id, is_stored=True)


def fit_invitation(session: Session, invitation: Invitation, account: Account) -> None:
    """End an invitation with an account that has its grant, or a newer one, already."""
    use_invitation(session, invitation, account)
    if state_of(account, utc_now(), registration(session)).is_alive:
        record(session, EventKind.INVITATION_FITS, account.id, Actor.SYSTEM, invitation=invitation.id)


def date_of_new_grant(session: Session) -> datetime:
    """Return now, or the latest date that a host whose clock is ahead has written: a fresh grant came after that."""
    now = utc_now()
    is_ahead = AccountEvent.at > now, AccountEvent.at <= now + CLOCKS_DIFFER, AccountEvent.kind != EventKind.REFRESHED
    return session.scalar(select(AccountEvent.at).where(*is_ahead).order_by(AccountEvent.at.desc()).limit(1)) or now


def was_disconnected(account: Account, since: datetime) -> bool:
    return account.disconnected_at is not None and _is_later(account.disconnected_at, since)


def has_newer_grant(session: Session, account: Account, grant: Grant) -> bool:
    """Whether an account got another grant after this one came, which works, and for no shorter time.

    An import that was not refreshed yet may not work at all.
    """
    is_newer = account.access_token_sealed is not None and _is_later(account.connected_at, grant.came_at)
    if not is_newer or account.needs_first_refresh:
        return False
    lasts = account.kind != CredentialKind.ACCESS_TOKEN_ONLY or not grant.token_response.refresh_token
    return lasts and state_of(account, utc_now(), registration(session)).is_alive


def _is_later(moment: datetime, came_at: datetime) -> bool:
    """Whether something happened after a grant came. A date in the future was written by a wrong clock."""
    return came_at < moment <= utc_now() + CLOCKS_DIFFER


def has_moved_on(session: Session, account: Account, grant: Grant) -> bool:
    """Whether an account was connected or disconnected after a grant came."""
    return was_disconnected(account, grant.came_at) or has_newer_grant(session, account, grant)
