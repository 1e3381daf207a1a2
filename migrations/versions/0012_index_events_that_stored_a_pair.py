"""Index the events that stored a pair: the newest of them is looked for every few seconds, for the mark of a host.

While Keap fails for hours, millions of other events may come after it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Create it."""
    pairs = sa.text("pair_mark IS NOT NULL")
    op.create_index("ix_account_event_pairs", "account_event", ["id"], sqlite_where=pairs, postgresql_where=pairs)


def downgrade() -> None:
    """Take it away."""
    op.drop_index("ix_account_event_pairs", "account_event")
