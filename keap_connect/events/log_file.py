"""The audit log's file. Each line is one write in append mode, so processes can share the file."""

import os
import sys
import threading
from pathlib import Path

from keap_connect.clock import seconds_since_boot

LOOK_EVERY_SECONDS = 1.0


class LogFile:
    """A file that only its owner can read; the path None means standard output."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._handle = -1
        self._looked_at = 0.0
        self._is_torn = False

    def add(self, line: bytes) -> None:
        """Write one line, which ends in a line break.

        Raises:
            OSError: the line is not written, or only in part.
        """
        if self._is_torn:
            line = b"\n" + line
        written = os.write(self._open(), line)
        self._is_torn = written != len(line)
        if self._is_torn:
            raise OSError("the disk is full")

    def _open(self) -> int:
        """Return the handle. A file that was moved or deleted is created again within a second."""
        if self._path is None:
            return sys.stdout.fileno()
        now = seconds_since_boot()
        if self._handle >= 0 and now - self._looked_at < LOOK_EVERY_SECONDS:
            return self._handle
        with self._lock:
            if self._handle < 0 or not self._is_there(self._path):
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                fresh = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
                if self._handle >= 0:
                    os.dup2(fresh, self._handle)  # keeps the number, which another thread may be about to write to
                    os.close(fresh)
                else:
                    self._handle = fresh
            self._looked_at = now
        return self._handle

    def _is_there(self, path: Path) -> bool:
        try:
            return os.path.samestat(os.stat(path), os.fstat(self._handle))
        except FileNotFoundError:
            return False
