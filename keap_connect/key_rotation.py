"""Seals with the first of TOKEN_KEYS what an older key has sealed, while the service runs.

A value is replaced only if it is still the one that was read, so a refresh or a reconnect meanwhile wins. Batches are
committed one by one: a run that was killed can be started again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import InstrumentedAttribute

from keap_connect.accounts.credentials import forget_credential
from keap_connect.accounts.directory import lock_accounts
from keap_connect.clock import utc_now
from keap_connect.database import count_updated, read_one, read_rows, write_transaction
from keap_connect.deployment import KEY_CHECK, KEY_CHECK_TEXT
from keap_connect.errors import SealBroken, SettingsError, TemporarilyUnavailable
from keap_connect.models import Account, Admin, AuthorizationFlow, CredentialKind, JobItem, KeyCheck, WebhookEndpoint
from keap_connect.refresh.heartbeat import list_living, list_without_first_key
from keap_connect.refresh.recovery import list_kept
from keap_connect.refresh.replaying import replay
from keap_connect.services import services

BATCH = 200
MOST_ROUNDS = 3
OTHERS_FIRST = (
    "These processes seal with another key, or have not said with which one: {}. Restart every process with the new "
    "TOKEN_KEYS first. One that was killed counts for a minute."
)

THEY_HAVE_THE_KEY = (
    "Nothing was deleted: these processes seal with another key, or have not said with which one: {}. Do not end them: "
    "search for their key. One that was killed counts for a minute."
)
STILL_RUN = (
    "Nothing was deleted: these processes run, and their TOKEN_KEYS may have an older key, too, which opens what these "
    "cannot: {}. Compare their TOKEN_KEYS, then end them. One that was killed counts for a minute."
)

Column = tuple[InstrumentedAttribute[Any], InstrumentedAttribute[bytes | None], str, str]
# The column that names the row, the sealed column, and the first and last part of the context of the seal.
COLUMNS: tuple[Column, ...] = (
    (Account.id, Account.access_token_sealed, "account", "access_token"),
    (Account.id, Account.refresh_token_sealed, "account", "refresh_token"),
    (Admin.id, Admin.totp_seed_sealed, "admin", "totp_seed"),
    (AuthorizationFlow.ref, AuthorizationFlow.code_verifier_sealed, "flow", "code_verifier"),
    (AuthorizationFlow.ref, AuthorizationFlow.pending_grant_sealed, "flow", "held_grant"),
    (JobItem.ref, JobItem.work_sealed, "job_item", "work"),
    (WebhookEndpoint.id, WebhookEndpoint.secret_sealed, "webhook_endpoint", "secret"),
    (WebhookEndpoint.id, WebhookEndpoint.old_secret_sealed, "webhook_endpoint", "old_secret"),
)


@dataclass
class Resealed:
    resealed: int
    reasons: list[str]  # why the older keys must stay in TOKEN_KEYS; if there is none, they may be removed


def reseal() -> Resealed:
    """Seal everything again that the first key has not sealed, once all living processes have reported that key.

    Raises SQLAlchemyError: the database failed; the values sealed so far stay sealed.
    """
    if others := list_without_first_key():
        return Resealed(0, [OTHERS_FIRST.format(", ".join(others[:5]))])
    total, closed, found = 0, set[str](), 1
    for _ in range(MOST_ROUNDS):
        found = sum(_reseal_column(column, closed) for column in COLUMNS)
        total += found
        if not found:
            break
    reasons = [f"{len(closed)} values do not open with any key: {', '.join(sorted(closed)[:5])}."] if closed else []
    if found:
        reasons.append("Something still seals with an older key: restart every process with the new TOKEN_KEYS first.")
    if others := list_without_first_key():  # it was started meanwhile
        reasons.append(OTHERS_FIRST.format(", ".join(others[:5])))
    if list_kept():
        reasons.append("New token pairs wait in recovery files: start a worker, which stores them.")
    if not reasons:
        total += _reseal_check()  # last: it shows that the first key opens all the rest
    return Resealed(total, reasons)


def list_closed_values() -> Iterator[tuple[Column, Any]]:
    """Open every sealed value; give the column and the name of the row of those that no key opens."""
    cipher = services().cipher
    for column in COLUMNS:
        name, sealed_column, table, what = column
        for rows in _batches(name, sealed_column):
            for key, sealed in rows:
                try:
                    cipher.open(sealed, table, key, what)
                except SealBroken:
                    yield column, key


def drop_closed(may_be_all: bool) -> int:
    """Delete the tokens that no key opens, and return of how many accounts; these must be reconnected then.

    The key check is sealed anew last: until then no process starts.

    Raises:
        SettingsError: no stored value opens, as with a mistyped key, and `may_be_all` is false.
        TemporarilyUnavailable: a process lives, and may have the key.
        SQLAlchemyError: the database does not answer.
    """
    if others := list_without_first_key():
        raise TemporarilyUnavailable(THEY_HAVE_THE_KEY.format(", ".join(others[:5])))
    if living := sorted(list_living()):
        raise TemporarilyUnavailable(STILL_RUN.format(", ".join(living[:5])))
    replay()  # a row that does not open may get a pair that opens
    closed = list(list_closed_values())
    if closed and not may_be_all:
        stored = sum(read_one(select(func.count(sealed))) or 0 for _, sealed, _, _ in COLUMNS)
        if len(closed) >= stored:
            reason = "Nothing was deleted: TOKEN_KEYS opens none of the stored values, as if it were mistyped."
            raise SettingsError(f"{reason} If every copy of the old key is gone, add --all.")
    dropped, ids = 0, sorted({int(key) for column, key in closed if column[2] == "account"})
    for first in range(0, len(ids), BATCH):
        with write_transaction() as session:
            chosen = lock_accounts(session, Account.id.in_(ids[first : first + BATCH]))
            dropped += sum(map(_drop_still_closed, chosen.values()))
    _reseal_check()
    return dropped


def _drop_still_closed(account: Account) -> bool:
    """Delete what does not open of a locked row, and return whether the account must be reconnected.

    It may open again, as after a reconnect since the rows were listed.
    """
    is_access_closed, is_refresh_closed = _is_closed(account, "access_token"), _is_closed(account, "refresh_token")
    if is_access_closed and account.refresh_token_sealed and not is_refresh_closed:
        account.access_token_sealed, account.next_refresh_at = None, utc_now()  # a refresh brings another one
    if not is_refresh_closed and (account.refresh_token_sealed or not is_access_closed):
        return False
    forget_credential(account)
    # So its state says that there is no refresh token.
    account.kind, account.access_token_expires_at = CredentialKind.ACCESS_TOKEN_ONLY, utc_now()
    return True


def _is_closed(account: Account, what: str) -> bool:
    sealed = getattr(account, f"{what}_sealed")
    try:
        return bool(sealed) and not services().cipher.open(sealed, "account", account.id, what)
    except SealBroken:
        return True


def _reseal_column(column: Column, closed: set[str]) -> int:
    name, sealed_column, table, what = column
    cipher, done = services().cipher, 0
    for rows in _batches(name, sealed_column):
        fresh = []
        for key, sealed in rows:
            if not cipher.is_newest(sealed):
                context = (table, key, what)
                try:
                    fresh.append((key, sealed, cipher.seal(cipher.open(sealed, *context), *context)))
                except SealBroken:
                    closed.add(f"{table}:{key}:{what}")
        if fresh:
            with write_transaction() as session:
                for key, sealed, resealed in fresh:
                    unchanged = update(name.class_).where(name == key, sealed_column == sealed)
                    done += count_updated(session, unchanged.values({sealed_column: resealed}))
    return done


def _batches(name: InstrumentedAttribute[Any], sealed: InstrumentedAttribute[bytes | None]) -> Iterator[Sequence[Any]]:
    query = select(name, sealed).where(sealed.is_not(None)).order_by(name).limit(BATCH)
    after = None
    while True:
        rows = read_rows(query if after is None else query.where(name > after))
        if not rows:
            return
        yield rows
        after = rows[-1][0]


def _reseal_check() -> int:
    with write_transaction() as session:
        check = session.get_one(KeyCheck, 1)
        if services().cipher.is_newest(check.sealed):
            return 0
        check.sealed = services().cipher.seal(KEY_CHECK_TEXT, KEY_CHECK)
        return 1
