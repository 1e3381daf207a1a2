"""Add roles, second factor and tickets.

Everybody who is an admin already stays one. A ticket lets one admin take one step: choose a new password, or give the
second factor.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add them."""
    with op.batch_alter_table("admin") as admin:
        admin.add_column(sa.Column("role", sa.String(), nullable=False, server_default="admin"))
        admin.add_column(sa.Column("totp_seed_sealed", sa.LargeBinary()))
        admin.add_column(sa.Column("totp_on_at", TIME))
        admin.add_column(sa.Column("totp_step", sa.Integer()))
        admin.create_check_constraint(op.f("ck_admin_role"), "role IN ('admin', 'viewer')")
    with op.batch_alter_table("sign_in") as sign_in:
        sign_in.add_column(sa.Column("address", sa.String()))
        sign_in.add_column(sa.Column("browser", sa.String()))
    op.create_table(
        "recovery_code",
        sa.Column("code_hash", sa.String(), nullable=False),
        sa.Column("admin_id", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("code_hash", name="pk_recovery_code"),
        sa.ForeignKeyConstraint(["admin_id"], ["admin.id"], name="fk_recovery_code_admin_id_admin", ondelete="CASCADE"),
    )
    op.create_index("ix_recovery_code_admin_id", "recovery_code", ["admin_id"])
    op.create_table(
        "ticket",
        sa.Column("ticket_hash", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("admin_id", sa.Integer(), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("ticket_hash", name="pk_ticket"),
        sa.ForeignKeyConstraint(["admin_id"], ["admin.id"], name="fk_ticket_admin_id_admin", ondelete="CASCADE"),
        sa.CheckConstraint("purpose IN ('new_password', 'second_step')", name=op.f("ck_ticket_purpose")),
    )
    op.create_index("ix_ticket_admin_id", "ticket", ["admin_id"])


def downgrade() -> None:
    """Take them away."""
    op.drop_table("ticket")
    op.drop_table("recovery_code")
    with op.batch_alter_table("sign_in") as sign_in:
        sign_in.drop_column("browser")
        sign_in.drop_column("address")
    with op.batch_alter_table("admin") as admin:
        admin.drop_constraint(op.f("ck_admin_role"), type_="check")
        for name in ("totp_step", "totp_on_at", "totp_seed_sealed", "role"):
            admin.drop_column(name)
