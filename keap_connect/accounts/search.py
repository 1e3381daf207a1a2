"""Finds accounts by the beginnings of words in their names; a search looks at few rows, however many there are."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, func, select, true
from sqlalchemy.orm import Session, aliased

from keap_connect.accounts.naming import NAME, parse_account_name
from keap_connect.accounts.words import words_in
from keap_connect.errors import AccountNotFound
from keap_connect.models import Account, AccountWord

MOST_CANDIDATES = 2000
TOO_MANY = f"More than {MOST_CANDIDATES:,} accounts have a name with a word that begins so; add another word."
_other = aliased(AccountWord)


class Found(NamedTuple):
    """The ids of the accounts found, in order; `note` says that there may be more, or why none is looked for."""

    ids: list[int]
    note: str = ""


def search(session: Session, text: str, *conditions: ColumnElement[bool], only: Collection[int] | None = None) -> Found:
    """Find the accounts that have, for each word of a text, a word in their names that begins with it.

    `#7`, `external:acme` and `tenant:ab123` find the accounts that commands and API name so.

    Args:
        conditions: of the accounts to find.
        only: the ids that the caller may see; None for all.
    """
    typed = text.strip()
    if typed.startswith("#") or (":" in typed and NAME.fullmatch(typed)):
        return Found(_find_named(session, typed.removeprefix("#"), conditions))
    number = _find_named(session, typed, conditions) if typed.isdecimal() else []
    if number and len(typed) == 1:
        return Found(number)
    words = words_in(typed)
    if not words:
        return Found([], "Type letters or digits of a name, an address or an id.")
    if all(len(word) == 1 and word.isascii() for word in words):  # elsewhere a name may have one character
        return Found([], "A word of one letter finds too much: type at least two letters of a word.")
    ids, is_cut = _find_by_words(session, words, conditions, only)
    return Found(sorted({*number, *ids}), TOO_MANY if is_cut else "")


def _find_named(session: Session, name: str, conditions: Collection[ColumnElement[bool]]) -> list[int]:
    try:
        column, value = parse_account_name(name)
    except AccountNotFound:
        return []
    named = select(Account.id).where(getattr(Account, column) == value, *conditions)
    return list(session.scalars(named.limit(MOST_CANDIDATES)))


def _find_by_words(
    session: Session,
    words: Sequence[str],
    conditions: Collection[ColumnElement[bool]],
    only: Collection[int] | None,
) -> tuple[list[int], bool]:
    """Return the ids, and whether more than the most candidates have the rarest word."""
    is_open = true() if only is None else AccountWord.account_id.in_(only)
    numbers = {word: _count_candidates(session, and_(_begins(AccountWord, word), is_open)) for word in words}
    rarest = min(numbers, key=lambda word: numbers[word])
    candidates = (
        select(AccountWord.account_id)
        .where(_begins(AccountWord, rarest), is_open)
        .order_by(AccountWord.word, AccountWord.account_id)
        .limit(MOST_CANDIDATES)
        .subquery()
    )
    query = select(candidates.c.account_id).distinct()
    for word in numbers.keys() - {rarest}:
        # A scalar: PostgreSQL would turn EXISTS into a join, and read all accounts that have the other word.
        other = select(_other.word).where(_other.account_id == candidates.c.account_id, _begins(_other, word)).limit(1)
        query = query.where(other.scalar_subquery().is_not(None))
    if conditions:
        query = query.join(Account, Account.id == candidates.c.account_id).where(*conditions)
    return list(session.scalars(query)), numbers[rarest] > MOST_CANDIDATES


def _count_candidates(session: Session, condition: ColumnElement[bool]) -> int:
    rows = select(AccountWord.word).where(condition).limit(MOST_CANDIDATES + 1).subquery()
    return session.scalar(select(func.count()).select_from(rows)) or 0


def _begins(words: type[AccountWord], word: str) -> ColumnElement[bool]:
    """Return the SQL condition as a range, which the index serves: U+10FFFF is above every character."""
    return and_(words.word >= word, words.word < word + chr(0x10FFFF))
