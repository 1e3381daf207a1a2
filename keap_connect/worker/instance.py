"""Whether this database is the one this host knows. A restored backup or a clone holds refresh tokens that the
living installation has spent long ago; presenting them could end every grant.

The database and a marker file on the host (or the setting INSTANCE_ID) share an id, and a counter that only grows:
a database whose counter is behind the host's is an old one.
"""

import logging
import secrets
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from keap_connect.database import take_turns, write_transaction
from keap_connect.durable_files import NEW, put_in_place, remove_abandoned, write_new
from keap_connect.errors import TemporarilyUnavailable
from keap_connect.models import Account, Deployment
from keap_connect.refreshing import brakes
from keap_connect.runtime import runtime

log = logging.getLogger(__name__)
INSTANCE = "instance"
MARKER = "instance_id"
ADVICE = (
    "No refresh token is presented until you confirm that no other installation uses these accounts: "
    "`./keap-connect refreshing confirm-only-one`."
)


def check_instance() -> bool:
    """Compare database and host, move the counter on, and return whether refreshing is allowed."""
    try:
        with write_transaction() as session:
            take_turns(session, INSTANCE)  # else a process that starts at the same moment makes the database look old
            problem = _problem(session)
            if problem:
                brakes.raise_alarm(session, brakes.UNKNOWN_INSTANCE, f"{problem} {ADVICE}")
                return False
            if brakes.is_raised(session, brakes.UNKNOWN_INSTANCE):
                return False
            fresh = _move_on(session)
        put_in_place(fresh, _marker_path())
    except OSError as problem:
        log.critical("%s Make room, or let this user write there.", _unwritable(problem))
    return True


def confirm_only_one(actor: str) -> None:
    """Take this database as the living one, on the operator's word.

    Raises:
        TemporarilyUnavailable: the marker cannot be written; nothing was changed.
    """
    try:
        with write_transaction() as session:
            session.merge(Deployment(name=INSTANCE, value=f"{_wanted_id() or secrets.token_hex(8)}:0".encode()))
            session.flush()
            fresh = _move_on(session, at_least=_read_marker()[1])
        put_in_place(fresh, _marker_path())
    except OSError as problem:
        raise TemporarilyUnavailable(f"{_unwritable(problem)} Nothing is confirmed.") from problem
    brakes.resume([brakes.UNKNOWN_INSTANCE], actor)


def _problem(session: Session) -> str | None:
    stored = session.get(Deployment, INSTANCE)
    if stored is None or not session.scalar(select(func.count(Account.id))):
        return None  # a new installation, or nothing to lose
    stored_id, stored_count = _parse(stored.value.decode())
    marker_id, marker_count = _read_marker(stored_id)
    known_id = runtime().settings.instance_id or marker_id
    if known_id != stored_id:
        return "This host does not know this database: it may be a restored backup or a clone."
    if marker_id == stored_id and stored_count < marker_count:
        return "This database is older than what this host has seen: it looks like a restored backup."
    return None


def _move_on(session: Session, at_least: int = 0) -> Path:
    """Count one more, and return the file that is to take the place of the marker once the database has committed.

    A crash between the two leaves the host behind, never ahead. Without that file the database does not move on:
    beside a host that has no marker it would look like a clone.
    """
    stored = session.get(Deployment, INSTANCE)
    stored_id, count = _parse(stored.value.decode()) if stored else (_wanted_id() or secrets.token_hex(8), 0)
    value = f"{stored_id}:{max(count, at_least) + 1}".encode()
    folder = _marker_path().parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    remove_abandoned(folder)
    fresh = folder / f"{MARKER}.{secrets.token_hex(4)}{NEW}"  # another process may be writing at this moment, too
    write_new(fresh, value)
    session.merge(Deployment(name=INSTANCE, value=value))
    return fresh


def _read_marker(stored_id: str | None = None) -> tuple[str | None, int]:
    """Return id and count; of a marker that a crash cut short, the id of the database if that is how it began."""
    try:
        text = _marker_path().read_text(encoding="ascii", errors="replace").strip("\0 \n")
    except FileNotFoundError:
        return None, 0
    if stored_id and f"{stored_id}:".startswith(text):
        log.warning("The marker %s was cut short by a crash; it is written anew.", _marker_path())
        return stored_id, 0
    try:
        return _parse(text)
    except ValueError:
        return None, 0


def _unwritable(problem: OSError) -> str:
    return f"The marker {_marker_path()} cannot be written ({problem.strerror})."


def _parse(text: str) -> tuple[str, int]:
    instance_id, _, count = text.strip().rpartition(":")
    return instance_id, int(count)


def _wanted_id() -> str | None:
    return runtime().settings.instance_id


def _marker_path() -> Path:
    return runtime().settings.instance_path / MARKER
