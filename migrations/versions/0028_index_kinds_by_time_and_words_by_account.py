"""Index the rare kinds of events by time, too, and the words of an account in order.

SQLite read all events of the days that somebody looked at, to find those of one kind. PostgreSQL read all words of each
account that has one of two words that somebody searches for.
"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
RARE = sa.text("kind <> 'refreshed'")


def upgrade() -> None:
    op.create_index(
        "ix_account_event_kind_at", "account_event", ["kind", "at", "id"], sqlite_where=RARE, postgresql_where=RARE
    )
    op.create_index("ix_account_word_account_id_word", "account_word", ["account_id", "word"])
    op.drop_index("ix_account_word_account_id", "account_word")


def downgrade() -> None:
    op.create_index("ix_account_word_account_id", "account_word", ["account_id"])
    op.drop_index("ix_account_word_account_id_word", "account_word")
    op.drop_index("ix_account_event_kind_at", "account_event")
