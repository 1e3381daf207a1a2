"""A hand-out of an access token is written down before the token leaves; one that cannot be written does not happen.

Each line of the audit log is one write in append mode, so processes can share the file.
"""

import fcntl
import json
import logging
import os
import re
import sys
import threading
from datetime import UTC, date, datetime, timedelta
from glob import escape
from pathlib import Path
from typing import TextIO

from flask import Flask, current_app

from keap_connect.clock import seconds_since_boot, utc_now
from keap_connect.errors import HandOutUnrecorded
from keap_connect.events.history import Actor
from keap_connect.settings import Settings

DAY = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}")
LOOK_EVERY_SECONDS = 1.0
log = logging.getLogger(__name__)


class LogFile:
    """A file that only its owner can read; the path None means standard output.

    Args:
        keep_days: how long the lines of a day are kept, in a file of their own; 0 leaves all lines in one file.
    """

    def __init__(self, path: Path | None, keep_days: int = 0) -> None:
        self._path = path
        self._keep_days = keep_days
        self._rotated_on: date | None = None
        self._lock = threading.Lock()
        self._handle = -1
        self._looked_at = 0.0
        self._is_torn = False

    def add(self, line: bytes, standard: TextIO | None = None) -> None:
        """Write one line, which ends in a line break. Raises OSError: the line is not written, or only in part.

        Args:
            standard: takes the place of standard output.
        """
        if self._is_torn:
            line = b"\n" + line
        handle = (standard or sys.stdout).fileno() if self._path is None else self._open(self._path)
        written = os.write(handle, line)
        self._is_torn = written != len(line)
        if self._is_torn:
            raise OSError("the disk is full")

    def _open(self, path: Path) -> int:
        """Return the handle. A file that was moved or deleted is created again within a second."""
        now = seconds_since_boot()
        if self._handle >= 0 and now - self._looked_at < LOOK_EVERY_SECONDS:
            return self._handle
        with self._lock:
            if utc_now().date() != self._rotated_on:
                self.rotate()
            if self._handle < 0 or not self._is_there(path):
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                fresh = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
                if self._handle >= 0:
                    os.dup2(fresh, self._handle)  # keeps the number, which another thread may be about to write to
                    os.close(fresh)
                else:
                    self._handle = fresh
            self._looked_at = now
        return self._handle

    def rotate(self) -> None:
        """Rename the file if its first line is of an earlier day in UTC, and delete renamed files that are too old."""
        self._rotated_on = utc_now().date()
        try:
            if self._path is None or not self._keep_days:
                return
            if self._path.is_file():
                self._rename(self._path, self._rotated_on)
            for old in self._path.parent.glob(f"{escape(self._path.name)}[.-][0-9]*"):
                if datetime.fromtimestamp(old.stat().st_mtime, UTC) < utc_now() - timedelta(days=self._keep_days):
                    old.unlink()
        except FileNotFoundError:
            pass  # another process was faster
        except OSError as problem:
            log.error("Old audit logs cannot be renamed or deleted (%s).", problem)

    def _rename(self, path: Path, today: date) -> None:
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of several processes, one renames this file
            except BlockingIOError:
                return
            found, first = os.fstat(file.fileno()), DAY.search(file.read(100))
            day = first[0].decode() if first else f"{datetime.fromtimestamp(found.st_mtime, UTC):%Y-%m-%d}"
            if day < today.isoformat() and os.path.samestat(found, os.stat(path)):
                renamed = path.with_name(f"{path.name}.{day}")
                while renamed.exists():
                    renamed = path.with_name(f"{renamed.name}.2")
                path.rename(renamed)

    def _is_there(self, path: Path) -> bool:
        try:
            return os.path.samestat(os.stat(path), os.fstat(self._handle))
        except FileNotFoundError:
            return False


def record_hand_out(
    account_id: int, fingerprint: str, actor: str, address: str | None = None, key_id: int | None = None
) -> None:
    """Write down who is about to get an access token, never the token itself.

    Args:
        fingerprint: of the access token (accounts/credentials.py).
        address: the network address that the token is sent to; None on this machine.
        key_id: of the API key, when a program asked.

    Raises HandOutUnrecorded: it is not written, so the token must not leave.
    """
    line = {
        "at": utc_now().isoformat(timespec="milliseconds"),
        "event": "hand_out",
        "account_id": account_id,
        "fingerprint": fingerprint,
        "actor": actor,
        "key_id": key_id,
        "address": address,
    }
    # The standard output of a command is the token itself.
    standard = sys.stderr if actor == Actor.COMMAND_LINE else sys.stdout
    try:
        current_app.extensions["keap_connect_audit"].add(json.dumps(line).encode() + b"\n", standard)
    except (OSError, ValueError) as problem:  # ValueError: standard output is closed
        log.critical("The audit log cannot be written (%s); no token is handed out.", problem)
        raise HandOutUnrecorded("The hand-out cannot be written into the audit log.") from problem


def rotate_hand_out_log() -> None:
    current_app.extensions["keap_connect_audit"].rotate()


def attach_hand_out_log(app: Flask, settings: Settings) -> None:
    app.extensions["keap_connect_audit"] = LogFile(settings.audit_log, settings.keep_audit_logs_days)
