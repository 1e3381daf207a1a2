"""Add who invited an admin, until the invitation is used.

It separates an open invitation from an admin whose password an emergency stop ended, and names whose
invitations end when they lose their rights.
"""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    op.add_column("admin", sa.Column("invited_by", sa.String()))


def downgrade() -> None:
    op.drop_column("admin", "invited_by")
