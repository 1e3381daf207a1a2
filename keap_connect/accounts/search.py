"""Finds accounts and invitations by the beginnings of words in their names; a search looks at few rows in any case."""

from collections.abc import Collection, Sequence
from typing import Generic, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, and_, func, literal, select, true
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from keap_connect.accounts.naming import NAME, parse_account_name
from keap_connect.accounts.words import words_in
from keap_connect.database import read_session
from keap_connect.errors import AccountNotFound
from keap_connect.models import Account, AccountWord, Invitation, InvitationWord

Row = TypeVar("Row")
MOST_CANDIDATES = 2000
TOO_MANY = f"More than {MOST_CANDIDATES:,} have a word that begins like this. Type one more word."


class Index(NamedTuple):
    """What is found, and the words of its names."""

    rows: type[Account] | type[Invitation]
    words: type[AccountWord] | type[InvitationWord]


ACCOUNTS, INVITATIONS = Index(Account, AccountWord), Index(Invitation, InvitationWord)


class Page(NamedTuple, Generic[Row]):
    """A page of a list, the cursor of the next one, None at the end, and what a search says about itself."""

    rows: Sequence[Row]
    next_cursor: int | None
    note: str = ""


class Found(NamedTuple):
    """The ids of those found, in order; `note` says that there may be more, or why none is looked for."""

    ids: list[int]
    note: str = ""


def search(
    session: Session,
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
        return Found(_find_named(session, typed.removeprefix("#"), conditions, index))
    number = _find_named(session, typed, conditions, index) if typed.isdecimal() else []
    if number and len(typed) == 1:
        return Found(number)
    words = words_in(typed)
    if not words:
        return Found([], "Type letters or digits of a name, an address or an id.")
    if all(len(word) == 1 and word.isascii() for word in words):  # elsewhere a name may have one character
        return Found([], "A word of one letter finds too much: type at least two letters of a word.")
    ids, is_cut = _find_by_words(session, words, conditions, only=only, index=index, most=most)
    return Found(sorted({*number, *ids}), TOO_MANY if is_cut else "")


def list_ids_after(index: Index, after: int, limit: int, text: str, state: str) -> tuple[list[int], int | None]:
    """Return the ids above `after` that a text finds, in this state if one is given; and the id to go on from."""
    rows = index.rows
    conditions = [rows.id > after, *([rows.state == state] if state else ())]
    with read_session() as session:
        if text:
            ids = search(session, text, *conditions, index=index, most=limit + 1).ids[: limit + 1]
        else:
            ids = list(session.scalars(select(rows.id).where(*conditions).order_by(rows.id).limit(limit + 1)))
    return ids[:limit], ids[limit - 1] if len(ids) > limit else None


def _find_named(session: Session, name: str, conditions: Collection[ColumnElement[bool]], index: Index) -> list[int]:
    try:
        column, value = parse_account_name(name)
    except AccountNotFound:
        return []
    if not hasattr(index.rows, column):
        return []
    named = select(index.rows.id).where(getattr(index.rows, column) == value, *conditions).order_by(index.rows.id)
    return list(session.scalars(named.limit(MOST_CANDIDATES)))


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
    numbers = {word: _count_candidates(session, and_(_begins(table.word, word), is_open)) for word in words}
    rarest = min(numbers, key=lambda word: numbers[word])
    candidates = (
        select(table.owner_id.label("id"))
        .where(_begins(table.word, rarest), is_open)
        .order_by(table.word, table.owner_id)
        .limit(MOST_CANDIDATES)
        .subquery()
    )
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


def _count_candidates(session: Session, condition: ColumnElement[bool]) -> int:
    rows = select(literal(1)).where(condition).limit(MOST_CANDIDATES + 1).subquery()
    return session.scalar(select(func.count()).select_from(rows)) or 0


def _begins(column: ColumnElement[str] | InstrumentedAttribute[str], word: str) -> ColumnElement[bool]:
    """Return the SQL condition as a range, which the index serves: U+10FFFF is above every character."""
    return and_(column >= word, column < word + chr(0x10FFFF))
