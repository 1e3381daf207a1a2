"""Remember which refresh tokens were imported, so that none gets into a second account.

A pair whose access token has expired is stored before anybody knows whose it is; the history of one account is then no
place to look its refresh token up.
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    tokens = op.create_table(
        "imported_token",
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_imported_token"),
    )
    event = sa.table("account_event", *(sa.column(name) for name in ("id", "account_id", "kind")))
    event.append_column(sa.column("details", sa.JSON()))
    imports = sa.select(event).where(event.c.kind.in_(["imported", "imported_again"])).order_by(event.c.id)
    found = {}
    for row in op.get_bind().execute(imports):
        if fingerprint := row.details.get("fingerprint"):  # of several the newest
            facts = {"account_id": row.account_id, "generation": row.details.get("generation", 0)}
            found[fingerprint] = {"fingerprint": fingerprint, **facts}
    op.bulk_insert(tokens, list(found.values()))


def downgrade() -> None:
    op.drop_table("imported_token")
