"""Taking in a credential that a person brings from Keap by hand: pasted tokens, or a key without expiry.

It is checked against Keap's user info before anything is stored, which also tells whose it is. Other than a consent, an
import can be repeated: so whatever is not clear is refused, and nothing is changed.
"""

import re
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from keap_connect.accounts.credentials import fingerprint, new_account, store_imported
from keap_connect.accounts.labels import check_names, tidy_name
from keap_connect.accounts.state import KEYS, AccountState, state_of
from keap_connect.clock import utc_now
from keap_connect.connect.matching import find_by_identity, take_identity
from keap_connect.database import write_transaction
from keap_connect.errors import ExternalIdTaken, ImportRefused, WouldReplace
from keap_connect.events.history import EventKind, record
from keap_connect.keap.user_info import Identity, get_identity
from keap_connect.models import Account, AccountEvent, CredentialKind
from keap_connect.services import services

TOKEN = re.compile(r"[!-~]{8,2000}")
KEY_PREFIX = "KeapAK"
CREDENTIAL_WORDS = {
    CredentialKind.OAUTH: "an access token with its refresh token",
    CredentialKind.ACCESS_TOKEN_ONLY: "an access token",
    CredentialKind.PERSONAL_ACCESS_TOKEN: "a Personal Access Token",
    CredentialKind.SERVICE_ACCOUNT_KEY: "a Service Account Key",
}


@dataclass(frozen=True)
class ImportedCredential:
    """What a person or a program brings. `access_token` is the key itself where it is a key.

    `expires_in`: seconds that the access token has left, where somebody knows; of a key it is not asked.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_in: int | None = None
    kind: CredentialKind = CredentialKind.OAUTH


@dataclass(frozen=True)
class Incoming:
    """A credential, and what its account is to be called; None leaves a name as it is.

    `replaces`: it is meant to take the place of a connection that works, too.
    """

    credential: ImportedCredential
    external_id: str | None = None
    label: str | None = None
    replaces: bool = False


@dataclass(frozen=True)
class Checked:
    """Something incoming, and whose it is by Keap's own word."""

    incoming: Incoming
    identity: Identity


def import_credential(
    credential: ImportedCredential,
    actor: str,
    external_id: str | None = None,
    label: str | None = None,
    *,
    replaces: bool = False,
) -> int:
    """Check a credential at Keap and store it in the account it belongs to, a new one if need be; return its id.

    Raises:
        ImportRefused: it breaks a rule, or Keap does not accept it (CredentialRefused), or it would end a better one,
            or might (WouldReplace) and `replaces` does not say that it is meant.
        NameRefused: external id or label breaks a rule, or another account has that external id (ExternalIdTaken).
        TemporarilyUnavailable: Keap did not tell whose it is.
        TenantConflict: Keap named two tenants for it.

    Whatever is raised, nothing was changed.
    """
    incoming = Incoming(credential, tidy_name(external_id), tidy_name(label), replaces)
    check_form(incoming)
    checked = Checked(incoming, get_identity(services().keap, credential.access_token))
    try:
        with write_transaction() as session:
            return place(session, checked, actor)
    except IntegrityError:  # the same (tenant, person), or the same external id, was stored at the same moment
        with write_transaction() as session:
            return place(session, checked, actor)


def check_form(incoming: Incoming) -> None:
    """Check what can be seen without Keap.

    Raises:
        ImportRefused, NameRefused.
    """
    credential = incoming.credential
    is_key = credential.kind in KEYS
    what = "key" if is_key else "access token"
    if not TOKEN.fullmatch(credential.access_token):
        raise ImportRefused(f"The {what} is missing, or has characters that none has: copy it whole, without spaces.")
    if credential.refresh_token is not None and not TOKEN.fullmatch(credential.refresh_token):
        raise ImportRefused("The refresh token has characters that none has: copy it whole, without spaces.")
    if credential.kind is CredentialKind.OAUTH and credential.refresh_token is None:
        raise ImportRefused("The refresh token is missing. Without one it is an access token only.")
    if credential.kind is not CredentialKind.OAUTH and credential.refresh_token is not None:
        raise ImportRefused(f"A refresh token does not belong to {CREDENTIAL_WORDS[credential.kind]} alone.")
    if not is_key and credential.access_token.startswith(KEY_PREFIX):
        raise ImportRefused(
            f"What begins with {KEY_PREFIX} is a key: a Personal Access Token or a Service Account Key."
        )
    check_names(incoming.label, incoming.external_id)


def find_place(session: Session, checked: Checked) -> tuple[Account | None, bool]:
    """Return the account, locked, in which it would be stored, None where it would become a new one; and whether it
    stands there already.

    Raises:
        ImportRefused: what is stored there works for longer than what would take its place, or comes from it.
        WouldReplace: it works, and a pair would take its place without anybody saying that this is meant.
        ExternalIdTaken: another account has the external id.
    """
    account = find_by_identity(session, checked.identity)
    credential = checked.incoming.credential
    if checked.incoming.external_id is not None:
        has_it = select(Account.id).where(Account.external_id == checked.incoming.external_id)
        holder = session.scalar(has_it)
        if holder is not None and (account is None or holder != account.id):
            raise ExternalIdTaken
    if account is None:
        return None, False
    is_stored = _is_stored(session, account, credential.refresh_token)
    if not is_stored:
        _refuse_to_replace(account, checked.incoming)
    if credential.kind is not CredentialKind.ACCESS_TOKEN_ONLY:
        return account, is_stored
    works = state_of(account, utc_now()).is_alive
    if works and account.kind != CredentialKind.ACCESS_TOKEN_ONLY:
        raise ImportRefused(
            "This Keap account is connected already, and lastingly. An access token alone would end that within a day."
        )
    return account, is_stored


def place(session: Session, checked: Checked, actor: str) -> int:
    """Store it, in the caller's transaction; return the account's id. The same errors as `find_place`.

    Raises:
        IntegrityError: the same (tenant, person) was stored at the same moment; place it again.
    """
    incoming, identity = checked.incoming, checked.identity
    known, is_stored = find_place(session, checked)
    account = known or new_account(session, identity.tenant_id, identity.keap_user_id)
    take_identity(account, identity)
    credential = incoming.credential
    if not is_stored:  # else what rests goes on resting
        store_imported(
            account, credential.kind, credential.access_token, credential.refresh_token, credential.expires_in
        )
    account.external_id = incoming.external_id or account.external_id
    account.label = incoming.label or account.label
    details = {
        "credential": CREDENTIAL_WORDS[credential.kind],
        "person": identity.person_name or identity.person_email or "a person without a name",
        "generation": account.generation,
    }
    if credential.refresh_token:
        details["fingerprint"] = fingerprint(credential.refresh_token)
    record(session, EventKind.IMPORTED_AGAIN if known else EventKind.IMPORTED, account.id, actor, **details)
    session.flush()
    return account.id


def _refuse_to_replace(account: Account, incoming: Incoming) -> None:
    """Refuse a pair in the place of a healthy one.

    Its access token works, which says nothing of its refresh token: another program may have spent that, and the
    account would be lost at its next refresh.
    """
    is_pair = incoming.credential.kind == account.kind == CredentialKind.OAUTH
    is_healthy = state_of(account, utc_now()) is AccountState.ACTIVE and not (account.failures or account.refusals)
    if is_pair and is_healthy and not incoming.replaces:
        raise WouldReplace(
            "This Keap account is connected already, and works. If another program has refreshed this pair, it is "
            "spent, and would end the connection."
        )


def _is_stored(session: Session, account: Account, refresh_token: str | None) -> bool:
    """Whether a refresh token was imported here before, and nothing can have been done with it since.

    Raises:
        ImportRefused: something may have been done with it. Its access token may still work, but it would take the
            place of the very pair that it was traded for.
    """
    imports = select(AccountEvent.details).where(
        AccountEvent.account_id == account.id,
        AccountEvent.kind.in_([EventKind.IMPORTED, EventKind.IMPORTED_AGAIN]),
    )
    is_stored = False
    for details in session.scalars(imports) if refresh_token else ():
        if details.get("fingerprint") != fingerprint(refresh_token or ""):
            continue
        if account.generation != details["generation"] or account.attempted_at is not None:
            raise ImportRefused(
                "This refresh token was imported before, and the account has moved on since. It works only once: "
                "generate another one."
            )
        is_stored = True
    return is_stored
