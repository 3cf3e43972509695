"""Versions above zero, and the outbox of invalidations."""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0002"
down_revision = "0001"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade(op: Operations) -> None:
    op.create_table(
        "outbox",
        sa.Column("id", ID, primary_key=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("entity", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("entity", "key", name="uq_outbox_entity_key"),
        sqlite_autoincrement=True,
    )
    # 0 is what a reader takes for "no version".
    op.execute(sa.text("UPDATE accounts SET version = 1 WHERE version = 0"))
