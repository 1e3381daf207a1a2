"""What holds the sweep, and calls the admin, instead of harming every account at once."""

import logging
import threading
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from keap_connect.accounts.history import EventKind
from keap_connect.clock import seconds_since_boot, utc_now
from keap_connect.database import read_session, take_turns, write_transaction
from keap_connect.models import AccountEvent, Alarm
from keap_connect.refreshing.lease import CLIENT_REFUSED, UNKNOWN_INSTANCE

log = logging.getLogger(__name__)
__all__ = ["CLIENT_REFUSED", "MASS_REFUSAL", "UNKNOWN_INSTANCE"]
MASS_REFUSAL = "mass_refusal"
WINDOW = timedelta(minutes=10)
LEAST_REFUSED = 5
REFUSED_SHARE = 0.2
PROBE_EVERY_SECONDS = 300.0


class Probe:
    """While Keap refuses our client, one refresh now and then asks whether it still does; a success ends the alarm."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._due_at = 0.0

    def take(self) -> bool:
        """Return whether the caller may be the one that asks now. Thread-safe."""
        with self._lock:
            is_due = seconds_since_boot() >= self._due_at
            if is_due:
                self._due_at = seconds_since_boot() + PROBE_EVERY_SECONDS
            return is_due

    def give_back(self) -> None:
        """Let the next one ask: there was nothing to ask with."""
        self._due_at = 0.0


def is_raised(session: Session, name: str) -> bool:
    """Whether the sweep is held for this."""
    return session.get(Alarm, name) is not None


def raise_alarm(session: Session, name: str, reason: str) -> None:
    """Hold the sweep; the first reason stays until the alarm is ended."""
    if is_raised(session, name):
        return
    take_turns(session, f"alarm:{name}")
    if not is_raised(session, name):
        log.critical("The sweep is held (%s): %s", name, reason)
        session.add(Alarm(name=name, raised_at=utc_now(), reason=reason))
        session.flush()


def end_alarm(name: str) -> bool:
    """Let the sweep go on; return whether it was held for this."""
    with read_session() as session:
        was_raised = is_raised(session, name)
    if was_raised:
        with write_transaction() as session:
            session.execute(delete(Alarm).where(Alarm.name == name))
    return was_raised


def list_alarms() -> list[Alarm]:
    """Return what holds the sweep."""
    with read_session() as session:
        return list(session.scalars(select(Alarm).order_by(Alarm.raised_at)))


def too_many_refusals(session: Session) -> bool:
    """Whether Keap refuses so many accounts that the fault is hardly theirs; raises the alarm if so."""
    if is_raised(session, MASS_REFUSAL):
        return True
    since = AccountEvent.at > utc_now() - WINDOW
    refusal = AccountEvent.kind == EventKind.REFRESH_REFUSED_ONCE
    attempts = AccountEvent.kind.in_([EventKind.REFRESHED, EventKind.REFRESH_FAILED, EventKind.REFRESH_REFUSED_ONCE])
    refused = session.scalar(select(func.count(AccountEvent.account_id.distinct())).where(since, refusal)) or 0
    attempted = session.scalar(select(func.count(AccountEvent.id)).where(since, attempts)) or 0
    if refused < LEAST_REFUSED or refused < REFUSED_SHARE * attempted:
        return False
    reason = f"Keap refused {refused} accounts within ten minutes, out of {attempted} attempts."
    raise_alarm(session, MASS_REFUSAL, reason)
    return True
