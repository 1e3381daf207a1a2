"""Keeps a new pair that the database refused: sealed, in a file that was allocated and synced before it was needed.

Each file belongs to the process that holds its lock. A process stores what it finds, its own and what dead
processes left, as soon as the database answers, and before it takes its first lease. The file obeys the fence: a pair
whose account has moved on changes nothing.
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
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path

from flask import Flask, current_app
from sqlalchemy import exists, or_, select

from keap_connect.clock import seconds_since_boot
from keap_connect.database import read_session, write_transaction
from keap_connect.durable_files import NEW, remove_abandoned, sync_folder, write_all
from keap_connect.errors import SealBroken, TemporarilyUnavailable
from keap_connect.events.history import EventKind
from keap_connect.keap.token_response import TokenResponse
from keap_connect.models import Account, AccountEvent
from keap_connect.refresh import alarms, timing
from keap_connect.refresh.lease import note_dead
from keap_connect.refresh.storing import NewPair, Outcome, store_granted
from keap_connect.services import services
from keap_connect.signals import on_stop

log = logging.getLogger(__name__)
FOLDER = "recovery"
FILE_BYTES = 64 * 1024
RETRY_SECONDS = 1.0


class RecoveryUnavailable(TemporarilyUnavailable):
    """No recovery file can be allocated, so nothing may be sent."""


class PairAhead(Exception):
    """The kept pair is newer than its row: a backup was restored, and this pair may be the only living one."""


class NoAccount(Exception):
    """The account of a kept pair is not in this database, and was not erased: an old backup was restored."""


class RecoveryFile:
    """One allocated file, locked by this process."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path = path
        self.handle = handle
        self.is_kept = False  # not to be used for another attempt
        self._lock = threading.Lock()
        self._unstored: bytes | None = None  # a pair that is in memory only

    def guard(self, pair: NewPair) -> None:
        """Write a pair down durably unless it is kept or stored soon, whatever the thread that stores it waits for."""
        content = _sealed(pair)
        with self._lock:
            self._unstored = content
            _in_memory.add(self)
        _guards.put(_Guarded(self, content, seconds_since_boot() + timing.COMMIT_SECONDS))

    def has_unstored(self, content: bytes) -> bool:
        """Whether this pair is in memory only."""
        return self._unstored is content

    def write_down(self) -> None:
        """Write the pair that is in memory only, if there still is one; when it fails, the pair stays in memory."""
        with self._lock:
            if self._unstored is None:
                return
            self.is_kept = True
            try:
                write_all(self.handle, self._unstored)
            except OSError as problem:
                log.critical(
                    "The recovery file %s cannot be written (%s): new tokens are in memory only. Do not kill this "
                    "process.",
                    self.path,
                    problem.strerror,
                )
                return
            self._forget()

    def note_stored(self) -> None:
        """Note that the pair is stored; a file that it was written to is not used again."""
        with self._lock:
            self._forget()
            if self.is_kept:
                self._delete()

    def keep(self, pair: NewPair) -> None:
        """Write a pair down durably, and store it as soon as the database answers."""
        self.is_kept = True
        self.write_down()
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        try:
            threading.Thread(target=_keep_trying, args=(app, self, pair), daemon=True).start()
        except RuntimeError:  # no thread is to be had; others may wait to be written down
            log.critical("The recovery file %s is stored only once this process has ended.", self.path)

    def abandon(self) -> None:
        """Give up the lock: how the attempt ended could not be written down, so whoever finds the file does."""
        self.write_down()
        os.close(self.handle)

    def _forget(self) -> None:
        self._unstored = None
        _in_memory.discard(self)

    def _delete(self) -> None:
        with contextlib.suppress(OSError):
            os.ftruncate(self.handle, 0)
            self.path.unlink()
        os.close(self.handle)


@dataclass(frozen=True)
class _Guarded:
    """A pair that arrived; its file may serve another attempt by the time that it should be written."""

    slot: RecoveryFile
    content: bytes = field(repr=False)
    write_at: float


class _Guards:
    """The pairs that arrived lately, first come first, and a thread that watches them while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guarded: deque[_Guarded] = deque()
        self._is_watched = False

    def put(self, guarded: _Guarded) -> None:
        """Watch a pair; where no thread is to be had, write it at once."""
        with self._lock:
            self._guarded.append(guarded)
            if self._is_watched:
                return
            try:
                threading.Thread(target=self._watch, daemon=True).start()
                self._is_watched = True
            except RuntimeError:
                self._guarded.pop().slot.write_down()

    def _watch(self) -> None:
        while guarded := self._next():
            if not guarded.slot.has_unstored(guarded.content):
                continue
            time.sleep(max(guarded.write_at - seconds_since_boot(), 0.0))
            if guarded.slot.has_unstored(guarded.content):
                guarded.slot.write_down()
                if guarded.slot.has_unstored(guarded.content):  # it could not be written: try again in a moment
                    self.put(replace(guarded, write_at=seconds_since_boot() + timing.COMMIT_SECONDS))

    def _next(self) -> _Guarded | None:
        with self._lock:
            self._is_watched = bool(self._guarded)
            return self._guarded.popleft() if self._guarded else None


_guards = _Guards()
_in_memory: set[RecoveryFile] = set()  # those whose pair is neither stored nor written down


def wait_for_pairs_in_memory() -> None:
    """Return once no new pair is in the memory of this process alone; before that, only a kill ends it."""
    with on_stop(lambda _sign: None):
        while waiting := list(_in_memory):
            for slot in waiting:
                slot.write_down()
            if _in_memory:
                time.sleep(RETRY_SECONDS)


atexit.register(wait_for_pairs_in_memory)


class _Pool:
    """The allocated files of this process that nobody uses at the moment."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.free: dict[Path, list[RecoveryFile]] = {}


_pool = _Pool()


def allocate(number: int) -> list[RecoveryFile]:
    """Give an allocated file for each of so many attempts; whoever ends one gives its file back.

    Raises:
        RecoveryUnavailable: the disk is full or the folder cannot be written.
    """
    folder = _folder()
    with _pool.lock:
        free = _pool.free.setdefault(folder, [])
        taken = [free.pop() for _ in range(min(number, len(free)))]
    try:
        while len(taken) < number:
            taken.append(_allocate(folder))
    except RecoveryUnavailable:
        give_back(taken)
        raise
    return taken


def give_back(slots: Iterable[RecoveryFile]) -> None:
    """Let others have the files, unless a pair is kept in them."""
    with _pool.lock:
        for slot in slots:
            if not slot.is_kept:
                _pool.free[slot.path.parent].append(slot)


def replay(is_confirmed: bool = False) -> int:
    """Take care of the files whose process is gone: store each kept pair, and write on the other attempts that nobody
    will come back with an answer. Return how many pairs there were.

    A pair that is ahead of its row stays in its file, and refreshing is paused, until the operator has confirmed that
    this is the living database.

    Raises:
        SQLAlchemyError: the database does not answer; the files stay.
    """
    found = 0
    remove_abandoned(_folder())
    with contextlib.ExitStack() as locked:
        abandoned: dict[Path, int] = {}
        for path in sorted(_folder().glob("*.pair")):
            with _told(path):
                handle = locked.enter_context(_locked(path))
                try:
                    found += _store_kept(path, handle, is_confirmed)
                except PairAhead as ahead:
                    with write_transaction() as session:
                        alarms.raise_alarm(session, alarms.UNKNOWN_INSTANCE, str(ahead))
                else:
                    abandoned[path] = handle
        if not abandoned:
            return 0
        with write_transaction() as session:
            note_dead(session, [path.stem for path in abandoned])
        for path, handle in abandoned.items():
            if path.exists():  # else it was put aside
                with _told(path):
                    os.ftruncate(handle, 0)
                    path.unlink()
    return found


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Go on without a file that is taken care of, or whose process is alive; say so of one that cannot be read."""
    try:
        yield
    except (FileNotFoundError, BlockingIOError):
        pass
    except OSError as problem:
        log.critical("The recovery file %s cannot be read or deleted (%s).", path, problem.strerror)


def is_locked(owner: str) -> bool:
    """Whether the process that has this lease has its recovery file here, and is alive. Call `replay` before."""
    return (_folder() / f"{owner.partition(':')[0]}.pair").exists()


def list_kept() -> list[Path]:
    """Return the files in which a pair waits for the database, whoever holds them."""
    return [path for path in sorted(_folder().glob("*.pair")) if _first_byte(path).strip(b"\0")]


def list_broken() -> list[Path]:
    """Return the files that did not open and were put aside."""
    return sorted(_folder().glob("*.broken"))


def _first_byte(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1)
    except OSError:  # it was stored meanwhile, or it is not ours to read
        return b""


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield handle
    finally:
        os.close(handle)


def _store_kept(path: Path, handle: int, is_confirmed: bool) -> int:
    content = os.pread(handle, 16 * FILE_BYTES, 0).rstrip(b"\0")
    if not content:
        return 0
    try:
        pair = _opened(content)
    except (ValueError, KeyError, SealBroken) as problem:
        log.critical("The recovery file %s does not open (%s); it is put aside.", path, type(problem).__name__)
        path.rename(path.with_suffix(".broken"))
        return 0
    try:
        _store(pair, is_confirmed)
    except NoAccount:
        # A customer who connects now may get the number of that account, so the file does not wait for an answer.
        log.critical(
            "The recovery file %s has tokens of account %s, which this database does not have: it is put aside. If no "
            "newer database is put back, this customer has to connect again.",
            path,
            pair.account_id,
        )
        path.rename(path.with_suffix(".broken"))
        return 0
    return 1


def _keep_trying(app: Flask, kept: RecoveryFile, pair: NewPair) -> None:
    with app.app_context():
        while True:
            try:
                _store(pair)
                break
            except Exception:  # the database, or a fault of ours: either may be mended while we run
                time.sleep(RETRY_SECONDS)
            kept.write_down()
        kept.note_stored()


def _store(pair: NewPair, is_confirmed: bool = False) -> None:
    (outcome,) = store_granted([pair], is_confirmed)
    if outcome is Outcome.AHEAD:
        raise PairAhead(
            f"A recovery file has tokens of account {pair.account_id} that are newer than those of this database: a "
            "backup was restored."
        )
    if outcome is Outcome.LATE and not _is_known(pair.account_id):
        raise NoAccount
    log.warning("A kept pair of account %s was taken from its recovery file: %s.", pair.account_id, outcome)


def _is_known(account_id: int) -> bool:
    erased = (AccountEvent.account_id == account_id) & (AccountEvent.kind == EventKind.ERASED)
    with read_session() as session:
        return session.scalar(select(or_(exists().where(Account.id == account_id), exists().where(erased)))) is True


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
        sync_folder(folder)
    except OSError as problem:
        log.critical("No recovery file can be allocated in %s (%s); nothing is refreshed.", folder, problem.strerror)
        for each in (fresh, path):
            with contextlib.suppress(OSError):
                each.unlink()
        if handle >= 0:
            os.close(handle)  # else what was deleted would go on filling the disk
        raise RecoveryUnavailable("The disk for the recovery file is full or cannot be written.") from problem
    return RecoveryFile(path, handle)


def _sealed(pair: NewPair) -> bytes:
    granted = {**asdict(pair.granted), "expires_at": pair.granted.expires_at.isoformat()}
    sealed = services().cipher.seal(json.dumps(granted), "recovery", pair.account_id, pair.generation)
    header = {"account_id": pair.account_id, "generation": pair.generation, "actor": pair.actor}
    return json.dumps({**header, "sealed": b64encode(sealed).decode()}).encode()


def _opened(content: bytes) -> NewPair:
    kept = json.loads(content)
    account_id, generation = int(kept["account_id"]), int(kept["generation"])
    granted = json.loads(services().cipher.open(b64decode(kept["sealed"]), "recovery", account_id, generation))
    granted["expires_at"] = datetime.fromisoformat(granted["expires_at"])
    return NewPair(account_id, generation, TokenResponse(**granted), str(kept["actor"]))


def _folder() -> Path:
    return services().settings.instance_path / FOLDER
