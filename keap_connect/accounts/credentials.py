"""An account's credential: sealed in the account's row, and replaced or deleted as a whole."""

import hashlib
import logging
from datetime import timedelta

from flask import current_app
from sqlalchemy.orm import Session

from keap_connect.accounts.schedule import next_refresh_at
from keap_connect.clock import utc_now
from keap_connect.errors import SealBroken
from keap_connect.keap.token_response import DEFAULT_EXPIRES_IN_SECONDS, TokenResponse, expires_in_seconds
from keap_connect.models import Account, CredentialKind
from keap_connect.services import services

log = logging.getLogger(__name__)
LONGEST_ACCESS_TOKEN_LIFE = timedelta(days=1)
IMPORTED_LIFE = {
    CredentialKind.OAUTH: timedelta(seconds=DEFAULT_EXPIRES_IN_SECONDS),
    CredentialKind.ACCESS_TOKEN_ONLY: LONGEST_ACCESS_TOKEN_LIFE,
}


def new_account(session: Session, tenant_id: str | None, keap_user_id: str | None) -> Account:
    """Add an account without tokens. It gets its id at once, because sealing needs it."""
    now = utc_now()
    account = Account(
        tenant_id=tenant_id,
        keap_user_id=keap_user_id,
        client_id=services().keap.client_id,
        token_url=services().keap.token_url,
        created_at=now,
        connected_at=now,
        generation=0,
    )
    session.add(account)
    session.flush()
    return account


def replace_credential(account: Account, granted: TokenResponse) -> None:
    """Store a new grant; nothing of the old credential stays."""
    _start_anew(account, CredentialKind.OAUTH if granted.refresh_token else CredentialKind.ACCESS_TOKEN_ONLY)
    store_pair(account, granted)


def store_imported(
    account: Account, kind: CredentialKind, access_token: str, refresh_token: str | None, expires_in: int | None = None
) -> None:
    """Store an imported credential; nothing of the old credential stays.

    If Keap has just accepted it, its age is unknown but at most a day. So an access token alone expires within a day,
    and a refresh token has 44 of its 45 days left. A worker refreshes a pair at once. Keys do not expire.

    Args:
        expires_in: seconds that the access token has left, if known; 0 if it has expired.
    """
    now = utc_now()
    _start_anew(account, kind)
    account.generation += 1
    account.scope = None
    account.access_token_sealed = _seal(account, "access_token", access_token)
    life = IMPORTED_LIFE.get(kind)
    if life and expires_in is not None:
        seconds = expires_in and expires_in_seconds(expires_in)
        life = min(timedelta(seconds=seconds), LONGEST_ACCESS_TOKEN_LIFE)
    account.access_token_expires_at = None if life is None else now + life
    account.next_refresh_at = None
    if refresh_token:
        account.refresh_token_sealed = _seal(account, "refresh_token", refresh_token)
        account.refresh_token_issued_at = None if expires_in == 0 else now - LONGEST_ACCESS_TOKEN_LIFE
        account.next_refresh_at = now
        account.needs_first_refresh = True
    _clear_attempts(account)


def take_over_imported(account: Account) -> None:
    """Give an imported pair to the client in the settings, as if it had just been imported."""
    account.client_id, account.token_url = services().keap.registration
    account.generation += 1  # so that a process with the other settings, which is about to send it, does not
    account.next_refresh_at = utc_now()
    _clear_attempts(account)


def store_pair(account: Account, granted: TokenResponse) -> None:
    """Seal a granted pair into its row and increase the generation; without a new refresh token, the old one stays.

    Failures and the attempt marker are cleared: a stored pair proves that the connection works.
    """
    now = utc_now()
    account.generation += 1
    account.scope = granted.scope or account.scope
    account.access_token_sealed = _seal(account, "access_token", granted.access_token)
    account.access_token_expires_at = granted.expires_at
    if granted.refresh_token:
        account.refresh_token_sealed = _seal(account, "refresh_token", granted.refresh_token)
    if granted.refresh_token or account.needs_first_refresh:
        account.refresh_token_issued_at = now
    account.needs_first_refresh = False
    account.next_refresh_at = next_refresh_at(account, now)
    _clear_attempts(account)


def _start_anew(account: Account, kind: CredentialKind) -> None:
    account.kind = kind
    account.client_id = services().keap.client_id
    account.token_url = services().keap.token_url
    account.connected_at = utc_now()
    account.disconnected_at = None
    account.refresh_token_sealed = None
    account.refresh_token_issued_at = None
    account.refreshed_at = None
    account.needs_first_refresh = False


def forget_credential(account: Account) -> None:
    """Delete the tokens and increase the generation, so that a late answer cannot bring them back."""
    account.generation += 1
    account.access_token_sealed = account.refresh_token_sealed = None
    account.access_token_expires_at = account.refresh_token_issued_at = account.next_refresh_at = None
    _clear_attempts(account)


def open_access_token(account: Account) -> str | None:
    """Return the access token in plain text. Raises SealBroken."""
    return _open(account, "access_token", account.access_token_sealed)


def open_refresh_token(account: Account) -> str | None:
    """Return the refresh token in plain text, only to present it to Keap. Raises SealBroken."""
    return _open(account, "refresh_token", account.refresh_token_sealed)


def is_ours(account: Account) -> bool:
    """Whether the grant belongs to the client and token URL in the settings; it is never sent anywhere else."""
    return (account.client_id, account.token_url) == services().keap.registration


def fingerprint(token: str) -> str:
    """Return the first 16 hex digits of a token's SHA-256, which identify the token and do not reveal it."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


def _clear_attempts(account: Account) -> None:
    """Clear failures, unknown outcome, refusals and the lease: they belong to the earlier pair."""
    account.attempt_fingerprint = account.attempted_at = account.outcome_unknown_since = None
    account.failures, account.failed_at, account.failure_reason = 0, None, None
    account.refusals, account.refused_at = 0, None
    account.lease_owner = account.lease_ends = account.blocked_until = account.claimed_until = None


def _seal(account: Account, column: str, token: str) -> bytes:
    return services().cipher.seal(token, "account", account.id, column)


def _open(account: Account, column: str, sealed: bytes | None) -> str | None:
    try:
        return services().cipher.open(sealed, "account", account.id, column) if sealed else None
    except SealBroken as problem:
        known: set[int] = current_app.extensions.setdefault("keap_connect.unreadable", set())
        if account.id not in known:  # a page or a job may ask for it again and again
            known.add(account.id)
            log.warning("The token of account %s cannot be used: %s", account.id, problem)
        raise
