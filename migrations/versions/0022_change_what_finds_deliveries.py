"""Add since when a delivery fails and when a webhook was last tried, and make the indexes fit the queries.

What failed before counts from its next failure. PostgreSQL took the index on the end also for what has not ended, and
the one for the channel also for one webhook, and so read all that waits for each message. Lists of one status had none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
WAITS, ENDED = "finished_at IS NULL", "finished_at IS NOT NULL"
MAIL_WAITS = f"channel <> 'webhook' AND {WAITS}"
BEFORE = {
    "ix_delivery_recipient_due": (["recipient", "due_at"], WAITS),
    "ix_delivery_channel_due": (["channel", "due_at"], WAITS),
    "ix_delivery_finished_at": (["finished_at"], None),
}
AFTER = {
    "ix_delivery_recipient_due": (["channel", "recipient", "due_at", "id"], WAITS),
    "ix_delivery_channel_due": (["channel", "due_at"], MAIL_WAITS),
    "ix_delivery_finished_at": (["finished_at"], ENDED),
}


def upgrade() -> None:
    op.add_column("delivery", sa.Column("failing_since", sa.DateTime(timezone=True)))
    op.add_column("webhook_endpoint", sa.Column("tried_at", sa.DateTime(timezone=True)))
    op.create_index("ix_delivery_recipient_status_id", "delivery", ["recipient", "status", "id"])
    _replace_indexes(AFTER)


def downgrade() -> None:
    _replace_indexes(BEFORE)
    op.drop_index("ix_delivery_recipient_status_id", "delivery")
    op.drop_column("webhook_endpoint", "tried_at")
    op.drop_column("delivery", "failing_since")


def _replace_indexes(indexes: dict[str, tuple[list[str], str | None]]) -> None:
    for name, (columns, condition) in indexes.items():
        op.drop_index(name, "delivery")
        where = sa.text(condition) if condition else None
        op.create_index(name, "delivery", columns, sqlite_where=where, postgresql_where=where)
