"""The admins: created by command, by settings or by another admin. At least one has the role admin and a password."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from keap_connect.access.passwords import make_hash, make_password_link
from keap_connect.access.sign_ins import end_all_sign_ins, is_alive
from keap_connect.clock import utc_now
from keap_connect.database import read_session, take_turns, write_transaction
from keap_connect.errors import AdminNotFound, AdminRefused, LastAdmin
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.models import LARGEST_ID, NOT_CHOSEN, AccountEvent, Admin, Role, SignIn

LONGEST_EMAIL = 254


@dataclass(frozen=True)
class AdminView:
    id: int
    email: str
    role: str
    created_at: datetime
    has_password: bool
    has_second_factor: bool
    sign_ins: int
    last_seen_at: datetime | None


def create_admin(
    email: str, password: str, *, role: Role = Role.ADMIN, actor: str = Actor.COMMAND_LINE, only_first: bool = False
) -> Admin | None:
    """Create an admin; with only_first, return None when there is one already. Raises PasswordRefused, AdminRefused."""
    email = _checked(email)
    password_hash = make_hash(password, email)
    with write_transaction() as session:
        if only_first and session.scalar(select(func.count(Admin.id))):
            return None
        return _add(session, email, password_hash, role, actor)


def invite_admin(email: str, role: Role, actor: str) -> str:
    """Create an admin without a password, and return the link to set one. Raises AdminRefused."""
    email = _checked(email)
    with write_transaction() as session:
        return _invite(session, email, role, actor)


def invite_first_admin(email: str, actor: str) -> str | None:
    """Create the first admin and return the link to set a password: a new link each time until one was used, then None.

    After an emergency stop it returns None, too: the operator decides who may sign in again. Raises AdminRefused.
    """
    email = _checked(email)
    with write_transaction() as session:
        take_turns(session, "admins")
        admins = session.scalars(select(Admin)).all()
        if not admins:
            return _invite(session, email, Role.ADMIN, actor)
        if [(admin.email, admin.password_hash) for admin in admins] != [(email, NOT_CHOSEN)]:
            return None
        if session.scalar(select(AccountEvent.id).where(AccountEvent.kind == EventKind.EMERGENCY_STOPPED).limit(1)):
            return None
        return make_password_link(session, admins[0])


def list_admins() -> list[AdminView]:
    query = (
        select(Admin, func.count(SignIn.id_hash), func.max(SignIn.last_seen_at))
        .outerjoin(SignIn, (SignIn.admin_id == Admin.id) & is_alive())
        .group_by(Admin.id)
        .order_by(Admin.email)
    )
    with read_session() as session:
        return [
            AdminView(
                id=admin.id,
                email=admin.email,
                role=admin.role,
                created_at=admin.created_at,
                has_password=admin.password_hash != NOT_CHOSEN,
                has_second_factor=admin.totp_on_at is not None,
                sign_ins=sign_ins,
                last_seen_at=last_seen_at,
            )
            for admin, sign_ins, last_seen_at in session.execute(query)
        ]


def view_admin(admin_id: int) -> AdminView:
    """Return one admin, or raise AdminNotFound."""
    for admin in list_admins():
        if admin.id == admin_id:
            return admin
    raise AdminNotFound("There is no such admin.")


def get_admin(email: str) -> Admin:
    """Return the admin with an e-mail address, or raise AdminNotFound."""
    with read_session() as session:
        admin = session.scalar(select(Admin).where(Admin.email == email.strip().lower()))
    if admin is None:
        raise AdminNotFound(f"There is no admin {email.strip().lower()}.")
    return admin


def change_role(admin_id: int, role: Role, actor: str) -> None:
    """Change the role of an admin and end their sign-ins. Raises AdminNotFound, LastAdmin."""
    with write_transaction() as session:
        admin = _get(session, admin_id)
        if role is not Role.ADMIN:
            _keep_one(session, admin_id)
        admin.role = role
        end_all_sign_ins(session, admin_id)
        record(session, EventKind.ADMIN_ROLE_CHANGED, None, actor, email=admin.email, role=role)


def remove_admin(admin_id: int, actor: str) -> None:
    """Delete an admin with their sign-ins. Raises AdminNotFound, LastAdmin."""
    with write_transaction() as session:
        admin = _get(session, admin_id)
        _keep_one(session, admin_id)
        session.execute(delete(Admin).where(Admin.id == admin_id))
        record(session, EventKind.ADMIN_REMOVED, None, actor, email=admin.email)


def _checked(email: str) -> str:
    email = email.strip().lower()
    if "@" not in email or len(email) > LONGEST_EMAIL or not email.isprintable():
        raise AdminRefused("Enter an e-mail address, such as ann@example.com.")
    return email


def _add(session: Session, email: str, password_hash: str, role: Role, actor: str) -> Admin:
    take_turns(session, "admins")
    if session.scalar(select(Admin).where(Admin.email == email)):
        raise AdminRefused(f"{email} is an admin already.")
    admin = Admin(email=email, password_hash=password_hash, created_at=utc_now(), role=role)
    session.add(admin)
    record(session, EventKind.ADMIN_CREATED, None, actor, email=email, role=role)
    return admin


def _invite(session: Session, email: str, role: Role, actor: str) -> str:
    admin = _add(session, email, NOT_CHOSEN, role, actor)
    session.flush()
    return make_password_link(session, admin)


def _get(session: Session, admin_id: int) -> Admin:
    take_turns(session, "admins")
    admin = session.get(Admin, admin_id) if admin_id <= LARGEST_ID else None
    if admin is None:
        raise AdminNotFound("There is no such admin.")
    return admin


def _keep_one(session: Session, admin_id: int) -> None:
    """Raise LastAdmin if no other admin could change anything; an invited one without a password cannot sign in yet."""
    able = (Admin.role == Role.ADMIN, Admin.password_hash != NOT_CHOSEN, Admin.id != admin_id)
    if not session.scalar(select(func.count(Admin.id)).where(*able)):
        raise LastAdmin("This is the last admin: give somebody else the role admin first.")
