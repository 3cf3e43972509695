"""What the tests of the database keep in it, and how they look at it."""

from __future__ import annotations

from decimal import Decimal

from rtx.database import Database, SqlDatabase
from rtx.models import Execution, SymbolSpec

EURUSD = SymbolSpec("EURUSD", "Euro / US Dollar", "EUR", "USD", 5, 100_000.0, 0.01)
BTCUSD = SymbolSpec("BTCUSD", "Bitcoin / US Dollar", "BTC", "USD", 2, 1.0, 0.1, 0.001, 10.0, 0.001)


def fill(order_id: int = 0, volume: float = 1.0) -> Execution:
    return Execution(order_id, 7, "EURUSD", "BUY", volume, 1.0955, timestamp=1_705_575_045_123)


async def balance_of(database: Database, account_id: int) -> Decimal:
    return (await database.accounts([account_id]))[account_id].balance


async def everything(database: SqlDatabase, account_id: int) -> object:
    return (
        await database.accounts([account_id]),
        await database.positions([account_id]),
        await database.executions(account_id),
    )
