"""Which statements the app sends, and how the database means to answer them: by which index."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from keap_connect.database import db, write_transaction

Statement = tuple[str, Any]


@contextmanager
def listening() -> Iterator[list[Statement]]:
    """Give a list that gets each statement of the block, with its values."""
    heard: list[Statement] = []

    def hear(_connection: object, _cursor: object, statement: str, values: object, *_: object) -> None:
        heard.append((statement, values))

    event.listen(db.engine, "before_cursor_execute", hear)
    try:
        yield heard
    finally:
        event.remove(db.engine, "before_cursor_execute", hear)


def plans_of(statements: Iterable[Statement], *tables: str) -> list[str]:
    """Return the plan of each statement.

    Args:
        tables: whose statistics PostgreSQL needs first; else the plan depends on when autovacuum came by.
    """
    with write_transaction() as session:
        connection, explain = session.connection(), "EXPLAIN QUERY PLAN "
        if connection.dialect.name == "postgresql":
            explain = "EXPLAIN "
            for table in tables:
                connection.exec_driver_sql(f"ANALYZE {table}")
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # a table of few rows is read whole
        return [str(connection.exec_driver_sql(explain + sql, values).all()) for sql, values in statements]
