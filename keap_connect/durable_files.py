"""Files that are whole after a crash and on a full disk: written and synced under another name, then renamed."""

import contextlib
import fcntl
import os
from pathlib import Path

from keap_connect.clock import utc_now

NEW = ".new"  # what the other name ends with
ABANDONED_AFTER_SECONDS = 60.0


def write_all(handle: int, content: bytes) -> None:
    """Write all of it durably, or fail: on a disk that is nearly full the system writes a part of it, and succeeds."""
    written = 0
    while written < len(content):
        written += os.pwrite(handle, content[written:], written)
    os.fsync(handle)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet; when that fails, nothing is left of it.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_all(handle, content)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(handle)


def put_in_place(fresh: Path, path: Path) -> None:
    """Replace a file by one that was written beside it, durably."""
    os.replace(fresh, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make durable what was created, renamed and deleted in a folder."""
    sync_file(folder)


def sync_file(path: Path) -> None:
    """Make durable what others wrote to a file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_abandoned(folder: Path) -> None:
    """Delete the new files of processes that ended before they were in place."""
    for path in folder.glob(f"*{NEW}"):
        with contextlib.suppress(OSError):  # it is gone by now, a living process has its lock, or it is not ours
            # A young one may be about to be locked by the process that made it.
            if utc_now().timestamp() - path.stat().st_mtime > ABANDONED_AFTER_SECONDS:
                _delete_unlocked(path)


def _delete_unlocked(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(handle)
