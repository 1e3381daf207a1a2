"""Index the rare kinds of events by time, too.

SQLite read all events of the days that somebody looked at, to find those of one kind.
"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
RARE = sa.text("kind <> 'refreshed'")


def upgrade() -> None:
    op.create_index(
        "ix_account_event_kind_at", "account_event", ["kind", "at", "id"], sqlite_where=RARE, postgresql_where=RARE
    )


def downgrade() -> None:
    op.drop_index("ix_account_event_kind_at", "account_event")
