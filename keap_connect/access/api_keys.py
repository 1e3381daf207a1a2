"""API keys, which authenticate programs. A key is shown once; only a hash of its secret part is stored.

`kc_<public id>_<secret><checksum>`: secret scanners recognize the prefix, the public id finds the row, the secret has
192 random bits, and the CRC-32 separates mistyped keys from guessed ones without a query.
"""

import hmac
import re
import secrets
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from operator import attrgetter
from typing import NamedTuple

from sqlalchemy import bindparam, delete, or_, select, update
from sqlalchemy.orm import Session

from keap_connect.access.sign_ins import check_still_admin
from keap_connect.accounts.schedule import USE_NOTED_EVERY, is_use_noted
from keap_connect.clock import minute, utc_now
from keap_connect.crypto import hash_secret
from keap_connect.database import count_updated, read_all, read_one, read_session, write_one, write_transaction
from keap_connect.errors import APIKeyNotFound, APIKeyRefused, FormRefused, InsufficientScope
from keap_connect.events.history import EventKind, record
from keap_connect.models import LARGEST_ID, Account, AccountEvent, APIKey
from keap_connect.plain_reads import plain_reads

SHAPE = re.compile(r"(kc_([0-9a-f]{16})_([0-9a-f]{48}))([0-9a-f]{8})")
LONGEST_NAME = 80
MOST_ACCOUNTS = 1000
DUMMY_HASH = "0" * 64  # compared with when there is no such key, so that the answer takes as long
KEY_COLUMNS = tuple(APIKey.__mapper__.columns)
# What decides whether the access token is good, and what the answer needs: each further column takes time.
ACCOUNT_COLUMNS = (
    *(Account.id, Account.tenant_id, Account.kind, Account.access_token_sealed, Account.access_token_expires_at),
    *(Account.refresh_token_issued_at, Account.disconnected_at, Account.refused_at, Account.failures, Account.refusals),
    *(Account.failure_reason, Account.outcome_unknown_since, Account.attempted_at, Account.last_used_at),
    *(Account.client_id, Account.token_url),
)
KEY_NAMES, ACCOUNT_NAMES = ([str(column.key) for column in columns] for columns in (KEY_COLUMNS, ACCOUNT_COLUMNS))
KEY_AND_ACCOUNT = select(*KEY_COLUMNS, *ACCOUNT_COLUMNS).where(APIKey.public_id == bindparam("public_id"))
BY_COLUMN = {
    column.key: KEY_AND_ACCOUNT.where(column == bindparam("account")) for column in (Account.id, Account.external_id)
}


class Scope(StrEnum):
    ACCOUNTS_READ = "accounts:read"
    ACCOUNTS_WRITE = "accounts:write"
    TOKENS_READ = "tokens:read"
    METRICS_READ = "metrics:read"
    WEBHOOKS_READ = "webhooks:read"
    WEBHOOKS_WRITE = "webhooks:write"


class APIKeyView(NamedTuple):
    """A key as the rest of the program sees it; `account_ids` is None when all accounts are open to it."""

    id: int
    public_id: str
    name: str
    scopes: list[str]
    account_ids: list[int] | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    @property
    def is_usable(self) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > utc_now())

    @property
    def actor(self) -> str:
        """How the history names it."""
        return f"API key {self.id} ({self.name})"

    def require(self, scope: str) -> None:
        """Raise InsufficientScope unless the key has the scope."""
        if scope not in self.scopes:
            raise InsufficientScope(scope)

    def may_see(self, account_id: int) -> bool:
        """Whether an account is open to it; one that is not looks like a missing one."""
        return self.account_ids is None or account_id in self.account_ids


@dataclass(frozen=True)
class IssuedKey:
    """A new key; `text` is what the program sends, and is shown only once."""

    text: str = field(repr=False)
    row: APIKeyView


@dataclass(frozen=True)
class ShownKey:
    public_id: str
    secret_hash: str = field(repr=False)


def issue_api_key(
    name: str,
    scopes: Iterable[str],
    actor: str,
    expires_at: datetime | None = None,
    account_ids: Iterable[int] | None = None,
) -> IssuedKey:
    """Make a key.

    Args:
        account_ids: the only accounts it is for; None for all, also those to come.

    Raises FormRefused: the name, a scope, the expiry or an account breaks a rule, or the actor is no longer an admin.
    """
    name, wanted = name.strip(), set(scopes)
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise FormRefused(f"Give the key a name of at most {LONGEST_NAME} characters.", "name")
    if not wanted or wanted - set(Scope):
        raise FormRefused(f"Choose what the key may do: {', '.join(Scope)}.", "scopes")
    if expires_at is not None and expires_at <= utc_now():
        raise FormRefused("The key must expire in the future.", "lifetime")
    only = None if account_ids is None else sorted(set(account_ids))
    with write_transaction() as session:
        check_still_admin(session, actor)
        if only is not None:
            _check_accounts(session, only)
        key = APIKey(name=name, account_ids=only, expires_at=expires_at, created_by=actor)
        key.scopes = " ".join(scope for scope in Scope if scope in wanted)
        issued = _add(session, key)
        record(session, EventKind.API_KEY_ISSUED, None, actor, key_id=key.id, name=name, scopes=key.scopes)
    return issued


def rotate_api_key(key_id: int, overlap: timedelta, actor: str) -> IssuedKey:
    """Make a key that may do the same for as long, and let the old one end after the overlap, if not before.

    Raises APIKeyNotFound; FormRefused: it is revoked or expired, or was rotated already.
    """
    get_api_key(key_id)
    with write_transaction() as session:
        check_still_admin(session, actor)
        old, now = session.get_one(APIKey, key_id, with_for_update=True), utc_now()
        if not _view(old).is_usable:
            raise FormRefused("This key is revoked or has expired: create a new one.", "overlap")
        if key_id in _rotated_ids(session):
            raise FormRefused("This key was rotated already: rotate the newer key, or create one.", "overlap")
        lifetime = old.expires_at - old.created_at if old.expires_at else None
        expires_at = now + lifetime if lifetime else None
        key = APIKey(name=old.name, account_ids=old.account_ids, expires_at=expires_at, created_by=actor)
        key.scopes = old.scopes
        issued = _add(session, key)
        old.expires_at = min(old.expires_at or now + overlap, now + overlap)
        details = {"key_id": key.id, "name": old.name, "old_id": old.id, "until": minute(old.expires_at)}
        record(session, EventKind.API_KEY_ROTATED, None, actor, **details)
    return issued


def _add(session: Session, key: APIKey) -> IssuedKey:
    text = _new_text(secrets.token_hex(8))
    shown = parse_api_key(text)
    key.public_id, key.secret_hash, key.created_at = shown.public_id, shown.secret_hash, utc_now()
    session.add(key)
    session.flush()
    return IssuedKey(text, _view(key))


def list_api_keys() -> list[APIKeyView]:
    """Return all keys, the revoked ones too, newest first."""
    return [_view(key) for key in read_all(select(APIKey).order_by(APIKey.id.desc()))]


def list_rotated_ids() -> set[int]:
    """Return the keys that a newer one takes the place of."""
    with read_session() as session:
        return _rotated_ids(session)


def _rotated_ids(session: Session) -> set[int]:
    old_id = AccountEvent.details["old_id"].as_integer()
    return set(session.scalars(select(old_id).where(AccountEvent.kind == EventKind.API_KEY_ROTATED)))


def get_api_key(key_id: int) -> APIKeyView:
    """Return one key, or raise APIKeyNotFound."""
    with read_session() as session:
        key = session.get(APIKey, key_id) if key_id <= LARGEST_ID else None
    if key is None:
        raise APIKeyNotFound(f"There is no API key {key_id}.")
    return _view(key)


def revoke_api_key(key_id: int, actor: str) -> None:
    """Refuse a key from now on, in every process. Raises APIKeyNotFound."""
    key = get_api_key(key_id)
    with write_transaction() as session:
        alive = update(APIKey).where(APIKey.id == key_id, APIKey.revoked_at.is_(None))
        if count_updated(session, alive.values(revoked_at=utc_now())):
            record(session, EventKind.API_KEY_REVOKED, None, actor, key_id=key_id, name=key.name)


def forget_past_keys(age: timedelta) -> None:
    """Delete the keys that were revoked longer ago than this."""
    write_one(delete(APIKey).where(APIKey.revoked_at <= utc_now() - age))


def verify_api_key(text: str) -> APIKeyView:
    """Return the key with this text, and note its use.

    Raises APIKeyRefused: it is malformed, unknown, revoked or expired; all look the same.
    """
    shown = parse_api_key(text)
    row = read_one(select(APIKey).where(APIKey.public_id == shown.public_id))
    key = judge_api_key(row, shown)
    _note_used(key)
    return key


def judge_api_key(row: APIKey | None, shown: ShownKey) -> APIKeyView:
    """Return the key of a row. Raises APIKeyRefused unless it is the one that was shown and may be used."""
    is_right = hmac.compare_digest(shown.secret_hash, row.secret_hash if row else DUMMY_HASH)
    key = _view(row) if row and is_right else None
    if key is None or not key.is_usable:
        raise APIKeyRefused("The API key is not valid.")
    return key


def find_key_and_account(shown: ShownKey, column: str, value: int | str) -> tuple[APIKey, Account] | None:
    """Read a key and an account in one statement; None unless both exist, and the column is unique.

    The key is not judged. Of the account `ACCOUNT_COLUMNS` are read; any other attribute of it raises AttributeError.
    """
    query = BY_COLUMN.get(column)
    found = None if query is None else plain_reads(query).one(public_id=shown.public_id, account=value)
    if found is None:
        return None
    # Without a session and without the ORM's bookkeeping, which would take longer than all the rest of a token call.
    key, row, values = APIKey.__new__(APIKey), Account.__new__(Account), iter(found)
    key.__dict__.update(zip(KEY_NAMES, values, strict=False))
    row.__dict__.update(zip(ACCOUNT_NAMES, values, strict=False))
    return key, row


def parse_api_key(text: str) -> ShownKey:
    """Return the parts of a key, which may not exist. Raises APIKeyRefused if the form or the checksum is wrong."""
    parts = SHAPE.fullmatch(text)
    if parts is None or _checksum(parts[1]) != parts[4]:
        raise APIKeyRefused("The API key is not valid.")
    return ShownKey(parts[2], hash_secret(parts[3]))


def _new_text(public_id: str) -> str:
    text = f"kc_{public_id}_{secrets.token_hex(24)}"
    return text + _checksum(text)


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _note_used(key: APIKeyView) -> None:
    now = utc_now()
    if is_use_noted(key.last_used_at, now):
        return
    unnoted = or_(APIKey.last_used_at.is_(None), APIKey.last_used_at <= now - USE_NOTED_EVERY)
    write_one(update(APIKey).where(APIKey.id == key.id, unnoted).values(last_used_at=now))


def _check_accounts(session: Session, wanted: list[int]) -> None:
    if not 1 <= len(wanted) <= MOST_ACCOUNTS:
        raise FormRefused(f"Name from 1 to {MOST_ACCOUNTS} accounts, or none to open all of them.", "accounts")
    storable = [each for each in wanted if 0 < each <= LARGEST_ID]
    present = set(session.scalars(select(Account.id).where(Account.id.in_(storable))))
    missing = [str(each) for each in wanted if each not in present]
    if missing:
        raise FormRefused(f"There is no account {', '.join(missing[:5])}.", "accounts")


_COLUMNS = attrgetter(*APIKeyView._fields)  # one call for all of them: each token call makes a view


def _view(key: APIKey) -> APIKeyView:
    return APIKeyView(*_COLUMNS(key))._replace(scopes=key.scopes.split())
