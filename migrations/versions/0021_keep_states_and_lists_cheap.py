"""Remember since when workers work, and index the rare kinds of events.

After a pause of all workers, accounts that became due meanwhile are not at risk at once.
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


def downgrade() -> None:
    op.drop_index("ix_account_event_kind", "account_event")
    with op.batch_alter_table("registration") as registration:
        for name in COLUMNS:
            registration.drop_column(name)
