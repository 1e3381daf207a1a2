"""Several real processes on one database, and accounts to fight over."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from flask import Flask
from sqlalchemy import text, update

from keap_connect.accounts.credentials import new_account, replace_credential
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.database import db, read_session, write_transaction
from keap_connect.keap.token_response import TokenResponse
from keap_connect.models import Account
from keap_connect.settings import Settings
from tests.support.sandbox import PERSON_IDS, Sandbox

REPOSITORY = Path(__file__).parents[2]
ANN = PERSON_IDS["ann.lee@example.com"]


class Process:
    """One process of the app."""

    def __init__(self, environ: dict[str, str], **settings: object) -> None:
        extra = {name: str(value) for name, value in settings.items()}
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "tests.support.spending_process"],
            cwd=REPOSITORY,
            env={**os.environ, **environ, "LOG_LEVEL": "WARNING", **extra},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.hear()["ready"] == self.popen.pid

    def tell(self, what: str, account_id: int | None = None, **options: object) -> None:
        """Start a command without waiting for its end."""
        named = {} if account_id is None else {"account_id": account_id}
        self.popen.stdin.write(json.dumps({"what": what, **named, **options}) + "\n")
        self.popen.stdin.flush()

    def hear(self) -> Any:
        """Wait for the answer; None when the process has died."""
        line = self.popen.stdout.readline()
        return json.loads(line) if line else None

    def ask(self, what: str, account_id: int | None = None, **options: object) -> Any:
        """Do one thing and return its answer."""
        self.tell(what, account_id, **options)
        answers = self.hear()
        return answers[0] if answers else None

    def freeze(self) -> None:
        """Stop it where it stands."""
        self.popen.send_signal(signal.SIGSTOP)

    def is_stopped(self) -> bool:
        """Whether it stands still."""
        return psutil.Process(self.popen.pid).status() == psutil.STATUS_STOPPED

    def thaw(self) -> None:
        """Let it go on."""
        self.popen.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a crash does."""
        self.popen.kill()
        self.popen.wait()

    def close(self) -> None:
        """End it."""
        self.popen.stdin.close()
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            try:
                self.popen.wait(40)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        self.popen.wait()
        self.popen.stdout.close()


class Stage:
    """The shared database, seen from outside the processes."""

    def __init__(self, app: Flask, sandbox: Sandbox, environ: dict[str, str]) -> None:
        self.app = app
        self.sandbox = sandbox
        self.environ = environ
        self.processes: list[Process] = []

    def start(self, number: int = 1, **settings: object) -> list[Process]:
        """Start processes."""
        started = [Process(self.environ, **settings) for _ in range(number)]
        self.processes += started
        return started

    def add_accounts(self, number: int = 1, expires_in_seconds: float = -60) -> list[int]:
        """Store grants that the sandbox issued; by default their access token has expired."""
        ids = []
        grants = self.sandbox.grant("ab123", ANN, number)
        with self.app.app_context(), write_transaction() as session:
            for index, grant in enumerate(grants):
                account = new_account(session, "ab123", f"{ANN}" if index == 0 else f"other-{index}")
                replace_credential(account, _token_response(grant))
                account.access_token_expires_at = utc_now() + timedelta(seconds=expires_in_seconds)
                account.asked_at = utc_now()
                account.next_refresh_at = utc_now()
                ids.append(account.id)
        return ids

    def row(self, account_id: int) -> Account:
        """Read an account."""
        with self.app.app_context(), read_session() as session:
            return session.get_one(Account, account_id)

    def change(self, account_id: int, **values: object) -> None:
        """Change an account's row behind the app's back."""
        with self.app.app_context(), write_transaction() as session:
            session.execute(update(Account).where(Account.id == account_id).values(**values))

    def is_leased(self, account_id: int) -> bool:
        """Whether some process has its lease."""
        return self.row(account_id).lease_owner is not None

    def events(self, account_id: int) -> list[str]:
        """Return the kinds of its history, oldest first."""
        query = text("SELECT kind FROM account_event WHERE account_id = :id ORDER BY id")
        with self.app.app_context(), read_session() as session:
            return list(session.scalars(query, {"id": account_id}))

    def refresh_presentations(self) -> list[dict[str, Any]]:
        """Return what the sandbox's ledger says of refresh tokens."""
        return [p for p in self.sandbox.ledger()["presentations"] if p["kind"] == "refresh_token"]

    def is_reconciled(self, account_id: int) -> bool:
        """Whether the stored refresh token is the live one of its grant in the sandbox's ledger."""
        from keap_connect.accounts.credentials import fingerprint, open_refresh_token

        with self.app.app_context():
            mark = fingerprint(open_refresh_token(self.row(account_id)))
        tokens = {token["fingerprint"]: token["state"] for token in self.sandbox.ledger()["tokens"]}
        return tokens[mark] == "live"


def until(condition: Callable[[], object], timeout: float = 30) -> object:
    """Wait for a condition and return what it gave."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.03)


@pytest.fixture
def stage(settings: Settings, sandbox: Sandbox, environ: dict[str, str]) -> Iterator[Stage]:
    """Give the database, the sandbox, and the power to start processes."""
    app = create_app(settings)
    built = Stage(app, sandbox, environ)
    yield built
    sandbox.release()
    for process in built.processes:
        process.close()
    with app.app_context():
        db.engine.dispose()


def _token_response(grant: dict[str, Any]) -> TokenResponse:
    return TokenResponse(grant["access_token"], grant["refresh_token"], utc_now() + timedelta(days=1), grant["scope"])
