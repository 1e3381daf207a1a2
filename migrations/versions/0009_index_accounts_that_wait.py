"""Index the accounts that have a lease or a wait.

Two queries then read these few rows and not the whole table: the attempts of dead processes, and all waits.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Create it."""
    waits = sa.text("lease_owner IS NOT NULL OR hold_until IS NOT NULL")
    op.create_index("ix_account_waits", "account", ["id"], sqlite_where=waits, postgresql_where=waits)


def downgrade() -> None:
    """Take it away."""
    op.drop_index("ix_account_waits", "account")
