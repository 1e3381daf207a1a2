"""Index the accounts of a person.

A customer's own page read all accounts.
"""

from alembic import op

revision = "0029"
down_revision = "0028"


def upgrade() -> None:
    op.create_index("ix_account_keap_user_id", "account", ["keap_user_id", "id"])


def downgrade() -> None:
    op.drop_index("ix_account_keap_user_id", "account")
