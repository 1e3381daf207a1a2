"""The orders in which accounts are listed, and how one page is read: its cost does not grow with their number.

Each index begins with the state. So a list reads the first rows of each state that it shows, and merges them. Accounts
without the value that sorts the list are last.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, TextClause, select, text, true, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from keap_connect.accounts.state import AccountState
from keap_connect.models import LARGEST_ID, Account

BROKEN = (AccountState.RECONNECT_REQUIRED, AccountState.AT_RISK)
MOST_URGENT_FIRST = (*BROKEN, AccountState.ACTIVE, AccountState.DISCONNECTED)


# What accounts can be sorted by; the keys are part of URLs. The state is first in each index.
SORTED_BY: dict[str, InstrumentedAttribute[Any] | None] = {
    "state": None,
    "account": Account.title_key,
    "expires": Account.access_token_expires_at,
    "used": Account.last_used_at,
    "broken": Account.state_since,
}


class Position(NamedTuple):
    """The place of an account in an order. As text it is part of URLs."""

    part: int
    account_id: int
    value: str = ""

    @classmethod
    def parse(cls, text: str) -> "Position | None":
        """Read the text; None if it is no position."""
        found = re.fullmatch("([0-9]{1,2})~([0-9]{1,10})(?:~(.*))?", text, re.DOTALL)
        if found is None or int(found[2]) > LARGEST_ID:
            return None
        return cls(int(found[1]), int(found[2]), found[3] or "")

    def __str__(self) -> str:
        """Return the text."""
        return f"{self.part}~{self.account_id}~{self.value}"


class _Part(NamedTuple):
    """A part of a list: accounts in these states that meet a condition, sorted by a column and then by id."""

    states: Sequence[AccountState]
    condition: ColumnElement[bool] | TextClause
    column: InstrumentedAttribute[Any] | None


@dataclass(frozen=True)
class Order:
    """One order of the list. Its text is part of the URL, such as `-expires` for the latest first."""

    key: str = "state"
    is_descending: bool = False

    @classmethod
    def parse(cls, text: str) -> "Order":
        """Read the text of an order; any other text gives the usual order, the most urgent first."""
        key = text.removeprefix("-")
        return cls(key, text.startswith("-")) if key in SORTED_BY else cls()

    def __str__(self) -> str:
        """Return the text for the URL, which is empty for the usual order."""
        if self == Order():
            return ""
        return f"-{self.key}" if self.is_descending else self.key

    def by(self, key: str) -> "Order":
        """Return the order after a click on the head of a column; the second click reverses it."""
        return Order(key, key == self.key and not self.is_descending)

    def find_ids(
        self, session: Session, states: Collection[str], after: Position | None, limit: int, *, is_back: bool = False
    ) -> list[int]:
        """Return the ids of the next accounts after a position; with `is_back`, of those before it, nearest first."""
        found: list[int] = []
        parts = list(enumerate(self._parts(states)))
        for number, part in reversed(parts) if is_back else parts:
            if after and (number > after.part if is_back else number < after.part):
                continue
            start = after if after and after.part == number else None
            found += self._find_in(session, part, start, limit - len(found), is_back)
            if len(found) == limit:
                break
        return found

    def position_of(self, account: Account, states: Collection[str]) -> Position:
        for number, part in enumerate(self._parts(states)):
            value = getattr(account, part.column.key) if part.column is not None else ""
            if account.state in part.states and value is not None:
                return Position(number, account.id, value.isoformat() if isinstance(value, datetime) else value)
        return Position(0, account.id)

    def _parts(self, states: Collection[str]) -> Iterator[_Part]:
        shown = [state for state in MOST_URGENT_FIRST if state in states]
        column = SORTED_BY[self.key]
        if column is None:
            for state in reversed(shown) if self.is_descending else shown:
                yield _Part([state], true(), None)
            return
        if column is Account.state_since:
            # The words of the index: with others, SQLite would not read it.
            is_broken = text("account.state IN ('at_risk', 'reconnect_required')")
            yield _Part([state for state in shown if state in BROKEN], is_broken, column)
            yield _Part([state for state in shown if state not in BROKEN], true(), None)
            return
        yield _Part(shown, column.is_not(None), column)
        yield _Part(shown, column.is_(None), None)

    def _find_in(self, session: Session, part: _Part, after: Position | None, limit: int, is_back: bool) -> list[int]:
        is_descending = is_back != (self.is_descending and part.column is not None)
        keys = [Account.id] if part.column is None else [part.column, Account.id]
        query = select(*keys).where(part.condition).limit(limit)
        query = query.order_by(*(key.desc() if is_descending else key.asc() for key in keys))
        value = _read_value(part.column, after.value) if after and part.column is not None else None
        if after and (value is not None or part.column is None):
            values = [after.account_id] if part.column is None else [value, after.account_id]
            place = tuple_(*values, types=[key.type for key in keys])
            query = query.where(tuple_(*keys) < place if is_descending else tuple_(*keys) > place)
        rows = [tuple(row) for state in part.states for row in session.execute(query.where(Account.state == state))]
        return [row[-1] for row in sorted(rows, reverse=is_descending)[:limit]]


def _read_value(column: InstrumentedAttribute[Any], text: str) -> str | datetime | None:
    """Return the value of a position; None if somebody wrote another text into the URL."""
    if column is Account.title_key:
        return text
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None
