"""Keeps a new pair that the database refused: sealed, in a file that was allocated and synced before it was needed.

Each file belongs to the process that holds its lock. A process stores its own pairs and those of dead processes
as soon as the database answers, and before it acquires its first lease. A pair whose account has another pair by now
changes nothing.
"""

import atexit
import contextlib
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from base64 import b64decode, b64encode
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from flask import Flask, current_app
from sqlalchemy import exists, or_, select
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from keap_connect.clock import seconds_since_boot
from keap_connect.crypto import TokenCipher
from keap_connect.database import read_session, write_transaction
from keap_connect.durable_files import NEW, remove_abandoned, sync, write_all
from keap_connect.errors import SealBroken, SealingKeyUnknown, TemporarilyUnavailable
from keap_connect.events.history import EventKind
from keap_connect.keap.token_response import TokenResponse
from keap_connect.models import Account, AccountEvent
from keap_connect.refresh import alarms, timing
from keap_connect.refresh.lease import AHEAD, CLOSED, hold, note_dead
from keap_connect.refresh.storing import NewPair, Outcome, store_granted
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


class PairAhead(Exception):
    """The operator has to confirm that this is the living database before a kept pair is stored.

    It is newer than its row, as after a restored backup, or the operator was asked for another reason.
    """


class NoAccount(Exception):
    """The account of a kept pair is not in this database, and was not erased or merged: an old backup was restored."""


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
            except OSError as problem:
                log.critical(
                    "The recovery file %s cannot be written (%s): new tokens are in memory only. Do not kill this "
                    "process.",
                    self.path,
                    problem.strerror,
                )
                return False
            self._forget()
            return True

    def keep(self, pair: NewPair) -> None:
        """Write a pair to the file, and store it as soon as the database answers."""
        self.is_written = True
        self.write_down()
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        try:
            threading.Thread(target=_keep_trying, args=(app, self, pair), daemon=True).start()
        except RuntimeError:  # no thread can be started
            log.critical("The recovery file %s is stored only once this process has ended.", self.path)

    def abandon(self) -> None:
        """Unlock the file: the end of its attempt could not be written, so whoever finds the file writes it."""
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
_reported_closed: set[Path] = set()


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
    folder = _folder()
    with _free_lock:
        files = [_free[folder].pop() for _ in range(min(number, len(_free[folder])))]
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


def replay(is_confirmed: bool = False) -> None:
    """Store the pairs in the files of dead processes, and note on their other attempts that the process is dead.

    A pair that is ahead of its row stays in its file, and refreshing is paused, until the operator has confirmed, on
    whichever host, that this is the living database. One that this process cannot open stays, too. Nobody presents the
    tokens that were used to get them.

    Raises:
        SQLAlchemyError: the database does not answer; the files stay.
    """
    remove_abandoned(_folder())
    with contextlib.ExitStack() as locked:
        abandoned: dict[Path, int] = {}
        for path in sorted(_folder().glob("*.pair")):
            with _reported(path):
                handle = locked.enter_context(_locked(path))
                if _store_kept(path, handle, is_confirmed):
                    abandoned[path] = handle
        if not abandoned:
            return
        with write_transaction() as session:
            note_dead(session, [path.stem for path in abandoned])
        for path, handle in abandoned.items():
            if path.exists():  # else it did not open and was renamed
                with _reported(path):
                    os.ftruncate(handle, 0)
                    path.unlink()


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Skip a file that somebody else deleted or has locked; log one that cannot be read."""
    try:
        yield
    except (FileNotFoundError, BlockingIOError):
        pass
    except OSError as problem:
        log.critical("The recovery file %s cannot be read or deleted (%s).", path, problem.strerror)


def is_locked(owner: str) -> bool:
    """Whether the process with this lease lives and has its recovery file here. Call `replay` before."""
    return (_folder() / f"{owner.partition(':')[0]}.pair").exists()


def list_kept() -> list[Path]:
    """Return the files with a pair that waits for the database, whichever process has locked them."""
    return [path for path in sorted(_folder().glob("*.pair")) if _first_byte(path).strip(b"\0")]


def list_closed() -> dict[Path, str]:
    """Return those of the files with a pair that this process cannot open, and why."""
    closed = {}
    for path in list_kept():
        with contextlib.suppress(OSError, *NOT_OPEN):  # it was stored meanwhile, or `replay` puts it aside
            kept = _opened(path.read_bytes().rstrip(b"\0"))
            if isinstance(kept, ClosedPair):
                closed[path] = str(kept)
    return closed


def list_broken() -> list[Path]:
    """Return the files that were put aside."""
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


def _store_kept(path: Path, handle: int, is_confirmed: bool) -> bool:
    """Store the pair in a file, if there is one; return False if it must wait."""
    content = os.pread(handle, 16 * FILE_BYTES, 0).rstrip(b"\0")
    if not content:
        return True
    try:
        kept = _opened(content)
    except NOT_OPEN as problem:
        log.critical(
            "The recovery file %s does not open (%s); it is renamed to *.broken.", path, type(problem).__name__
        )
        path.rename(path.with_suffix(".broken"))
        return True
    try:
        return _store_or_hold(kept, path, is_confirmed)
    except NoAccount:
        # A customer who connects now may get the number of that account, so the file does not wait for an answer.
        log.critical(
            "The recovery file %s has tokens of account %s, which this database does not have: it is put aside. If no "
            "newer database is put back, this customer has to connect again.",
            path,
            kept.account_id,
        )
        path.rename(path.with_suffix(".broken"))
    return True


def _store_or_hold(kept: NewPair | ClosedPair, path: Path, is_confirmed: bool) -> bool:
    """Store a pair, or hold its account and return False. A fault must not end the worker, which has other accounts."""
    if isinstance(kept, NewPair):
        try:
            return _store_or_ask(kept, path, is_confirmed)
        except Exception as fault:
            if not _is_of_one_pair(fault):
                raise
            why = f"a fault of this program ({type(fault).__name__})"
            kept = ClosedPair(kept.account_id, kept.generation, why)
    try:
        return not _hold(kept, path)
    except Exception as fault:
        if not _is_of_one_pair(fault):
            raise
        _report_closed(path, kept, "its account cannot be held")
        return False


def _is_of_one_pair(fault: Exception) -> bool:
    """Whether the next file may be stored in spite of a fault; else the database failed."""
    if isinstance(fault, SQLAlchemyError):
        is_of_value = isinstance(fault, StatementError) and not isinstance(fault, DBAPIError)
        return is_of_value or isinstance(fault, IntegrityError | DataError)
    return not isinstance(fault, NoAccount)


def _store_or_ask(pair: NewPair, path: Path, is_confirmed: bool) -> bool:
    """Store a pair; if it is ahead of its row, return False until the operator has confirmed."""
    try:
        _store(pair, is_confirmed)
    except PairAhead as ahead:
        if not _is_confirmed(pair, path, str(ahead)):
            return False
        _store(pair, is_confirmed=True)
    return True


def _hold(closed: ClosedPair, path: Path) -> bool:
    """Let nobody present the token that was used to get a pair; return False if its account has another one by now."""
    with write_transaction() as session:
        account = session.get(Account, closed.account_id, with_for_update=True)
        is_late = account is None or account.disconnected_at is not None or account.generation > closed.generation
        if account is not None and not is_late:
            # One about which the operator was asked keeps saying so: the answer may be there.
            is_asked = account.lease_owner == path.stem + AHEAD
            hold(session, account, path.stem + (AHEAD if is_asked else CLOSED))
    if is_late:
        if not _is_known(closed.account_id):
            raise NoAccount
        return False
    _report_closed(path, closed, "its account is not refreshed")
    return True


def _report_closed(path: Path, closed: ClosedPair, follows: str) -> None:
    if path not in _reported_closed:
        _reported_closed.add(path)
        log.critical("The recovery file %s waits, and %s. %s", path, follows, closed)


def _is_confirmed(ahead: NewPair, path: Path, reason: str) -> bool:
    """Return whether the operator has confirmed, on whichever host; until then, nobody presents the used token."""
    owner = path.stem + AHEAD
    with write_transaction() as session:
        account = session.get_one(Account, ahead.account_id, with_for_update=True)
        if account.lease_owner == owner and not alarms.is_raised(session, alarms.UNKNOWN_INSTANCE):
            return True
        hold(session, account, owner)
        alarms.raise_alarm(session, alarms.UNKNOWN_INSTANCE, reason)
    return False


def _keep_trying(app: Flask, kept: RecoveryFile, pair: NewPair) -> None:
    with app.app_context():
        while True:
            try:
                _store(pair)
                break
            except (PairAhead, NoAccount):  # `replay` raises the alarm, and stores it once that is confirmed
                if kept.write_down():
                    kept.abandon()
                    return
                time.sleep(RETRY_SECONDS)
            except Exception:  # the database, or a fault of ours: either may pass while we run
                time.sleep(RETRY_SECONDS)
            kept.write_down()
        kept.note_stored()


def _store(pair: NewPair, is_confirmed: bool = False) -> None:
    with write_transaction() as session:
        account = session.get(Account, pair.account_id, with_for_update=True)
        outcome = store_granted(session, account, pair, is_confirmed)
        # In a copy, the living database would miss it.
        is_asked = not is_confirmed and alarms.is_raised(session, alarms.UNKNOWN_INSTANCE)
        if outcome is Outcome.AHEAD or (is_asked and outcome is not Outcome.LATE):
            raise PairAhead(  # and store nothing
                f"A recovery file on the host {socket.gethostname()} has tokens of account {pair.account_id} that are "
                "newer than those of this database: a backup was restored."
            )
    if outcome is Outcome.LATE and not _is_known(pair.account_id):
        raise NoAccount
    log.warning("A kept pair of account %s was taken from its recovery file: %s.", pair.account_id, outcome)


def _is_known(account_id: int) -> bool:
    ends = AccountEvent.kind.in_((EventKind.ERASED, EventKind.MOVED_AWAY))
    ended = (AccountEvent.account_id == account_id) & ends
    with read_session() as session:
        return session.scalar(select(or_(exists().where(Account.id == account_id), exists().where(ended)))) is True


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


def _opened(content: bytes) -> NewPair | ClosedPair:
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


def _folder() -> Path:
    return services().settings.instance_path / FOLDER
