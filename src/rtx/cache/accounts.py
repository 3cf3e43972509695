"""The caches of an account: its money, and its open positions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Generic, TypeAlias, TypeVar

from rtx import codecs
from rtx.cache.base import Cache, Loader
from rtx.errors import SettingsError
from rtx.keys import Keys
from rtx.models import Account, Position
from rtx.wire import Caller

U = TypeVar("U")
Begin: TypeAlias = Callable[[int], AbstractAsyncContextManager[U]]
"""Opens a database transaction on one account, which ends with the context."""


class PositionCache(Cache[int, tuple[Position, ...]]):
    """Open positions by account, `positions:{account_id}`, 30 seconds.

    An account without positions has `()`; None means that the account is not known.
    """

    def __init__(
        self,
        pool: Caller,
        keys: Keys,
        ttl: float,
        load: Loader[int, tuple[Position, ...]] | None = None,
    ) -> None:
        super().__init__(pool, keys.positions, ttl, codecs.encode, codecs.decode_positions, load)

    async def put(self, account_id: int, positions: Iterable[Position]) -> None:
        """Store an account's positions, all of them. Raises `Unavailable`, `ServerError`."""
        await self._put({account_id: tuple(positions)})

    async def put_many(self, positions: Mapping[int, Iterable[Position]]) -> None:
        """Store the positions of several accounts in one write. Raises as `put`."""
        await self._put({id: tuple(several) for id, several in positions.items()})


class AccountCache(Cache[int, Account], Generic[U]):
    """Accounts, `account:{account_id}`, 60 seconds, read through from the database."""

    def __init__(
        self,
        pool: Caller,
        keys: Keys,
        ttl: float,
        positions: PositionCache,
        load: Loader[int, Account] | None = None,
        begin: Begin[U] | None = None,
    ) -> None:
        super().__init__(pool, keys.account, ttl, codecs.encode, codecs.decode_account, load)
        self._positions = positions
        self._begin = begin

    async def put(self, account: Account) -> None:
        """Store an account. Raises `Unavailable`, `ServerError`."""
        await self._put({account.id: account})

    async def put_many(self, accounts: Iterable[Account]) -> None:
        """Store accounts in one write. Raises as `put`."""
        await self._put({account.id: account for account in accounts})

    @asynccontextmanager
    async def update(self, account_id: int) -> AsyncIterator[U]:
        """Change an account in the database, then drop it and its positions from the cache.

        Yields the database's row under its lock. An exception in the body rolls back and leaves
        the cache alone. Raises `NotFound`, `DatabaseUnavailable`.
        """
        if self._begin is None:
            raise SettingsError("no database is attached; pass one to rtx.open(database=…)")
        committing = False
        try:
            async with self._begin(account_id) as row:
                yield row
                committing = True
        finally:
            # Once the commit began, its outcome may be unknown: dropping a fresh value is harmless.
            if committing:
                await asyncio.shield(asyncio.ensure_future(self._drop(account_id)))

    async def _drop(self, account_id: int) -> None:
        await asyncio.gather(self.invalidate(account_id), self._positions.invalidate(account_id))
