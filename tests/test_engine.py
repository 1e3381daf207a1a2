"""What our engine adds to PostgreSQL's connections; tests/faults/test_poolers.py has what it leaves out for poolers."""

import pytest
from flask import Flask
from sqlalchemy import String, literal_column, select

from keap_connect.database import read_session, write_transaction
from keap_connect.engine import PREPARE_AFTER
from keap_connect.plain_reads import plain_reads

PREPARED = literal_column("(SELECT string_agg(statement, ' ') FROM pg_prepared_statements)", String)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_postgresql_prepares_what_each_refresh_and_token_call_asks_and_nothing_for_pages(app: Flask):
    written, read, plain = (select(PREPARED.label(name)) for name in ("written", "read", "plain"))

    with app.app_context():
        for _ in range(PREPARE_AFTER + 2):
            with read_session() as session:
                session.scalar(read)
            with write_transaction() as session:
                of_writers = session.scalar(written) or ""
            of_plain_reads = plain_reads(plain).one() or [""]

    assert "AS written" in of_writers
    assert "AS read" not in of_writers
    assert "AS plain" in of_plain_reads[0]
