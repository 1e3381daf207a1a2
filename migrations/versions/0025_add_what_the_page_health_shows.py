"""Add the hours and days of the page Health, and the changes of states that wait to be added to their days.

One row for a period, so that the page reads few, however many accounts there are.
"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    op.create_table(
        "period",
        sa.Column("span", sa.String(), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("span", "starts_at", name="pk_period"),
    )
    op.create_table(
        "state_change",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("change", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_state_change"),
    )


def downgrade() -> None:
    op.drop_table("state_change")
    op.drop_table("period")
