"""A database of your own behind the caches: every method of the `Database` protocol, in memory.

Replace the dictionaries with queries of your system. The docstrings say what each must promise.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from decimal import Decimal

import msgspec

import rtx
from rtx.database import AccountUpdate, Duplicate, summarize
from rtx.errors import NotFound
from rtx.models import Account, Execution, Position, Side, SymbolSpec


@dataclass
class Row:
    """An account as it is stored: its money, and its positions with the margin each holds."""

    account_number: str
    balance: Decimal
    held: dict[int, tuple[Position, Decimal]] = field(default_factory=dict)


class OwnDatabase:
    """Implements `rtx.Database`; calls that read see committed rows only."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.specs: dict[str, SymbolSpec] = {}
        self.fills: dict[int, Execution] = {}
        self.reads = 0
        self._locks: dict[int, asyncio.Lock] = {}
        self._last_id = 0

    async def open(self) -> None:
        """Connect; raise `SettingsError` when that cannot be done."""

    async def close(self) -> None:
        """Let running calls end, and release everything."""

    async def ping(self) -> None:
        """Return if the database answers, else raise `DatabaseUnavailable`."""

    async def accounts(self, ids: Sequence[int]) -> dict[int, Account]:
        """Accounts by id; those that do not exist are left out."""
        self.reads += 1
        found = {}
        for id in ids:
            if row := self.rows.get(id):
                margins = [margin for _, margin in row.held.values()]
                profits = [position.unrealized_pnl for position, _ in row.held.values()]
                # Equity, free margin and level follow from these.
                found[id] = summarize(id, row.account_number, row.balance, margins, profits)
        return found

    async def positions(self, account_ids: Sequence[int]) -> dict[int, tuple[Position, ...]]:
        """Positions by account; `()` for an account that has none."""
        self.reads += 1
        rows = {id: self.rows[id] for id in account_ids if id in self.rows}
        return {id: tuple(item for item, _ in row.held.values()) for id, row in rows.items()}

    async def symbols(self, names: Sequence[str] | None = None) -> dict[str, SymbolSpec]:
        """Symbol specs by name, all of them for None."""
        wanted = self.specs if names is None else names
        return {name: self.specs[name] for name in wanted if name in self.specs}

    @asynccontextmanager
    async def update_account(self, account_id: int) -> AsyncIterator[AccountUpdate]:
        """One transaction on one account: the row is locked, and all of it happens or nothing.

        In SQL: BEGIN, SELECT … FOR UPDATE, then COMMIT, or ROLLBACK after an exception.
        """
        async with self._locks.setdefault(account_id, asyncio.Lock()):
            if account_id not in self.rows:
                raise NotFound(f"there is no account {account_id}; create it first")
            update = OwnUpdate(self, account_id, deepcopy(self.rows[account_id]))
            yield update  # an exception in the caller's block leaves here: nothing is written
            self.rows[account_id] = update.row
            update.row.balance = update.balance
            self.fills |= update.fills

    def next_id(self) -> int:
        """An id that was never given before."""
        self._last_id += 1
        return self._last_id


class OwnUpdate:
    """Implements `rtx.AccountUpdate` on a copy of the row."""

    def __init__(self, database: OwnDatabase, id: int, row: Row) -> None:
        self.row = row
        self.balance = row.balance
        self.fills: dict[int, Execution] = {}
        self._database = database
        self._id = id
        self._positions = tuple(position for position, _ in row.held.values())

    @property
    def id(self) -> int:
        return self._id

    @property
    def account_number(self) -> str:
        return self.row.account_number

    @property
    def positions(self) -> tuple[Position, ...]:
        return self._positions

    @property
    def margin(self) -> Decimal:
        return sum((margin for _, margin in self.row.held.values()), Decimal(0))

    async def open_position(
        self, symbol: str, side: Side, volume: float, price: float, margin: Decimal
    ) -> Position:
        id = self._database.next_id()
        position = Position(id, symbol, side, volume, price, price, Decimal(0))
        self.row.held[id] = (position, margin)
        return position

    async def close_position(self, position_id: int) -> None:
        self._held(position_id)
        del self.row.held[position_id]

    async def resize_position(
        self, position_id: int, volume: float, open_price: float, margin: Decimal
    ) -> Position:
        position, _ = self._held(position_id)
        position = msgspec.structs.replace(position, volume=volume, open_price=open_price)
        self.row.held[position_id] = (position, margin)
        return position

    async def mark_position(
        self, position_id: int, current_price: float, unrealized_pnl: Decimal
    ) -> None:
        position, margin = self._held(position_id)
        position = msgspec.structs.replace(
            position, current_price=current_price, unrealized_pnl=unrealized_pnl
        )
        self.row.held[position_id] = (position, margin)

    async def record_execution(self, execution: Execution) -> Execution:
        order_id = execution.order_id or self._database.next_id()
        if order_id in self._database.fills or order_id in self.fills:
            raise Duplicate(f"order {order_id} was recorded before")
        execution = msgspec.structs.replace(execution, order_id=order_id)
        self.fills[order_id] = execution
        return execution

    def _held(self, position_id: int) -> tuple[Position, Decimal]:
        try:
            return self.row.held[position_id]
        except KeyError:
            raise NotFound(f"position {position_id} is not open here") from None


async def main() -> None:
    database = OwnDatabase()
    database.rows[1] = Row("RTX-000001", Decimal("10000.00"))

    async with rtx.open(database=database) as layer:
        print("first read:  ", await layer.accounts.get(1))
        reads = database.reads
        await layer.accounts.get(1)
        print("second read: ", "from the cache" if database.reads == reads else "from the database")

        # The database first, then the cache: the next reader sees what was committed.
        async with layer.accounts.update(1) as account:
            position = await account.open_position("EURUSD", "BUY", 1.0, 1.0950, Decimal("1095.00"))
            await account.mark_position(position.id, 1.0955, Decimal("50.00"))
            fill = await account.record_execution(
                Execution(0, position.id, "EURUSD", "BUY", 1.0, 1.0950)
            )
        await layer.executions.publish(1, fill)
        after = await layer.accounts.get(1)
        assert after is not None
        print("after a fill:", f"equity {after.equity}, free margin {after.free_margin}")
        assert after.equity == Decimal("10050.00")

        # An exception in the block changes nothing.
        try:
            async with layer.accounts.update(1) as account:
                account.balance = Decimal(0)
                raise RuntimeError("the trade was refused")
        except RuntimeError as error:
            print("rolled back: ", error)
        unchanged = await layer.accounts.get(1)
        assert unchanged is not None
        assert unchanged.balance == Decimal("10000.00")


if __name__ == "__main__":
    asyncio.run(main())
