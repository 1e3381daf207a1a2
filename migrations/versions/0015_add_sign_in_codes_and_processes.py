"""Allow one-time tokens for signing in, and add the reports of the living processes.

A process reports with which of TOKEN_KEYS it seals, so that no old key is removed while one still uses it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

one_time_token = sa.table("one_time_token", sa.column("purpose", sa.String()))


def upgrade() -> None:
    """Widen the check, and create the table."""
    with op.batch_alter_table("one_time_token") as tokens:
        tokens.drop_constraint(op.f("ck_one_time_token_purpose"), type_="check")
        tokens.create_check_constraint(
            op.f("ck_one_time_token_purpose"), "purpose IN ('new_password', 'second_step', 'sign_in')"
        )
    op.create_table(
        "process",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("beat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sealing_key", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_process"),
    )


def downgrade() -> None:
    """Drop the table, and the tokens that the narrower check refuses."""
    op.drop_table("process")
    op.execute(sa.delete(one_time_token).where(one_time_token.c.purpose == "sign_in"))
    with op.batch_alter_table("one_time_token") as tokens:
        tokens.drop_constraint(op.f("ck_one_time_token_purpose"), type_="check")
        tokens.create_check_constraint(op.f("ck_one_time_token_purpose"), "purpose IN ('new_password', 'second_step')")
