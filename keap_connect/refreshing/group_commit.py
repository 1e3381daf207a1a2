"""Group commit: what several threads want to write at the same moment is written in one transaction.

A commit waits for the disk, and on SQLite for every other writer. Whoever comes while one is under way waits for it and
is then written together with all others who came meanwhile.
"""

import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Generic, TypeVar, cast

from flask import current_app
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from keap_connect.clock import seconds_since_boot
from keap_connect.database import write_transaction

# Under load a transaction waits so long after the one before; a lone refresh meets no such wait.
PAUSE_SECONDS = 0.04
Wish = TypeVar("Wish")
Result = TypeVar("Result")
Write = Callable[[Session, Sequence[Wish]], Sequence[Result]]


def write_together(write: Write[Wish, Result], wish: Wish) -> Result:
    """Have `write` fulfil this wish and those of other threads in one transaction; return once that is committed.

    Args:
        write: gets the wishes, in the order in which they came, and returns one result for each.

    Raises:
        Exception: what `write` or the commit raised. When the database fails it fails all; of any other failure only
            the wish that caused it hears.
    """
    groups = current_app.extensions.setdefault("keap_connect.groups", {})
    group = cast("_Group[Wish, Result]", groups.get(write) or groups.setdefault(write, _Group()))
    return group.write(write, wish)


class _Waiting(Generic[Wish, Result]):
    """A wish, and what came of it. A Future would do the same, at several times the price."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self._answer: SimpleQueue[tuple[Result | None, BaseException | None]] = SimpleQueue()

    def answer(self, result: Result | None, problem: BaseException | None = None) -> None:
        self._answer.put((result, problem))

    def result(self) -> Result:
        result, problem = self._answer.get()
        if problem:
            raise problem
        return cast("Result", result)


class _Group(Generic[Wish, Result]):
    def __init__(self) -> None:
        self._waiting: list[_Waiting[Wish, Result]] = []
        self._joining, self._turn = threading.Lock(), threading.Lock()
        self._next_at = 0.0

    def write(self, write: Write[Wish, Result], wish: Wish) -> Result:
        mine: _Waiting[Wish, Result] = _Waiting(wish)
        with self._joining:
            self._waiting.append(mine)
            is_first = len(self._waiting) == 1
        if is_first:  # it writes for all who come until its turn
            with self._turn:
                try:
                    time.sleep(max(self._next_at - seconds_since_boot(), 0.0))
                finally:
                    with self._joining:
                        group, self._waiting = self._waiting, []
                    _write(write, group)
                    self._next_at = seconds_since_boot() + PAUSE_SECONDS
        return mine.result()


def _write(write: Write[Wish, Result], group: list[_Waiting[Wish, Result]]) -> None:
    try:
        with write_transaction() as session:
            results = write(session, [each.wish for each in group])
    except BaseException as problem:
        if len(group) > 1 and not isinstance(problem, SQLAlchemyError):
            for each in group:
                _write(write, [each])
            return
        for each in group:
            each.answer(None, problem)
    else:
        for each, result in zip(group, results, strict=True):
            each.answer(result)
