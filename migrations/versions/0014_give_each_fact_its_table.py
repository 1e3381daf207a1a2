"""Give each of the unrelated facts in the table `deployment` a table of its own.

What can be made again is not moved: a file that waits for its admin lasts ten minutes, and a client check is one press
of a button. The key check and the counter of version 0.1.0 are moved.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

deployment = sa.table("deployment", sa.column("name", sa.String()), sa.column("value", sa.LargeBinary()))
key_check = sa.table("key_check", sa.column("id", sa.Integer()), sa.column("sealed", sa.LargeBinary()))
old_counter = sa.table("counter_of_0_1", sa.column("instance_id", sa.String()), sa.column("stored_pairs", sa.Integer()))


def upgrade() -> None:
    """Create the tables, and move what has to stay."""
    op.create_table(
        "key_check",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_key_check"),
    )
    op.create_table(
        "checked_client",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("registration", sa.String(), nullable=False),
        sa.Column("standing", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_checked_client"),
    )
    op.create_table(
        "pending_file",
        sa.Column("admin_id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("admin_id", name="pk_pending_file"),
    )
    op.create_table(
        "counter_of_0_1",
        sa.Column("instance_id", sa.String(), nullable=False),
        sa.Column("stored_pairs", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("instance_id", name="pk_counter_of_0_1"),
    )
    rows = op.get_bind().execute(sa.select(deployment.c.name, deployment.c.value))
    values: dict[str, bytes] = {row.name: row.value for row in rows}
    if sealed := values.get("key_check"):
        op.execute(sa.insert(key_check).values(id=1, sealed=sealed))
    if counter := values.get("instance"):
        instance_id, _, count = counter.decode().rpartition(":")
        op.execute(sa.insert(old_counter).values(instance_id=instance_id, stored_pairs=int(count)))
    op.drop_table("deployment")


def downgrade() -> None:
    """Put the facts together again."""
    op.create_table(
        "deployment",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_deployment"),
    )
    facts = {"key_check": op.get_bind().scalar(sa.select(key_check.c.sealed).where(key_check.c.id == 1))}
    if counter := op.get_bind().execute(sa.select(old_counter)).first():
        facts["instance"] = f"{counter.instance_id}:{counter.stored_pairs}".encode()
    for name, value in facts.items():
        if value is not None:
            op.execute(sa.insert(deployment).values(name=name, value=value))
    for table in ("counter_of_0_1", "pending_file", "checked_client", "key_check"):
        op.drop_table(table)
