"""Keeps a new pair that the database refused: sealed, in a file that was allocated and synced before it was needed.

Each file belongs to the process that holds its lock; `replaying.py` stores what is in them.
"""

import atexit
import contextlib
import fcntl
import json
import logging
import os
import secrets
import threading
import time
from base64 import b64decode, b64encode
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from keap_connect.clock import seconds_since_boot
from keap_connect.crypto import TokenCipher
from keap_connect.durable_files import NEW, sync, write_all
from keap_connect.errors import SealBroken, SealingKeyUnknown, TemporarilyUnavailable
from keap_connect.keap.token_response import TokenResponse
from keap_connect.refresh import timing
from keap_connect.refresh.storing import NewPair
from keap_connect.services import services
from keap_connect.signals import on_stop
from keap_connect.supervisor import NEEDS_A_MINUTE, report

log = logging.getLogger(__name__)
FOLDER = "recovery"
FILE_BYTES = 64 * 1024
RETRY_SECONDS = 1.0
NOT_OPEN = (ValueError, KeyError, TypeError, SealBroken)  # the content of a file was cut short or edited


class RecoveryUnavailable(TemporarilyUnavailable):
    """No recovery file can be allocated, so nothing may be sent."""


@dataclass(frozen=True)
class ClosedPair:
    """A kept pair that this process cannot store, but one with another key or of another version can."""

    account_id: int
    generation: int
    why: str

    def __str__(self) -> str:
        return f"The new tokens of account {self.account_id} cannot be stored: {self.why}."


class RecoveryFile:
    """An allocated file that this process has locked, for the new pair of one attempt after the other."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path = path
        self.handle = handle
        self.is_written = False  # then it serves no other attempt
        self._lock = threading.Lock()
        self._in_memory: Callable[[], bytes] | None = None  # the sealed pair, which is nowhere else yet

    def guard(self, pair: NewPair) -> None:
        """Write a pair to the file unless it is stored soon, even if the thread that stores it hangs."""
        content = partial(_sealed, services().cipher, pair)  # sealed only if it is needed
        with self._lock:
            self._in_memory = content
            _unstored.add(self)
        _watcher.watch(_Guarded(self, content, seconds_since_boot() + timing.COMMIT_SECONDS))

    def write_down(self, only: object = None) -> bool:
        """Write the pair in memory, with `only` just if it is that one; return False if writing failed."""
        with self._lock:
            if self._in_memory is None or only not in (None, self._in_memory):
                return True
            self.is_written = True
            try:
                write_all(self.handle, self._in_memory())
            except (OSError, MemoryError) as problem:
                log.critical(
                    "The recovery file %s cannot be written (%s): new tokens are in memory only. Do not kill this "
                    "process.",
                    self.path,
                    problem.strerror if isinstance(problem, OSError) else "no memory is left",
                )
                return False
            self._forget()
            return True

    def is_there(self) -> bool:
        """Whether the next process would find it: its folder may have been deleted, or another one put in its place."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.handle))
        except OSError:
            return False

    def abandon(self) -> None:
        """Unlock the file: the end of its attempt could not be written, so the process that finds it does."""
        os.close(self.handle)

    def note_stored(self) -> None:
        """Forget the pair in memory; delete the file if a pair was written to it."""
        with self._lock:
            self._forget()
            if self.is_written:
                with contextlib.suppress(OSError):
                    os.ftruncate(self.handle, 0)
                    self.path.unlink()
                os.close(self.handle)

    def _forget(self) -> None:
        self._in_memory = None
        _unstored.discard(self)


@dataclass(frozen=True)
class _Guarded:
    """A new pair; its file may serve another attempt by the time that it should be written."""

    file: RecoveryFile
    content: Callable[[], bytes]
    write_at: float


class _Watcher:
    """A thread that writes guarded pairs in the order of their arrival, and ends when there are none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guarded: deque[_Guarded] = deque()
        self._is_running = False

    def watch(self, guarded: _Guarded) -> None:
        with self._lock:
            self._guarded.append(guarded)
            if self._is_running:
                return
            try:
                threading.Thread(target=self._run, daemon=True).start()
                self._is_running = True
            except RuntimeError:  # no thread can be started
                self._guarded.pop().file.write_down()

    def _run(self) -> None:
        while guarded := self._next():
            time.sleep(max(guarded.write_at - seconds_since_boot(), 0.0))
            if not guarded.file.write_down(guarded.content):
                self.watch(replace(guarded, write_at=seconds_since_boot() + timing.COMMIT_SECONDS))

    def _next(self) -> _Guarded | None:
        with self._lock:
            self._is_running = bool(self._guarded)
            return self._guarded.popleft() if self._guarded else None


_watcher = _Watcher()
_unstored: set[RecoveryFile] = set()  # their pairs are neither stored nor written


def wait_for_pairs_in_memory() -> None:
    """Return once no new pair is only in the memory of this process; until then, only a kill ends it."""
    with on_stop(lambda _sign: None):
        while unstored := list(_unstored):
            for file in unstored:
                file.write_down()
            if _unstored:
                report(NEEDS_A_MINUTE)
                time.sleep(RETRY_SECONDS)


atexit.register(wait_for_pairs_in_memory)
_free: dict[Path, list[RecoveryFile]] = defaultdict(list)  # allocated, and not in use, for each folder
_free_lock = threading.Lock()


def allocate(number: int) -> list[RecoveryFile]:
    """Return a file for each attempt; give it back once its attempt has ended.

    Raises:
        RecoveryUnavailable: the disk is full or the folder cannot be written.
    """
    folder = folder_of_files()
    with _free_lock:
        known = [_free[folder].pop() for _ in range(min(number, len(_free[folder])))]
    files = []
    for file in known:
        if file.is_there():
            files.append(file)
        else:
            file.abandon()
    try:
        while len(files) < number:
            files.append(_allocate(folder))
    except RecoveryUnavailable:
        give_back(files)
        raise
    return files


def give_back(files: Iterable[RecoveryFile]) -> None:
    """Delete files whose pair was written and is stored now; let others use the rest."""
    for file in files:
        file.note_stored()
        if not file.is_written:
            with _free_lock:
                _free[file.path.parent].append(file)


def is_locked(owner: str) -> bool:
    """Whether the process with this lease lives and has its recovery file here. Call `replay` before."""
    return (folder_of_files() / f"{owner.partition(':')[0]}.pair").exists()


def list_kept() -> list[Path]:
    """Return the files with a pair that waits for the database, whichever process has locked them."""
    return [path for path in sorted(folder_of_files().glob("*.pair")) if _first_byte(path).strip(b"\0")]


def list_closed() -> dict[Path, str]:
    """Return those of the files with a pair that this process cannot open, and why."""
    closed = {}
    for path in list_kept():
        with contextlib.suppress(OSError, *NOT_OPEN):  # it was stored meanwhile, or `replay` puts it aside
            kept = read_pair(path.read_bytes().rstrip(b"\0"))
            if isinstance(kept, ClosedPair):
                closed[path] = str(kept)
    return closed


def list_broken() -> list[Path]:
    """Return the files that were put aside."""
    return sorted(folder_of_files().glob("*.broken"))


def list_unreadable() -> list[Path]:
    """Return the files that another user owns, as after a copy: nobody stores what may be in them."""
    ours = os.R_OK | os.W_OK
    files = sorted(folder_of_files().glob("*.pair"))
    return [path for path in files if not os.access(path, ours) and path.exists()]  # or it was stored meanwhile


def _first_byte(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1)
    except OSError:  # it was stored meanwhile, or it is not ours to read
        return b""


def _allocate(folder: Path) -> RecoveryFile:
    path = folder / f"{secrets.token_hex(8)}.pair"
    fresh = path.with_suffix(NEW)
    handle = -1
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_all(handle, b"\0" * FILE_BYTES)
        os.rename(fresh, path)  # locked already, so that no other process takes it for a dead one's
        sync(folder)
    except OSError as problem:
        log.critical("No recovery file can be allocated in %s (%s); nothing is refreshed.", folder, problem.strerror)
        for each in (fresh, path):
            with contextlib.suppress(OSError):
                each.unlink()
        if handle >= 0:
            os.close(handle)  # else what was deleted would go on filling the disk
        raise RecoveryUnavailable("The disk for the recovery file is full or cannot be written.") from problem
    return RecoveryFile(path, handle)


def _sealed(cipher: TokenCipher, pair: NewPair) -> bytes:
    granted = {**vars(pair.granted), "expires_at": pair.granted.expires_at.isoformat()}
    sealed = cipher.seal(json.dumps(granted), "recovery", pair.account_id, pair.generation)
    header = {"account_id": pair.account_id, "generation": pair.generation, "actor": pair.actor}
    return json.dumps({**header, "sealed": b64encode(sealed).decode()}).encode()


def read_pair(content: bytes) -> NewPair | ClosedPair:
    """Read a file. Raises one of NOT_OPEN."""
    kept = json.loads(content)
    account_id, generation = int(kept["account_id"]), int(kept["generation"])
    sealed, actor = b64decode(kept["sealed"]), str(kept["actor"])
    try:
        opened = services().cipher.open(sealed, "recovery", account_id, generation)
    except SealingKeyUnknown:
        return ClosedPair(account_id, generation, "TOKEN_KEYS lacks the key that sealed them")
    try:
        granted = json.loads(opened)
        granted["expires_at"] = datetime.fromisoformat(granted["expires_at"])
        return NewPair(account_id, generation, TokenResponse(**granted), actor)
    except (ValueError, KeyError, TypeError):  # it is whole, since its seal opened
        return ClosedPair(account_id, generation, "another version of this program wrote them")


def folder_of_files() -> Path:
    return services().settings.instance_path / FOLDER
