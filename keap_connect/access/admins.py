"""The admins: created by command or by settings, or invited. At least one has the role admin and a password.

An invited admin has no password yet: their link lets them choose one, and until then they can do nothing.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from keap_connect.access.passwords import find_one_time_token, load_admin, make_hash, make_password_link, password_link
from keap_connect.access.sign_ins import check_still_admin, end_all_sign_ins, is_alive
from keap_connect.clock import minute, utc_now
from keap_connect.database import read_rows, read_session, take_turns, write_transaction
from keap_connect.errors import AdminNotFound, FormRefused, MailNotNeeded
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.events.mailing import ADMIN_INVITATION, WRONG_EMAIL, is_address, new_mail
from keap_connect.models import (
    LARGEST_ID,
    NOT_CHOSEN,
    AccountEvent,
    Admin,
    Delivery,
    OneTimeToken,
    Role,
    SignIn,
    TokenPurpose,
)
from keap_connect.services import keyed_hash, services

INVITED_FOR = timedelta(days=3)


class AdminView(NamedTuple):
    id: int
    email: str
    role: str
    created_at: datetime
    has_password: bool
    has_second_factor: bool
    sign_ins: int
    last_seen_at: datetime | None
    # Of somebody who has not used their invitation. `invited_until` is null when its link no longer works.
    invited_by: str | None
    invited_until: datetime | None


def create_admin(email: str, password: str, *, role: Role = Role.ADMIN, only_first: bool = False) -> Admin | None:
    """Create an admin; with only_first, return None when there is one already. Raises FormRefused."""
    email = _checked(email)
    password_hash = make_hash(password, email)
    with write_transaction() as session:
        if only_first and session.scalar(select(func.count(Admin.id))):
            return None
        admin = _add(session, email, password_hash, role)
        record(session, EventKind.ADMIN_CREATED, None, Actor.COMMAND_LINE, email=email, role=role)
        return admin


def invite_admin(email: str, role: Role, actor: str, *, is_mailed: bool = False) -> str:
    """Create an admin without a password, and return the link to set one. Raises FormRefused."""
    email = _checked(email)
    with write_transaction() as session:
        return _invite(session, _add(session, email, NOT_CHOSEN, role), actor, is_mailed)


def invite_again(admin_id: int, actor: str, *, is_mailed: bool) -> str:
    """Make a new link, which the actor now answers for; the one before no longer works.

    Raises AdminNotFound, FormRefused.
    """
    with write_transaction() as session:
        return _invite(session, _get_invited(session, admin_id, actor), actor, is_mailed)


def withdraw_invitation(admin_id: int, actor: str) -> None:
    """End an invitation; only the history still names the person. Raises AdminNotFound."""
    with write_transaction() as session:
        _withdraw(session, _get_invited(session, admin_id, actor), actor)


def find_mailed_invitation(message_id: str) -> tuple[Admin, datetime, str]:
    """Return whom one mail invites, until when, and the link, the same in every attempt to send it.

    Raises MailNotNeeded: the link was used or replaced, or is too old; or the invitation was withdrawn.
    """
    token = keyed_hash("admin invitation", message_id)
    with read_session() as session:
        found = find_one_time_token(session, TokenPurpose.NEW_PASSWORD, token)
        admin = session.get(Admin, found.admin_id) if found else None
    if found is None or admin is None or admin.invited_by is None:
        raise MailNotNeeded("The invitation was used, withdrawn or made again, or is too old.")
    return admin, found.expires_at, password_link(token)


def invite_first_admin(email: str, actor: str) -> str | None:
    """Invite the first admin and return the link to set a password: a new link each time until one was used, then None.

    After an emergency stop it returns None, too: the operator decides who may sign in again. Raises FormRefused.
    """
    email = _checked(email)
    with write_transaction() as session:
        take_turns(session, "admins")
        admins = session.scalars(select(Admin)).all()
        if not admins:
            return _invite(session, _add(session, email, NOT_CHOSEN, Role.ADMIN), actor)
        if [(admin.email, admin.password_hash) for admin in admins] != [(email, NOT_CHOSEN)]:
            return None
        if session.scalar(select(AccountEvent.id).where(AccountEvent.kind == EventKind.EMERGENCY_STOPPED).limit(1)):
            return None
        return _invite(session, admins[0], actor)


def list_admins() -> list[AdminView]:
    link_ends = select(func.max(OneTimeToken.expires_at)).where(
        OneTimeToken.admin_id == Admin.id,
        Admin.invited_by.is_not(None),
        OneTimeToken.purpose == TokenPurpose.NEW_PASSWORD,
        OneTimeToken.expires_at > utc_now(),
    )
    facts = Admin.id, Admin.email, Admin.role, Admin.created_at, Admin.password_hash != NOT_CHOSEN
    seen = Admin.totp_on_at.is_not(None), func.count(SignIn.id_hash), func.max(SignIn.last_seen_at)
    query = (
        select(*facts, *seen, Admin.invited_by, link_ends.scalar_subquery())
        .select_from(Admin)
        .outerjoin(SignIn, (SignIn.admin_id == Admin.id) & is_alive())
        .group_by(Admin.id)
        .order_by(Admin.email)
    )
    return list(map(AdminView._make, read_rows(query)))


def view_admin(admin_id: int) -> AdminView:
    """Return one admin, or raise AdminNotFound."""
    for admin in list_admins():
        if admin.id == admin_id:
            return admin
    raise AdminNotFound("There is no such admin.")


def get_admin(email: str) -> Admin:
    with read_session() as session:
        return load_admin(session, email)


def change_role(admin_id: int, role: Role, actor: str) -> None:
    """Change the role of an admin and end their sign-ins. Raises AdminNotFound, FormRefused."""
    with write_transaction() as session:
        admin = _get(session, admin_id, actor)
        if role is not Role.ADMIN:
            _keep_one(session, admin_id)
            _end_links_by(session, admin, actor)
        admin.role = role
        end_all_sign_ins(session, admin_id)
        record(session, EventKind.ADMIN_ROLE_CHANGED, None, actor, email=admin.email, role=role)


def remove_admin(admin_id: int, actor: str) -> None:
    """Delete an admin with their sign-ins. Raises AdminNotFound, FormRefused."""
    with write_transaction() as session:
        admin = _get(session, admin_id, actor)
        _keep_one(session, admin_id)
        _end_links_by(session, admin, actor)
        session.execute(delete(Admin).where(Admin.id == admin_id))
        record(session, EventKind.ADMIN_REMOVED, None, actor, email=admin.email)


def _checked(email: str) -> str:
    email = email.strip().lower()
    if not is_address(email):
        raise FormRefused(WRONG_EMAIL, "email")
    return email


def _add(session: Session, email: str, password_hash: str, role: Role) -> Admin:
    take_turns(session, "admins")
    if found := session.scalar(select(Admin).where(Admin.email == email)):
        raise FormRefused(f"{email} is {'invited' if found.invited_by else 'an admin'} already.", "email")
    admin = Admin(email=email, password_hash=password_hash, created_at=utc_now(), role=role)
    session.add(admin)
    session.flush()
    return admin


def _invite(session: Session, admin: Admin, actor: str, is_mailed: bool = False) -> str:
    if is_mailed and services().settings.mail is None:
        raise FormRefused("This app sends no mail: SMTP_URL is not set.", "email")
    admin.invited_by, until = actor, utc_now() + INVITED_FOR
    details = {"email": admin.email, "role": admin.role, "until": minute(until)}
    record(session, EventKind.ADMIN_INVITED, None, actor, **details)
    if not is_mailed:
        return make_password_link(session, admin, actor, INVITED_FOR)
    mail = new_mail(admin.email, ADMIN_INVITATION, {}, utc_now())
    link = make_password_link(session, admin, actor, INVITED_FOR, keyed_hash("admin invitation", mail.message_id))
    session.add(mail)
    return link


def _get_invited(session: Session, admin_id: int, actor: str) -> Admin:
    admin = _get(session, admin_id, actor)
    if admin.invited_by is None:
        raise AdminNotFound(f"{admin.email} has used the invitation.")
    return admin


def _withdraw(session: Session, admin: Admin, actor: str) -> None:
    session.execute(delete(Admin).where(Admin.id == admin.id))
    session.execute(delete(Delivery).where(Delivery.kind == ADMIN_INVITATION, Delivery.recipient == admin.email))
    record(session, EventKind.ADMIN_INVITATION_WITHDRAWN, None, actor, email=admin.email)


def _end_links_by(session: Session, admin: Admin, actor: str) -> None:
    """End the links that an admin who loses their rights may know: with one of them they could come back."""
    for invited in session.scalars(select(Admin).where(Admin.invited_by == admin.email)).all():
        _withdraw(session, invited, actor)
    # It is not stored who made a link for somebody who has a password, so all of them end.
    joined = select(Admin.id).where(Admin.invited_by.is_(None))
    links = OneTimeToken.purpose == TokenPurpose.NEW_PASSWORD, OneTimeToken.admin_id.in_(joined)
    session.execute(delete(OneTimeToken).where(*links))


def _get(session: Session, admin_id: int, actor: str) -> Admin:
    """Load an admin whom the actor is about to change. Raises AdminNotFound; FormRefused: the actor is no admin now."""
    check_still_admin(session, actor)
    admin = session.get(Admin, admin_id) if admin_id <= LARGEST_ID else None
    if admin is None:
        raise AdminNotFound("There is no such admin.")
    return admin


def _keep_one(session: Session, admin_id: int) -> None:
    """Raise FormRefused if no other admin could change anything; one without a password cannot sign in yet."""
    able = (Admin.role == Role.ADMIN, Admin.password_hash != NOT_CHOSEN, Admin.id != admin_id)
    if not session.scalar(select(func.count(Admin.id)).where(*able)):
        raise FormRefused("This is the last admin: give somebody else the role admin first.", "act")
