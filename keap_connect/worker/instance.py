"""Whether this database is the one this host knows. A restored backup or a clone holds refresh tokens that the
living installation has spent long ago; presenting them could end every grant.

The database and a marker file on the host (or the setting INSTANCE_ID) share an id, and a counter that only grows:
a database whose counter is behind the host's is an old one.
"""

import os
import secrets
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from keap_connect.database import take_turns, write_transaction
from keap_connect.models import Account, Deployment
from keap_connect.refreshing import brakes
from keap_connect.runtime import runtime

INSTANCE = "instance"
MARKER = "instance_id"
ADVICE = (
    "No refresh token is presented until you confirm that no other installation uses these accounts: "
    "`./keap-connect refreshing confirm-only-one`."
)


def check_instance() -> bool:
    """Compare database and host, move the counter on, and return whether refreshing is allowed."""
    with write_transaction() as session:
        take_turns(session, INSTANCE)  # else a process that starts at the same moment makes the database look old
        problem = _problem(session)
        if problem:
            brakes.raise_alarm(session, brakes.UNKNOWN_INSTANCE, f"{problem} {ADVICE}")
            return False
        if brakes.is_raised(session, brakes.UNKNOWN_INSTANCE):
            return False
        _move_on(session)
    return True


def confirm_only_one(actor: str) -> None:
    """Take this database as the living one, on the operator's word."""
    with write_transaction() as session:
        session.merge(Deployment(name=INSTANCE, value=f"{_wanted_id() or secrets.token_hex(8)}:0".encode()))
        session.flush()
        _move_on(session, at_least=_read_marker()[1])
    brakes.resume([brakes.UNKNOWN_INSTANCE], actor)


def _problem(session: Session) -> str | None:
    stored = session.get(Deployment, INSTANCE)
    if stored is None or not session.scalar(select(func.count(Account.id))):
        return None  # a new installation, or nothing to lose
    stored_id, stored_count = _parse(stored.value.decode())
    marker_id, marker_count = _read_marker()
    known_id = runtime().settings.instance_id or marker_id
    if known_id != stored_id:
        return "This host does not know this database: it may be a restored backup or a clone."
    if marker_id == stored_id and stored_count < marker_count:
        return "This database is older than what this host has seen: it looks like a restored backup."
    return None


def _move_on(session: Session, at_least: int = 0) -> None:
    stored = session.get(Deployment, INSTANCE)
    stored_id, count = _parse(stored.value.decode()) if stored else (_wanted_id() or secrets.token_hex(8), 0)
    text = f"{stored_id}:{max(count, at_least) + 1}"
    session.merge(Deployment(name=INSTANCE, value=text.encode()))
    session.flush()
    # After the database, so that a crash between the two leaves the host behind, never ahead.
    session.commit()
    path = _marker_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{secrets.token_hex(4)}")  # another process may be writing at this moment, too
    fresh.write_text(text, encoding="ascii")
    os.replace(fresh, path)


def _read_marker() -> tuple[str | None, int]:
    try:
        return _parse(_marker_path().read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None, 0


def _parse(text: str) -> tuple[str, int]:
    instance_id, _, count = text.strip().rpartition(":")
    return instance_id, int(count)


def _wanted_id() -> str | None:
    return runtime().settings.instance_id


def _marker_path() -> Path:
    return runtime().settings.instance_path / MARKER
