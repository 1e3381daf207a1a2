"""Random values that let one admin take one step within a short time; stored as hashes only."""

import secrets
from datetime import timedelta

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session

from keap_connect.clock import utc_now
from keap_connect.crypto import hash_secret
from keap_connect.models import OneTimeToken, TokenPurpose

LIFETIMES = {
    TokenPurpose.NEW_PASSWORD: timedelta(hours=24),
    TokenPurpose.SECOND_STEP: timedelta(minutes=5),
    TokenPurpose.SIGN_IN: timedelta(hours=1),
}


def issue_one_time_token(
    session: Session, purpose: TokenPurpose, admin_id: int, lifetime: timedelta | None = None, token: str | None = None
) -> str:
    """Return a new token. It replaces older ones, but not at the second step, where an admin may use two browsers.

    Args:
        token: one that is made already, of a mail.
    """
    token = token or secrets.token_urlsafe(24)
    now = utc_now()
    session.execute(delete(OneTimeToken).where(OneTimeToken.expires_at <= now))
    if purpose is not TokenPurpose.SECOND_STEP:
        session.execute(delete(OneTimeToken).where(OneTimeToken.admin_id == admin_id, OneTimeToken.purpose == purpose))
    expires_at = now + (lifetime or LIFETIMES[purpose])
    session.add(OneTimeToken(token_hash=hash_secret(token), purpose=purpose, admin_id=admin_id, expires_at=expires_at))
    return token


def find_one_time_token(session: Session, purpose: TokenPurpose, token: str | None) -> OneTimeToken | None:
    """Return a token that is still valid."""
    return session.scalar(select(OneTimeToken).where(*_valid(purpose, token)))


def use_one_time_token(session: Session, purpose: TokenPurpose, token: str | None) -> int | None:
    """Delete a valid token and return its admin's id; of several callers at once, one gets it."""
    return session.scalar(delete(OneTimeToken).where(*_valid(purpose, token)).returning(OneTimeToken.admin_id))


def _valid(purpose: TokenPurpose, token: str | None) -> tuple[ColumnElement[bool], ...]:
    is_this_one = OneTimeToken.token_hash == hash_secret(token or "")
    return is_this_one, OneTimeToken.purpose == purpose, OneTimeToken.expires_at > utc_now()
