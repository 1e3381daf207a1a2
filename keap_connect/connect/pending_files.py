"""Import files after their preview: they wait here, sealed, for the admin who sent them. No page shows their tokens."""

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import delete
from sqlalchemy.orm import Session

from keap_connect.clock import utc_now
from keap_connect.connect.import_files import Preview, PreviewLine
from keap_connect.database import write_transaction
from keap_connect.models import PendingFile as StoredFile
from keap_connect.services import services

KEPT_FOR = timedelta(minutes=10)


@dataclass(frozen=True)
class PendingFile:
    """A file and its preview; `until` is when it is deleted."""

    content: bytes = field(repr=False)
    lines: list[PreviewLine]
    until: datetime


def store_pending_file(admin_id: int, content: bytes, preview: Preview) -> None:
    """Keep a file for ten minutes; it replaces an earlier one of the same admin."""
    text = json.dumps({"content": content.decode("utf-8"), "lines": [asdict(line) for line in preview.lines]})
    sealed = services().cipher.seal(text, _context(admin_id))
    with write_transaction() as session:
        _delete_expired(session)
        session.merge(StoredFile(admin_id=admin_id, until=utc_now() + KEPT_FOR, sealed=sealed))


def find_pending_file(admin_id: int) -> PendingFile | None:
    with write_transaction() as session:
        _delete_expired(session)
        stored = session.get(StoredFile, admin_id)
    if stored is None:
        return None
    values = json.loads(services().cipher.open(stored.sealed, _context(admin_id)))
    return PendingFile(values["content"].encode(), [PreviewLine(**line) for line in values["lines"]], stored.until)


def forget_pending_file(admin_id: int) -> None:
    with write_transaction() as session:
        session.execute(delete(StoredFile).where(StoredFile.admin_id == admin_id))


def forget_past_files() -> None:
    """Delete the files whose time is over; for the worker, since the admin may never come back."""
    with write_transaction() as session:
        _delete_expired(session)


def _delete_expired(session: Session) -> None:
    session.execute(delete(StoredFile).where(StoredFile.until <= utc_now()))


def _context(admin_id: int) -> str:
    return f"pending_file:{admin_id}"
