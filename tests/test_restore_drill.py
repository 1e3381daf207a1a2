"""The drill: a backup, a new host, the key from where it was kept, and hand-outs go on (R50, F41, F71)."""

import base64
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import make_url

from keap_connect.accounts.credentials import open_access_token, open_refresh_token
from keap_connect.accounts.directory import get_account
from keap_connect.application import create_app
from keap_connect.database import db
from keap_connect.errors import SettingsError
from keap_connect.settings import Settings
from tests.accounts.granted import store_account
from tests.conftest import TOKEN_KEY
from tests.support.postgres import client_program
from tests.support.sandbox import Sandbox

OTHER_KEY = base64.b64encode(bytes(range(32, 64))).decode()
Backup = Callable[[], tuple[bytes, str]]


@pytest.fixture
def back_up(database_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Backup:
    """Give the function that makes a backup as README.md says, and returns it with the URL it was restored to."""
    backup = tmp_path / "backup"

    def copy_sqlite() -> tuple[bytes, str]:
        source = sqlite3.connect(database_url.removeprefix("sqlite:///"))
        source.execute("VACUUM INTO ?", (str(backup),))
        source.close()
        return backup.read_bytes(), f"sqlite:///{backup}"

    def dump_postgresql() -> tuple[bytes, str]:
        restored = request.getfixturevalue("new_database")()
        _run_client("pg_dump", "--format=custom", f"--file={backup}", _plain(database_url))
        _run_client("pg_restore", "--exit-on-error", f"--dbname={_plain(restored)}", str(backup))
        text = _run_client("pg_restore", "--file=-", str(backup))
        return text.encode(), restored

    return copy_sqlite if database_url.startswith("sqlite") else dump_postgresql


@pytest.mark.proves("R50", "F41", "F71")
def test_a_backup_and_the_key_make_a_new_host_that_hands_out_tokens(
    settings: Settings, environ: dict[str, str], sandbox: Sandbox, back_up: Backup, tmp_path: Path
):
    old_host = create_app(settings)
    with old_host.app_context():
        store_account(sandbox)
        secrets = [open_access_token(get_account(1)), open_refresh_token(get_account(1)), TOKEN_KEY]
        content, restored = back_up()
        db.engine.dispose()
    there = {**environ, "DATABASE_URL": restored, "INSTANCE_PATH": str(tmp_path / "new host")}

    assert [secret for secret in secrets if secret and secret.encode() in content] == []
    with pytest.raises(SettingsError, match="TOKEN_KEYS"):
        create_app(Settings.from_env({**there, "TOKEN_KEYS": OTHER_KEY}))
    new_host = create_app(Settings.from_env(there))
    assert _flask(new_host, "accounts", "token", "1") == (0, secrets[0])
    code, said = _flask(new_host, "worker", "--once")
    assert (code, "refreshing confirm-only-one" in said) == (4, True)
    assert [p for p in sandbox.ledger()["presentations"] if p["kind"] == "refresh_token"] == []
    assert _flask(new_host, "refreshing", "confirm-only-one")[0] == 0
    assert _flask(new_host, "worker", "--once")[0] == 0
    assert _flask(new_host, "accounts", "refresh", "1")[0] == 0
    assert _flask(new_host, "accounts", "token", "1")[1] not in {"", secrets[0]}
    assert len([p for p in sandbox.ledger()["presentations"] if p["kind"] == "refresh_token"]) == 1
    with new_host.app_context():
        db.engine.dispose()


def _flask(app: Flask, *arguments: str) -> tuple[int, str]:
    """Run a command; return its exit code and what it said."""
    finished = app.test_cli_runner().invoke(args=arguments)
    return finished.exit_code, finished.output.strip()


def _plain(url: str) -> str:
    """Return the URL as PostgreSQL's own programs understand it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _run_client(program: str, *arguments: str) -> str:
    command = [client_program(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
