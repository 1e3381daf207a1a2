"""Add the words by which invitations are found, as there are for accounts.

No released version has invitations, so there are none whose words are missing.
"""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"

BY_CODES = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "invitation_word",
        sa.Column("word", BY_CODES, nullable=False),
        sa.Column("invitation_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["invitation_id"], ["invitation.id"], name="fk_invitation_word_invitation_id_invitation", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("word", "invitation_id", name="pk_invitation_word"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_invitation_word_invitation_id", "invitation_word", ["invitation_id"])


def downgrade() -> None:
    op.drop_table("invitation_word")
