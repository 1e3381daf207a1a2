"""Transactions, and what we add to connections; tests/faults/test_poolers.py has what poolers do without."""

import pytest
from flask import Flask
from sqlalchemy import String, create_engine, literal_column, make_url, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.database import db, read_one, read_session, write_or_retry, write_transaction
from keap_connect.engine import PREPARE_AFTER
from keap_connect.models import Alarm
from keap_connect.plain_reads import plain_reads
from keap_connect.settings import Settings
from tests.support.engines import on_postgresql

PREPARED = literal_column("(SELECT string_agg(statement, ' ') FROM pg_prepared_statements)", String)


@on_postgresql
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


@pytest.mark.parametrize(("clashes", "stored"), [(2, True), (3, False)])
def test_a_write_is_tried_three_times_while_others_store_the_same_row(app: Flask, clashes: int, stored: bool):
    clashing = iter(range(clashes))

    def write(session: Session) -> bool:
        session.add(Alarm(name="taken" if next(clashing, None) is not None else "free", reason="", raised_at=utc_now()))
        session.flush()
        return True

    with app.app_context():
        with write_transaction() as session:
            session.add(Alarm(name="taken", reason="", raised_at=utc_now()))
        try:
            assert write_or_retry(write) is stored
        except IntegrityError:
            assert not stored


@on_postgresql
def test_dates_are_understood_whatever_style_the_role_was_given(settings: Settings, database_url: str):
    url = make_url(database_url)
    role = create_engine(url)
    with role.begin() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {url.database} SET datestyle = 'German'")
    try:
        app = create_app(settings)
        with app.app_context(), write_transaction() as session:
            session.add(Alarm(name="any", reason="", raised_at=utc_now()))
        with app.app_context():
            assert read_one(select(Alarm.raised_at)) is not None
            db.engine.dispose()
    finally:
        with role.begin() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {url.database} RESET datestyle")
        role.dispose()
