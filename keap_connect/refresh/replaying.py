"""Stores the pairs in recovery files: those of this process and those of dead ones, as soon as the database answers.

A process does so before it acquires its first lease, too. A pair whose account has another pair by now changes nothing.
"""

import contextlib
import fcntl
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from flask import Flask, current_app
from sqlalchemy import exists, or_, select
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from keap_connect.database import read_one, write_transaction
from keap_connect.durable_files import remove_abandoned
from keap_connect.events.history import EventKind
from keap_connect.models import Account, AccountEvent
from keap_connect.refresh import alarms, recovery
from keap_connect.refresh.lease import AHEAD, CLOSED, hold, note_dead
from keap_connect.refresh.storing import NewPair, Outcome, store_granted

log = logging.getLogger(__name__)
_reported_closed: set[Path] = set()


class PairAhead(Exception):
    """The operator has to confirm that this is the living database before a kept pair is stored.

    It is newer than its row, as after a restored backup, or the operator was asked for another reason.
    """


class NoAccount(Exception):
    """The account of a kept pair is not in this database, and was not erased or merged: an old backup was restored."""


def keep(file: recovery.RecoveryFile, pair: NewPair) -> None:
    """Write a pair of this process to its file, and store it as soon as the database answers."""
    file.is_written = True
    file.write_down()
    try:
        _start_trying(file, partial(_store, pair))
    except RuntimeError:  # no thread can be started
        log.critical("The recovery file %s is stored only once this process has ended.", file.path)


def write_later(file: recovery.RecoveryFile, write: Callable[[], object]) -> None:
    """Write how an attempt ended, if no pair came, as soon as the database answers. Else it would count as unknown."""
    try:
        _start_trying(file, write)
    except RuntimeError:
        file.abandon()


def _start_trying(file: recovery.RecoveryFile, write: Callable[[], object]) -> None:
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    threading.Thread(target=_keep_trying, args=(app, file, write), daemon=True).start()


def _keep_trying(app: Flask, file: recovery.RecoveryFile, write: Callable[[], object]) -> None:
    with app.app_context():
        while True:
            try:
                write()
                break
            except Exception as problem:
                # A fault with this attempt may last: `replay` ends it, holds its account or asks the operator.
                if (isinstance(problem, NoAccount) or _is_of_one_pair(problem)) and file.write_down():
                    file.abandon()
                    return
            time.sleep(recovery.RETRY_SECONDS)  # until the database answers, or the disk has room
            file.write_down()
        recovery.give_back([file])


def replay(is_confirmed: bool = False) -> None:
    """Store the pairs in the files of dead processes, and note on their other attempts that the process is dead.

    A pair that is ahead of its row stays in its file, and refreshing is paused, until the operator has confirmed, on
    whichever host, that this is the living database. One that this process cannot open stays, too. Nobody presents the
    tokens that were used to get them.

    Raises:
        SQLAlchemyError: the database does not answer; the files stay.
    """
    remove_abandoned(recovery.folder_of_files())
    with contextlib.ExitStack() as locked:
        abandoned: dict[Path, int] = {}
        for path in sorted(recovery.folder_of_files().glob("*.pair")):
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
    content = os.pread(handle, 16 * recovery.FILE_BYTES, 0).rstrip(b"\0")
    if not content:
        return True
    try:
        kept = recovery.read_pair(content)
    except recovery.NOT_OPEN as problem:
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


def _store_or_hold(kept: NewPair | recovery.ClosedPair, path: Path, is_confirmed: bool) -> bool:
    """Store a pair, or hold its account and return False. A fault must not end the worker, which has other accounts."""
    if isinstance(kept, NewPair):
        try:
            return _store_or_ask(kept, path, is_confirmed)
        except Exception as fault:
            if not _is_of_one_pair(fault):
                raise
            why = f"a fault of this program ({type(fault).__name__})"
            kept = recovery.ClosedPair(kept.account_id, kept.generation, why)
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


def _hold(closed: recovery.ClosedPair, path: Path) -> bool:
    """Let nobody present the token that was used to get a pair; return False if its account has another one by now."""
    with write_transaction() as session:
        account = session.get(Account, closed.account_id, with_for_update=True)
        is_late = (
            account is None
            or account.disconnected_at is not None
            or account.generation > closed.generation
            # The generations of a restored backup begin lower, and a reconnect forgets the attempts before it.
            or (account.attempted_at is None and account.connected_at.timestamp() > path.stat().st_mtime)
        )
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


def _report_closed(path: Path, closed: recovery.ClosedPair, follows: str) -> None:
    if path not in _reported_closed:
        _reported_closed.add(path)
        log.critical("The recovery file %s waits, and %s. %s", path, follows, closed)


def _is_confirmed(ahead: NewPair, path: Path, reason: str) -> bool:
    """Return whether the operator has confirmed, on whichever host; until then, nobody presents the used token."""
    owner = path.stem + AHEAD
    with write_transaction() as session:
        account = session.get(Account, ahead.account_id, with_for_update=True)
        if account is None:
            return True  # it was erased meanwhile, so the pair is late
        if account.lease_owner == owner and not alarms.is_raised(session, alarms.UNKNOWN_INSTANCE):
            return True
        hold(session, account, owner)
        alarms.raise_alarm(session, alarms.UNKNOWN_INSTANCE, reason)
    return False


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
    return read_one(select(or_(exists().where(Account.id == account_id), exists().where(ended)))) is True
