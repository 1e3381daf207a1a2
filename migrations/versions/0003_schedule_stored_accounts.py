"""Schedule stored accounts.

Accounts that were connected before there was a worker are due when their access token expires.
"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make them due."""
    op.execute(
        "UPDATE account SET next_refresh_at = access_token_expires_at "
        "WHERE refresh_token_sealed IS NOT NULL AND next_refresh_at IS NULL"
    )


def downgrade() -> None:
    """Leave the rows as they are: the column goes with the revision before."""
