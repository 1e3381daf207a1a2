"""Add what a database is recognized by: confirmations, and a random value of each event that stored a pair.

They take the place of the counter in the table `deployment`. The first start adopts a database whose counter fits.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Create them. A column is added in place: the history may be long."""
    op.create_table(
        "confirmation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("instance_id", sa.String()),
        sa.Column("public_url", sa.String(), nullable=False),
        sa.Column("system_identifier", sa.String()),
        sa.Column("account_table_oid", sa.String()),
        sa.Column("file_inode", sa.String()),
        sa.Column("file_born_at", sa.String()),
        sa.PrimaryKeyConstraint("id", name="pk_confirmation"),
        sa.UniqueConstraint("value", name="uq_confirmation_value"),
        sqlite_autoincrement=True,
    )
    op.add_column("account_event", sa.Column("pair_mark", sa.String()))


def downgrade() -> None:
    """Take them away."""
    op.drop_column("account_event", "pair_mark")
    op.drop_table("confirmation")
