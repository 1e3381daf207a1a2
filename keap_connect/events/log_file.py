"""The audit log's file. Each line is one write that only ever appends, so that processes can share it."""

import os
import sys
import threading
from pathlib import Path

from keap_connect.clock import seconds_since_boot

LOOK_EVERY_SECONDS = 1.0


class LogFile:
    """A file to add lines to, readable by its owner alone; None stands for standard output."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._handle = -1
        self._looked_at = 0.0
        self._is_torn = False

    def add(self, line: bytes) -> None:
        """Write one line, which ends in a line break.

        Raises:
            OSError: it is not written, or not as a whole.
        """
        if self._is_torn:
            line = b"\n" + line
        written = os.write(self._open(), line)
        self._is_torn = written != len(line)
        if self._is_torn:
            raise OSError("the disk is full")

    def _open(self) -> int:
        """Return the handle; a file that was moved away or deleted is made anew, at the latest a second later."""
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
                    os.dup2(fresh, self._handle)  # another thread may be about to write to it
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
