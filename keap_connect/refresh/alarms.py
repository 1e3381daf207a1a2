"""Alarms: what pauses refreshing until a person acts, so that one fault does not end every grant."""

import logging
import threading
from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, delete, func, select
from sqlalchemy.orm import Session

from keap_connect.clock import seconds_since_boot, utc_now
from keap_connect.database import read_all, take_turns, write_transaction
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.models import CLIENT_REFUSED, Account, AccountEvent, Alarm

log = logging.getLogger(__name__)
UNKNOWN_INSTANCE = "unknown_instance"
MASS_REFUSAL = "mass_refusal"
CONFIRM = (
    "No refresh token is presented until you answer. Check that no other installation uses these accounts: the one "
    "that this was copied from, a copy of it, the host before. Then press Resume on the page Accounts, or run "
    "./keap-connect refreshing confirm-only-one"
)
ADVICE = {
    UNKNOWN_INSTANCE: CONFIRM,
    CLIENT_REFUSED: (
        "Correct KEAP_CLIENT_ID and KEAP_CLIENT_SECRET. Then press Resume on the page Accounts, or run "
        "./keap-connect refreshing resume"
    ),
    MASS_REFUSAL: (
        "Find out whether Keap or the settings changed. An account among these that Keap refuses again has to be "
        "reconnected. To go on, press Resume on the page Accounts, or run ./keap-connect refreshing resume"
    ),
}
WINDOW = timedelta(minutes=10)
# Accounts that were refused before an operator resumed are tried again within minutes, even if a worker restarts.
KNOWN_FOR = timedelta(hours=1)
LEAST_REFUSED = 5
REFUSED_SHARE = 0.2
PROBE_EVERY_SECONDS = 300.0
# With each stored batch; building it takes as long as running it.
_CLIENT_REFUSED_ENDS = delete(Alarm).where(Alarm.name == CLIENT_REFUSED).returning(Alarm.name)


class Probe:
    """While Keap refuses our client, lets one refresh through every five minutes; a success ends the alarm."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._due_at = 0.0

    @property
    def is_due(self) -> bool:
        return seconds_since_boot() >= self._due_at

    def take(self) -> bool:
        """Return whether the caller may send one refresh now. Thread-safe."""
        with self._lock:
            if not self.is_due:
                return False
            self._due_at = seconds_since_boot() + PROBE_EVERY_SECONDS
            return True

    def give_back(self) -> None:
        """Let the next caller probe: this one had nothing to send."""
        self._due_at = 0.0


def is_raised(session: Session, name: str) -> bool:
    return session.get(Alarm, name) is not None


def raise_alarm(session: Session, name: str, reason: str, *, has_history: bool = True) -> None:
    """Pause refreshing; the first reason stays until the alarm is ended.

    Args:
        has_history: false in a database of an older version, whose tables may have no place for the event.
    """
    if is_raised(session, name):
        return
    take_turns(session, f"alarm:{name}")
    if not is_raised(session, name):
        log.critical("Refreshing is paused (%s): %s", name, reason)
        session.add(Alarm(name=name, raised_at=utc_now(), reason=reason))
        if has_history:
            record(session, EventKind.REFRESHING_PAUSED, None, Actor.SYSTEM, cause=name, reason=reason)
        session.flush()


def end_client_refused(session: Session) -> None:
    # Past the session, which would first write the new pairs, and write each row a second time with its state.
    if session.connection().scalar(_CLIENT_REFUSED_ENDS):
        record(session, EventKind.CLIENT_ACCEPTED, None, Actor.SYSTEM, cause=CLIENT_REFUSED)


def resume(names: Collection[str], actor: str) -> bool:
    """End these alarms because an operator says so; return whether there were any. Refusals count from zero again."""
    with write_transaction() as session:
        ended = session.scalars(delete(Alarm).where(Alarm.name.in_(names)).returning(Alarm.raised_at)).all()
        if ended:
            since = min(ended)
            shown = f"{since:%Y-%m-%d %H:%M:%S} UTC"
            record(session, EventKind.REFRESHING_RESUMED, None, actor, since=shown, paused_at=since.isoformat())
    return bool(ended)


def list_alarms() -> list[Alarm]:
    return read_all(select(Alarm).order_by(Alarm.raised_at))


def list_refused(alarm: Alarm) -> list[int]:
    """Return the accounts whose refusals raised this alarm of a mass refusal, and those refused since."""
    return sorted({one for one in read_all(_refused_since(alarm.raised_at - WINDOW)) if one})


def mark_first(account: Account) -> dict[str, bool]:
    """Return what the event of a first refresh of an imported pair says, so that the share of refusals ignores it."""
    return {"is_first": True} if account.needs_first_refresh else {}


def too_many_refusals(session: Session) -> bool:
    """Return whether Keap refuses so many accounts that the fault is hardly theirs; raise the alarm if so."""
    # Refusals that are written at the same moment would not see, and so not count, each other.
    take_turns(session, "refusals")
    if is_raised(session, MASS_REFUSAL):
        return True
    counted = [AccountEvent.at > utc_now() - WINDOW, *_after_resume(session)]
    refusal = AccountEvent.kind == EventKind.REFRESH_REFUSED_ONCE
    attempts = AccountEvent.kind.in_([EventKind.REFRESHED, EventKind.REFRESH_FAILED, EventKind.REFRESH_REFUSED_ONCE])
    refused = session.scalar(select(func.count(AccountEvent.account_id.distinct())).where(*counted, refusal)) or 0
    is_counted = AccountEvent.details["is_first"].as_boolean().is_not(True)
    attempted = session.scalar(select(func.count(AccountEvent.id)).where(*counted, attempts, is_counted)) or 0
    if refused < LEAST_REFUSED or refused < REFUSED_SHARE * attempted:
        return False
    reason = f"Keap refused {refused} accounts within ten minutes, out of {attempted} attempts."
    raise_alarm(session, MASS_REFUSAL, reason)
    return True


def _after_resume(session: Session) -> list[ColumnElement[bool]]:
    """Return the SQL conditions for what counts after an operator resumed.

    The operator saw which accounts had been refused before, so another refusal of these does not count.
    """
    resumes = select(AccountEvent).where(
        AccountEvent.kind == EventKind.REFRESHING_RESUMED, AccountEvent.at > utc_now() - KNOWN_FOR
    )
    resumed = session.scalars(resumes.order_by(AccountEvent.id.desc()).limit(1)).first()
    if resumed is None:
        return []
    since = datetime.fromisoformat(resumed.details["paused_at"]) - WINDOW
    known = _refused_since(since).where(AccountEvent.id < resumed.id)
    return [AccountEvent.id > resumed.id, AccountEvent.account_id.not_in(known)]


def _refused_since(since: datetime) -> Select[int | None]:
    return select(AccountEvent.account_id).where(
        AccountEvent.at > since, AccountEvent.kind == EventKind.REFRESH_REFUSED_ONCE
    )
