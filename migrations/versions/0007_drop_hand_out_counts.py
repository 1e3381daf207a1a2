"""Drop the counts of hand-outs.

No page and no command ever read them; the audit log has a line for each hand-out.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.drop_table("hand_out_count")


def downgrade() -> None:
    op.create_table(
        "hand_out_count",
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("account_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("actor", "account_id", "hour", name="pk_hand_out_count"),
    )
