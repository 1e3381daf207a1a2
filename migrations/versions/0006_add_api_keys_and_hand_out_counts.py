"""Add API keys, hand-out counts and imports that are asked for once.

Programs come in with a key; what they are handed is counted per key, account and hour; an import that names an
Idempotency-Key is remembered for a day.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create them."""
    op.create_table(
        "api_key",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("public_id", sa.String(), nullable=False),
        sa.Column("secret_hash", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("scopes", sa.String(), nullable=False),
        sa.Column("account_ids", sa.JSON(none_as_null=True)),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("expires_at", TIME),
        sa.Column("revoked_at", TIME),
        sa.Column("last_used_at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_api_key"),
        sa.UniqueConstraint("public_id", name="uq_api_key_public_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "hand_out_count",
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("account_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("hour", TIME, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("actor", "account_id", "hour", name="pk_hand_out_count"),
    )
    op.create_table(
        "import_once",
        sa.Column("api_key_id", sa.Integer(), nullable=False),
        sa.Column("key_hash", sa.String(), nullable=False),
        sa.Column("asked_hash", sa.String(), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("account_id", sa.Integer()),
        sa.ForeignKeyConstraint(
            ["api_key_id"], ["api_key.id"], name="fk_import_once_api_key_id_api_key", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("api_key_id", "key_hash", name="pk_import_once"),
    )
    op.create_index("ix_import_once_started_at", "import_once", ["started_at"])


def downgrade() -> None:
    """Take them away."""
    op.drop_table("import_once")
    op.drop_table("hand_out_count")
    op.drop_table("api_key")
