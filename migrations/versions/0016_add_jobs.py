"""Add jobs with their items, and mark imported pairs that were never refreshed.

Files that waited to be imported lasted ten minutes; a job now stores their lines.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.create_table(
        "job",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("made_by", sa.String(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("trouble", sa.String()),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "job_item",
        sa.Column("ref", sa.String(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("work_sealed", sa.LargeBinary()),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String()),
        sa.Column("account_id", sa.Integer()),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name="fk_job_item_account_id_account", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_job_item_job_id_job", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("ref", name="pk_job_item"),
        sa.UniqueConstraint("job_id", "number", name="uq_job_item_job_id_number"),
    )
    op.create_index("ix_job_item_account_id", "job_item", ["account_id"])
    op.drop_table("pending_file")
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
    op.create_table(
        "pending_file",
        sa.Column("admin_id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("admin_id", name="pk_pending_file"),
    )
    op.drop_table("job_item")
    op.drop_table("job")
