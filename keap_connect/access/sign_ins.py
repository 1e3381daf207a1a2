"""Sessions of admins and customers: the cookie has a random id, the database its hash."""

import secrets
from datetime import timedelta

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import Session

from keap_connect.accounts.changes import has_other_person
from keap_connect.clock import utc_now
from keap_connect.crypto import hash_secret
from keap_connect.database import (
    count_updated,
    read_all,
    read_one,
    take_turns,
    write_one,
    write_or_retry,
    write_transaction,
)
from keap_connect.errors import FormRefused, WrongPassword
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.models import NOT_CHOSEN, Account, Admin, AuthorizationFlow, Role, SignIn

IDLE_LIMIT = timedelta(minutes=30)
ABSOLUTE_LIMIT = timedelta(hours=12)
SEEN_EVERY = timedelta(minutes=1)
MOST_PER_OWNER = 50


def check_still_admin(session: Session, actor: str) -> None:
    """Raise FormRefused if the admin who acts was removed, became a viewer, or lost the password meanwhile.

    What ends such rights takes the same turn, so nothing that outlives them is made afterwards.
    """
    take_turns(session, "admins")
    able = Admin.role == Role.ADMIN, Admin.password_hash != NOT_CHOSEN
    if "@" in actor and session.scalar(select(Admin.id).where(Admin.email == actor, *able)) is None:
        raise FormRefused("You are no longer an admin.", "act")


def load_unchanged(session: Session, admin: Admin) -> Admin:
    """Load an admin whose password was checked, and let what ends it take the next turn.

    Raises WrongPassword: the admin was removed, or the password changed, since it was checked.
    """
    take_turns(session, "admins")
    stored = session.get(Admin, admin.id)
    if stored is None or stored.password_hash != admin.password_hash:
        raise WrongPassword("The password was changed a moment ago.")
    return stored


def sign_in_admin(admin: Admin, address: str | None = None, browser: str | None = None) -> str:
    """Open a session for an admin, whose password was checked, and return its id, to be kept in a cookie.

    Raises WrongPassword: the admin was removed, or the password changed, since it was checked.
    """
    with write_transaction() as session:
        load_unchanged(session, admin)
        record(session, EventKind.ADMIN_SIGNED_IN, None, admin.email, email=admin.email)
        return _open(session, SignIn(admin_id=admin.id, address=address, browser=browser))


def sign_in_person(flow: AuthorizationFlow) -> str | None:
    """Open a session for the customer who has just authorized; None if the flow has opened one before.

    The customer may see the account they connected and all others of the same Keap user. If another person has
    reconnected that account since, those are not theirs.
    """

    def claim(session: Session) -> str | None:
        # Locked, so that nobody else reconnects it meanwhile.
        account = session.get(Account, flow.account_id, with_for_update=True) if flow.account_id else None
        claimed = count_updated(
            session,
            update(AuthorizationFlow)
            .where(
                AuthorizationFlow.id == flow.id,
                AuthorizationFlow.person_signed_in_at.is_(None),
                AuthorizationFlow.account_id == flow.account_id,
                AuthorizationFlow.ended_at > utc_now() - timedelta(minutes=10),
                ~has_other_person(),
            )
            .values(person_signed_in_at=utc_now())
            .execution_options(synchronize_session=False),
        )
        if account is None or claimed == 0:
            return None
        return _open(session, SignIn(account_id=account.id, keap_user_id=account.keap_user_id))

    return write_or_retry(claim)  # an erasure locks the flows first, and then their account


def is_of_another(flow: AuthorizationFlow) -> bool:
    """Whether another person has reconnected the account that a flow connected."""
    return read_one(select(has_other_person()).where(AuthorizationFlow.id == flow.id)) is True


def find_admin(session_id: str | None, *, is_sign_of_life: bool = True) -> Admin | None:
    """Return the admin of a session that has not ended.

    Args:
        is_sign_of_life: False for requests that a page makes without a click: they must not keep a session alive.
    """
    found = _find(session_id, is_sign_of_life)
    return read_one(select(Admin).where(Admin.id == found.admin_id)) if found and found.admin_id else None


def find_person(session_id: str | None) -> SignIn | None:
    found = _find(session_id)
    return found if found and found.account_id else None


def end_sign_in(session_id: str | None) -> None:
    """End a session on the server, so that a copied cookie no longer works."""
    if session_id:
        write_one(delete(SignIn).where(SignIn.id_hash == hash_secret(session_id)))


def sign_out(session_id: str | None) -> None:
    """End a session because its owner asks for it, and record that."""
    sign_in = _find(session_id)
    end_sign_in(session_id)
    if sign_in is None:
        return
    with write_transaction() as session:
        if sign_in.admin_id is None:
            record(session, EventKind.CUSTOMER_SIGNED_OUT, sign_in.account_id, Actor.CUSTOMER)
        elif admin := session.get(Admin, sign_in.admin_id):
            record(session, EventKind.ADMIN_SIGNED_OUT, None, admin.email, email=admin.email)


def is_alive() -> ColumnElement[bool]:
    """Return the condition for sessions that have not ended."""
    now = utc_now()
    # One that was made before the clock was set back would last longer, and while nobody uses it.
    lasts = (SignIn.expires_at > now) & (SignIn.expires_at <= now + ABSOLUTE_LIMIT + IDLE_LIMIT)
    return lasts & (SignIn.last_seen_at > now - IDLE_LIMIT)


def list_sign_ins(admin_id: int, session_id: str | None) -> list[tuple[SignIn, bool]]:
    """Return an admin's open sign-ins, last seen first, and whether each is that of the caller, `session_id`."""
    own = hash_secret(session_id or "")
    query = select(SignIn).where(SignIn.admin_id == admin_id, is_alive()).order_by(SignIn.last_seen_at.desc())
    return [(one, one.id_hash == own) for one in read_all(query)]


def end_sign_in_of(admin_id: int, ref: str) -> None:
    is_this_one = SignIn.admin_id == admin_id, SignIn.id_hash.startswith(ref, autoescape=True)
    write_one(delete(SignIn).where(*is_this_one))


def end_sign_ins(admin_id: int, email: str, actor: str, but: str | None = None) -> None:
    """End the sign-ins of an admin, all but the session with the id `but`."""
    with write_transaction() as session:
        others = SignIn.admin_id == admin_id, SignIn.id_hash != hash_secret(but or "")
        session.execute(delete(SignIn).where(*others))
        record(session, EventKind.SIGN_INS_ENDED, None, actor, email=email)


def end_all_sign_ins(session: Session, admin_id: int) -> None:
    session.execute(delete(SignIn).where(SignIn.admin_id == admin_id))


def _open(session: Session, sign_in: SignIn) -> str:
    session_id = secrets.token_urlsafe(32)
    now = utc_now()
    sign_in.id_hash = hash_secret(session_id)
    sign_in.created_at = sign_in.last_seen_at = now
    sign_in.expires_at = now + ABSOLUTE_LIMIT
    session.execute(delete(SignIn).where(~is_alive()))
    of_owner = SignIn.admin_id == sign_in.admin_id, SignIn.account_id == sign_in.account_id
    oldest = select(SignIn.id_hash).where(*of_owner).order_by(SignIn.created_at.desc()).offset(MOST_PER_OWNER - 1)
    session.execute(delete(SignIn).where(SignIn.id_hash.in_(oldest.scalar_subquery())))
    session.add(sign_in)
    return session_id


def _find(session_id: str | None, is_sign_of_life: bool = True) -> SignIn | None:
    if not session_id:
        return None
    now = utc_now()
    found = read_one(select(SignIn).where(SignIn.id_hash == hash_secret(session_id), is_alive()))
    if found and is_sign_of_life and found.last_seen_at <= now - SEEN_EVERY:
        write_one(update(SignIn).where(SignIn.id_hash == found.id_hash).values(last_seen_at=now))
    return found
