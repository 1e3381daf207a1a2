"""How a credential is kept in its account's row: sealed, replaced as a whole, forgotten at once."""

import hashlib
from datetime import timedelta

from sqlalchemy.orm import Session

from keap_connect.accounts.schedule import next_refresh_at
from keap_connect.clock import utc_now
from keap_connect.keap.token_response import DEFAULT_EXPIRES_IN_SECONDS, TokenResponse, expires_in_seconds
from keap_connect.models import Account, CredentialKind
from keap_connect.services import services

LONGEST_ACCESS_TOKEN_LIFE = timedelta(days=1)
IMPORTED_LIFE = {
    CredentialKind.OAUTH: timedelta(seconds=DEFAULT_EXPIRES_IN_SECONDS),
    CredentialKind.ACCESS_TOKEN_ONLY: LONGEST_ACCESS_TOKEN_LIFE,
}


def new_account(session: Session, tenant_id: str | None, keap_user_id: str | None) -> Account:
    """Add an account that holds no tokens yet; it has its id, which sealing needs."""
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
    """Store a new grant in the place of whatever was there; the old pair is gone as a whole."""
    _start_anew(account, CredentialKind.OAUTH if granted.refresh_token else CredentialKind.ACCESS_TOKEN_ONLY)
    store_pair(account, granted)


def store_imported(
    account: Account,
    kind: CredentialKind,
    access_token: str,
    refresh_token: str | None,
    expires_in: int | None = None,
) -> None:
    """Store what a person or program brought, and Keap has just accepted, in the place of whatever was there.

    Args:
        expires_in: seconds that the access token has left, where somebody knows.

    Nobody knows when a pasted token was made. Since it still worked, that was at most a day ago: an access token
    alone ends a day from now at the latest, and of a refresh token's 45 days one is counted as gone. A pair is
    refreshed as soon as a worker runs. Keys do not expire.
    """
    now = utc_now()
    _start_anew(account, kind)
    account.generation += 1
    account.scope = None
    account.access_token_sealed = _seal(account, "access_token", access_token)
    life = IMPORTED_LIFE.get(kind)
    if life and expires_in is not None:
        life = min(timedelta(seconds=expires_in_seconds(expires_in)), LONGEST_ACCESS_TOKEN_LIFE)
    account.access_token_expires_at = now + life if life else None
    account.next_refresh_at = None
    if refresh_token:
        account.refresh_token_sealed = _seal(account, "refresh_token", refresh_token)
        account.refresh_token_issued_at = now - LONGEST_ACCESS_TOKEN_LIFE
        account.next_refresh_at = now
    _clear_attempts(account)


def store_pair(account: Account, granted: TokenResponse) -> None:
    """Seal a granted pair into its row and move the generation; without a refresh token the old one stays.

    Clears failures and the attempt marker: a stored pair is the proof that all is well.
    """
    now = utc_now()
    account.generation += 1
    account.scope = granted.scope or account.scope
    account.access_token_sealed = _seal(account, "access_token", granted.access_token)
    account.access_token_expires_at = granted.expires_at
    if granted.refresh_token:
        account.refresh_token_sealed = _seal(account, "refresh_token", granted.refresh_token)
        account.refresh_token_issued_at = now
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


def forget_credential(account: Account) -> None:
    """Destroy the tokens and move the generation, so that a late answer cannot bring them back."""
    account.generation += 1
    account.access_token_sealed = account.refresh_token_sealed = None
    account.access_token_expires_at = account.refresh_token_issued_at = account.next_refresh_at = None
    _clear_attempts(account)


def open_access_token(account: Account) -> str | None:
    """Return the access token in clear.

    Raises:
        SealBroken: the stored value does not open.
    """
    return _open(account, "access_token", account.access_token_sealed)


def open_refresh_token(account: Account) -> str | None:
    """Return the refresh token in clear: to present it to Keap, and nothing else.

    Raises:
        SealBroken: the stored value does not open.
    """
    return _open(account, "refresh_token", account.refresh_token_sealed)


def is_ours(account: Account) -> bool:
    """Whether the grant was made to the client and token URL of the present settings; it is never sent elsewhere."""
    return (account.client_id, account.token_url) == (services().keap.client_id, services().keap.token_url)


def fingerprint(token: str) -> str:
    """Return the first 16 hex digits of a token's SHA-256: a name that reveals nothing of it."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


def _clear_attempts(account: Account) -> None:
    """Forget failures, unknown outcome, refusals and the lease: they belonged to the pair that is gone."""
    account.attempt_fingerprint = account.attempted_at = account.outcome_unknown_since = None
    account.failures, account.failed_at, account.failure_reason = 0, None, None
    account.refusals, account.refused_at = 0, None
    account.lease_owner = account.lease_ends = account.blocked_until = None


def _seal(account: Account, column: str, token: str) -> bytes:
    return services().cipher.seal(token, "account", account.id, column)


def _open(account: Account, column: str, sealed: bytes | None) -> str | None:
    return services().cipher.open(sealed, "account", account.id, column) if sealed else None
