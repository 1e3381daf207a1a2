"""Add webhook endpoints, deliveries, and counters.

A delivery is written in the transaction of the change that it announces. Counters outlive the processes that count.
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
WAITING = {"ix_delivery_recipient_due": ["recipient", "due_at"], "ix_delivery_channel_due": ["channel", "due_at"]}
WAITING["ix_delivery_order"] = ["recipient", "account_id", "id"]


def upgrade() -> None:
    op.create_table(
        "webhook_endpoint",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("types", sa.JSON()),
        sa.Column("secret_sealed", sa.LargeBinary()),
        sa.Column("old_secret_sealed", sa.LargeBinary()),
        sa.Column("old_secret_until", sa.DateTime(timezone=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("failing_since", sa.DateTime(timezone=True)),
        sa.Column("switched_off_at", sa.DateTime(timezone=True)),
        sa.Column("switched_off_because", sa.String()),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_endpoint"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "delivery",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("event_id", sa.Integer()),
        sa.Column("account_id", sa.Integer()),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("recipient", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("message_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("tried_at", sa.DateTime(timezone=True)),
        sa.Column("answer", sa.String()),
        sa.Column("answer_code", sa.Integer()),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_delivery"),
        sqlite_autoincrement=True,
    )
    waits = sa.text("finished_at IS NULL")
    for name, columns in WAITING.items():
        op.create_index(name, "delivery", columns, sqlite_where=waits, postgresql_where=waits)
    op.create_index("ix_delivery_recipient_id", "delivery", ["recipient", "id"])
    op.create_index("ix_delivery_account_id", "delivery", ["account_id"])
    op.create_index("ix_delivery_finished_at", "delivery", ["finished_at"])
    op.create_table(
        "counter",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("labels", sa.String(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "labels", name="pk_counter"),
    )


def downgrade() -> None:
    op.drop_table("counter")
    op.drop_table("delivery")
    op.drop_table("webhook_endpoint")
