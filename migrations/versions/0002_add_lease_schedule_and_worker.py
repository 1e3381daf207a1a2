"""Add lease, schedule and worker.

A refresh token is presented only under a lease; a worker takes up what is due; alarms and the shared budget of calls
are rows, because any number of processes share them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add them."""
    with op.batch_alter_table("account") as account:
        account.add_column(sa.Column("lost_at", TIME))
        account.add_column(sa.Column("refusals", sa.Integer(), nullable=False, server_default="0"))
        account.add_column(sa.Column("lease_owner", sa.String()))
        account.add_column(sa.Column("lease_ends", sa.Double()))
        account.add_column(sa.Column("hold_until", sa.Double()))
        account.add_column(sa.Column("next_refresh_at", TIME))
        account.add_column(sa.Column("asked_at", TIME))
    op.create_index("ix_account_next_refresh_at", "account", ["next_refresh_at"])
    op.create_index("ix_account_event_at", "account_event", ["at"])
    op.create_table(
        "alarm",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("raised_at", TIME, nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_alarm"),
    )
    op.create_table(
        "refresh_budget",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("next_call", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_refresh_budget"),
    )
    op.create_table(
        "worker",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("beat_at", TIME, nullable=False),
        sa.Column("refreshed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("lag_seconds", sa.Double(), nullable=False),
        sa.Column("paused_until", TIME),
        sa.Column("pause_reason", sa.String()),
        sa.PrimaryKeyConstraint("name", name="pk_worker"),
    )


def downgrade() -> None:
    """Take them away."""
    op.drop_table("worker")
    op.drop_table("refresh_budget")
    op.drop_table("alarm")
    op.drop_index("ix_account_event_at", "account_event")
    op.drop_index("ix_account_next_refresh_at", "account")
    with op.batch_alter_table("account") as account:
        for name in ("asked_at", "next_refresh_at", "hold_until", "lease_ends", "lease_owner", "refusals", "lost_at"):
            account.drop_column(name)
