"""Stores what a refresh brought, by the fence: only where the account still has the pair that it came from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import partial
from types import SimpleNamespace
from typing import cast

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from keap_connect.accounts.credentials import store_pair
from keap_connect.accounts.schedule import back_off_seconds
from keap_connect.clock import utc_now
from keap_connect.database import write_transaction
from keap_connect.events.history import EventKind, record, record_many
from keap_connect.keap.token_response import TokenResponse
from keap_connect.models import Account
from keap_connect.refresh import timing
from keap_connect.refresh.lease import release

OTHER_TENANT = "Keap answered with a token of another account; it was not stored."


class Outcome(StrEnum):
    """How one attempt ended."""

    STORED = "stored"
    NOT_TAKEN = "not_taken"  # somebody else has the lease, or nobody may: nothing was sent
    NOT_SENT = "not_sent"  # the last look, or a pause of the worker, said no: nothing was sent
    AHEAD = "ahead"  # it came from a pair that a restored backup does not have: it changed nothing yet
    LATE = "late"  # the account moved on meanwhile: the answer changed nothing
    REFUSED = "refused"
    CLIENT_REFUSED = "client_refused"
    FAILED = "failed"
    PAUSED = "braked"  # refused, like so many others that the fault is hardly the account's
    KEPT_ASIDE = "kept_aside"  # the database refused the new pair: it waits in the recovery file


@dataclass(frozen=True)
class NewPair:
    """A granted pair, and the account and the generation of its pair that it came from."""

    account_id: int
    generation: int
    granted: TokenResponse = field(repr=False)
    actor: str


def store_granted(pairs: Sequence[NewPair], is_confirmed: bool = False) -> list[Outcome]:
    """Store new pairs in one transaction, each where it belongs by the generation that it came from; others change
    nothing.

    Args:
        is_confirmed: whether a pair is stored, too, that is ahead of its row, on the operator's word.

    Raises:
        SQLAlchemyError: the database refused them.
    """
    with write_transaction() as session:
        return _store_all(session, pairs, is_confirmed)


def _store_all(session: Session, pairs: Sequence[NewPair], is_confirmed: bool) -> list[Outcome]:
    connection = session.connection()
    # No entities here: loading and flushing them takes longer than everything else in a sweep.
    found = connection.execute(_FENCE, {"sought": [pair.account_id for pair in pairs]})
    accounts = {row.id: cast("Account", SimpleNamespace(**row._mapping)) for row in found}
    outcomes = [_store(session, accounts.get(pair.account_id), pair, is_confirmed) for pair in pairs]
    stored = [pair for pair, outcome in zip(pairs, outcomes, strict=True) if outcome is Outcome.STORED]
    if stored:
        connection.execute(_STORING, [_written(accounts[pair.account_id]) for pair in stored])
        record_many(session, EventKind.REFRESHED, [(pair.account_id, pair.actor) for pair in stored])
    return outcomes


def _store(session: Session, account: Account | None, pair: NewPair, is_confirmed: bool) -> Outcome:
    granted = pair.granted
    tell = partial(record, session, account_id=pair.account_id, actor=pair.actor)
    if account is None or account.disconnected_at is not None:
        return Outcome.LATE
    if account.generation < pair.generation and _is_older(account, granted):
        if not is_confirmed:
            return Outcome.AHEAD
        account.generation = pair.generation
    if account.generation != pair.generation:
        return Outcome.LATE
    if granted.tenant_id and account.tenant_id and granted.tenant_id != account.tenant_id:
        tell(EventKind.OTHER_TENANT_ANSWERED, tenant_id=granted.tenant_id)
        note_failure(session, session.get_one(Account, account.id), OTHER_TENANT, is_outcome_unknown=True)
        return Outcome.FAILED
    if not granted.has_full_scope and granted.scope != account.scope:
        tell(EventKind.SCOPE_CHANGED, scope=granted.scope)
    store_pair(account, granted)
    account.refreshed_at = utc_now()
    return Outcome.STORED


def _is_older(account: Account, granted: TokenResponse) -> bool:
    """Whether the stored access token ends before this one: nobody has reconnected since the backup was restored."""
    return account.access_token_expires_at is None or account.access_token_expires_at < granted.expires_at


def _written(account: Account) -> dict[str, object]:
    values = {name: value for name, value in vars(account).items() if name not in _ONLY_READ}
    return {**values, "sought": account.id}


_ONLY_READ = ("id", "tenant_id", "disconnected_at", "last_used_at")
_REPLACED = ("generation", "scope", "refresh_token_sealed", "refresh_token_issued_at", "access_token_expires_at")
_FENCE = (
    select(*(Account.__table__.c[name] for name in (*_ONLY_READ, *_REPLACED)))
    .where(Account.id.in_(bindparam("sought", expanding=True)))
    .order_by(Account.id)  # as everybody who locks several rows
    .with_for_update()
)
_STORING = update(Account).where(Account.id == bindparam("sought"))


def set_aside(account_id: int, reason: str) -> None:
    """Note a failure of our own, such as a token that does not open, so that the account waits its turn.

    It ends no lease: a process that has a newer key may have one.
    """
    with write_transaction() as session:
        account = session.get(Account, account_id, with_for_update=True)
        if account is not None:
            _back_off(account, reason)


def note_failure(
    session: Session, account: Account, reason: str, is_outcome_unknown: bool, retry_after_seconds: int | None = None
) -> None:
    """Write a failure down: back off, and while Keap may have rotated, keep the marker and let nobody present it."""
    _back_off(account, reason, retry_after_seconds)
    rest(session, account, is_outcome_unknown=is_outcome_unknown)


def rest(session: Session, account: Account, *, is_outcome_unknown: bool) -> None:
    """End the lease; a token in doubt keeps its marker and rests, since its holder may still come back."""
    if is_outcome_unknown:
        account.outcome_unknown_since = account.outcome_unknown_since or account.attempted_at
    wait = timing.UNKNOWN_OUTCOME_WAIT_SECONDS if is_outcome_unknown else 0
    release(session, account, clear_marker=not is_outcome_unknown, block_seconds=wait)


def _back_off(account: Account, reason: str, retry_after_seconds: int | None = None) -> None:
    now = utc_now()
    account.failures += 1
    account.failed_at, account.failure_reason = now, reason
    account.next_refresh_at = now + timedelta(seconds=back_off_seconds(account.failures, retry_after_seconds))
