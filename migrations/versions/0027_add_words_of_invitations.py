"""Add the words by which invitations are found, as there are for accounts.

The words of the invitations that are there already are added, so that a search finds them, too.
"""

import sqlalchemy as sa
from alembic import op

from keap_connect.accounts.words import words_of_names  # as they are searched for by the version that upgrades

revision = "0027"
down_revision = "0026"

AT_ONCE = 1000
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
    names = sa.column("label"), sa.column("external_id"), sa.column("email")
    invitation = sa.table("invitation", sa.column("id", sa.Integer()), *names)
    word = sa.table("invitation_word", sa.column("word"), sa.column("invitation_id"))
    last, connection = 0, op.get_bind()
    query = sa.select(invitation.c.id, *names).order_by(invitation.c.id).limit(AT_ONCE)
    while rows := connection.execute(query.where(invitation.c.id > last)).all():
        last = rows[-1][0]
        values = [{"word": one, "invitation_id": number} for number, *texts in rows for one in words_of_names(texts)]
        if values:
            connection.execute(sa.insert(word), values)


def downgrade() -> None:
    op.drop_table("invitation_word")
