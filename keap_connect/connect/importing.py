"""Importing a credential that a person copies from Keap: tokens, or a key that does not expire.

Keap's user info must accept it before it is stored, and says whose it is. An import can be repeated, so a doubtful one
is refused and nothing is changed. Only a pair whose access token has expired is stored without an answer: its first
refresh shows whether it works, and then whose it is (identifying.py).
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import false, select
from sqlalchemy.orm import Session

from keap_connect.accounts import credentials
from keap_connect.accounts.changes import give_up_external_id, rename
from keap_connect.accounts.directory import lock_accounts
from keap_connect.accounts.naming import check_names, person_of, tidy_name
from keap_connect.accounts.state import KEYS, never_worked, state_of
from keap_connect.accounts.stored_state import registration
from keap_connect.clock import utc_now
from keap_connect.connect.matching import find_by_identity, is_of, take_identity
from keap_connect.database import write_or_retry
from keap_connect.errors import CredentialRefused, ExternalIdTaken, ImportRefused, UnusualKey, WouldReplace
from keap_connect.events.history import EventKind, record
from keap_connect.keap.answers import json_object
from keap_connect.keap.user_info import Identity, get_identity
from keap_connect.models import IMPORTS, Account, CredentialKind, ImportedToken, Job, JobItem
from keap_connect.services import services

LONGEST_TOKEN = 8192
TOKEN = re.compile(f"[!-~]{{8,{LONGEST_TOKEN}}}")
KEY_PREFIX = "KeapAK"
SHORTEST_REFRESH_TOKEN = 20  # Keap's have 24 or 32 characters
QUOTES = re.compile("[\"'`\xab\xb4\xbb\u2018-\u201f]")
# A spreadsheet turns what looks like a number into one, such as 1.2E+10, and drops the other digits.
NUMBER = re.compile(r"[+-]?[0-9.,]+(E[+-]?[0-9]+)?", re.IGNORECASE)
MCP_ISSUER = "thryv.com"  # of the OAuth server of Keap's MCP server; Keap's REST API has another one
CREDENTIAL_WORDS = {
    CredentialKind.OAUTH: "an access token with its refresh token",
    CredentialKind.ACCESS_TOKEN_ONLY: "an access token",
    CredentialKind.PERSONAL_ACCESS_TOKEN: "a Personal Access Token",
    CredentialKind.SERVICE_ACCOUNT_KEY: "a Service Account Key",
}
UNPROVEN = "Keap refuses its access token; its first refresh will show whether it works."
REFUSED = "Keap refused its refresh token."
PROVEN = "Refreshed: the pair works. Keap has not said yet whose it is."


@dataclass(frozen=True)
class ImportedCredential:
    """A credential to import, and the names of its account; None leaves a name unchanged.

    Args:
        access_token: the access token, or the key.
        expires_in: seconds that the access token has left, if known; ignored for a key.
        replaces: whether it may replace a connection that works.
        takes_unusual_key: whether a key may begin with something else than Keap's keys usually do.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_in: int | None = None
    kind: CredentialKind = CredentialKind.OAUTH
    external_id: str | None = None
    label: str | None = None
    replaces: bool = False
    takes_unusual_key: bool = False


@dataclass(frozen=True)
class Checked:
    """A credential, and whose it is according to Keap: None if Keap does not accept the access token of a pair."""

    credential: ImportedCredential
    identity: Identity | None


@dataclass(frozen=True)
class Target:
    """The accounts that an import changes, locked.

    Args:
        account: what gets the credential; None if it makes a new one.
        imported: says that the account has this refresh token already.
        named: has the external id of the import.
    """

    account: Account | None = None
    imported: ImportedToken | None = None
    named: Account | None = None


def import_credential(credential: ImportedCredential, actor: str) -> int:
    """Check a credential at Keap, store it in its account, which may be new, and return the account's id.

    Nothing is changed when it raises.

    Raises:
        ImportRefused: it breaks a rule, Keap does not accept it (CredentialRefused), it would end a better connection,
            it was imported before, or somebody has to confirm it (WouldReplace, UnusualKey).
        NameRefused: external id or label breaks a rule, or another account has that external id (ExternalIdTaken).
        TemporarilyUnavailable: Keap did not say whose it is.
        TenantConflict: Keap named two tenants for it.
    """
    check_form(credential)
    checked = check_at_keap(credential)
    return write_or_retry(lambda session: store_checked(session, checked, actor))


def check_at_keap(credential: ImportedCredential) -> Checked:
    """Ask Keap whose a credential is.

    Raises CredentialRefused, TemporarilyUnavailable, TenantConflict: as in `import_credential`.
    """
    try:
        return Checked(credential, get_identity(services().keap, credential.access_token))
    except CredentialRefused:
        if credential.kind is not CredentialKind.OAUTH:
            raise
        return Checked(credential, None)


def check_form(credential: ImportedCredential) -> None:
    """Check what can be checked without Keap.

    Raises ImportRefused, NameRefused: their `field` is the name of the column.
    """
    is_key = credential.kind in KEYS
    _check_token(credential.access_token, "access_token", "key" if is_key else "access token")
    if credential.kind is CredentialKind.OAUTH:
        _check_refresh_token(credential)
    elif credential.refresh_token is not None:
        raise ImportRefused(
            f"A refresh token does not belong to {CREDENTIAL_WORDS[credential.kind]} alone.", "refresh_token"
        )
    has_prefix = credential.access_token.startswith(KEY_PREFIX)
    if has_prefix and not is_key:
        raise ImportRefused(
            f"What begins with {KEY_PREFIX} is a key: a Personal Access Token or a Service Account Key."
        )
    check_names(tidy_name(credential.label), tidy_name(credential.external_id))
    if is_key and not (has_prefix or credential.takes_unusual_key):
        raise UnusualKey(f"Keap's keys usually begin with {KEY_PREFIX}, and this one does not.")


def _check_refresh_token(credential: ImportedCredential) -> None:
    token = credential.refresh_token
    if token is None:
        raise ImportRefused("The refresh token is missing: add it, or use the kind access_token_only.", "refresh_token")
    _check_token(token, "refresh_token", "refresh token")
    problem = None
    if token == credential.access_token:
        problem = "is the same as the access token: copy the refresh token"
    elif token.startswith(KEY_PREFIX):
        problem = f"is a key: it begins with {KEY_PREFIX}"
    elif "=" in token:
        problem = "has an equals sign: copy the token alone, without formula or name"
    elif len(token) < SHORTEST_REFRESH_TOKEN:
        problem = "is too short: copy it whole"
    if problem:
        raise ImportRefused(f"The refresh token {problem}.", "refresh_token")


def _check_token(token: str, column: str, name: str) -> None:
    """Check that a text can be a token; say what happened to one that was spoiled on its way here."""
    problem = None
    if not token:
        problem = "is missing"
    elif "…" in token or token.endswith(".."):
        problem = "is cut short: copy it whole"
    elif QUOTES.search(token):
        problem = "has quotation marks: copy it without them"
    elif NUMBER.fullmatch(token):
        problem = "is a number, as a spreadsheet makes: set its column to text and copy the token again"
    elif not TOKEN.fullmatch(token):
        problem = "is too short or long, or has an invalid character: copy it whole, without spaces"
    elif _is_of_mcp_server(token):
        problem = "is of Keap's MCP server, which has its own tokens. Only those of Keap's REST API can be imported"
    if problem:
        raise ImportRefused(f"The {name} {problem}.", column)


def _is_of_mcp_server(token: str) -> bool:
    """Whether it is a JSON Web Token (RFC 7519) of that issuer; its signature does not matter here."""
    parts = token.split(".")
    if len(parts) != 3:
        return False
    try:
        claims = json_object(base64.urlsafe_b64decode(parts[1] + "=="))
    except ValueError:
        return False
    return claims is not None and MCP_ISSUER in str(claims.get("iss"))


def find_target(session: Session, checked: Checked) -> Target:
    """Find where a credential belongs, and lock it.

    Raises:
        ImportRefused: the stored credential works for longer, or the refresh token may have been used.
        WouldReplace: a stored pair works, and `replaces` is false.
        ExternalIdTaken: another account has the external id.
    """
    credential, identity = checked.credential, checked.identity or Identity()
    token, external_id = credential.refresh_token, tidy_name(credential.external_id)
    imported = session.get(ImportedToken, credentials.fingerprint(token)) if token else None
    has_name = Account.external_id == external_id if external_id else false()
    has_token = Account.id == imported.account_id if imported else false()
    locked = lock_accounts(session, is_of(identity), has_name, has_token)
    named = next((one for one in locked.values() if external_id and one.external_id == external_id), None)
    account = find_by_identity(locked.values(), identity)
    if token and account and imported is None:  # stored while this waited for the lock, as when somebody clicks twice
        imported = session.get(ImportedToken, credentials.fingerprint(token))
    if imported is not None:
        account = _check_unpresented(locked.get(imported.account_id), imported)
    if named is not None and named is not account and not never_worked(named):
        raise ExternalIdTaken
    if imported is not None:
        return Target(account, imported, named)
    account = account or named  # this import repairs the one with the same external id, which never worked
    if account is None:
        return Target()
    if credential.kind is CredentialKind.OAUTH and works_well(session, account) and not credential.replaces:
        raise WouldReplace(
            "This Keap account is connected already, and works. If another program has refreshed this pair, it no "
            "longer works and would end the connection."
        )
    is_alive = state_of(account, utc_now(), registration(session)).is_alive
    is_token_only = credential.kind is CredentialKind.ACCESS_TOKEN_ONLY
    if is_token_only and account.kind != CredentialKind.ACCESS_TOKEN_ONLY and is_alive:
        raise ImportRefused(
            "This Keap account is connected already, for longer: an access token alone would end that within a day."
        )
    return Target(account, None, named)


def works_well(session: Session, account: Account) -> bool:
    """Whether a pair is stored that an imported one should not replace unless somebody says so.

    Of the imported one only the access token was checked. Another program may have used its refresh token; then the
    account would be lost at its next refresh. So one that is at risk stays, too, unless Keap has refused it, or it is
    of another client and not refreshed.
    """
    is_alive = state_of(account, utc_now(), registration(session)).is_alive
    return account.kind == CredentialKind.OAUTH and is_alive and credentials.is_ours(account) and not account.refusals


def store_checked(session: Session, checked: Checked, actor: str) -> int:
    """Store a credential in the caller's transaction and return the account's id.

    Raises:
        ImportRefused, ExternalIdTaken: as in `find_target`.
        IntegrityError: the same person, external id or refresh token was stored at the same moment; try again.
    """
    credential, identity = checked.credential, checked.identity or Identity()
    target = find_target(session, checked)
    account = target.account or credentials.new_account(session, identity.tenant_id, identity.keap_user_id)
    details: dict[str, object] = {"replaces": True} if credential.replaces else {}
    if credential.refresh_token:
        details["fingerprint"] = credentials.fingerprint(credential.refresh_token)
    if target.imported:  # storing it again would clear an attempt whose outcome is unknown
        kind = EventKind.IMPORTED_SAME
        if checked.identity is None and credentials.open_access_token(account) == credential.access_token:
            account.access_token_expires_at = utc_now()
        if not credentials.is_ours(account):
            credentials.take_over_imported(account)
            target.imported.generation = account.generation
            details["now"] = " It now belongs to the client id in the settings."
    else:
        kind = EventKind.IMPORTED_AGAIN if target.account else EventKind.IMPORTED
        take_identity(account, identity)
        tokens = credential.access_token, credential.refresh_token
        expires_in = 0 if checked.identity is None else credential.expires_in
        credentials.store_imported(account, credential.kind, *tokens, expires_in)
        if credential.refresh_token:
            session.add(
                ImportedToken(fingerprint=details["fingerprint"], account_id=account.id, generation=account.generation)
            )
    words = {"credential": CREDENTIAL_WORDS[credential.kind], "person": person_of(account)}
    record(session, kind, account.id, actor, **words, **details)
    if target.named is not None and target.named is not account:
        give_up_external_id(session, target.named, actor)
    names = {"external_id": tidy_name(credential.external_id), "label": tidy_name(credential.label)}
    given = {name: value for name, value in names.items() if value}
    if target.account:
        rename(session, account, given, actor)
    else:
        account.external_id, account.label = names["external_id"], names["label"]
    session.flush()
    return account.id


def _check_unpresented(account: Account | None, imported: ImportedToken) -> Account:
    """Return the account that got this refresh token by an earlier import and has not presented it since.

    Raises ImportRefused: it may have been presented. It would replace the pair that Keap returned for it.
    """
    if account is None or account.generation != imported.generation or account.attempted_at is not None:
        raise ImportRefused(
            "This refresh token was imported before and may have been used since. It works only once: generate "
            "another.",
            "refresh_token",
        )
    # What Keap refused to another client may be good for ours.
    if account.refused_at is not None and credentials.is_ours(account):
        raise ImportRefused("This refresh token was imported before, and Keap refused it.", "refresh_token")
    return account


def note_in_jobs(session: Session, account_id: int, result: Mapping[str, object]) -> None:
    """Complete the results of the lines of files that the credential of an account, which is locked, came from."""
    lines = select(JobItem).join(Job).where(JobItem.account_id == account_id, Job.kind.in_(IMPORTS))
    for item in session.scalars(lines):
        item.details = {**item.details, **result}
