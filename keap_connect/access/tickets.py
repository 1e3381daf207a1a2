"""Random values that let one admin take one step within a short time; stored as hashes only."""

import hashlib
import secrets
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from keap_connect.clock import utc_now
from keap_connect.models import Ticket, TicketPurpose

TICKET_BYTES = 24
LIFETIMES = {TicketPurpose.NEW_PASSWORD: timedelta(hours=24), TicketPurpose.SECOND_STEP: timedelta(minutes=5)}


def issue_ticket(session: Session, purpose: TicketPurpose, admin_id: int) -> str:
    """Return a new ticket. A newer one for a new password ends the older ones."""
    ticket = secrets.token_urlsafe(TICKET_BYTES)
    now = utc_now()
    session.execute(delete(Ticket).where(Ticket.expires_at <= now))
    if purpose is TicketPurpose.NEW_PASSWORD:
        session.execute(delete(Ticket).where(Ticket.admin_id == admin_id, Ticket.purpose == purpose))
    expires_at = now + LIFETIMES[purpose]
    session.add(Ticket(ticket_hash=_hash(ticket), purpose=purpose, admin_id=admin_id, expires_at=expires_at))
    return ticket


def find_ticket(session: Session, purpose: TicketPurpose, ticket: str | None) -> Ticket | None:
    """Return a ticket that still holds."""
    if not ticket:
        return None
    query = select(Ticket).where(
        Ticket.ticket_hash == _hash(ticket), Ticket.purpose == purpose, Ticket.expires_at > utc_now()
    )
    return session.scalar(query)


def take_ticket(session: Session, purpose: TicketPurpose, ticket: str | None) -> int | None:
    """Use a ticket up, and return whose it was; of several at once, one gets it."""
    if not ticket:
        return None
    return session.scalar(
        delete(Ticket)
        .where(Ticket.ticket_hash == _hash(ticket), Ticket.purpose == purpose, Ticket.expires_at > utc_now())
        .returning(Ticket.admin_id)
    )


def end_tickets(session: Session, admin_id: int) -> None:
    """End all that an admin has open."""
    session.execute(delete(Ticket).where(Ticket.admin_id == admin_id))


def _hash(ticket: str) -> str:
    return hashlib.sha256(ticket.encode()).hexdigest()
