"""The one place that presents a refresh token.

An attempt is marked durably, by one conditional UPDATE that only one caller wins, before anything is sent; the
answer is stored by the generation that it belongs to, so a late one changes nothing. A token whose fate is unknown
is not presented again for DOUBT_WAIT.
"""

from datetime import timedelta
from typing import NoReturn

from sqlalchemy import or_, update
from sqlalchemy.orm import Session

from keap_connect.accounts.credentials import fingerprint, open_access_token, open_refresh_token, store_pair
from keap_connect.accounts.directory import get_account
from keap_connect.accounts.history import EventKind, record
from keap_connect.clock import utc_now
from keap_connect.database import count_updated, write_transaction
from keap_connect.errors import (
    AccountDisconnected,
    ClientMisconfigured,
    ReconnectRequired,
    TemporarilyUnavailable,
)
from keap_connect.keap.judgement import Judgement, Verdict
from keap_connect.keap.token_endpoint import refresh
from keap_connect.models import Account
from keap_connect.runtime import runtime

DOUBT_WAIT = timedelta(seconds=120)
REFRESH_WHEN_LEFT = timedelta(seconds=60)


def valid_access_token(account_id: int, actor: str) -> str:
    """Return an access token that has not expired; refresh first when under a minute is left.

    A token that is still valid is served even when refreshing fails.

    Raises:
        AccountNotFound, AccountDisconnected, ReconnectRequired, TemporarilyUnavailable, ClientMisconfigured.
    """
    account = get_account(account_id)
    now = utc_now()
    expires_at = account.access_token_expires_at
    if expires_at is not None and expires_at <= now + REFRESH_WHEN_LEFT:
        try:
            refresh_account(account_id, actor)
        except (ReconnectRequired, TemporarilyUnavailable, ClientMisconfigured):
            if expires_at <= utc_now():
                raise
        account = get_account(account_id)
    token = open_access_token(account)
    if token is None:
        raise AccountDisconnected("This account was disconnected; its tokens are forgotten.")
    return token


def refresh_account(account_id: int, actor: str) -> None:
    """Trade the account's refresh token for a new pair and store it.

    Raises:
        AccountNotFound: there is none.
        AccountDisconnected: its tokens were forgotten.
        ReconnectRequired: Keap refused for good, or there is no refresh token.
        TemporarilyUnavailable: no usable answer, or an attempt is under way or in doubt; the tokens are kept.
        ClientMisconfigured: Keap refused our client; the account is fine.
    """
    account, refresh_token = _mark_attempt(account_id)
    judgement = refresh(runtime().keap, refresh_token)
    with write_transaction() as session:
        current = session.get(Account, account_id, with_for_update=True)
        if current is None or current.generation != account.generation:
            raise TemporarilyUnavailable("The account was changed meanwhile; the late answer was dropped.", 1)
        is_stored = _note(session, current, judgement, actor)
    if not is_stored:
        _raise_refusal(judgement)


def _mark_attempt(account_id: int) -> tuple[Account, str]:
    account = get_account(account_id)
    refresh_token = open_refresh_token(account)
    if account.disconnected_at is not None:
        raise AccountDisconnected("This account was disconnected; its tokens are forgotten.")
    if refresh_token is None:
        raise ReconnectRequired("No refresh token is stored for this account; it has to be reconnected.")
    if (account.client_id, account.token_url) != (runtime().keap.client_id, runtime().keap.token_url):
        raise TemporarilyUnavailable(
            "This grant belongs to another client id or token URL than the settings name; it is never sent elsewhere."
        )
    now = utc_now()
    with write_transaction() as session:
        marked = count_updated(
            session,
            update(Account)
            .where(
                Account.id == account_id,
                Account.generation == account.generation,
                or_(Account.attempted_at.is_(None), Account.attempted_at <= now - DOUBT_WAIT),
            )
            .values(attempt_fingerprint=fingerprint(refresh_token), attempted_at=now),
        )
    if marked != 1:
        raise TemporarilyUnavailable(
            "A refresh of this account is under way, or its answer was lost a moment ago. Try again in two minutes.",
            int(DOUBT_WAIT.total_seconds()),
        )
    return account, refresh_token


def _note(session: Session, account: Account, judgement: Judgement, actor: str) -> bool:
    """Write down what an answer means for the account; True when a new pair is stored."""
    granted = judgement.token_response
    if granted and granted.tenant_id and account.tenant_id and granted.tenant_id != account.tenant_id:
        record(session, EventKind.OTHER_TENANT_ANSWERED, account.id, actor, tenant_id=granted.tenant_id)
        _note_failure(account, "Keap answered with a token of another account.", in_doubt=True)
    elif granted:
        store_pair(account, granted)
        account.refreshed_at = utc_now()
        record(session, EventKind.REFRESHED, account.id, actor)
        return True
    elif judgement.verdict is Verdict.REFUSED_FOR_GOOD:
        account.refused_at = utc_now()
        _note_failure(account, judgement.reason, in_doubt=False)
        record(session, EventKind.REFRESH_REFUSED, account.id, actor, reason=judgement.reason)
    else:
        _note_failure(account, judgement.reason, in_doubt=judgement.may_have_rotated)
        record(session, EventKind.REFRESH_FAILED, account.id, actor, reason=judgement.reason)
    return False


def _note_failure(account: Account, reason: str, in_doubt: bool) -> None:
    account.failures += 1
    account.failed_at = utc_now()
    account.failure_reason = reason
    if not in_doubt:
        account.attempt_fingerprint = account.attempted_at = None


def _raise_refusal(judgement: Judgement) -> NoReturn:
    if judgement.verdict is Verdict.REFUSED_FOR_GOOD:
        raise ReconnectRequired(judgement.reason)
    if judgement.verdict is Verdict.CLIENT_MISCONFIGURED:
        raise ClientMisconfigured(judgement.reason)
    if judgement.verdict is Verdict.GRANTED:
        raise TemporarilyUnavailable("Keap answered with a token of another account; it was not stored.")
    raise TemporarilyUnavailable(judgement.reason, judgement.retry_after_seconds or 30)
