"""Two-factor authentication: a code of six digits from a phone (TOTP), or a recovery code that works once.

Source: RFC 6238 with its usual parameters (SHA-1, 6 digits, 30 seconds), which all authenticator apps support.
"""

import base64
import hmac
import secrets

import pyotp
from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from keap_connect.access.passwords import find_one_time_token, issue_one_time_token, use_one_time_token
from keap_connect.access.rate_limits import count_attempt, forgive, hashed, is_known_browser_of
from keap_connect.clock import utc_now
from keap_connect.crypto import hash_secret
from keap_connect.database import count_updated, read_one, read_session, write_one, write_transaction
from keap_connect.errors import FormRefused
from keap_connect.events.history import EventKind, record
from keap_connect.models import Admin, RecoveryCode, TokenPurpose
from keap_connect.services import services

ISSUER = "Keap Connect"
STEP_SECONDS = 30
RECOVERY_CODES = 10
RECOVERY_CODE_BYTES = 15  # 24 letters: 120 bits, so that a plain hash is enough
ATTEMPTS_AT_CODE = 5


def prepare(admin: Admin) -> None:
    """Store a new seed. It has no effect until `switch_on`."""
    sealed = services().cipher.seal(pyotp.random_base32(), "admin", admin.id, "totp_seed")
    write_one(update(Admin).where(Admin.id == admin.id, Admin.totp_on_at.is_(None)).values(totp_seed_sealed=sealed))


def waiting_seed(admin: Admin) -> str | None:
    """Return the seed that waits to be switched on; None afterwards, since it is never shown again."""
    if admin.totp_seed_sealed is None or admin.totp_on_at is not None:
        return None
    return services().cipher.open(admin.totp_seed_sealed, "admin", admin.id, "totp_seed")


def enrolment_uri(admin: Admin, seed: str) -> str:
    return pyotp.TOTP(seed).provisioning_uri(name=admin.email, issuer_name=ISSUER)


def switch_on(admin: Admin, code: str) -> list[str]:
    """Turn it on with a first right code, and return the recovery codes, to be shown once.

    Raises:
        FormRefused: the code is wrong, or there is no seed that waits.
        TooManyAttempts: there were too many wrong codes.
    """
    attempts = count_attempt({f"second-factor:{admin.id}": ATTEMPTS_AT_CODE})
    seed = waiting_seed(admin)
    step = _step_of(code, seed) if seed else None
    if step is None:
        raise FormRefused("That code is wrong. Enter the one that the app on your phone shows now.", "code")
    with write_transaction() as session:
        forgive(session, attempts)
        # Another tab may have turned it on, or made another seed.
        waits = Admin.totp_on_at.is_(None), Admin.totp_seed_sealed == admin.totp_seed_sealed
        switched = update(Admin).where(Admin.id == admin.id, *waits).values(totp_on_at=utc_now(), totp_step=step)
        if count_updated(session, switched) != 1:
            raise FormRefused("Another tab changed this a moment ago. Nothing was changed here.", "code")
        record(session, EventKind.SECOND_FACTOR_ON, None, admin.email, email=admin.email)
        return _new_recovery_codes(session, admin.id)


def switch_off(admin: Admin, actor: str) -> None:
    with write_transaction() as session:
        values = {"totp_seed_sealed": None, "totp_on_at": None, "totp_step": None}
        session.execute(update(Admin).where(Admin.id == admin.id).values(values))
        session.execute(delete(RecoveryCode).where(RecoveryCode.admin_id == admin.id))
        record(session, EventKind.SECOND_FACTOR_OFF, None, actor, email=admin.email)


def make_recovery_codes(admin: Admin) -> list[str]:
    """Return new recovery codes; the old ones no longer work."""
    with write_transaction() as session:
        record(session, EventKind.RECOVERY_CODES_MADE, None, admin.email, email=admin.email)
        return _new_recovery_codes(session, admin.id)


def count_recovery_codes(admin: Admin) -> int:
    query = select(func.count(RecoveryCode.code_hash)).where(RecoveryCode.admin_id == admin.id)
    return read_one(query) or 0


def begin_second_step(admin: Admin) -> str:
    """Return a one-time token for an admin whose password was right, to be kept in a cookie."""
    with write_transaction() as session:
        return issue_one_time_token(session, TokenPurpose.SECOND_STEP, admin.id)


def find_waiting(token: str | None) -> Admin | None:
    """Return the admin whose second factor is still missing."""
    with read_session() as session:
        found = find_one_time_token(session, TokenPurpose.SECOND_STEP, token)
        admin = session.get(Admin, found.admin_id) if found else None
    return admin if admin and admin.totp_on_at else None  # it may have been switched off meanwhile


def use_code(admin: Admin, code: str) -> None:
    """Use up a code of an admin who is signed in, before an act that the password alone must not allow.

    Raises:
        FormRefused: it is wrong or was used before.
        TooManyAttempts: there were too many wrong codes; nothing was checked.
    """
    attempts = count_attempt({f"second-factor:{admin.id}": ATTEMPTS_AT_CODE})
    with write_transaction() as session:
        if _take_code(session, admin, code):
            forgive(session, attempts)
            return
        record(session, EventKind.SECOND_FACTOR_REFUSED, None, admin.email, email=admin.email)
    raise FormRefused("That code is wrong, or was used already. Wait for the next one. Nothing was changed.", "code")


def finish_second_step(admin: Admin, token: str | None, code: str, browser: str | None) -> bool:
    """Whether the code is right; if so, the code and the token are used up.

    Raises TooManyAttempts: too many wrong ones from this browser, or for this admin; nothing was checked.
    """
    whose = f"device:{hashed(browser)}" if browser and is_known_browser_of(admin, browser) else str(admin.id)
    attempts = count_attempt({f"second-step:{whose}": ATTEMPTS_AT_CODE})
    with write_transaction() as session:
        if _take_code(session, admin, code) and use_one_time_token(session, TokenPurpose.SECOND_STEP, token):
            forgive(session, attempts)
            return True
    with write_transaction() as session:
        record(session, EventKind.SECOND_FACTOR_REFUSED, None, admin.email, email=admin.email)
    return False


def _take_code(session: Session, admin: Admin, code: str) -> bool:
    """Use up a code of the phone or a recovery code; no code is accepted twice."""
    seed = services().cipher.open(admin.totp_seed_sealed or b"", "admin", admin.id, "totp_seed")
    step = _step_of(code, seed)
    if step is not None:
        unused = or_(Admin.totp_step.is_(None), Admin.totp_step < step)
        return count_updated(session, update(Admin).where(Admin.id == admin.id, unused).values(totp_step=step)) == 1
    used = session.scalar(
        delete(RecoveryCode)
        .where(RecoveryCode.admin_id == admin.id, RecoveryCode.code_hash == _hash(code))
        .returning(RecoveryCode.admin_id)
    )
    if used is not None:
        record(session, EventKind.RECOVERY_CODE_USED, None, admin.email, email=admin.email)
    return used is not None


def _step_of(code: str, seed: str) -> int | None:
    """Return the time step of a code: now, one before or one after, since clocks differ a little."""
    totp, now = pyotp.TOTP(seed), int(utc_now().timestamp()) // STEP_SECONDS
    given = "".join(code.split()).encode()
    matching = [
        step for step in (now - 1, now, now + 1) if hmac.compare_digest(totp.generate_otp(step).encode(), given)
    ]
    return max(matching, default=None)


def _new_recovery_codes(session: Session, admin_id: int) -> list[str]:
    codes = [base64.b32encode(secrets.token_bytes(RECOVERY_CODE_BYTES)).decode().lower() for _ in range(RECOVERY_CODES)]
    session.execute(delete(RecoveryCode).where(RecoveryCode.admin_id == admin_id))
    session.add_all(RecoveryCode(code_hash=_hash(code), admin_id=admin_id) for code in codes)
    return ["-".join(code[at : at + 6] for at in range(0, len(code), 6)) for code in codes]


def _hash(code: str) -> str:
    return hash_secret("".join(code.split()).replace("-", "").lower())
