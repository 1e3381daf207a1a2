"""A file that was looked through waits here, sealed, for the admin who sent it: its tokens are on no page meanwhile."""

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from keap_connect.clock import utc_now
from keap_connect.connect.import_files import Preview, PreviewLine
from keap_connect.database import read_session, write_transaction
from keap_connect.models import Deployment
from keap_connect.services import services

HELD_FOR = timedelta(minutes=10)
PREFIX = "held_file:"


@dataclass(frozen=True)
class PendingFile:
    """The file, what it would do, and until when it waits."""

    content: bytes = field(repr=False)
    lines: list[PreviewLine]
    until: datetime


def store_pending_file(admin_id: int, content: bytes, preview: Preview) -> None:
    """Keep a good file for ten minutes, in the place of one that the same admin sent before."""
    lines = [asdict(line) for line in preview.lines]
    text = json.dumps({"content": content.decode("utf-8"), "lines": lines})
    until = (utc_now() + HELD_FOR).isoformat().encode()
    name = f"{PREFIX}{admin_id}"
    with write_transaction() as session:
        _forget_old(session)
        session.merge(Deployment(name=name, value=until + b"\n" + services().cipher.seal(text, name)))


def find_pending_file(admin_id: int) -> PendingFile | None:
    """Return the file that waits for this admin, unless its time is over."""
    name = f"{PREFIX}{admin_id}"
    with write_transaction() as session:
        _forget_old(session)
        stored = session.get(Deployment, name)
    if stored is None:
        return None
    until, _, sealed = stored.value.partition(b"\n")
    values = json.loads(services().cipher.open(sealed, name))
    lines = [PreviewLine(**line) for line in values["lines"]]
    return PendingFile(values["content"].encode(), lines, datetime.fromisoformat(until.decode()))


def forget_pending_file(admin_id: int) -> None:
    """Destroy the file that waits for this admin."""
    with write_transaction() as session:
        session.execute(delete(Deployment).where(Deployment.name == f"{PREFIX}{admin_id}"))


def forget_past_files() -> None:
    """Destroy the files whose time is over, also when nobody comes back for them: for the worker."""
    with read_session() as session:
        if session.scalar(select(Deployment.name).where(Deployment.name.startswith(PREFIX)).limit(1)) is None:
            return
    with write_transaction() as session:
        _forget_old(session)


def _forget_old(session: Session) -> None:
    for held in session.scalars(select(Deployment).where(Deployment.name.startswith(PREFIX))):
        until, _, _ = held.value.partition(b"\n")
        if datetime.fromisoformat(until.decode()) <= utc_now():
            session.delete(held)
    session.flush()
