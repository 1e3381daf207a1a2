"""Add reconnect links.

An admin hands a customer a link that starts the reconnect of one account; a flow remembers the link that started it,
because the link counts as used once such a flow has ended well.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
TIME = sa.DateTime(timezone=True)
FOREIGN_KEY = "fk_authorization_flow_reconnect_link_id_reconnect_link"


def upgrade() -> None:
    """Add them."""
    op.create_table(
        "reconnect_link",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("token_hash", sa.String(), nullable=False),
        sa.Column("made_by", sa.String(), nullable=False),
        sa.Column("made_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("used_at", TIME),
        sa.Column("revoked_at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_reconnect_link"),
        sa.UniqueConstraint("token_hash", name="uq_reconnect_link_token_hash"),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name="fk_reconnect_link_account_id_account", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_reconnect_link_account_id", "reconnect_link", ["account_id"])
    with op.batch_alter_table("authorization_flow") as flow:
        flow.add_column(sa.Column("reconnect_link_id", sa.Integer()))
        flow.create_foreign_key(FOREIGN_KEY, "reconnect_link", ["reconnect_link_id"], ["id"], ondelete="SET NULL")


def downgrade() -> None:
    """Take them away; links that were handed out lead to the neutral page from then on."""
    with op.batch_alter_table("authorization_flow") as flow:
        flow.drop_constraint(FOREIGN_KEY, type_="foreignkey")
        flow.drop_column("reconnect_link_id")
    op.drop_index("ix_reconnect_link_account_id", "reconnect_link")
    op.drop_table("reconnect_link")
