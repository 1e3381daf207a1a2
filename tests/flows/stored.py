"""What the app has stored, read past its pages: rows as they are, tokens in clear, histories in their order."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flask import Flask
from sqlalchemy import select, text, update

from keap_connect.accounts.credentials import fingerprint, open_access_token, open_refresh_token
from keap_connect.clock import utc_now
from keap_connect.connect.callback import open_pending
from keap_connect.connect.matching import Grant, match_grant
from keap_connect.database import db, read_session, write_transaction
from keap_connect.keap.token_response import TokenResponse
from keap_connect.keap.user_info import Identity
from keap_connect.models import Account, AccountEvent, AuthorizationFlow
from tests.support.sandbox import PERSON_IDS, Sandbox

TENANT_NAMES = {"ab123": "Acme Plumbing", "cd456": "Bright Dental", "ef789": "Cedar & Sons"}


class Stored:
    """The app's database, seen by a test."""

    def __init__(self, app: Flask, sandbox: Sandbox) -> None:
        self._app = app
        self._sandbox = sandbox

    def rows(self, table: str = "account") -> list[tuple[Any, ...]]:
        """Return a table's rows, byte for byte."""
        with self._app.app_context(), db.engine.connect() as connection:
            ordered = select(text("*")).select_from(text(table)).order_by(text("1"))
            return [tuple(row) for row in connection.execute(ordered)]

    def row(self, account_id: int) -> tuple[Any, ...]:
        """Return one account's row, byte for byte."""
        return next(row for row in self.rows() if row[0] == account_id)

    def accounts(self) -> list[Account]:
        """Return all accounts, oldest first."""
        with self._app.app_context(), read_session() as session:
            return list(session.scalars(select(Account).order_by(Account.id)))

    def account(self, account_id: int | None = None) -> Account:
        """Return one account; without an id there must be exactly one."""
        found = [one for one in self.accounts() if account_id in {None, one.id}]
        assert len(found) == 1, f"{len(found)} accounts"
        return found[0]

    def set(self, account_id: int, **values: object) -> None:
        """Write into an account's row, as another part of the app would have."""
        with self._app.app_context(), write_transaction() as session:
            values = {"state_changes_at": utc_now(), **values}  # a list then derives its state
            session.execute(update(Account).where(Account.id == account_id).values(**values))

    def edit_kept_grant(self) -> None:
        """Let what flows keep sealed not open any more."""
        with self._app.app_context(), write_transaction() as session:
            session.execute(update(AuthorizationFlow).values(pending_grant_sealed=b"edited by somebody"))

    def flows(self) -> list[AuthorizationFlow]:
        """Return all flows, oldest first."""
        with self._app.app_context(), read_session() as session:
            return list(session.scalars(select(AuthorizationFlow).order_by(AuthorizationFlow.id)))

    def events(self) -> list[AccountEvent]:
        """Return all events, oldest first."""
        with self._app.app_context(), read_session() as session:
            return list(session.scalars(select(AccountEvent).order_by(AccountEvent.id)))

    def history(self, account_id: int) -> list[str]:
        """Return the kinds of an account's events, oldest first."""
        query = select(AccountEvent.kind).where(AccountEvent.account_id == account_id).order_by(AccountEvent.id)
        with self._app.app_context(), read_session() as session:
            return list(session.scalars(query))

    def details(self, account_id: int, kind: str) -> dict[str, Any]:
        """Return what the newest event of a kind tells."""
        query = (
            select(AccountEvent.details)
            .where(AccountEvent.account_id == account_id, AccountEvent.kind == kind)
            .order_by(AccountEvent.id.desc())
        )
        with self._app.app_context(), read_session() as session:
            return session.scalars(query).first() or {}

    def tokens(self, account_id: int) -> tuple[str | None, str | None]:
        """Return an account's access token and refresh token in clear."""
        with self._app.app_context():
            account = self.account(account_id)
            return open_access_token(account), open_refresh_token(account)

    def held_tokens(self) -> list[str]:
        """Return the tokens, in clear, of the grant that waits in the newest flow."""
        with self._app.app_context():
            grant = open_pending(self.flows()[-1])
        assert grant is not None
        held = grant.token_response
        return [token for token in (held.access_token, held.refresh_token) if token]

    def owner(self, account_id: int) -> tuple[str, int]:
        """Return the tenant and the person to whom the sandbox issued the stored tokens."""
        issued = self._issued()
        owners = {
            (issued[fingerprint(token)]["tenant_id"], issued[fingerprint(token)]["person_id"])
            for token in self.tokens(account_id)
            if token
        }
        assert len(owners) == 1, f"account {account_id} mixes the tokens of {owners}"
        return owners.pop()

    def mixed_up(self) -> list[str]:
        """Name every account that holds a token of somebody else: there must never be one."""
        issued = self._issued()
        found = []
        for account in self.accounts():
            for token in self.tokens(account.id):
                known = issued.get(fingerprint(token)) if token else None
                told = (account.tenant_id, account.keap_user_id)
                real = (known["tenant_id"], str(known["person_id"])) if known else told
                if any(one is not None and one != other for one, other in zip(told, real, strict=True)):
                    found.append(f"account {account.id} of {told} holds a token of {real}")
        return found

    def place(self, tenant: str = "ab123", person: str = "ann.lee@example.com", **columns: object) -> int:
        """Store an account with live tokens of the sandbox, without a journey; returns its id."""
        with self._app.app_context(), write_transaction() as session:
            placed = match_grant(session, self.grant(tenant, person)).account_id
        assert placed is not None
        if columns:
            self.set(placed, **columns)
        return placed

    def grant(self, tenant: str = "ab123", person: str = "ann.lee@example.com") -> Grant:
        """Let the sandbox issue a pair without clicks."""
        issued = self._sandbox.grant(tenant, PERSON_IDS[person])[0]
        expires_at = datetime.now(UTC) + timedelta(seconds=issued["expires_in"])
        name = " ".join(part.capitalize() for part in person.partition("@")[0].split("."))
        return Grant(
            TokenResponse(issued["access_token"], issued["refresh_token"], expires_at, issued["scope"]),
            Identity(tenant, str(PERSON_IDS[person]), name, person, TENANT_NAMES.get(tenant)),
        )

    def _issued(self) -> dict[str, dict[str, Any]]:
        return {token["fingerprint"]: token for token in self._sandbox.ledger()["tokens"]}


def token_calls(sandbox: Sandbox) -> list[dict[str, Any]]:
    """Return what was presented at the sandbox's token endpoint since its ledger was cleared."""
    return [call for call in sandbox.ledger()["presentations"] if call["path"] == "/token"]


def presented_twice(sandbox: Sandbox) -> list[str]:
    """Name every code or refresh token that was sent more than once: there must never be one."""
    marks = [call["fingerprint"] for call in token_calls(sandbox) if call["fingerprint"]]
    return sorted({mark for mark in marks if marks.count(mark) > 1})


def files_of(app: Flask) -> bytes:
    """Return all that SQLite has on disk: the database, and the write-ahead log, which may have older copies."""
    with app.app_context():
        path = Path(db.engine.url.database or "")
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


def has_pieces_of(secret: bytes, files: bytes) -> bool:
    """Say whether any 28 bytes in a row of a secret are there: what is longer than a page lies in pieces."""
    assert len(secret) >= 28
    return any(secret[start : start + 28] in files for start in range(0, len(secret) - 27, 28))
