"""Asking Keap again whose a pending account is; its grant is then stored where it belongs."""

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from keap_connect.accounts.credentials import is_ours, open_access_token, open_refresh_token, replace_credential
from keap_connect.accounts.directory import get_account, lock_accounts
from keap_connect.accounts.naming import person_of
from keap_connect.accounts.state import AccountState, state_of
from keap_connect.accounts.stored_state import registration
from keap_connect.clock import utc_now
from keap_connect.connect import matching
from keap_connect.connect.importing import note_in_jobs, works_well
from keap_connect.connect.matching import merge, take_names
from keap_connect.connect.reconnect_links import revoke_open_links
from keap_connect.database import read_rows, write_or_retry
from keap_connect.errors import TemporarilyUnavailable
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.keap.token_response import TokenResponse
from keap_connect.keap.user_info import Identity, ask_identity
from keap_connect.models import Account, AccountEvent, CredentialKind, SignIn
from keap_connect.services import services

UNUSED = {
    EventKind.GRANT_DROPPED: "Not used: the account of the same person was disconnected after this import.",
    EventKind.IMPORT_DROPPED: "Not used: a connection of the same person works already.",
    EventKind.NEWER_STAYED: "Not used: a newer connection of the same person works already.",
}


def list_unidentified(*, has_tenant: bool = False) -> set[tuple[int, int]]:
    """Return id and generation of the pending accounts whose access token could say whose they are.

    Args:
        has_tenant: those with a tenant and without a person.
    """
    works = Account.access_token_expires_at > utc_now(), Account.disconnected_at.is_(None)
    is_sound = Account.refused_at.is_(None), Account.refusals == 0, Account.outcome_unknown_since.is_(None)
    lacks = Account.keap_user_id if has_tenant else Account.tenant_id
    is_pending = lacks.is_(None), ~Account.needs_first_refresh, *works, *is_sound
    pending = select(Account.id, Account.generation).where(*is_pending)
    return {(account_id, generation) for account_id, generation in read_rows(pending)}


def identify_pending(account_id: int) -> int:
    """Ask Keap again who a pending account belongs to, and return the id of the account that has its grant now.

    If there is an account of the same (tenant, person), the grant moves there and the pending row is deleted.

    Raises:
        AccountNotFound: there is none.
        TemporarilyUnavailable: Keap did not say, a refresh is running or must come first, or the grant belongs to
            another client.
        TenantConflict: Keap named two tenants for the grant.
    """
    account = get_account(account_id)
    access_token = open_access_token(account)
    if not account.is_pending or access_token is None:
        return account_id
    if not is_ours(account):
        raise TemporarilyUnavailable(
            "This grant belongs to another client id or token URL than the settings name; it is never sent elsewhere."
        )
    if account.needs_first_refresh:  # it must not end a connection that works
        raise TemporarilyUnavailable("Its first refresh comes first: it shows whether the imported pair works.")
    identity = ask_identity(services().keap, access_token, account.tenant_id)
    if not identity.is_complete:
        raise TemporarilyUnavailable("Keap did not say who this account belongs to. Its tokens are kept.")

    def store(session: Session) -> int:
        wanted_id = account.reconnects_account_id
        locked = lock_accounts(session, Account.id.in_([account_id, wanted_id or 0]), matching.is_of(identity))
        pending, wanted = locked.get(account_id), locked.get(wanted_id or 0)
        if pending is None or pending.generation != account.generation or pending.attempted_at is not None:
            raise TemporarilyUnavailable("The account is changing right now. Try again in a minute.")
        if not pending.is_pending:  # somebody else asked at the same time
            return pending.id
        if pending.refused_at or pending.refusals or pending.outcome_unknown_since:
            raise TemporarilyUnavailable("Its refresh token may be used up; a refresh must succeed first.")
        return _settle(session, pending, wanted, matching.find_by_identity(locked.values(), identity), identity)

    return write_or_retry(store)  # two pending accounts of one person may be named at the same time


def _settle(
    session: Session, pending: Account, wanted: Account | None, known: Account | None, identity: Identity
) -> int:
    """Store whose a pending account is; both others are locked.

    Args:
        wanted: the account that the person meant to reconnect. known: the account of the same (tenant, person).
    """
    # The person who signed in by this grant may now see all of that person's accounts.
    signed_in = update(SignIn).where(SignIn.account_id == pending.id)
    session.execute(signed_in.values(keap_user_id=identity.keap_user_id))
    grant = _grant_of(pending, identity)
    if grant is None:
        return pending.id
    if wanted is not None and matching.has_moved_on(session, wanted, grant):
        wanted = pending.reconnects_account_id = None
    if known is None and (wanted is None or wanted.tenant_id not in {None, identity.tenant_id}):
        matching.take_identity(pending, identity)
        pending.reconnects_account_id = None
        details = {"tenant_id": identity.tenant_id, "person": person_of(identity)}
        record(session, EventKind.DETAILS_FILLED_IN, pending.id, Actor.SYSTEM, **details)
        note_in_jobs(session, pending.id, _named(identity))
        return pending.id
    return _move(session, pending, known, grant)


def _grant_of(pending: Account, identity: Identity) -> matching.Grant | None:
    access_token, expires_at = open_access_token(pending), pending.access_token_expires_at
    if access_token is None or expires_at is None:
        return None
    granted = TokenResponse(access_token, open_refresh_token(pending), expires_at, pending.scope)
    return matching.Grant(granted, identity, came_at=pending.connected_at)


def _move(session: Session, pending: Account, account: Account | None, grant: matching.Grant) -> int:
    """Store the pending grant where it belongs, unless a better one is there, and merge the rows."""
    imported, replaces = _import_of(session, pending)
    is_proven = account is not None and not account.needs_first_refresh and account.refused_at is None
    # A pair that comes here was refreshed, so it is surer than one at risk; a key or an access token alone is not.
    is_surer = False
    if account and pending.kind == CredentialKind.OAUTH:
        is_surer = state_of(account, utc_now(), registration(session)) is AccountState.AT_RISK
    if account and matching.was_disconnected(account, grant.came_at):
        kind = EventKind.GRANT_DROPPED
    elif account and is_proven and imported and works_well(session, account) and not (replaces or is_surer):
        kind = EventKind.IMPORT_DROPPED
    elif account and matching.has_newer_grant(session, account, grant):
        kind = EventKind.NEWER_STAYED
    else:
        kind = EventKind.MOVED_HERE
        take_names(session, pending, account or session.get_one(Account, pending.reconnects_account_id))
        if account is None or not imported:
            match = matching.match_grant(session, grant, pending.reconnects_account_id)
            account = session.get_one(Account, match.account_id)
        else:
            matching.take_identity(account, grant.identity)
            replace_credential(account, grant.token_response)
            account.connected_at = grant.came_at  # a grant that came since is newer
        revoke_open_links(session, account.id)
        account.refresh_token_issued_at = pending.refresh_token_issued_at
    revoke_open_links(session, pending.id)
    result = {"updates": account.title} if kind is EventKind.MOVED_HERE else {"note": UNUSED[kind]}
    note_in_jobs(session, pending.id, {**_named(grant.identity), **result})
    merge(session, pending, account, kind)
    return account.id


def _import_of(session: Session, pending: Account) -> tuple[bool, bool]:
    """Return whether the pending credential was imported, and whether that import, or the same one again, replaces."""
    kinds = (EventKind.IMPORTED, EventKind.IMPORTED_AGAIN, EventKind.IMPORTED_SAME)
    events = select(AccountEvent).where(AccountEvent.account_id == pending.id, AccountEvent.kind.in_(kinds))
    replaces = False
    newest = session.scalars(events.order_by(AccountEvent.id.desc())).all()
    for event in newest:
        replaces = replaces or "replaces" in event.details
        if event.kind != EventKind.IMPORTED_SAME:
            break
    return bool(newest), replaces


def _named(identity: Identity) -> dict[str, str | None]:
    """Return what the line of a file says of the account, now that Keap has named its person."""
    known = {"tenant_id": identity.tenant_id, "business_name": identity.business_name, "person": person_of(identity)}
    return {**known, "note": ""}
