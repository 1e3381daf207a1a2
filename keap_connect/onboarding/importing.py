"""Taking over a credential that was granted elsewhere, to the same client: checked at Keap, then placed like any other.

The same rule as for a fresh grant decides which account it belongs to (placing.py).
"""

from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from keap_connect.clock import utc_now
from keap_connect.database import write_transaction
from keap_connect.errors import CredentialRefused, ExternalIdTaken
from keap_connect.keap.identity import ask_identity
from keap_connect.keap.token_response import TokenResponse, expires_in_seconds
from keap_connect.models import Account, CredentialKind
from keap_connect.onboarding.placing import Grant, place_grant
from keap_connect.runtime import runtime


@dataclass(frozen=True)
class ImportedCredential:
    """What somebody else held for an account."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_in: int | None = None
    kind: CredentialKind = CredentialKind.OAUTH


def import_credential(
    credential: ImportedCredential,
    actor: str,  # noqa: ARG001  (placing names the customer; the history of imports comes with the wizard)
    external_id: str | None = None,
    label: str | None = None,
) -> int:
    """Store a credential and return the id of its account.

    Raises:
        CredentialRefused: Keap does not say whose the access token is.
        TenantConflict: Keap named two tenants for it.
        ExternalIdTaken: another account has this external id.
    """
    identity = ask_identity(runtime().keap, credential.access_token, None)
    if identity.tenant_id is None or identity.keap_user_id is None:
        raise CredentialRefused("Keap does not say whose this access token is: it has expired, or it is none of ours.")
    expires_at = utc_now() + timedelta(seconds=expires_in_seconds(credential.expires_in))
    granted = TokenResponse(credential.access_token, credential.refresh_token, expires_at)
    try:
        with write_transaction() as session:
            placed = place_grant(session, Grant(granted, identity)).account_id
            account = session.get_one(Account, placed)
            _keep_kind(account, credential.kind)
            _name(session, account, external_id, label)
    except IntegrityError:
        raise ExternalIdTaken("Another account has this external id already.") from None
    return account.id


def _keep_kind(account: Account, kind: CredentialKind) -> None:
    """A personal access token and a service account key do not expire."""
    if kind in {CredentialKind.PERSONAL_ACCESS_TOKEN, CredentialKind.SERVICE_ACCOUNT_KEY}:
        account.kind = kind
        account.access_token_expires_at = account.next_refresh_at = None


def _name(session: Session, account: Account, external_id: str | None, label: str | None) -> None:
    if external_id is not None:
        other = session.scalar(select(Account.id).where(Account.external_id == external_id, Account.id != account.id))
        if other is not None:
            raise ExternalIdTaken("Another account has this external id already.")
        account.external_id = external_id
    account.label = label or account.label
