"""${message}

Say why here. One change for each revision, numbered (`flask --app app db revision --rev-id 0002 -m "..."`); schema
and data in separate revisions; every constraint named; read and trim what was generated. A released revision is
never edited.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Go up."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Go back down."""
    ${downgrades if downgrades else "pass"}
