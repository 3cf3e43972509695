"""Accounts, positions, executions and symbols."""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0001"
down_revision = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MONEY = sa.Text().with_variant(sa.Numeric(), "postgresql")
SIDES = "side IN ('BUY', 'SELL')"


def upgrade(op: Operations) -> None:
    op.create_table(
        "accounts",
        sa.Column("id", ID, primary_key=True),
        sa.Column("account_number", sa.Text, nullable=False, unique=True),
        sa.Column("balance", MONEY, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "positions",
        sa.Column("id", ID, primary_key=True),
        sa.Column("account_id", ID, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("symbol", sa.Text, nullable=False),
        sa.Column("side", sa.String(4), sa.CheckConstraint(SIDES), nullable=False),
        sa.Column("volume", sa.Double, nullable=False),
        sa.Column("open_price", sa.Double, nullable=False),
        sa.Column("current_price", sa.Double, nullable=False),
        sa.Column("unrealized_pnl", MONEY, nullable=False),
        sa.Column("margin", MONEY, nullable=False),
        sa.Column("opened_at", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_positions_account_id", "positions", ["account_id"])
    op.create_table(
        "executions",
        sa.Column("id", ID, primary_key=True),
        sa.Column("account_id", ID, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("order_id", sa.BigInteger, nullable=False, unique=True),
        sa.Column("position_id", sa.BigInteger, nullable=False),
        sa.Column("symbol", sa.Text, nullable=False),
        sa.Column("side", sa.String(4), sa.CheckConstraint(SIDES), nullable=False),
        sa.Column("volume", sa.Double, nullable=False),
        sa.Column("price", sa.Double, nullable=False),
        sa.Column("timestamp", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_executions_of_account", "executions", ["account_id", "id"])
    op.create_table(
        "symbols",
        sa.Column("symbol", sa.Text, primary_key=True),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("base", sa.Text, nullable=False),
        sa.Column("quote", sa.Text, nullable=False),
        sa.Column("digits", sa.Integer, nullable=False),
        sa.Column("contract_size", sa.Double, nullable=False),
        sa.Column("margin_rate", sa.Double, nullable=False),
        sa.Column("min_volume", sa.Double, nullable=False),
        sa.Column("max_volume", sa.Double, nullable=False),
        sa.Column("volume_step", sa.Double, nullable=False),
    )
    if op.get_bind().dialect.supports_sequences:
        op.execute(sa.schema.CreateSequence(sa.Sequence("order_ids", data_type=sa.BigInteger)))
