"""Mark imported pairs that were never refreshed."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0014"


def upgrade() -> None:
    op.add_column("account", sa.Column("needs_first_refresh", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index(
        "ix_account_unproven",
        "account",
        ["next_refresh_at"],
        sqlite_where=sa.text("needs_first_refresh = 1"),
        postgresql_where=sa.text("needs_first_refresh"),
    )


def downgrade() -> None:
    op.drop_index("ix_account_unproven", "account")
    with op.batch_alter_table("account") as account:
        account.drop_column("needs_first_refresh")
