"""Finds accounts and invitations by the beginnings of words in their names, and lists accounts in an order.

A search looks at few rows in any case, and the cost of a page does not grow with the number of accounts: each index
begins with the state, so a list reads the first rows of each state that it shows, and merges them. Accounts without the
value that sorts the list are last.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, TextClause, and_, func, select, text, true, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from keap_connect.accounts.naming import NAME, parse_account_name
from keap_connect.accounts.state import AccountState
from keap_connect.accounts.words import words_in
from keap_connect.database import read_all, read_session
from keap_connect.errors import AccountNotFound
from keap_connect.models import LARGEST_ID, Account, AccountWord, Invitation, InvitationWord

MOST_CANDIDATES = 2000
TOO_MANY = f"More than {MOST_CANDIDATES:,} have a word that begins like this. Type one more word."
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


class Index(NamedTuple):
    """What is found, and the words of its names."""

    rows: type[Account] | type[Invitation]
    words: type[AccountWord] | type[InvitationWord]


ACCOUNTS, INVITATIONS = Index(Account, AccountWord), Index(Invitation, InvitationWord)


class Found(NamedTuple):
    """The ids of those found, in order; `note` says that there may be more, or why none is looked for."""

    ids: list[int]
    note: str = ""


def search(
    text: str,
    *conditions: ColumnElement[bool],
    only: Collection[int] | None = None,
    index: Index = ACCOUNTS,
    most: int = MOST_CANDIDATES,
) -> Found:
    """Find those that have, for each word of a text, a word in their names that begins with it.

    `#7`, `external:acme` and `tenant:ab123` find the accounts that commands and API name so.

    Args:
        conditions: of the rows to find.
        only: the ids that the caller may see; None for all.
        most: how many ids the caller needs, the smallest ones.
    """
    typed = text.strip()
    if typed.startswith("#") or (":" in typed and NAME.fullmatch(typed)):
        return Found(_find_named(typed.removeprefix("#"), conditions, index))
    number = _find_named(typed, conditions, index) if typed.isdecimal() else []
    if number and len(typed) == 1:
        return Found(number)
    words = words_in(typed)
    if not words:
        return Found([], "Type letters or digits of a name, an address or an id.")
    if all(len(word) == 1 and word.isascii() for word in words):  # elsewhere a name may have one character
        return Found([], "A word of one letter finds too much: type at least two letters of a word.")
    with read_session() as session:
        ids, is_cut = _find_by_words(session, words, conditions, only=only, index=index, most=most)
    return Found(sorted({*number, *ids}), TOO_MANY if is_cut else "")


def list_ids_after(index: Index, after: int, limit: int, text: str, state: str) -> tuple[list[int], int | None]:
    """Return the ids above `after` that a text finds, in this state if one is given; and the id to go on from."""
    rows = index.rows
    conditions = [rows.id > after, *([rows.state == state] if state else ())]
    if text:
        ids = search(text, *conditions, index=index, most=limit + 1).ids
    else:
        ids = read_all(select(rows.id).where(*conditions).order_by(rows.id).limit(limit + 1))
    return ids[:limit], ids[limit - 1] if len(ids) > limit else None


def _find_named(name: str, conditions: Collection[ColumnElement[bool]], index: Index) -> list[int]:
    try:
        column, value = parse_account_name(name)
    except AccountNotFound:
        return []
    if not hasattr(index.rows, column):
        return []
    named = select(index.rows.id).where(getattr(index.rows, column) == value, *conditions).order_by(index.rows.id)
    return read_all(named.limit(MOST_CANDIDATES))


def _find_by_words(
    session: Session,
    words: Sequence[str],
    conditions: Collection[ColumnElement[bool]],
    *,
    only: Collection[int] | None,
    index: Index,
    most: int,
) -> tuple[list[int], bool]:
    """Return the ids, and whether more than the most candidates have the rarest word."""
    table, other = index.words, aliased(index.words)
    is_open = true() if only is None else table.owner_id.in_(only)
    # In the order of the index: else PostgreSQL may look for all that begin like this before it counts.
    ids = select(table.owner_id.label("id")).where(is_open).order_by(table.word, table.owner_id)
    numbers = {word: _count(session, ids.where(_begins(table.word, word)), MOST_CANDIDATES + 1) for word in words}
    rarest = min(numbers, key=lambda word: numbers[word])
    candidates = ids.where(_begins(table.word, rarest)).limit(MOST_CANDIDATES).subquery()
    # The smallest first, so that a database need not look at all of them once it has found the most.
    found = select(candidates.c.id).distinct().subquery()
    query = select(found.c.id).order_by(found.c.id).limit(most)
    for word in numbers.keys() - {rarest}:
        # A scalar: PostgreSQL would turn EXISTS into a join, and read all rows that have the other word.
        has_word = select(other.word).where(other.owner_id == found.c.id, _begins(other.word, word)).limit(1)
        query = query.where(has_word.scalar_subquery().is_not(None))
    if conditions:
        query = query.join(index.rows, index.rows.id == found.c.id).where(*conditions)
    # Without the ORM, which takes longer than the database.
    return list(session.connection().scalars(query)), numbers[rarest] > MOST_CANDIDATES


def _count(session: Session, rows: Select[Any], most: int) -> int:
    return session.scalar(select(func.count()).select_from(rows.limit(most).subquery())) or 0


def _begins(column: ColumnElement[str] | InstrumentedAttribute[str], word: str) -> ColumnElement[bool]:
    """Return the SQL condition as a range, which the index serves: U+10FFFF is above every character."""
    return and_(column >= word, column < word + chr(0x10FFFF))


class Position(NamedTuple):
    """The place of an account in an order. As text it is part of URLs."""

    part: int
    account_id: int
    value: str = ""

    @classmethod
    def parse(cls, text: str) -> "Position | None":
        found = re.fullmatch("([0-9]{1,2})~([0-9]{1,10})(?:~(.*))?", text, re.DOTALL)
        if found is None or int(found[2]) > LARGEST_ID:
            return None
        return cls(int(found[1]), int(found[2]), found[3] or "")

    def __str__(self) -> str:
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
