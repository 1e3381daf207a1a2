"""A program's key and the account it asks for, seen in one look: for the call that is made thousands of times.

It decides nothing that is in any way special: what is not plainly so is left to the functions that know all cases.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, cast

from flask import Flask
from sqlalchemy import bindparam, select

from keap_connect.access.api_keys import USED_EVERY, Scope, ShownKey
from keap_connect.accounts.schedule import USE_NOTED_EVERY
from keap_connect.accounts.state import AccountState, state_of
from keap_connect.database import UTCDateTime, plain_reads
from keap_connect.models import Account, APIKey

KEY_COLUMNS = (
    APIKey.id,
    APIKey.name,
    APIKey.secret_hash,
    APIKey.scopes,
    APIKey.account_ids,
    APIKey.expires_at,
    APIKey.revoked_at,
    APIKey.last_used_at,
)
ACCOUNT_COLUMNS = (
    Account.id,
    Account.tenant_id,
    Account.kind,
    Account.access_token_sealed,
    Account.access_token_expires_at,
    Account.refresh_token_issued_at,
    Account.disconnected_at,
    Account.refused_at,
    Account.failures,
    Account.refusals,
    Account.failure_reason,
    Account.outcome_unknown_since,
    Account.attempted_at,
    Account.last_used_at,
)


TIMES = tuple(
    place for place, column in enumerate((*KEY_COLUMNS, *ACCOUNT_COLUMNS)) if isinstance(column.type, UTCDateTime)
)


class Facts(NamedTuple):
    """The row, with the account's columns under their own names."""

    key_id: int
    key_name: str
    key_secret_hash: str
    key_scopes: str
    key_account_ids: object
    key_expires_at: datetime | None
    key_revoked_at: datetime | None
    key_last_used_at: datetime | None
    id: int
    tenant_id: str | None
    kind: str
    access_token_sealed: bytes | None
    access_token_expires_at: datetime | None
    refresh_token_issued_at: datetime | None
    disconnected_at: datetime | None
    refused_at: datetime | None
    failures: int
    refusals: int
    failure_reason: str | None
    outcome_unknown_since: datetime | None
    attempted_at: datetime | None
    last_used_at: datetime | None


class Glances:
    """Looks at keys and accounts of one app."""

    def __init__(self, app: Flask) -> None:
        key = APIKey.public_id == bindparam("public_id")
        columns = select(*KEY_COLUMNS, *ACCOUNT_COLUMNS)
        by_id = columns.where(key, Account.id == bindparam("account"))
        by_external_id = columns.where(key, Account.external_id == bindparam("account"))
        with app.app_context():
            self._by_id = plain_reads(by_id)
            self._by_external_id = plain_reads(by_external_id)

    def look(self, shown: ShownKey, account: int | str) -> Facts | None:
        """Return what is stored of the key and of the account with this id or external id, or None.

        Raises:
            TemporarilyUnavailable: the database does not answer.
        """
        reads = self._by_id if isinstance(account, int) else self._by_external_id
        row = reads.one(public_id=shown.public_id, account=account)
        if row is None:
            return None
        values = list(row)
        for place in TIMES:
            if isinstance(values[place], str):  # SQLite keeps a time as a text, in UTC
                values[place] = datetime.fromisoformat(values[place]).replace(tzinfo=UTC)
        return Facts._make(values)


def may_have_token(facts: Facts, shown: ShownKey, now: datetime) -> bool:
    """Whether the key is right, in use, and plainly allowed to have this account's token."""
    used_at, expires_at, only = facts.key_last_used_at, facts.key_expires_at, facts.key_account_ids
    return (
        shown.fits(facts.key_secret_hash)
        and facts.key_revoked_at is None
        and (expires_at is None or expires_at > now)
        and Scope.TOKENS_READ in facts.key_scopes.split(" ")
        and (only is None or facts.id in _ids(only))
        and used_at is not None
        and used_at > now - USED_EVERY
    )


def holds(facts: Facts, seconds: int, now: datetime) -> bool:
    """Whether the account is simply active, in use, and its token lasts for so long."""
    expires_at, asked_at = facts.access_token_expires_at, facts.last_used_at
    return (
        facts.access_token_sealed is not None
        and expires_at is not None
        and expires_at > now + timedelta(seconds=seconds)
        and asked_at is not None
        and asked_at > now - USE_NOTED_EVERY
        and state_of(cast(Account, facts), now) is AccountState.ACTIVE
    )


def _ids(stored: object) -> list[int]:
    ids: list[int] = json.loads(stored) if isinstance(stored, str) else cast("list[int]", stored)
    return ids
