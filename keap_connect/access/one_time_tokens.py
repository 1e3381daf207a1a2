"""Random values that let one admin take one step within a short time; stored as hashes only."""

import secrets
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from keap_connect.clock import utc_now
from keap_connect.crypto import hash_secret
from keap_connect.models import OneTimeToken, TokenPurpose

TOKEN_BYTES = 24
LIFETIMES = {TokenPurpose.NEW_PASSWORD: timedelta(hours=24), TokenPurpose.SECOND_STEP: timedelta(minutes=5)}


def issue_one_time_token(session: Session, purpose: TokenPurpose, admin_id: int) -> str:
    """Return a new token. A newer one for a new password ends the older ones."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    now = utc_now()
    session.execute(delete(OneTimeToken).where(OneTimeToken.expires_at <= now))
    if purpose is TokenPurpose.NEW_PASSWORD:
        session.execute(delete(OneTimeToken).where(OneTimeToken.admin_id == admin_id, OneTimeToken.purpose == purpose))
    expires_at = now + LIFETIMES[purpose]
    session.add(OneTimeToken(token_hash=hash_secret(token), purpose=purpose, admin_id=admin_id, expires_at=expires_at))
    return token


def find_one_time_token(session: Session, purpose: TokenPurpose, token: str | None) -> OneTimeToken | None:
    """Return a token that still holds."""
    if not token:
        return None
    query = select(OneTimeToken).where(
        OneTimeToken.token_hash == hash_secret(token),
        OneTimeToken.purpose == purpose,
        OneTimeToken.expires_at > utc_now(),
    )
    return session.scalar(query)


def use_one_time_token(session: Session, purpose: TokenPurpose, token: str | None) -> int | None:
    """Use a token up, and return whose it was; of several at once, one gets it."""
    if not token:
        return None
    return session.scalar(
        delete(OneTimeToken)
        .where(
            OneTimeToken.token_hash == hash_secret(token),
            OneTimeToken.purpose == purpose,
            OneTimeToken.expires_at > utc_now(),
        )
        .returning(OneTimeToken.admin_id)
    )


def end_one_time_tokens(session: Session, admin_id: int) -> None:
    """End all that an admin has open."""
    session.execute(delete(OneTimeToken).where(OneTimeToken.admin_id == admin_id))
