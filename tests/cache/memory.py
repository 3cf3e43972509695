"""A system of record in memory: what a user of the layer might bring along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal

import msgspec

import rtx
from rtx.database import AccountUpdate
from rtx.errors import NotFound


def account(id: int, balance: str = "100.00") -> rtx.Account:
    money = Decimal(balance)
    return rtx.Account(id, f"RTX-{id:06}", money, money, Decimal(0), money, Decimal(0), 0)


def position(id: int) -> rtx.Position:
    return rtx.Position(id, "EURUSD", "BUY", 1.0, 1.1, 1.1, Decimal("0.00"))


SYMBOL = rtx.SymbolSpec("EURUSD", "Euro / US Dollar", "EUR", "USD", 5, 100_000.0, 0.01)


class MemoryDatabase:
    """Keeps `rtx.Database` for the reads, and as much of an update as these tests need.

    `reads` says what was asked for; `down` makes everything fail; `gate` holds reads back while it
    is not set, after they have read.
    """

    def __init__(self, accounts: Iterable[rtx.Account] = ()) -> None:
        self.rows = {one.id: one for one in accounts}
        self.held: dict[int, tuple[rtx.Position, ...]] = dict.fromkeys(self.rows, ())
        self.specs = {SYMBOL.symbol: SYMBOL}
        self.reads: list[tuple[str, list[object]]] = []
        self.down = False
        self.commit_fails = False
        self.committing = asyncio.Event()
        self.may_commit = asyncio.Event()
        self.may_commit.set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def ping(self) -> None:
        self._check()

    def _check(self) -> None:
        if self.down:
            raise rtx.DatabaseUnavailable("the database is switched off")

    async def _read(self, what: str, ids: Sequence[object]) -> None:
        self.reads.append((what, list(ids)))
        self._check()
        await self.gate.wait()

    async def accounts(self, ids: Sequence[int]) -> dict[int, rtx.Account]:
        found = {id: self.rows[id] for id in ids if id in self.rows}
        await self._read("accounts", ids)
        return found

    async def positions(self, account_ids: Sequence[int]) -> dict[int, tuple[rtx.Position, ...]]:
        found = {id: self.held[id] for id in account_ids if id in self.held}
        await self._read("positions", account_ids)
        return found

    async def symbols(self, names: Sequence[str] | None = None) -> dict[str, rtx.SymbolSpec]:
        await self._read("symbols", names or [])
        return {name: self.specs[name] for name in names or self.specs if name in self.specs}

    @asynccontextmanager
    async def update_account(self, account_id: int) -> AsyncIterator[AccountUpdate]:
        self._check()
        if account_id not in self.rows:
            raise NotFound(f"there is no account {account_id}")
        row = _Row(self.rows[account_id])
        yield row  # type: ignore[misc]
        await asyncio.shield(self._commit(row))

    async def _commit(self, row: _Row) -> None:
        self.committing.set()
        await self.may_commit.wait()
        self.rows[row.id] = msgspec.structs.replace(
            self.rows[row.id], balance=row.balance, equity=row.balance, free_margin=row.balance
        )
        if self.commit_fails:
            raise rtx.DatabaseUnavailable("the connection broke during the commit")


class _Row:
    def __init__(self, row: rtx.Account) -> None:
        self.id = row.id
        self.balance = row.balance
