"""Add invitations, and which of them started a flow.

Only the hash of a link's token is stored; the state is stored, since lists filter by it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
# What they become for the version before, which does not know them: as if nobody had decided in time.
BEFORE = {
    "confirmation_pending": "decision_expired",
    "confirmation_expired": "decision_expired",
    "confirmation_declined": "discarded",
    "identity_pending": "keap_trouble",
}
STATES = "state IN ('sent', 'opened', 'waiting', 'connected', 'expired', 'withdrawn')"


def upgrade() -> None:
    op.create_table(
        "invitation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("token_hash", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("label", sa.String()),
        sa.Column("external_id", sa.String(200)),
        sa.Column("email", sa.String()),
        sa.Column("note", sa.String()),
        sa.Column("return_url", sa.String()),
        sa.Column("expected_tenant_id", sa.String()),
        sa.Column("needs_confirmation", sa.Boolean(), nullable=False),
        sa.Column("is_mailed", sa.Boolean(), nullable=False),
        sa.Column("made_by", sa.String(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True)),
        sa.Column("account_id", sa.Integer()),
        sa.PrimaryKeyConstraint("id", name="pk_invitation"),
        sa.UniqueConstraint("token_hash", name="uq_invitation_token_hash"),
        sa.CheckConstraint(STATES, name=op.f("ck_invitation_state")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], ondelete="CASCADE", name="fk_invitation_account_id_account"
        ),
        sqlite_autoincrement=True,
    )
    for columns in (["state", "id"], ["state", "expires_at"], ["external_id"], ["account_id"]):
        op.create_index(f"ix_invitation_{'_'.join(columns)}", "invitation", columns)
    # No foreign key: a flow that began with an invitation must not look as if it had begun without one.
    op.add_column("authorization_flow", sa.Column("invitation_id", sa.Integer()))
    op.create_index("ix_authorization_flow_invitation_id", "authorization_flow", ["invitation_id"])


def downgrade() -> None:
    names = "ending", "pending_grant_sealed", "pending_until"
    flow = sa.table("authorization_flow", *(sa.column(name) for name in names))
    for ending, before in BEFORE.items():
        of_ending = sa.update(flow).where(flow.c.ending == ending)
        op.execute(of_ending.values(ending=before, pending_grant_sealed=None, pending_until=None))
    op.drop_index("ix_authorization_flow_invitation_id", "authorization_flow")
    op.drop_column("authorization_flow", "invitation_id")
    op.drop_table("invitation")
