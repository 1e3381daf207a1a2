"""Rename what its reader had to look up: columns of accounts and of flows, and the table of one-time tokens.

Both databases rename a column in place, also in the indexes that name it. The small table is written anew, since its
keys would keep their old names.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

COLUMNS = [
    ("account", "lost_at", "outcome_unknown_since"),
    ("account", "hold_until", "blocked_until"),
    ("account", "asked_at", "last_used_at"),
    ("authorization_flow", "held_grant_sealed", "pending_grant_sealed"),
    ("authorization_flow", "held_until", "pending_until"),
]


def upgrade() -> None:
    """Rename."""
    for table, before, after in COLUMNS:
        op.execute(f"ALTER TABLE {table} RENAME COLUMN {before} TO {after}")
    _move("ticket", "ticket_hash", "one_time_token", "token_hash")


def downgrade() -> None:
    """Give the old names back."""
    for table, before, after in COLUMNS:
        op.execute(f"ALTER TABLE {table} RENAME COLUMN {after} TO {before}")
    _move("one_time_token", "token_hash", "ticket", "ticket_hash")


def _move(source: str, source_hash: str, target: str, target_hash: str) -> None:
    op.create_table(
        target,
        sa.Column(target_hash, sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("admin_id", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("purpose IN ('new_password', 'second_step')", name=op.f(f"ck_{target}_purpose")),
        sa.ForeignKeyConstraint(
            ["admin_id"], ["admin.id"], name=op.f(f"fk_{target}_admin_id_admin"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(target_hash, name=op.f(f"pk_{target}")),
    )
    op.create_index(op.f(f"ix_{target}_admin_id"), target, ["admin_id"])
    columns = "purpose, admin_id, expires_at"
    op.execute(f"INSERT INTO {target} ({target_hash}, {columns}) SELECT {source_hash}, {columns} FROM {source}")  # noqa: S608
    op.drop_table(source)
