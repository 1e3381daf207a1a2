"""Keeps a filled database of each version: `python -m tests.support.filled_versions 0.3.0` writes that of this one."""

import os
import sqlite3
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import psycopg
import sqlalchemy
from sqlalchemy import select

from keap_connect.access.admins import create_admin, get_admin, invite_admin
from keap_connect.access.api_keys import issue_api_key
from keap_connect.access.sign_ins import sign_in_admin
from keap_connect.accounts.credentials import new_account, replace_credential
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.connect.callback import keep_pending
from keap_connect.connect.endings import Ending
from keap_connect.connect.flows import end_flow
from keap_connect.connect.invitations import CONFIRM_WITHIN, NewInvitation, make_invitation
from keap_connect.connect.invited import note_waiting, start_by_invitation
from keap_connect.connect.matching import Grant
from keap_connect.connect.reconnect_links import make_link
from keap_connect.counters import hour_of
from keap_connect.database import db, write_transaction
from keap_connect.deployment import upgrade
from keap_connect.events.history import EventKind, record
from keap_connect.keap.token_response import TokenResponse
from keap_connect.keap.user_info import Identity
from keap_connect.models import AuthorizationFlow, Invitation, Role, StateChange
from keap_connect.refresh.figures import add_to_days, add_to_hours
from keap_connect.server.checks import prepare_to_serve
from keap_connect.settings import Settings
from tests.conftest import SECRET_KEY, TOKEN_KEY, migrate

FOLDER = Path(__file__).parent.parent / "versions"
ENVIRON = {
    "PORT": "5000",
    "SECRET_KEY": SECRET_KEY,
    "TOKEN_KEYS": TOKEN_KEY,
    "KEAP_CLIENT_ID": "client-of-the-versions",
    "KEAP_CLIENT_SECRET": "secret-of-the-versions",
    "KEAP_AUTHORIZE_URL": "http://127.0.0.1:1/authorize",
    "KEAP_TOKEN_URL": "http://127.0.0.1:1/token",
    "KEAP_API_URL": "http://127.0.0.1:1/rest",
}
NAMES = ("Bright Dental", "Müller & Söhne", "日本語", None)


def revision_of(version: str) -> str:
    """Return the revision of the tables in the file of a version."""
    found: str = _in_memory(version).execute("SELECT version_num FROM alembic_version").fetchone()[0]
    return found


def load(version: str, url: str) -> None:
    """Make the database of a version in an empty one; on PostgreSQL, by the migrations and with the same rows."""
    memory = _in_memory(version)
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as file:
            memory.backup(file)
        file.close()
        return
    migrate(url, revision_of(version))
    engine, tables = sqlalchemy.create_engine(url), sqlalchemy.MetaData()
    tables.reflect(engine)
    with psycopg.connect(url.replace("+psycopg", "")) as connection, connection.cursor() as cursor:
        for table in (one for one in tables.sorted_tables if one.name != "alembic_version"):
            columns = ", ".join(f'"{column.name}"' for column in table.columns)
            with cursor.copy(f"COPY {table.name} ({columns}) FROM STDIN".encode()) as copy:
                for row in memory.execute(f"SELECT {columns} FROM {table.name}"):
                    copy.write_row(row)
            if (number := table.autoincrement_column) is not None:
                last = f"SELECT setval(pg_get_serial_sequence('{table.name}', '{number.name}'), max({number.name}))"
                cursor.execute(f"{last} FROM {table.name}".encode())
    engine.dispose()


def _in_memory(version: str) -> sqlite3.Connection:
    memory = sqlite3.connect(":memory:")
    memory.executescript((FOLDER / f"{version}.sql").read_text(encoding="utf-8"))
    return memory


def _fill(database: Path) -> str:
    """Fill a new database by the functions of this version, and return its API key."""
    environ = {**ENVIRON, "DATABASE_URL": f"sqlite:///{database}", "INSTANCE_PATH": str(database.parent)}
    settings = Settings.from_env(environ)
    app = create_app(settings, serves=False)
    with app.app_context():
        upgrade()
        with write_transaction() as session:
            for number, name in enumerate(NAMES, 1):
                account = new_account(session, f"ab{100 + number}", str(1000 + number))
                account.business_name, account.external_id = name, f"customer-{number}"
                tokens = f"access-token-{number}", f"refresh-token-{number}", utc_now() + timedelta(days=1)
                replace_credential(account, TokenResponse(*tokens, f"full|ab{100 + number}.infusionsoft.com"))
                record(session, EventKind.CONNECTED, account.id, "customer")
            account.refused_at, account.refusals, account.next_refresh_at = utc_now(), 2, None
        create_admin("admin@example.com", "a long password for the versions")
        prepare_to_serve(settings)
        key = issue_api_key("nightly", ["tokens:read", "accounts:read"], "test").text
        sign_in_admin(get_admin("admin@example.com"), "127.0.0.1")
        make_link(1, "test")
        invite_admin("invited@example.com", Role.VIEWER, "test")
        make_invitation(NewInvitation("Harbor Yoga", "customer-5"), "test")
        _let_a_grant_wait(make_invitation(NewInvitation("Elm Clinic", needs_confirmation=True), "test").url)
        with write_transaction() as session:
            add_to_hours(session, {(hour_of(utc_now()), "refreshes", "stored"): 4.0})
        add_to_days()
        with write_transaction() as session:
            session.add(StateChange(at=utc_now(), change="lost gone"))
        db.engine.dispose()
    return key


def _let_a_grant_wait(url: str) -> None:
    start_by_invitation(url.rpartition("/")[2], "browser")
    tokens = "access-token-9", "refresh-token-9", utc_now() + timedelta(days=1)
    grant = Grant(TokenResponse(*tokens, "full|ab109.infusionsoft.com"), Identity("ab109", "1009"))
    until = utc_now() + CONFIRM_WITHIN
    with write_transaction() as session:
        flow = session.scalars(select(AuthorizationFlow)).one()
        end_flow(session, flow.id, Ending.CONFIRMATION_PENDING, None)
        keep_pending(session, flow, grant, until)
        note_waiting(session, session.get_one(Invitation, flow.invitation_id), grant.identity, None, until)


def main(version: str) -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o700)
        key = _fill(Path(folder, "filled.db"))
        with sqlite3.connect(Path(folder, "filled.db")) as filled:
            lines = "\n".join(filled.iterdump())
        filled.close()
    (FOLDER / f"{version}.sql").write_text(f"-- API key: {key}\n{lines}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
