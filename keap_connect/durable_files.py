"""Files that are whole after a crash or on a full disk: they are written under another name, synced, then renamed."""

import contextlib
import fcntl
import os
import secrets
from pathlib import Path

from keap_connect.clock import utc_now

NEW = ".new"  # what the other name ends with
ABANDONED_AFTER_SECONDS = 60.0


def write_all(handle: int, content: bytes) -> None:
    """Write and sync all of it, or raise OSError: on a nearly full disk, one `pwrite` succeeds with a part of it."""
    written = 0
    while written < len(content):
        written += os.pwrite(handle, content[written:], written)
    os.fsync(handle)


def write_beside(path: Path, text: str) -> Path:
    """Write and sync the next content of a file to a new one beside it, and return that, for `put_in_place`.

    Raises OSError: the disk is full, or the folder cannot be written. Nothing is left of the new file.
    """
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}{NEW}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_all(handle, text.encode())
    except OSError:
        fresh.unlink()
        raise
    finally:
        os.close(handle)
    return fresh


def put_in_place(fresh: Path, path: Path) -> None:
    """Replace a file by one in the same folder, so that it stays replaced after a crash."""
    os.replace(fresh, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make durable what was written to a file, or what was created, renamed and deleted in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_abandoned(folder: Path) -> None:
    """Delete the new files that processes left when they ended before `put_in_place`."""
    for path in folder.glob(f"*{NEW}"):
        with contextlib.suppress(OSError):  # it is gone by now, a process has its lock, or it belongs to another user
            # A process locks its file a moment after it made it.
            if utc_now().timestamp() - path.stat().st_mtime > ABANDONED_AFTER_SECONDS:
                _delete_unlocked(path)


def _delete_unlocked(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(handle)
