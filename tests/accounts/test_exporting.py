"""The export: all accounts, no token, no formula."""

import csv
import io

import pytest
from flask import Flask
from sqlalchemy import event

from keap_connect.accounts import exporting
from keap_connect.accounts.credentials import new_account
from keap_connect.accounts.exporting import COLUMNS, export_csv
from keap_connect.database import Base, db, write_transaction
from keap_connect.events import search
from keap_connect.events.history import EventKind, record
from keap_connect.events.search import Search, events_as_csv
from keap_connect.models import Account, AccountEvent
from keap_connect.settings import Settings
from tests.flows.stored import Stored
from tests.support.engines import on_sqlite
from tests.support.quick_apps import make_app
from tests.support.sandbox import Sandbox

FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t1", "\r1")


@pytest.fixture
def app(settings: Settings) -> Flask:
    """Give the app without a port."""
    built = make_app(settings)
    with built.app_context():
        yield built
        db.engine.dispose()


def read(pieces) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO("".join(pieces), newline="")))


def test_every_account_is_exported_once_in_pieces_and_without_tokens(
    app: Flask, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    stored = Stored(app, sandbox)
    monkeypatch.setattr(exporting, "ROWS_AT_ONCE", 2)
    ids = [stored.place(tenant) for tenant in ("ab123", "cd456", "ef789")]

    pieces = list(export_csv("admin@example.com"))

    rows = read(pieces)
    assert len(pieces) == 3
    assert [row["id"] for row in rows] == [str(one) for one in ids]
    assert list(rows[0]) == list(COLUMNS)
    assert (rows[0]["state"], rows[0]["tenant_id"], rows[0]["person"]) == ("active", "ab123", "Ann Lee")
    assert rows[0]["connected_at"].endswith("+00:00")
    tokens = [token for one in ids for token in stored.tokens(one) if token]
    assert len(tokens) == 6
    assert not any(token[-8:] in "".join(pieces) for token in tokens)
    assert stored.rows("account_event")[-1][3:5] == ("exported", "admin@example.com")


@pytest.mark.parametrize("of", [Account, AccountEvent])
def test_the_first_lines_are_written_before_the_last_rows_are_read(
    app: Flask, monkeypatch: pytest.MonkeyPatch, of: type[Base]
):
    for module in (exporting, search):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 2)
    with write_transaction() as session:
        for _ in range(20):
            account = new_account(session, None, None)
            record(session, EventKind.IMPORTED, account.id, "system")
    read: list[object] = []
    pieces = export_csv("admin@example.com") if of is Account else events_as_csv(Search())
    event.listen(of, "load", note := lambda row, _: read.append(row.id))

    lines = next(pieces) + next(pieces)
    read_by_then = len(read)
    lines += "".join(pieces)

    event.remove(of, "load", note)
    assert (read_by_then, len(set(read)), len(lines.splitlines())) == (3, 20, 21)


@on_sqlite
@pytest.mark.proves("R67", "F62")
def test_what_a_spreadsheet_would_take_for_a_formula_is_text(app: Flask, sandbox: Sandbox):
    stored = Stored(app, sandbox)
    stored.place(business_name='=HYPERLINK("http://evil.example","x")', external_id="-1+1", person_name='"><img src=x>')
    for number, formula in enumerate(FORMULAS):
        stored.place(f"zz{number:03}", label=formula)

    rows = read(export_csv("admin@example.com"))

    assert rows[0]["business_name"] == '\'=HYPERLINK("http://evil.example","x")'
    assert rows[0]["external_id"] == "'-1+1"
    assert rows[0]["person"] == '"><img src=x>'
    assert [row["label"] for row in rows[1:]] == [f"'{formula}" for formula in FORMULAS]
