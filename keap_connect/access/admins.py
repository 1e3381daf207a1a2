"""Admins: made by command, signed in by password (argon2id), throttled per e-mail and per network address."""

import hashlib
import math
from datetime import datetime, timedelta

from argon2.exceptions import VerificationError
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from keap_connect.accounts.history import Actor, EventKind, record
from keap_connect.clock import utc_now
from keap_connect.database import read_session, take_turns, write_transaction
from keap_connect.errors import PasswordRefused, TooManyAttempts
from keap_connect.models import Admin, SignInAttempt
from keap_connect.runtime import runtime

SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 1024
ATTEMPTS_PER_ADDRESS = 20
ATTEMPTS_PER_EMAIL = 10
WINDOW = timedelta(minutes=15)
KEPT_FOR = timedelta(days=1)


def create_admin(email: str, password: str, *, only_first: bool = False) -> Admin | None:
    """Make an admin; with only_first, return None when there is one already.

    Raises:
        PasswordRefused: the password breaks a rule, the e-mail address is none or is taken.
    """
    email = email.strip().lower()
    if "@" not in email or len(email) > 254:
        raise PasswordRefused("Give the admin's e-mail address, such as ann@example.com.")
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise PasswordRefused(f"The password needs at least {SHORTEST_PASSWORD} characters.")
    password_hash = runtime().password_hasher.hash(password)
    with write_transaction() as session:
        if only_first and session.scalar(select(func.count(Admin.id))):
            return None
        if session.scalar(select(Admin).where(Admin.email == email)):
            raise PasswordRefused(f"There is an admin {email} already.")
        admin = Admin(email=email, password_hash=password_hash, created_at=utc_now())
        session.add(admin)
        record(session, EventKind.ADMIN_CREATED, None, Actor.COMMAND_LINE, email=email)
    return admin


def verify_password(email: str, password: str, address: str) -> Admin | None:
    """Return the admin whose password this is, else None; unknown and wrong take the same time.

    Raises:
        TooManyAttempts: too many failures for this e-mail or network address; nothing was checked.
    """
    email = email.strip().lower()
    limits = {f"address:{address}": ATTEMPTS_PER_ADDRESS, f"email:{_hash(email)}": ATTEMPTS_PER_EMAIL}
    with write_transaction() as session:
        waits = [_seconds_to_wait(session, subject, most) for subject, most in limits.items()]
        if any(waits):
            raise TooManyAttempts(max(waits))
        # Counted before the slow check, so that parallel guesses cannot slip through; forgiven on success.
        attempts = [SignInAttempt(subject=subject, at=utc_now()) for subject in limits]
        session.add_all(attempts)
        session.execute(delete(SignInAttempt).where(SignInAttempt.at <= utc_now() - KEPT_FOR))
    with read_session() as session:
        admin = session.scalar(select(Admin).where(Admin.email == email))
    stored = admin.password_hash if admin else runtime().nobodys_hash
    try:
        runtime().password_hasher.verify(stored, password)
    except VerificationError:
        admin = None
    with write_transaction() as session:
        kind = EventKind.ADMIN_SIGNED_IN if admin else EventKind.ADMIN_SIGN_IN_REFUSED
        record(session, kind, None, address, email=admin.email if admin else None)
        if admin:
            ids = [attempt.id for attempt in attempts]
            session.execute(delete(SignInAttempt).where(SignInAttempt.id.in_(ids)))
            _rehash(session, admin, password)
    return admin


def _seconds_to_wait(session: Session, subject: str, most: int) -> int:
    """Return 0 when there may be another attempt now. Attempts of one subject are counted one after the other."""
    take_turns(session, subject)
    since = utc_now() - WINDOW
    count, oldest = session.execute(
        select(func.count(SignInAttempt.id), func.min(SignInAttempt.at)).where(
            SignInAttempt.subject == subject, SignInAttempt.at > since
        )
    ).one()
    if count < most:
        return 0
    ends: datetime = oldest + WINDOW
    return max(math.ceil((ends - utc_now()).total_seconds()), 1)


def _rehash(session: Session, admin: Admin, password: str) -> None:
    """Raise the cost of a stored hash when today's is higher."""
    hasher = runtime().password_hasher
    if hasher.check_needs_rehash(admin.password_hash):
        session.get_one(Admin, admin.id).password_hash = hasher.hash(password)


def _hash(email: str) -> str:
    return hashlib.sha256(email.encode()).hexdigest()[:32]
