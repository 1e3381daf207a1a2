"""Whether this database is the living one. A restored backup or a copy holds refresh tokens that the living
installation has used already; presenting them could end every grant.

Two things are compared. The *identity* of the database is what the operator last confirmed, or what the first start
found (identity.py). The *mark* is a file in INSTANCE_PATH: the latest confirmation and the newest stored pair that
this host has seen. It is written after the commit, so it may be older than the database. If it is newer, the database
is an old copy.
"""

import atexit
import contextlib
import fcntl
import logging
import os
import secrets
import threading
from dataclasses import dataclass
from math import inf
from pathlib import Path

from flask import Flask, current_app
from sqlalchemy import delete, event, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from keap_connect.clock import seconds_since_boot, utc_now
from keap_connect.database import db, may_be_another_since, read_session, take_turns, write_transaction
from keap_connect.durable_files import put_in_place, remove_abandoned, write_beside
from keap_connect.errors import TemporarilyUnavailable
from keap_connect.events.history import DELETED, PAIR_STORED
from keap_connect.models import Account, AccountEvent, Confirmation, CounterOf01
from keap_connect.refresh import alarms, replaying
from keap_connect.refresh.identity import CHANGES, list_changes, present_identity
from keap_connect.services import services

log = logging.getLogger(__name__)
MARK = "instance_mark"
MARK_SECONDS = 1.0  # between two writes of the mark
OLD_DATABASE = (
    "This host has seen newer tokens than this database has: a backup was restored, or a failover lost what was "
    "committed last."
)
OLD_CONFIRMATION = "The mark of this host is of a confirmation that this database does not know: a backup was restored."
OLD_MARKER = "instance_id"  # the file of version 0.1.0, with an id and a counter


@dataclass(frozen=True)
class Mark:
    """What this host has last seen of its database: a confirmation, and the id and random value of an event."""

    confirmation: str
    event_id: int = 0
    pair_mark: str = ""

    def __str__(self) -> str:
        return f"{self.confirmation} {self.event_id} {self.pair_mark}".rstrip() + "\n"


def check_instance() -> bool:
    """Compare database and host, keep the mark up to date, and return whether refreshing is allowed."""
    mark = _read_mark()  # before the database, which only gets newer
    identity = present_identity()
    with read_session() as session:
        if alarms.is_raised(session, alarms.UNKNOWN_INSTANCE):
            return False
        problems = _list_problems(session, mark, identity)
        is_adopted = not problems and _is_adopted(session, identity)
    if problems:
        with write_transaction() as session:
            # The operator may have confirmed meanwhile.
            if problems := _list_problems(session, _read_mark(), identity):
                alarms.raise_alarm(session, alarms.UNKNOWN_INSTANCE, " ".join(problems))
        return not problems
    if not is_adopted:
        _adopt(identity)
    _write_mark()
    return True


def check_before_lease(patient_until: float = inf) -> bool:
    """Check before this process refreshes or sends for the first time, and each time that the database may be another.

    It also stores what earlier processes left. Without a reason to check, it asks nobody.

    Args:
        patient_until: until when to wait for the check of another thread, on the boot clock.

    Returns:
        False if this check found that refreshing is not allowed. From then on the alarm in the database says so.

    Raises:
        SQLAlchemyError, TemporarilyUnavailable: the database does not answer, or not in time; nothing was lost.
    """
    marker = current_app.extensions[MARK]
    asked_at = seconds_since_boot()
    if not may_be_another_since(marker.checked_at):
        return True
    if not marker.checking.acquire(timeout=min(max(patient_until - asked_at, 0.0), threading.TIMEOUT_MAX)):
        raise TemporarilyUnavailable("It is being checked whether this is the right database.", 5)
    try:
        if marker.failed_at > asked_at:  # those who waited for a check that failed do not try one after the other
            raise TemporarilyUnavailable("The database does not answer.", 5)
        if not may_be_another_since(marker.checked_at):
            return True
        began_at = seconds_since_boot()
        try:
            is_allowed = check_instance()
            replaying.replay()
        except SQLAlchemyError:
            marker.failed_at = seconds_since_boot()
            raise
        marker.checked_at = began_at  # what happens during the check is a reason for another one
        return is_allowed
    finally:
        marker.checking.release()


def confirm_only_one(actor: str) -> None:
    """Accept this database as the living one, as the operator says, and store the kept pairs that are ahead of it.

    Raises:
        TemporarilyUnavailable: the mark cannot be written; nothing was changed.
    """
    identity = present_identity()
    try:
        _folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        with write_transaction() as session:
            session.add(_confirmation(identity))
            session.execute(delete(CounterOf01))
            session.flush()
            fresh = write_beside(_mark_path(), str(_newest(session)))
        put_in_place(fresh, _mark_path())
    except OSError as problem:
        raise TemporarilyUnavailable(f"{_unwritable(problem)} Nothing is confirmed.") from problem
    # Before anybody may present the tokens of the rows: those were used to get the kept pairs.
    replaying.replay(is_confirmed=True)
    alarms.resume([alarms.UNKNOWN_INSTANCE], actor)


def _list_problems(session: Session, mark: Mark | None, identity: dict[str, str | None]) -> list[str]:
    if session.scalar(select(Account.id).limit(1)) is None:
        return []  # there is no token that could be presented
    confirmed = _latest(session)
    if confirmed is None:
        return _list_problems_of_0_1(session)
    problems = list_changes({name: getattr(confirmed, name) for name in CHANGES}, identity)
    return problems + _list_problems_of_mark(session, mark, confirmed)


def _list_problems_of_mark(session: Session, mark: Mark | None, latest: Confirmation | None) -> list[str]:
    if mark is None or latest is None:
        return []
    if mark.confirmation != latest.value:
        known = select(Confirmation.id).where(Confirmation.value == mark.confirmation)
        # The database knows this older confirmation: the operator has confirmed again since.
        return [] if session.scalar(known) else [OLD_CONFIRMATION]
    if not mark.event_id:
        return []
    seen = select(AccountEvent.pair_mark).where(AccountEvent.id == mark.event_id)
    row = session.execute(seen).one_or_none()
    if row is None:
        # Each deletion of events writes a later event. An erasure in an old copy did not know this one.
        knew = func.coalesce(AccountEvent.details["newest_pair"].as_integer(), mark.event_id) >= mark.event_id
        later = AccountEvent.id > mark.event_id, AccountEvent.kind.in_(DELETED)
        deletions = select(AccountEvent.id).where(*later, knew)
        return [] if session.scalar(deletions.limit(1)) else [OLD_DATABASE]
    return [] if row.pair_mark == mark.pair_mark else [OLD_DATABASE]


def _list_problems_of_0_1(session: Session) -> list[str]:
    """Judge as version 0.1.0 did a database that it used last and that nobody has adopted yet."""
    stored = session.scalars(select(CounterOf01)).first()
    if stored is None:
        return []
    stored_id = stored.instance_id
    text = _read(OLD_MARKER) or ""
    marker_id, _, seen = text.rpartition(":")
    if text and f"{stored_id}:{stored.stored_pairs}".startswith(text):
        marker_id, seen = stored_id, "0"  # a crash cut the file short
    if (services().settings.instance_id or marker_id) != stored_id:
        return ["This host does not know this database."]
    return [OLD_DATABASE] if marker_id == stored_id and seen.isdigit() and stored.stored_pairs < int(seen) else []


def _is_adopted(session: Session, identity: dict[str, str | None]) -> bool:
    """Whether the latest confirmation has all that is known now."""
    latest = _latest(session)
    return latest is not None and all(getattr(latest, name) == now for name, now in identity.items() if now)


def _adopt(identity: dict[str, str | None]) -> None:
    """Store the identity of a database that has no account or no confirmation yet, or facts that became known since."""
    with write_transaction() as session:
        take_turns(session, MARK)  # several processes may start together
        latest = _latest(session)
        if latest is None or session.scalar(select(Account.id).limit(1)) is None:
            if not _is_adopted(session, identity):
                session.add(_confirmation(identity))
        else:
            for name, now in identity.items():
                setattr(latest, name, now or getattr(latest, name))
        session.execute(delete(CounterOf01))
    with contextlib.suppress(OSError):
        (_folder() / OLD_MARKER).unlink(missing_ok=True)


def _confirmation(identity: dict[str, str | None]) -> Confirmation:
    return Confirmation(value=secrets.token_hex(8), confirmed_at=utc_now(), **identity)


def _latest(session: Session) -> Confirmation | None:
    return session.scalars(select(Confirmation).order_by(Confirmation.id.desc()).limit(1)).first()


def _newest(session: Session) -> Mark:
    confirmed = _latest(session)
    pair = select(AccountEvent.id, AccountEvent.pair_mark).where(AccountEvent.pair_mark.is_not(None))
    found = session.execute(pair.order_by(AccountEvent.id.desc()).limit(1)).one_or_none()
    return Mark(confirmed.value if confirmed else "", *(found or ()))


def _write_mark() -> bool:
    """Bring the mark up to date unless it does not fit; return False when another process writes it at the moment."""
    folder = _folder()
    handle = -1
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        # Read and write in one go, so that the higher id wins. It waits for nobody: the other may be stopped.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mark = _read_mark()
        with read_session() as session:
            newest = _newest(session)
            is_fit = not _list_problems_of_mark(session, mark, _latest(session))
            is_new = mark is None or mark.confirmation != newest.confirmation or mark.event_id < newest.event_id
        if newest.confirmation and is_new and (is_fit or not session.scalar(select(Account.id).limit(1))):
            remove_abandoned(folder)
            put_in_place(write_beside(_mark_path(), str(newest)), _mark_path())
    except BlockingIOError:
        return False
    except OSError as problem:
        log.critical("%s Make room, or let this user write there.", _unwritable(problem))
    finally:
        if handle >= 0:
            os.close(handle)
    return True


def _read_mark() -> Mark | None:
    """Return the mark in the file, or its whole parts if a crash cut it short."""
    text = _read(MARK)
    if not text:
        return None
    confirmation, _, pair = text.partition(" ")
    event_id, _, pair_mark = pair.partition(" ")
    if not text.endswith("\n") or not event_id.strip().isdigit():
        log.warning("The mark %s was cut short by a crash; it is written anew.", _mark_path())
        return Mark(confirmation) if pair else None
    return Mark(confirmation, int(event_id), pair_mark.strip())


def _read(name: str) -> str | None:
    try:
        return (_folder() / name).read_text(encoding="ascii", errors="replace").strip("\0 ")
    except OSError:
        return None


def _unwritable(problem: OSError) -> str:
    return f"The mark {_mark_path()} cannot be written ({problem.strerror})."


def _mark_path() -> Path:
    return _folder() / MARK


def _folder() -> Path:
    return services().settings.instance_path


class Marker:
    """Writes the mark of one process within a second after it stored a pair, and at most once a second."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self.checking = threading.Lock()
        self._timer: threading.Timer | None = None
        self._next_at = 0.0
        # On the boot clock: when this process began its last check before a lease, and when one last failed.
        self.checked_at = self.failed_at = -inf

    def note(self) -> None:
        with self._lock:
            if self._timer is None:
                self._timer = threading.Timer(max(self._next_at - seconds_since_boot(), 0.0), self.write)
                self._timer.daemon = True
                try:
                    self._timer.start()
                except RuntimeError:  # no thread can be started; the next pair or the next check writes the mark
                    self._timer = None
                    return
                atexit.unregister(self.write)
                atexit.register(self.write)

    def write(self) -> None:
        """Write what is newer; if that fails now, the next pair or the next check does it."""
        with self._writing:
            with self._lock:
                if self._timer is None:
                    return
                self._timer, self._next_at = None, seconds_since_boot() + MARK_SECONDS
            with self._app.app_context():
                pool = db.engine.pool
                try:
                    if not _write_mark():
                        self.note()
                except SQLAlchemyError as problem:
                    log.warning("The mark was not written: the database does not answer (%s).", type(problem).__name__)
                if db.engine.pool is not pool:  # it was closed meanwhile, all but the connection that was in use here
                    pool.dispose()

    def forget(self, *_: object) -> None:
        """Write nothing more: the database is closed."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
                self._timer = None
        with self._writing:
            pass  # a connection opened from here on would never be closed


def keep_mark(app: Flask) -> None:
    """Write the mark after each commit of a stored pair."""
    marker = app.extensions[MARK] = Marker(app)
    with app.app_context():
        event.listen(db.engine, "engine_disposed", marker.forget)


@event.listens_for(Session, "after_commit")
def _note_commit(session: Session) -> None:
    if session.info.pop(PAIR_STORED, False):
        current_app.extensions[MARK].note()
