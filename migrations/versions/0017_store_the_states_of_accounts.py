"""Store the states of accounts, their numbers, and the words by which a search finds them.

The new columns are empty: the worker fills them at its start, since it derives a state as the program does. Until then
pages say that the states are out of date.
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
BY_CODES = sa.String().with_variant(sa.String(collation="C"), "postgresql")
BROKEN = sa.text("state IN ('at_risk', 'reconnect_required')")
INDEXES = {
    "ix_account_state": ["state", "id"],
    "ix_account_by_title": ["state", "title_key", "id"],
    "ix_account_by_expiry": ["state", "access_token_expires_at", "id"],
    "ix_account_by_use": ["state", "last_used_at", "id"],
    "ix_account_state_changes_at": ["state_changes_at"],
}
COLUMNS = ("claimed_until", "state", "state_cause", "state_since", "state_changes_at", "title_key")


def upgrade() -> None:
    op.add_column("account", sa.Column("claimed_until", sa.DateTime(timezone=True)))
    op.add_column("account", sa.Column("state", sa.String()))
    op.add_column("account", sa.Column("state_cause", sa.String()))
    op.add_column("account", sa.Column("state_since", sa.DateTime(timezone=True)))
    long_ago = sa.text("'1970-01-01 00:00:00'")
    op.add_column("account", sa.Column("state_changes_at", sa.DateTime(timezone=True), server_default=long_ago))
    op.add_column("account", sa.Column("title_key", BY_CODES))
    for name, columns in INDEXES.items():
        op.create_index(name, "account", columns)
    op.create_index(
        "ix_account_broken", "account", ["state", "state_since", "id"], sqlite_where=BROKEN, postgresql_where=BROKEN
    )
    op.create_table(
        "account_word",
        sa.Column("word", BY_CODES, nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name="fk_account_word_account_id_account", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("word", "account_id", name="pk_account_word"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_account_word_account_id", "account_word", ["account_id"])
    op.create_table(
        "state_count",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("cause", sa.String()),
        sa.Column("accounts", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_state_count"),
    )
    op.create_table(
        "registration",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("client_id", sa.String(), nullable=False),
        sa.Column("token_url", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_registration"),
    )


def downgrade() -> None:
    for table in ("registration", "state_count", "account_word"):
        op.drop_table(table)
    for name in ("ix_account_broken", *INDEXES):
        op.drop_index(name, "account")
    with op.batch_alter_table("account") as account:
        for column in COLUMNS:
            account.drop_column(column)
