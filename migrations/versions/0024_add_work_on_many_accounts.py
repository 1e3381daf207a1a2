"""Add what a job on many accounts needs, and when a reconnect link was opened.

What is left of its filter, and an index that counts its items.
"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    op.add_column("job", sa.Column("rest", sa.JSON()))
    op.create_index("ix_job_item_outcome", "job_item", ["job_id", "outcome", "number"])
    op.add_column("reconnect_link", sa.Column("opened_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    op.drop_column("reconnect_link", "opened_at")
    op.drop_index("ix_job_item_outcome", "job_item")
    op.drop_column("job", "rest")
