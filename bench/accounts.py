"""A migrated database full of due accounts, stored as the app itself stores a grant."""

import base64
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

from bench.bare_loop import CLIENT_ID, CLIENT_SECRET
from keap_connect.accounts.credentials import replace_credential
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.database import db, read_session, write_transaction
from keap_connect.deployment import upgrade
from keap_connect.keap.token_response import TokenResponse
from keap_connect.models import Account
from keap_connect.server.checks import prepare_to_serve
from keap_connect.settings import Settings
from tests.support import postgres


def environ(database_url: str, token_endpoint: str, instance_path: Path) -> dict[str, str]:
    """Return the settings of an app that speaks to our token endpoint, without a rate limit."""
    return {
        "PORT": "5000",
        "SECRET_KEY": "0123456789abcdef" * 2,
        "TOKEN_KEYS": base64.b64encode(bytes(range(32))).decode(),
        "DATABASE_URL": database_url,
        "KEAP_CLIENT_ID": CLIENT_ID,
        "KEAP_CLIENT_SECRET": CLIENT_SECRET,
        "KEAP_AUTHORIZE_URL": f"{token_endpoint}/authorize",
        "KEAP_TOKEN_URL": f"{token_endpoint}/token",
        "KEAP_API_URL": f"{token_endpoint}/rest",
        "INSTANCE_PATH": str(instance_path),
        "REFRESH_RATE_PER_MINUTE": "0",
        "LOG_LEVEL": "WARNING",
        "FLASK_SKIP_DOTENV": "1",
    }


def fill(settings: Settings, refresh_tokens: list[str]) -> None:
    """Lay the tables out and store one due account for each refresh token."""
    app = create_app(settings, serves=False)
    with app.app_context():
        upgrade()
        with write_transaction() as session:
            session.add_all([_due(number, token) for number, token in enumerate(refresh_tokens, 1)])
        prepare_to_serve(settings)
        db.engine.dispose()


def count_refreshed(settings: Settings) -> int:
    """Count the accounts that hold a second pair and no trace of an attempt."""
    app = create_app(settings, serves=False)
    with app.app_context():
        with read_session() as session:
            done = Account.generation == 2, Account.attempt_fingerprint.is_(None), Account.refreshed_at.is_not(None)
            number = session.query(Account).where(*done).count()
        db.engine.dispose()
    return number


def _due(number: int, refresh_token: str) -> Account:
    now = utc_now()
    account = Account(
        id=number, tenant_id="ab123", keap_user_id=str(number), created_at=now, generation=0, failures=0, refusals=0
    )
    replace_credential(account, TokenResponse("a" * 32, refresh_token, now, "full|ab123.infusionsoft.com"))
    account.access_token_expires_at = account.last_used_at = account.next_refresh_at = now - timedelta(seconds=60)
    return account


def start_postgres(folder: Path, stack: ExitStack) -> postgres.PostgresServer:
    """Start a PostgreSQL server that waits for the disk, as in earnest; it ends with the stack."""
    (folder / "postgres").mkdir(mode=0o700)
    folder.chmod(0o711)  # PostgreSQL may run as another user
    postgres.OPTIONS.update(fsync="on", full_page_writes="on")
    database = postgres.PostgresServer(folder / "postgres")
    database.create()
    database.start()
    stack.callback(database.stop)
    return database
