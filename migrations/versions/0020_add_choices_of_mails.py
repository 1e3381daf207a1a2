"""Add which mails each admin gets, and an index that finds the mails among the deliveries.

Every admin gets all mails until they choose otherwise, also those who were there before.
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
MAILS = sa.text("channel <> 'webhook'")


def upgrade() -> None:
    for name in ("has_alarm_mails", "has_digest_mails"):
        op.add_column("admin", sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.true()))
    op.create_index("ix_delivery_mails", "delivery", ["id"], sqlite_where=MAILS, postgresql_where=MAILS)


def downgrade() -> None:
    op.drop_index("ix_delivery_mails", "delivery")
    for name in ("has_digest_mails", "has_alarm_mails"):
        op.drop_column("admin", name)
