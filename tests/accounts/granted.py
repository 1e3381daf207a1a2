"""Accounts for tests: stored as the journey stores them, with a pair that the sandbox has really issued."""

from keap_connect.accounts.credentials import new_account, replace_credential
from keap_connect.clock import utc_now
from keap_connect.database import read_session, write_transaction
from keap_connect.keap.token_response import TokenResponse
from keap_connect.models import Account
from tests.support.sandbox import ANN, Sandbox


def store_account(
    sandbox: Sandbox, tenant_id: str | None = "ab123", person_id: int | None = ANN, **facts: object
) -> int:
    """Store an account and return its id; `facts` set columns of its row. Call it in an app context."""
    granted = TokenResponse.from_body(sandbox.grant(tenant_id or "ab123", person_id or ANN)[0], utc_now())
    assert granted is not None
    with write_transaction() as session:
        account = new_account(session, tenant_id, str(person_id) if person_id else None)
        replace_credential(account, granted)
        for name, value in facts.items():
            setattr(account, name, value)
    return account.id


def row_of(account_id: int) -> dict[str, object]:
    """Return every column of an account's row, as stored."""
    with read_session() as session:
        account = session.get_one(Account, account_id)
    return {name: getattr(account, name) for name in Account.__table__.columns.keys()}  # noqa: SIM118
