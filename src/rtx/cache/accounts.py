"""The caches of an account: its money, and its open positions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Generic, Protocol, TypeAlias, TypeVar

from rtx import codecs
from rtx.cache.base import Cache
from rtx.cache.breaker import Breaker
from rtx.cache.decoding import remembering, remembering_small
from rtx.cache.loading import Loader
from rtx.cache.near import NearCache
from rtx.errors import SettingsError
from rtx.keys import Keys
from rtx.models import Account, Position
from rtx.setting_groups import CacheSettings
from rtx.wire import Caller

U = TypeVar("U")

Begin: TypeAlias = Callable[[int], AbstractAsyncContextManager[U]]
"""Opens a database transaction on one account, which ends with the context."""


def _unversioned(_row: object) -> int:
    return 0


def _untold(_row: object) -> None:
    return None


class _Drops(Protocol):
    def invalidate(self, *ids: int, version: int = 0) -> Awaitable[bool]: ...


class Updates(Generic[U]):
    """Changes accounts in the database, and then drops what caches have of them.

    `version` gives the version that a row's commit makes, 0 where rows have none. `told` learns of
    rows whose caches have all been told. The caches that hold parts of an account are `caches`.
    """

    def __init__(
        self,
        begin: Begin[U] | None,
        version: Callable[[U], int] = _unversioned,
        told: Callable[[U], None] = _untold,
    ) -> None:
        self._begin = begin
        self._version = version
        self._told = told
        self.caches: list[_Drops] = []

    @asynccontextmanager
    async def update(self, account_id: int) -> AsyncIterator[U]:
        """See `AccountCache.update`."""
        if self._begin is None:
            raise SettingsError("no database is attached; pass one to rtx.open(database=…)")
        changed: U | None = None
        try:
            async with self._begin(account_id) as row:
                yield row
                changed = row
        finally:
            # Once the commit began, its outcome may be unknown: dropping a fresh value is harmless.
            if changed is not None:
                await asyncio.shield(asyncio.ensure_future(self._drop(account_id, changed)))

    async def _drop(self, account_id: int, row: U) -> None:
        version = self._version(row)
        told = await asyncio.gather(
            *(cache.invalidate(account_id, version=version) for cache in self.caches)
        )
        if all(told):
            self._told(row)


class PositionCache(Cache[int, tuple[Position, ...]], Generic[U]):
    """Open positions by account, `positions:{account_id}`, 30 seconds.

    An account without positions has `()`; None means that the account is not known.
    """

    def __init__(
        self,
        pool: Caller,
        keys: Keys,
        ttl: float,
        updates: Updates[U],
        load: Loader[int, tuple[Position, ...]] | None = None,
        *,
        settings: CacheSettings | None = None,
        breaker: Breaker | None = None,
        near: NearCache | None = None,
        reader: Caller | None = None,
    ) -> None:
        super().__init__(
            pool,
            keys.positions,
            ttl,
            codecs.encode,
            codecs.decode_positions,
            load,
            settings=settings,
            breaker=breaker,
            near=near,
            reader=reader,
            remember=remembering_small,
        )
        self._updates = updates
        updates.caches.append(self)

    async def put(
        self, account_id: int, positions: Iterable[Position], *, version: int = 0
    ) -> None:
        """Store an account's positions, all of them, unless a newer version is known.

        `version` is that of the account's row, if it is known. Raises `Unavailable`, `ServerError`.
        """
        await self._put([(account_id, tuple(positions), version)])

    async def put_many(self, positions: Mapping[int, Iterable[Position]]) -> None:
        """Store the positions of several accounts in one write. Raises as `put`."""
        await self._put([(id, tuple(several), 0) for id, several in positions.items()])

    def update(self, account_id: int) -> AbstractAsyncContextManager[U]:
        """Change an account and its positions: the same as `AccountCache.update`."""
        return self._updates.update(account_id)


class AccountCache(Cache[int, Account], Generic[U]):
    """Accounts, `account:{account_id}`, 60 seconds, read through from the database."""

    def __init__(
        self,
        pool: Caller,
        keys: Keys,
        ttl: float,
        updates: Updates[U],
        load: Loader[int, Account] | None = None,
        *,
        settings: CacheSettings | None = None,
        breaker: Breaker | None = None,
        near: NearCache | None = None,
        reader: Caller | None = None,
    ) -> None:
        super().__init__(
            pool,
            keys.account,
            ttl,
            codecs.encode,
            codecs.decode_account,
            load,
            settings=settings,
            breaker=breaker,
            near=near,
            reader=reader,
            remember=remembering,
        )
        self._updates = updates
        updates.caches.append(self)

    async def put(self, account: Account, *, version: int = 0) -> None:
        """Store an account, unless a newer version is known.

        `version` is that of its row, if it is known. Raises `Unavailable`, `ServerError`.
        """
        await self._put([(account.id, account, version)])

    async def put_many(self, accounts: Iterable[Account]) -> None:
        """Store accounts in one write. Raises as `put`."""
        await self._put([(account.id, account, 0) for account in accounts])

    def update(self, account_id: int) -> AbstractAsyncContextManager[U]:
        """Change an account in the database, then drop it and its positions from the cache.

        Yields the database's row under its lock. An exception in the body rolls back and leaves
        the cache alone. Raises `NotFound`, `DatabaseUnavailable`.
        """
        return self._updates.update(account_id)
