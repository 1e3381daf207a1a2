"""Create the first tables.

Accounts with their sealed credentials, an add-only history, the pending flows of the journey, and the door.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create them."""
    op.create_table(
        "account",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.String(), nullable=True),
        sa.Column("keap_user_id", sa.String(), nullable=True),
        sa.Column("person_name", sa.String(), nullable=True),
        sa.Column("person_email", sa.String(), nullable=True),
        sa.Column("business_name", sa.String(), nullable=True),
        sa.Column("label", sa.String(), nullable=True),
        sa.Column("external_id", sa.String(length=200), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("connected_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("disconnected_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reconnects_account_id", sa.Integer(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("client_id", sa.String(), nullable=False),
        sa.Column("token_url", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("access_token_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("refresh_token_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("access_token_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refresh_token_issued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refreshed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempt_fingerprint", sa.String(), nullable=True),
        sa.Column("attempted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failure_reason", sa.String(), nullable=True),
        sa.Column("refused_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "kind IN ('oauth', 'access_token_only', 'personal_access_token', 'service_account_key')",
            name=op.f("ck_account_kind"),
        ),
        sa.ForeignKeyConstraint(
            ["reconnects_account_id"],
            ["account.id"],
            name="fk_account_reconnects_account_id_account",
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_account"),
        sa.UniqueConstraint("external_id", name="uq_account_external_id"),
        sa.UniqueConstraint("tenant_id", "keap_user_id", name="uq_account_tenant_id_keap_user_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "account_event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_account_event"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_account_event_account_id_id", "account_event", ["account_id", "id"])

    op.create_table(
        "admin",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("password_hash", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_admin"),
        sa.UniqueConstraint("email", name="uq_admin_email"),
    )
    op.create_table(
        "deployment",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_deployment"),
    )
    op.create_table(
        "sign_in_attempt",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sign_in_attempt"),
    )
    op.create_index("ix_sign_in_attempt_subject_at", "sign_in_attempt", ["subject", "at"])

    op.create_table(
        "authorization_flow",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("ref", sa.String(), nullable=False),
        sa.Column("state_hash", sa.String(), nullable=False),
        sa.Column("browser_hash", sa.String(), nullable=False),
        sa.Column("code_verifier_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("reconnects_account_id", sa.Integer(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("consumed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ending", sa.String(), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("keap_said", sa.String(), nullable=True),
        sa.Column("account_id", sa.Integer(), nullable=True),
        sa.Column("person_signed_in_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("held_grant_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("held_until", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name="fk_authorization_flow_account_id_account", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["reconnects_account_id"],
            ["account.id"],
            name="fk_authorization_flow_reconnects_account_id_account",
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_authorization_flow"),
        sa.UniqueConstraint("ref", name="uq_authorization_flow_ref"),
        sa.UniqueConstraint("state_hash", name="uq_authorization_flow_state_hash"),
    )
    op.create_index("ix_authorization_flow_browser_hash", "authorization_flow", ["browser_hash"])
    op.create_index("ix_authorization_flow_expires_at", "authorization_flow", ["expires_at"])

    op.create_table(
        "sign_in",
        sa.Column("id_hash", sa.String(), nullable=False),
        sa.Column("admin_id", sa.Integer(), nullable=True),
        sa.Column("account_id", sa.Integer(), nullable=True),
        sa.Column("keap_user_id", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("admin_id IS NOT NULL OR account_id IS NOT NULL", name=op.f("ck_sign_in_somebody")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name="fk_sign_in_account_id_account", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["admin_id"], ["admin.id"], name="fk_sign_in_admin_id_admin", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id_hash", name="pk_sign_in"),
    )
    op.create_index("ix_sign_in_expires_at", "sign_in", ["expires_at"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_sign_in_expires_at", "sign_in")

    op.drop_table("sign_in")
    op.drop_index("ix_authorization_flow_expires_at", "authorization_flow")
    op.drop_index("ix_authorization_flow_browser_hash", "authorization_flow")

    op.drop_table("authorization_flow")
    op.drop_index("ix_sign_in_attempt_subject_at", "sign_in_attempt")

    op.drop_table("sign_in_attempt")
    op.drop_table("deployment")
    op.drop_table("admin")
    op.drop_index("ix_account_event_account_id_id", "account_event")

    op.drop_table("account_event")
    op.drop_table("account")
