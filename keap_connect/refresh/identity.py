"""What distinguishes this database from its copies: facts that no dump, copied file or other server keeps."""

import ctypes
import os
import struct
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, OperationalError

from keap_connect.database import db
from keap_connect.services import services

OTHER_FILE = "The database file is not the one that was last used: it was copied, restored or moved to another disk."
# The problem to report when one of these facts is not what the operator confirmed.
CHANGES = {
    "instance_id": "INSTANCE_ID is {now}, and this database belongs to {before}.",
    "public_url": "PUBLIC_URL is {now}; this database was last used at {before}.",
    "system_identifier": "The database is on another PostgreSQL server, or was upgraded by pg_upgrade.",
    "account_table_oid": "The tables of this database were created anew, as a restored dump does.",
    "file_inode": OTHER_FILE,
    "file_born_at": OTHER_FILE,
}
_AT_FDCWD, _STATX_BTIME, _STATX_BYTES = -100, 0x800, 256


def present_identity() -> dict[str, str | None]:
    """Return the facts as they are now; None for what this system or this database role cannot know.

    Raises:
        SQLAlchemyError: the database does not answer.
    """
    settings = services().settings
    # On this machine port and scheme do not identify an installation: `make run` may choose others.
    public_url = "localhost" if settings.is_loopback else settings.public_url
    identity = dict.fromkeys(CHANGES) | {"instance_id": settings.instance_id, "public_url": public_url}
    path = db.engine.url.database
    with db.engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            identity["system_identifier"] = _system_identifier(connection)
            oid = connection.exec_driver_sql("SELECT 'account'::regclass::oid").scalar_one()
            identity["account_table_oid"] = str(oid)
        elif path and Path(path).exists():
            identity["file_inode"] = str(Path(path).stat().st_ino)
            identity["file_born_at"] = born_at(path)
    return identity


def list_changes(before: dict[str, str | None], now: dict[str, str | None]) -> list[str]:
    """Return a sentence for each fact that is known both times and differs."""
    differ = [name for name in CHANGES if before[name] and now[name] and before[name] != now[name]]
    return list(dict.fromkeys(CHANGES[name].format(before=before[name], now=now[name]) for name in differ))


def _system_identifier(connection: Connection) -> str | None:
    try:
        return str(connection.exec_driver_sql("SELECT system_identifier FROM pg_control_system()").scalar_one())
    except OperationalError:
        raise
    except DBAPIError:  # this role may not read it
        return None


def born_at(path: str) -> str | None:
    """Return when a file was created, or None where the system does not say.

    It is unknown on file systems that do not keep it and with a C library that has no `statx`. The inode alone is
    compared then, so a copy that happens to get the same number is recognized by the mark of the host only.
    """
    if born := getattr(os.stat(path), "st_birthtime", None):  # macOS
        return str(born)
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    try:
        failed = ctypes.CDLL(None).statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, buffer)
    except (AttributeError, OSError):
        return None
    if failed or not struct.unpack_from("I", buffer)[0] & _STATX_BTIME:
        return None
    seconds, nanoseconds = struct.unpack_from("qI", buffer, 80)
    return f"{seconds}.{nanoseconds:09}"
