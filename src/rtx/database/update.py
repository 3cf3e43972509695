"""One account, locked: an update in an SQL transaction."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import msgspec
from sqlalchemy import CursorResult, Executable, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from rtx.database import outbox, tables
from rtx.database.base import check_margin, check_money, check_positive, check_side, total
from rtx.database.connections import Connections
from rtx.database.tables import executions, positions
from rtx.errors import DatabaseUnavailable, Duplicate, NotFound
from rtx.models import Execution, Position, Side, now_ms

_EXECUTION = tables.columns_of(executions, Execution)


class Update:
    """A `VersionedUpdate` and `OwingUpdate` on one SQL transaction."""

    def __init__(
        self,
        connections: Connections,
        connection: AsyncConnection,
        row: Any,
        held: Iterable[Any],
    ) -> None:
        self._connections = connections
        self._connection = connection
        self._id: int = row.id
        self._account_number: str = row.account_number
        self._balance: Decimal = row.balance
        self._version: int = row.version + 1
        self._outbox_id = 0
        self._held = {row.id: (Position(*row[1:]), row.margin) for row in held}
        self._positions = tuple(position for position, _ in self._held.values())
        self._failure: BaseException | None = None

    @property
    def id(self) -> int:
        return self._id

    @property
    def account_number(self) -> str:
        return self._account_number

    @property
    def balance(self) -> Decimal:
        return self._balance

    @balance.setter
    def balance(self, value: Decimal) -> None:
        self._balance = check_money("balance", value)

    @property
    def positions(self) -> tuple[Position, ...]:
        return self._positions

    @property
    def margin(self) -> Decimal:
        return total(margin for _, margin in self._held.values())

    @property
    def version(self) -> int:
        return self._version

    @property
    def outbox_id(self) -> int:
        return self._outbox_id

    async def open_position(
        self, symbol: str, side: Side, volume: float, price: float, margin: Decimal
    ) -> Position:
        check_positive("volume", volume)
        check_positive("price", price)
        position = Position(0, symbol, check_side(side), volume, price, price, Decimal(0))
        values = msgspec.structs.asdict(position) | {
            "account_id": self._id,
            "margin": check_margin(margin),
            "opened_at": now_ms(),
        }
        del values["id"]
        statement = positions.insert().values(values).returning(positions.c.id)
        stored: int = (await self._run("open a position", statement)).scalar_one()
        position = msgspec.structs.replace(position, id=stored)
        self._held[stored] = (position, margin)
        return position

    async def close_position(self, position_id: int) -> None:
        self._open(position_id)
        await self._run("close a position", positions.delete().where(positions.c.id == position_id))
        del self._held[position_id]

    async def resize_position(
        self, position_id: int, volume: float, open_price: float, margin: Decimal
    ) -> Position:
        position, _ = self._open(position_id)
        changes = {
            "volume": check_positive("volume", volume),
            "open_price": check_positive("open_price", open_price),
        }
        await self._change(position_id, margin=check_margin(margin), **changes)
        position = msgspec.structs.replace(position, **changes)
        self._held[position_id] = (position, margin)
        return position

    async def mark_position(
        self, position_id: int, current_price: float, unrealized_pnl: Decimal
    ) -> None:
        position, margin = self._open(position_id)
        changes = {
            "current_price": check_positive("current_price", current_price),
            "unrealized_pnl": check_money("unrealized_pnl", unrealized_pnl),
        }
        await self._change(position_id, **changes)
        self._held[position_id] = (msgspec.structs.replace(position, **changes), margin)

    async def record_execution(self, execution: Execution) -> Execution:
        given = execution.order_id
        if given < 0 or not tables.fits(given):
            raise ValueError(f"order_id is {given}; it is positive, or 0 for a new one")
        check_side(execution.side)
        values = {c.name: getattr(execution, c.name) for c in _EXECUTION}
        highest = select(func.coalesce(func.max(executions.c.order_id), 0)).scalar_subquery()
        if not given:
            in_order = self._connections.on_postgresql
            values["order_id"] = tables.order_ids.next_value() if in_order else highest + 1
        insert = self._connections.insert(executions).values(account_id=self._id, **values)
        statement = insert.on_conflict_do_nothing(index_elements=[executions.c.order_id]).returning(
            executions.c.order_id
        )
        while True:
            stored = (await self._run("record an execution", statement)).scalar()
            if stored is not None:
                return msgspec.structs.replace(execution, order_id=stored)
            if given:
                raise Duplicate(
                    f"order {given} is recorded already; do not fill it twice, or give it order_id "
                    "0 for a new id"
                )
            # Ids that came from elsewhere are ahead of the sequence.
            skip = select(func.setval(tables.order_ids.name, highest))
            await self._run("draw an order id", skip)

    async def commit(self) -> None:
        """Store the balance and commit, unless an operation failed; to be awaited to its end."""
        if self._failure is not None:
            raise DatabaseUnavailable(
                f"nothing of the update of account {self._id} was stored, because a part of it "
                "failed; do the whole update again"
            ) from self._failure
        outbox_id = 0
        for statement, given in outbox.storing(
            self._id,
            self._balance,
            self._version,
            on_postgresql=self._connections.on_postgresql,
        ):
            done = await self._run("store the balance", statement, given)
            if done.returns_rows:
                outbox_id = done.scalar_one()
        remedy = "it may be stored all the same: read the account before trying again"
        await self._connections.commit(self._connection, "confirm the update", remedy)
        # Not before: a commit whose outcome is unknown may happen after the caller's invalidation.
        self._outbox_id = outbox_id

    def _open(self, position_id: int) -> tuple[Position, Decimal]:
        try:
            return self._held[position_id]
        except KeyError:
            raise NotFound(
                f"account {self._id} has no open position {position_id}; it may have been closed"
            ) from None

    async def _change(self, position_id: int, **values: object) -> None:
        statement = positions.update().where(positions.c.id == position_id).values(**values)
        await self._run("change a position", statement)

    async def _run(
        self, what: str, statement: Executable, given: dict[str, object] | None = None
    ) -> CursorResult[Any]:
        try:
            return await self._connections.execute(self._connection, what, statement, given)
        except BaseException as error:
            # The transaction may be half undone by now, so what follows must not be committed.
            self._failure = error
            raise
