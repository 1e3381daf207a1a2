"""Passwords of admins: verified with argon2id, throttled, changed by whoever knows the old one or holds a link."""

import logging

from argon2.exceptions import VerificationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from keap_connect.access.client_networks import network_of
from keap_connect.access.known_browsers import is_known_browser_of
from keap_connect.access.one_time_tokens import (
    end_one_time_tokens,
    find_one_time_token,
    issue_one_time_token,
    use_one_time_token,
)
from keap_connect.access.password_rules import check_password
from keap_connect.access.rate_limits import rate_limits
from keap_connect.access.sign_ins import end_all_sign_ins
from keap_connect.access.throttle import count_attempt, forgive, hashed
from keap_connect.database import read_session, write_transaction
from keap_connect.errors import AdminNotFound, PasswordLinkGone, TooManyAttempts
from keap_connect.events.history import EventKind, record
from keap_connect.models import Admin, TokenPurpose
from keap_connect.services import services

log = logging.getLogger(__name__)
ATTEMPTS_PER_ADDRESS = 20
ATTEMPTS_PER_EMAIL = 10
ATTEMPTS_PER_DEVICE = 10
ATTEMPTS_OF_STRANGERS = 1_000  # bounds what they make us store and compute, however many addresses they have
REFUSALS_IN_HISTORY = 100  # the log has each of them
ATTEMPTS_AGAIN = 10
NOT_CHOSEN = ""  # in the place of the hash, while an admin has not chosen a password yet


def verify_password(email: str, password: str, address: str, device: str | None = None) -> Admin | None:
    """Return the admin whose password this is, else None; unknown and wrong take the same time.

    A browser that this admin has signed in with before has a limit of its own, whatever others guess meanwhile.

    Raises:
        TooManyAttempts: too many failures for this device, e-mail or network address, or in all; nothing was checked.
    """
    email = email.strip().lower()
    with read_session() as session:
        admin = session.scalar(select(Admin).where(Admin.email == email))
    limits = {
        f"address:{network_of(address)}": ATTEMPTS_PER_ADDRESS,
        f"email:{hashed(email)}": ATTEMPTS_PER_EMAIL,
        "strangers": ATTEMPTS_OF_STRANGERS,
    }
    if admin and device and is_known_browser_of(admin, device):
        limits = {f"device:{hashed(device)}": ATTEMPTS_PER_DEVICE}
    attempts = count_attempt(limits)
    is_right = _is_right(admin, password)
    if admin is None or not is_right:
        _note_refusal(address)
        return None
    with write_transaction() as session:
        forgive(session, attempts)
        _rehash(session, admin, password)
    return admin


def verify_again(admin: Admin, password: str) -> bool:
    """Whether an admin who is signed in knows the password; asked before dangerous acts.

    Raises:
        TooManyAttempts: too many wrong ones; nothing was checked.
    """
    attempts = count_attempt({f"again:{admin.id}": ATTEMPTS_AGAIN})
    is_right = _is_right(admin, password)
    with write_transaction() as session:
        if is_right:
            forgive(session, attempts)
        else:
            record(session, EventKind.PASSWORD_REFUSED, None, admin.email)
    return is_right


def change_password(admin: Admin, password: str) -> None:
    """Store a new password.

    Raises:
        PasswordRefused: it breaks a rule.
    """
    password_hash = make_hash(password, admin.email)
    with write_transaction() as session:
        session.get_one(Admin, admin.id).password_hash = password_hash
        end_one_time_tokens(session, admin.id)
        record(session, EventKind.PASSWORD_CHANGED, None, admin.email, email=admin.email)


def issue_password_link(email: str, actor: str) -> str:
    """Return a link by which an admin may choose a new password, once. It replaces no second factor.

    Raises:
        AdminNotFound: there is no such admin.
    """
    with write_transaction() as session:
        admin = session.scalar(select(Admin).where(Admin.email == email.strip().lower()))
        if admin is None:
            raise AdminNotFound(f"There is no admin {email.strip().lower()}.")
        record(session, EventKind.NEW_PASSWORD_CODE_ISSUED, None, actor, email=admin.email)
        return make_password_link(session, admin)


def make_password_link(session: Session, admin: Admin) -> str:
    """Return a link for this admin; a newer one ends the older ones."""
    token = issue_one_time_token(session, TokenPurpose.NEW_PASSWORD, admin.id)
    return f"{services().settings.public_url}/new-password/{token}"


def get_owner_of_link(ticket: str) -> Admin:
    """Return the admin who may choose a password by a link; looking uses nothing up.

    Raises:
        PasswordLinkGone: it is unknown, used, replaced or too old.
    """
    with read_session() as session:
        found = find_one_time_token(session, TokenPurpose.NEW_PASSWORD, ticket)
        if found is None:
            raise PasswordLinkGone("The link is unknown, used, replaced or too old.")
        return session.get_one(Admin, found.admin_id)


def redeem_password_link(ticket: str, password: str, address: str) -> None:
    """Store a new password for whoever holds the link, and end all their sign-ins.

    Raises:
        PasswordLinkGone: the link is unknown, used, replaced or too old.
        PasswordRefused: the password breaks a rule; the link still holds.
        TooManyRequests: too many wrong links from this network address.
    """
    try:
        admin = get_owner_of_link(ticket)
    except PasswordLinkGone:
        # Not by a row for each, since nobody guesses 192 bits, and strangers would fill the table.
        rate_limits().count_wrong_key(address)
        raise
    password_hash = make_hash(password, admin.email)
    with write_transaction() as session:
        if use_one_time_token(session, TokenPurpose.NEW_PASSWORD, ticket) is None:
            raise PasswordLinkGone("The link was used at this moment.")
        session.get_one(Admin, admin.id).password_hash = password_hash
        end_one_time_tokens(session, admin.id)
        end_all_sign_ins(session, admin.id)
        record(session, EventKind.PASSWORD_CHANGED, None, address, email=admin.email)


def make_hash(password: str, email: str) -> str:
    """Return what is stored of a new password.

    Raises:
        PasswordRefused: it breaks a rule.
    """
    check_password(password, email)
    return services().password_hasher.hash(password)


def _note_refusal(address: str) -> None:
    log.warning("A sign-in was refused from %s.", address)
    try:
        count_attempt({"history": REFUSALS_IN_HISTORY})
    except TooManyAttempts:
        return
    with write_transaction() as session:
        record(session, EventKind.ADMIN_SIGN_IN_REFUSED, None, address, email=None)


def _is_right(admin: Admin | None, password: str) -> bool:
    stored = (admin.password_hash if admin else NOT_CHOSEN) or services().dummy_hash  # it takes the same time
    try:
        services().password_hasher.verify(stored, password)
    except VerificationError:
        return False
    return admin is not None


def _rehash(session: Session, admin: Admin, password: str) -> None:
    """Raise the cost of a stored hash when today's is higher."""
    hasher = services().password_hasher
    if hasher.check_needs_rehash(admin.password_hash):
        session.get_one(Admin, admin.id).password_hash = hasher.hash(password)
