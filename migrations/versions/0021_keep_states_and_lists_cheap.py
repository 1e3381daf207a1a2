"""Remember since when workers work, and index the rare kinds of events, and their order in time.

After a pause of all workers, accounts that became due meanwhile are not at risk at once. PostgreSQL sorted all events
of the days that somebody looked at, since many have the same time.
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
RARE = sa.text("kind <> 'refreshed'")
COLUMNS = ("worked_at", "working_since")


def upgrade() -> None:
    for name in COLUMNS:
        op.add_column("registration", sa.Column(name, sa.DateTime(timezone=True)))
    op.create_index("ix_account_event_kind", "account_event", ["kind", "id"], sqlite_where=RARE, postgresql_where=RARE)
    op.create_index("ix_account_event_at_id", "account_event", ["at", "id"])
    op.drop_index("ix_account_event_at", "account_event")


def downgrade() -> None:
    op.create_index("ix_account_event_at", "account_event", ["at"])
    op.drop_index("ix_account_event_at_id", "account_event")
    op.drop_index("ix_account_event_kind", "account_event")
    with op.batch_alter_table("registration") as registration:
        for name in COLUMNS:
            registration.drop_column(name)
