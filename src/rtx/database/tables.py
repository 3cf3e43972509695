"""The tables of the system of record and how they are read, alike on SQLite and PostgreSQL.

Money is exact: text on SQLite, which has no decimals, and NUMERIC on PostgreSQL. Times are epoch
milliseconds. Prices and volumes are doubles, as everywhere in this package.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Numeric,
    Select,
    Sequence,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    bindparam,
    select,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from rtx.models import Execution, Position, SymbolSpec

POSTGRESQL = "postgresql"


class Money(TypeDecorator[Decimal]):
    """Decimals that come back with the digits they went in with.

    PostgreSQL keeps no exponent above zero: 1E+3 comes back as 1000. Nor has it a zero below zero.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == POSTGRESQL:
            return dialect.type_descriptor(Numeric())
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> object:
        if value is None or dialect.name == POSTGRESQL:
            return value
        return str(value)

    def process_result_value(self, value: object, dialect: Dialect) -> Decimal | None:
        if isinstance(value, str):
            return Decimal(value)
        if isinstance(value, Decimal):
            exponent = value.as_tuple().exponent
            if isinstance(exponent, int) and exponent > 0:
                return Decimal(f"{value:f}")  # asyncpg makes 1E+4 of 10000
            return value
        return None


# SQLite numbers rows by itself only in a column that is declared INTEGER.
_Id = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData()

accounts = Table(
    "accounts",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("account_number", Text, nullable=False, unique=True),
    Column("balance", Money, nullable=False),
    # One more at every committed update, so that a reader can tell the newer of two rows.
    Column("version", BigInteger, nullable=False, default=1),
    sqlite_autoincrement=True,
)

positions = Table(
    "positions",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("symbol", Text, nullable=False),
    Column("side", String(4), CheckConstraint("side IN ('BUY', 'SELL')"), nullable=False),
    Column("volume", Double, nullable=False),
    Column("open_price", Double, nullable=False),
    Column("current_price", Double, nullable=False),
    Column("unrealized_pnl", Money, nullable=False),
    Column("margin", Money, nullable=False),
    Column("opened_at", BigInteger, nullable=False),
    # Without it SQLite gives a closed position's id to the next one, and executions lie.
    sqlite_autoincrement=True,
)

executions = Table(
    "executions",
    metadata,
    # Order of recording; order ids may come from elsewhere and in any order.
    Column("id", _Id, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    Column("order_id", BigInteger, nullable=False, unique=True),
    Column("position_id", BigInteger, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("side", String(4), CheckConstraint("side IN ('BUY', 'SELL')"), nullable=False),
    Column("volume", Double, nullable=False),
    Column("price", Double, nullable=False),
    Column("timestamp", BigInteger, nullable=False),
    Index("ix_executions_of_account", "account_id", "id"),
    sqlite_autoincrement=True,
)

symbols = Table(
    "symbols",
    metadata,
    Column("symbol", Text, primary_key=True),
    Column("description", Text, nullable=False),
    Column("base", Text, nullable=False),
    Column("quote", Text, nullable=False),
    Column("digits", Integer, nullable=False),
    Column("contract_size", Double, nullable=False),
    Column("margin_rate", Double, nullable=False),
    Column("min_volume", Double, nullable=False),
    Column("max_volume", Double, nullable=False),
    Column("volume_step", Double, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    # Order of the changes of one account; never used twice, or settling one would settle another.
    Column("id", _Id, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("entity", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    # A later change takes the place of an earlier one, which bounds the table whatever happens.
    UniqueConstraint("entity", "key", name="uq_outbox_entity_key"),
    sqlite_autoincrement=True,
)

order_ids = Sequence("order_ids", metadata=metadata, data_type=BigInteger)
"""Source of new order ids where the database has sequences; SQLite counts on from the highest."""


def columns_of(table: Table, struct: type[msgspec.Struct]) -> list[Column[Any]]:
    """The columns that hold a struct's fields, in their order, so that `struct(*row)` builds it."""
    return [table.c[name] for name in struct.__struct_fields__ if name in table.c]


select_accounts: Select[Any] = (
    select(
        accounts.c.id,
        accounts.c.account_number,
        accounts.c.balance,
        accounts.c.version,
        positions.c.margin,
        positions.c.unrealized_pnl,
    )
    .outerjoin(positions)
    .order_by(accounts.c.id)
)
"""Id, number, balance and version of accounts, then margin and profit of each open position.

An account without any has one row, in which these are null.
"""

select_positions: Select[Any] = (
    select(accounts.c.id, accounts.c.version, *columns_of(positions, Position))
    .select_from(accounts)
    .outerjoin(positions)
    .order_by(accounts.c.id, positions.c.id)
)
"""The account's id and version, then a position's fields; null for an account without any."""

select_held: Select[Any] = (
    select(positions.c.margin, *columns_of(positions, Position))
    .where(positions.c.account_id == bindparam("account"))
    .order_by(positions.c.id)
)
"""The margin held, then the fields, of each position of the account `account`."""

select_symbols: Select[Any] = select(*columns_of(symbols, SymbolSpec)).order_by(symbols.c.symbol)

select_executions: Select[Any] = (
    select(*columns_of(executions, Execution))
    .where(executions.c.account_id == bindparam("account"))
    .order_by(executions.c.id.desc())
    .limit(bindparam("limit", type_=Integer))
)
"""Executions of the account `account`, the latest `limit`, newest first."""


def fits(number: int) -> bool:
    """Whether an id can exist at all; the drivers refuse to look for one that cannot."""
    return -(2**63) <= number < 2**63
