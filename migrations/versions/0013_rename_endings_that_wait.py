"""Rename the endings of a flow whose grant waits for a decision.

Flows last a day: a running version that reads the other name shows an error page for it, as long as both versions run.
"""

from alembic import op

revision = "0013"
down_revision = "0012"

ENDINGS = [("held", "decision_pending"), ("held_expired", "decision_expired")]


def upgrade() -> None:
    """Rename."""
    for before, after in ENDINGS:
        _rename(before, after)


def downgrade() -> None:
    """Give the old names back."""
    for before, after in ENDINGS:
        _rename(after, before)


def _rename(before: str, after: str) -> None:
    op.execute(f"UPDATE authorization_flow SET ending = '{after}' WHERE ending = '{before}'")  # noqa: S608
