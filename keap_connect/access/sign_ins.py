"""Sign-ins kept on the server: the cookie holds a random id, the database its hash, and ending it really ends it."""

import hashlib
import secrets
from datetime import timedelta

from sqlalchemy import delete, select, update

from keap_connect.clock import utc_now
from keap_connect.database import count_updated, read_session, write_transaction
from keap_connect.models import Account, Admin, AuthorizationFlow, SignIn

ID_BYTES = 32
IDLE_LIMIT = timedelta(minutes=30)
ABSOLUTE_LIMIT = timedelta(hours=12)
SEEN_EVERY = timedelta(minutes=1)


def sign_in_admin(admin: Admin) -> str:
    """Open a session for an admin and return its id, for the cookie alone."""
    return _open(SignIn(admin_id=admin.id))


def sign_in_person(flow: AuthorizationFlow) -> str | None:
    """Open a session for the customer who has just authorized; once for each flow, then None.

    What they may see is the account they connected and all of the same Keap user.
    """
    with write_transaction() as session:
        claimed = count_updated(
            session,
            update(AuthorizationFlow)
            .where(
                AuthorizationFlow.id == flow.id,
                AuthorizationFlow.person_signed_in_at.is_(None),
                AuthorizationFlow.account_id.is_not(None),
                AuthorizationFlow.ended_at > utc_now() - timedelta(minutes=10),
            )
            .values(person_signed_in_at=utc_now()),
        )
        account = session.get(Account, flow.account_id) if flow.account_id else None
    if claimed != 1 or account is None:
        return None
    return _open(SignIn(account_id=account.id, keap_user_id=account.keap_user_id))


def find_admin(session_id: str | None, *, is_sign_of_life: bool = True) -> Admin | None:
    """Return the admin that a cookie belongs to, if its session still lives.

    Args:
        is_sign_of_life: False for what a page asks by itself, which must not keep an unattended session alive.
    """
    found = _find(session_id, is_sign_of_life)
    with read_session() as session:
        return session.get(Admin, found.admin_id) if found and found.admin_id else None


def find_person(session_id: str | None) -> SignIn | None:
    """Return the customer's sign-in that a cookie belongs to, if it still lives."""
    found = _find(session_id)
    return found if found and found.account_id else None


def end_sign_in(session_id: str | None) -> None:
    """End a session on the server: a copied cookie is worth nothing afterwards."""
    if session_id:
        with write_transaction() as session:
            session.execute(delete(SignIn).where(SignIn.id_hash == _hash(session_id)))


def _open(sign_in: SignIn) -> str:
    session_id = secrets.token_urlsafe(ID_BYTES)
    now = utc_now()
    sign_in.id_hash = _hash(session_id)
    sign_in.created_at = sign_in.last_seen_at = now
    sign_in.expires_at = now + ABSOLUTE_LIMIT
    with write_transaction() as session:
        session.execute(delete(SignIn).where(SignIn.expires_at <= now))
        session.add(sign_in)
    return session_id


def _find(session_id: str | None, is_sign_of_life: bool = True) -> SignIn | None:
    if not session_id:
        return None
    now = utc_now()
    alive = select(SignIn).where(
        SignIn.id_hash == _hash(session_id), SignIn.expires_at > now, SignIn.last_seen_at > now - IDLE_LIMIT
    )
    with read_session() as session:
        found = session.scalar(alive)
    if found and is_sign_of_life and found.last_seen_at <= now - SEEN_EVERY:
        with write_transaction() as session:
            session.execute(update(SignIn).where(SignIn.id_hash == found.id_hash).values(last_seen_at=now))
    return found


def _hash(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()
