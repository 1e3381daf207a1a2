"""What stops a start: bad keys, an old schema, a database that is not there. Nothing is changed by finding out."""

import base64
import hashlib
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy

from keap_connect.accounts.changes import disconnect
from keap_connect.accounts.credentials import open_access_token, open_refresh_token, replace_credential
from keap_connect.accounts.directory import get_account
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.connect.identifying import identify_pending
from keap_connect.crypto import TokenCipher
from keap_connect.database import Base, db, write_transaction
from keap_connect.errors import ReconnectRequired, SettingsError, TemporarilyUnavailable
from keap_connect.keap.token_response import TokenResponse
from keap_connect.models import Account
from keap_connect.refresh.serving import refresh_account, valid_token
from keap_connect.server.checks import prepare_to_serve
from keap_connect.settings import Settings
from tests.accounts.granted import row_of, store_account
from tests.conftest import TOKEN_KEY
from tests.keap.raw_server import RawServer
from tests.support.engines import on_sqlite
from tests.support.real_server import SHIPPED

ROOT = Path(__file__).parent.parent
OTHER_KEY = base64.b64encode(bytes(range(32, 64))).decode()


@pytest.fixture
def start(environ):
    """Give the function that starts the app, with some settings changed."""
    started = []

    def start(**changes):
        settings = Settings.from_env(environ | changes)
        app = create_app(settings, serves=False)
        started.append(app)  # before it can be refused, so that its connections are closed
        with app.app_context():
            prepare_to_serve(settings)
        return app

    yield start
    for app in started:
        stop(app)


def stop(app):
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def stored(start, sandbox):
    """Give the id of an account in a database that was in use before."""
    app = start()
    with app.app_context():
        account_id = store_account(sandbox)
    stop(app)
    return account_id


def content_of(database_url):
    """Return every row of every table, and the hash of the file if it is one."""
    engine = sqlalchemy.create_engine(database_url)
    with engine.connect() as connection:
        names = [*Base.metadata.tables, "alembic_version"]
        present = sqlalchemy.inspect(connection).get_table_names()
        rows = {
            name: connection.execute(sqlalchemy.text(f"SELECT * FROM {name}")).all()
            for name in names
            if name in present
        }
    engine.dispose()
    path = Path(database_url.removeprefix("sqlite:///"))
    return rows, hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


# The file


def test_a_large_file_is_read_as_a_whole_by_doctor_alone(start, monkeypatch):
    read = []
    monkeypatch.setattr("keap_connect.deployment.find_damage", lambda _engine: read.append("all"))
    start()
    monkeypatch.setattr("keap_connect.server.checks.MOST_READ_BYTES", 0)
    read.clear()

    start()

    assert read == []


@pytest.mark.proves("F37")
@on_sqlite
@pytest.mark.parametrize("damage", ["in the middle", "cut off", "not a database"])
def test_a_damaged_file_stops_the_start_and_is_left_as_it_is(start, stored, database_url, damage):
    path = Path(database_url.removeprefix("sqlite:///"))
    content = path.read_bytes()
    middle = len(content) // 2
    damaged = {
        "in the middle": content[:4096] + bytes(middle) + content[4096 + middle :],
        "cut off": content[:middle],
        "not a database": b"x" * len(content),
    }[damage]
    path.write_bytes(damaged)

    with pytest.raises(SettingsError, match="damaged"):
        start()

    assert path.read_bytes() == damaged


# Keys


@pytest.mark.proves("R46", "F40")
@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", "TOKEN_KEYS: key 1 must be 32 random bytes"),
        ("dG9vIHNob3J0", "TOKEN_KEYS: key 1 must be 32 random bytes"),
        (base64.b64encode(b"changeme" * 4).decode(), "TOKEN_KEYS: key 1 must be 32 random bytes"),
        (OTHER_KEY, "TOKEN_KEYS does not open what is stored in this database"),
    ],
    ids=["missing", "short", "placeholder", "wrong"],
)
def test_a_bad_key_stops_the_start_and_changes_nothing(start, stored, database_url, key, words):
    before = content_of(database_url)

    with pytest.raises(SettingsError) as refusal:
        start(TOKEN_KEYS=key)

    assert refusal.value.problems[0].startswith(words)
    assert content_of(database_url) == before


@pytest.mark.proves("F40")
def test_a_ring_with_the_old_key_opens_what_either_key_sealed(start, stored, sandbox):
    with start(TOKEN_KEYS=f"{OTHER_KEY},{TOKEN_KEY}").app_context():
        newer = store_account(sandbox, "cd456")
        assert open_access_token(get_account(stored))
        assert open_refresh_token(get_account(newer))

    with start(TOKEN_KEYS=f"{TOKEN_KEY},{OTHER_KEY}").app_context():
        assert open_refresh_token(get_account(stored))
        assert open_access_token(get_account(newer))


def test_a_new_database_learns_its_key_at_the_first_start(start):
    start()

    with pytest.raises(SettingsError, match="TOKEN_KEYS does not open"):
        start(TOKEN_KEYS=OTHER_KEY)


def test_two_first_starts_at_once_agree_on_the_key(start, monkeypatch):
    seal, others = TokenCipher.seal, [start]

    def seal_while_another_process_starts(cipher, secret, place):
        if others:
            others.pop()()
        return seal(cipher, secret, place)

    monkeypatch.setattr(TokenCipher, "seal", seal_while_another_process_starts)

    start()

    assert others == []


# Schema


@pytest.fixture
def set_revision(database_url):
    """Give the function that lets the database claim another revision, for this test alone."""

    def set_to(revision):
        engine = sqlalchemy.create_engine(database_url)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("DELETE FROM alembic_version"))
            if revision:
                version = {"revision": revision}
                connection.execute(sqlalchemy.text("INSERT INTO alembic_version VALUES (:revision)"), version)
        engine.dispose()
        return revision

    engine = sqlalchemy.create_engine(database_url)
    with engine.connect() as connection:
        real = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalar_one()
    engine.dispose()
    yield set_to
    set_to(real)


@pytest.mark.proves("F42")
@pytest.mark.parametrize(
    ("revision", "words"),
    [
        ("9999", "at revision 9999.*Install the version that made it"),
        ("0005", "at revision 0005.*run `./keap-connect db upgrade`"),
        (None, "has no tables yet.*run `./keap-connect db upgrade`"),
    ],
)
def test_another_schema_than_the_programs_is_refused_and_left_alone(
    start, stored, database_url, set_revision, *, revision, words
):
    set_revision(revision)
    before = content_of(database_url)

    with pytest.raises(SettingsError, match=words):
        start()

    assert content_of(database_url) == before


def test_an_empty_database_is_refused_with_the_command_that_fills_it(start, tmp_path, new_database):
    for url in (f"sqlite:///{tmp_path}/empty.db", new_database()):
        with pytest.raises(SettingsError, match=r"run `\./keap-connect db upgrade`"):
            start(DATABASE_URL=url)


def test_a_database_that_is_not_there_gets_a_sentence(start, tmp_path):
    for url in (f"sqlite:///{tmp_path}/no/such/folder/app.db", "postgresql://user:canary-password@127.0.0.1:1/app"):
        with pytest.raises(SettingsError) as refusal:
            start(DATABASE_URL=url)

        assert refusal.value.problems[0].startswith("The database that DATABASE_URL names does not answer")
        assert "canary" not in str(refusal.value)


# Grants of another client or server


@pytest.fixture
def other_server():
    with RawServer() as server:
        yield server


@pytest.fixture
def elsewhere(request, other_server):
    """Give settings that no longer name the client, or the server, that the stored grants belong to."""
    keap = dict.fromkeys(("KEAP_TOKEN_URL", "KEAP_API_URL"), f"{other_server.url}/elsewhere")
    client = {"KEAP_CLIENT_ID": "another-client-id", "KEAP_CLIENT_SECRET": "another-client-secret"}
    return {"server": keap, "client": client}[request.param]


moved = pytest.mark.parametrize("elsewhere", ["server", "client"], indirect=True)


@moved
def test_foreign_grants_are_counted_at_the_start(start, stored, sandbox, elsewhere, caplog):
    with start().app_context():
        store_account(sandbox, "cd456")
        disconnect(store_account(sandbox, "ef789"), "test")
    caplog.clear()

    start(**elsewhere)

    warnings = [one.message for one in caplog.records if one.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("2 stored grants belong to another client id or token URL than the settings name.")


def test_a_start_without_foreign_grants_warns_of_nothing(start, stored, caplog):
    start()

    assert [one.message for one in caplog.records if one.levelno >= logging.WARNING] == []


@pytest.mark.proves("R24")
@moved
def test_foreign_grants_are_never_presented_elsewhere(start, stored, sandbox, elsewhere, other_server):
    with start().app_context():
        pending = store_account(sandbox, None, None)
    sandbox.clear_ledger()

    with start(**elsewhere).app_context():
        before = row_of(stored), row_of(pending)
        with pytest.raises(ReconnectRequired, match="never sent elsewhere"):
            refresh_account(stored, "test")
        with pytest.raises(TemporarilyUnavailable, match="never sent elsewhere"):
            identify_pending(pending)
        assert (row_of(stored), row_of(pending)) == before
        assert valid_token(stored, "test").access_token

    other_server.close()
    assert other_server.connections == []
    assert sandbox.ledger()["presentations"] == []


def test_a_reconnect_brings_a_foreign_grant_home(start, stored, sandbox):
    sandbox.add_app("another-client-id", "another-client-secret")
    with start(KEAP_CLIENT_ID="another-client-id", KEAP_CLIENT_SECRET="another-client-secret").app_context():
        granted = TokenResponse.from_body(sandbox.grant(client_id="another-client-id")[0], utc_now())
        with write_transaction() as session:
            replace_credential(session.get_one(Account, stored), granted)

        refresh_account(stored, "test")

        assert row_of(stored)["client_id"] == "another-client-id"


# The program itself; what it says does not depend on the database


def run(environ, *command):
    # Blank wins over what a developer's own .env says.
    names = ("KEAP_CLIENT_ID", "KEAP_CLIENT_SECRET", "KEAP_ISSUER", "KEAP_PKCE", "ADMIN_EMAIL", "ADMIN_PASSWORD")
    files = (
        "KEAP_CLIENT_SECRET_FILE",
        "SECRET_KEY_FILE",
        "TOKEN_KEYS_FILE",
        "DATABASE_URL_FILE",
        "ADMIN_PASSWORD_FILE",
    )
    blank = dict.fromkeys([*names, *files, "TRUSTED_PROXIES"], "")
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=blank | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@on_sqlite
@pytest.mark.parametrize("command", [["app.py"], ["-m", "flask", "--app", "app", "accounts", "list"]])
def test_the_program_ends_with_all_its_reasons_and_no_traceback(start, environ, command):
    wrong = environ | {"SECRET_KEY": "", "TOKEN_KEYS": "canary-key", "PUBLIC_URL": "http://connect.example.com"}

    ended = run(wrong, *command)

    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert lines[0] == "Keap Connect does not start:"
    assert all(line.startswith("- ") for line in lines[1:])
    assert [line for line in lines if "SECRET_KEY" in line]
    assert [line for line in lines if "TOKEN_KEYS" in line]
    assert [line for line in lines if "PUBLIC_URL must start with https://" in line]
    assert "canary" not in ended.stdout + ended.stderr


@on_sqlite
@pytest.mark.proves("R46", "F40", "F42")
def test_the_server_ends_instead_of_serving_a_database_that_does_not_fit(environ, stored, set_revision):
    set_revision("0000")

    ended = run(environ, *SHIPPED[1:])

    assert ended.returncode != 0
    assert "Keap Connect does not start:" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


@on_sqlite
@pytest.mark.proves("R46")
def test_the_program_ends_with_one_sentence_when_the_database_does_not_fit(environ, stored, database_url):
    before = content_of(database_url)

    ended = run(environ | {"TOKEN_KEYS": OTHER_KEY}, "app.py")

    assert ended.returncode == 1
    assert ended.stderr.startswith("Keap Connect does not start:\n- ")
    assert len(ended.stderr.splitlines()) == 2
    assert content_of(database_url) == before


@on_sqlite
@pytest.mark.proves("R46", "R91")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"ADMIN_EMAIL": "ann@example.com", "ADMIN_PASSWORD": "keapconnect2026"},
            "ADMIN_EMAIL and ADMIN_PASSWORD make",
        ),
        (
            {
                "FLASK_DEBUG": "1",
                "PUBLIC_URL": "https://connect.example.com",
                "KEAP_CLIENT_ID": "client",
                "KEAP_CLIENT_SECRET": "secret",
                "KEAP_AUTHORIZE_URL": "",
                "KEAP_TOKEN_URL": "",
                "KEAP_API_URL": "",
            },
            "FLASK_DEBUG (or --debug) shows the source",
        ),
    ],
    ids=["weak password", "debug"],
)
def test_flask_run_serves_nothing_that_is_not_fit(environ, stored, changes, words):
    ended = run(environ | changes, "-m", "flask", "--app", "app", "run", "--port", environ["PORT"])

    assert ended.returncode != 0
    assert f"Keap Connect does not start:\n- {words}" in ended.stderr
    assert "Running on" not in ended.stdout + ended.stderr
