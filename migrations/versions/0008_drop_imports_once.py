"""Drop the imports that named an Idempotency-Key.

An import is idempotent by tenant and person, so remembering its key changed nothing but the status code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.drop_table("import_once")


def downgrade() -> None:
    op.create_table(
        "import_once",
        sa.Column("api_key_id", sa.Integer(), nullable=False),
        sa.Column("key_hash", sa.String(), nullable=False),
        sa.Column("asked_hash", sa.String(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("account_id", sa.Integer()),
        sa.ForeignKeyConstraint(
            ["api_key_id"], ["api_key.id"], name="fk_import_once_api_key_id_api_key", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("api_key_id", "key_hash", name="pk_import_once"),
    )
    op.create_index("ix_import_once_started_at", "import_once", ["started_at"])
