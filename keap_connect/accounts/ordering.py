"""The orders in which accounts can be listed, the same on both databases. Unknown values are always last."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, String, case, func
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from keap_connect.accounts.state import AccountState, state_expression
from keap_connect.models import Account

MOST_URGENT_FIRST = (
    AccountState.RECONNECT_REQUIRED,
    AccountState.AT_RISK,
    AccountState.ACTIVE,
    AccountState.DISCONNECTED,
)


class SortKey(StrEnum):
    """What accounts can be sorted by; the values are part of URLs."""

    STATE = "state"
    ACCOUNT = "account"
    PERSON = "person"
    EXPIRES = "expires"
    GRANT = "grant"
    REFRESHED = "refreshed"
    USED = "used"


class _alphabetical(FunctionElement[str]):  # noqa: N801
    """A text in lower case, compared by character codes, whatever the database's language."""

    type = String()
    inherit_cache = True


@compiles(_alphabetical, "sqlite")
def _sqlite_letters(element: _alphabetical, compiler: SQLCompiler, **options: Any) -> str:
    return f"lower({compiler.process(element.clauses, **options)})"


@compiles(_alphabetical, "postgresql")
def _postgresql_letters(element: _alphabetical, compiler: SQLCompiler, **options: Any) -> str:
    return f'lower({compiler.process(element.clauses, **options)}) COLLATE "C"'


@dataclass(frozen=True)
class Order:
    """One order of the list. Its text is part of the URL, such as `-expires` for the latest first."""

    key: SortKey = SortKey.STATE
    is_descending: bool = False

    @classmethod
    def parse(cls, text: str) -> "Order":
        """Read the text of an order; any other text gives the usual order, the most urgent first."""
        key = text.removeprefix("-")
        return cls(SortKey(key), text.startswith("-")) if key in set(SortKey) else cls()

    def __str__(self) -> str:
        """Return the text for the URL, which is empty for the usual order."""
        if self == Order():
            return ""
        return f"-{self.key}" if self.is_descending else str(self.key)

    def by(self, key: str) -> "Order":
        """Return the order after a click on the head of a column; the second click reverses it."""
        return Order(SortKey(key), key == self.key and not self.is_descending)

    def columns(self, now: datetime, ours: tuple[str, str]) -> list[ColumnElement[Any]]:
        """Return the columns for ORDER BY; equal accounts are sorted by expiry, then by id."""
        ranks = {state.value: rank for rank, state in enumerate(MOST_URGENT_FIRST)}
        expressions: dict[SortKey, ColumnElement[Any]] = {
            SortKey.STATE: case(ranks, value=state_expression(now, ours)),
            SortKey.ACCOUNT: _alphabetical(Account.title),
            SortKey.PERSON: _alphabetical(func.coalesce(Account.person_name, Account.person_email)),
            SortKey.EXPIRES: Account.access_token_expires_at.expression,
            SortKey.GRANT: Account.refresh_token_issued_at.expression,
            SortKey.REFRESHED: Account.refreshed_at.expression,
            SortKey.USED: Account.last_used_at.expression,
        }
        first = expressions[self.key]
        first = first.desc() if self.is_descending else first.asc()
        return [first.nulls_last(), Account.access_token_expires_at.asc().nulls_last(), Account.id.asc()]
