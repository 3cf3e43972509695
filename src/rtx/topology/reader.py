"""Plain reads answered by replicas, as long as one is near enough to its primary."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from rtx.errors import RtxError, ServerError
from rtx.setting_groups import PoolSettings
from rtx.topology.replicas import Family, Lag
from rtx.topology.standing import standing_of
from rtx.urls import Address
from rtx.wire.caller import Caller
from rtx.wire.connection import Connection
from rtx.wire.options import Argument
from rtx.wire.pool import Pool, PoolStats
from rtx.wire.replies import Reply

_ASKED_IN_MAX_LAG = 4  # so often in that time, primary and replicas are asked for their role
_DRAIN = 0.2  # what a server that is no replica any more gets to answer the reads that it has


class ReplicaReader:
    """A `Caller` whose GET and MGET, by `call`, a replica may answer; all else the primary does.

    What a replica answers is at most `max_lag` seconds old, which `Lag` sees to: primary and
    replicas are asked by ROLE four times in that time. A replica that is further behind, whose link
    is down, or which fails to answer, is passed over: the call goes to the primary then, within its
    own `timeout`. Reads of one process keep to one replica while that is good.
    """

    def __init__(
        self, primary: Caller, family: Family, settings: PoolSettings, max_lag: float
    ) -> None:
        self._primary = primary
        self._family = family
        self._max_lag = max_lag
        self._settings = settings.model_copy(
            update={"pool_timeout": min(settings.pool_timeout, max_lag), "min_idle": 1}
        )
        self._lags: dict[Address, Lag] = {}
        self._pools: dict[Address, Pool] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._watcher: asyncio.Task[None] | None = None
        self._past = PoolStats()  # of pools that are gone, and reads that went to the primary
        self.answered = 0
        """Reads that replicas have answered."""
        family.on_change(self._lags.clear)

    # --- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look for replicas; until one is found good the primary answers everything."""
        self._watcher = asyncio.create_task(self._watch(), name="rtx-replicas")

    async def close(self) -> None:
        """End the connections to replicas; the primary's caller is closed by its owner."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        self._lags.clear()
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))
        await asyncio.gather(*self._leaving, return_exceptions=True)

    @property
    def down(self) -> RtxError | None:
        return self._primary.down

    @property
    def stats(self) -> PoolStats:
        """Of the connections to replicas; `retries` are reads that the primary had to answer."""
        total = dataclasses.replace(self._past)
        for pool in self._pools.values():
            _add(total, pool.stats)
        return total

    def hurry(self) -> None:
        self._primary.hurry()
        for pool in self._pools.values():
            pool.hurry()

    def on_loss(self, told: Callable[[], None]) -> None:
        self._primary.on_loss(told)

    # --- calls -----------------------------------------------------------------------------

    def call(self, *args: Argument, timeout: float | None = None) -> Awaitable[Reply]:
        """See `Caller`."""
        if args[0] == "GET":
            pool = self._replica_for(args[1])
            if pool is not None:
                return self._get(pool, args, timeout)
        elif args[0] == "MGET":
            return self._mget(args[1:], timeout)
        return self._primary.call(*args, timeout=timeout)

    def batch(
        self, commands: Sequence[tuple[Argument, ...]], timeout: float | None = None
    ) -> Awaitable[list[Reply]]:
        """The primary's."""
        return self._primary.batch(commands, timeout)

    def batch_packed(
        self, commands: Sequence[bytes], *, patient: bool = True
    ) -> Awaitable[list[Reply]]:
        """The primary's."""
        return self._primary.batch_packed(commands, patient=patient)

    async def execute(
        self, *args: Argument, idempotent: bool = False, timeout: float | None = None
    ) -> Reply:
        """The primary's."""
        return await self._primary.execute(*args, idempotent=idempotent, timeout=timeout)

    def _replica_for(self, key: Argument) -> Pool | None:
        name = key if isinstance(key, bytes) else str(key).encode()
        primary = self._family.primary_of(name)
        lag = None if primary is None else self._lags.get(primary)
        if lag is None:
            return None
        replica = lag.good(asyncio.get_running_loop().time())
        return None if replica is None else self._pools.get(replica)

    async def _get(self, pool: Pool, args: tuple[Argument, ...], timeout: float | None) -> Reply:
        began = asyncio.get_running_loop().time()
        try:
            reply = await pool.call(*args, timeout=self._share(timeout))
        except RtxError:
            self._past.retries += 1
            return await self._primary.call(*args, timeout=_left(timeout, began))
        self.answered += 1
        return reply

    async def _mget(self, keys: Sequence[Argument], timeout: float | None) -> Reply:
        """Ask all replicas that have keys at the same time; in one command where that can be."""
        groups: dict[Pool | None, list[int]] = {}
        if self._family.one_slot and keys:
            groups[self._replica_for(keys[0])] = list(range(len(keys)))
        else:
            for place, key in enumerate(keys):
                groups.setdefault(self._replica_for(key), []).append(place)
        if groups.keys() <= {None}:
            return await self._primary.call("MGET", *keys, timeout=timeout)
        values: list[Reply] = [None] * len(keys)
        parts = await asyncio.gather(
            *(
                self._mget_from(pool, [keys[place] for place in places], timeout)
                for pool, places in groups.items()
            )
        )
        for places, part in zip(groups.values(), parts, strict=True):
            for place, value in zip(places, part, strict=True):
                values[place] = value
        return values

    async def _mget_from(
        self, pool: Pool | None, keys: list[Argument], timeout: float | None
    ) -> list[Reply]:
        began = asyncio.get_running_loop().time()
        if pool is not None:
            whole = self._family.one_slot
            commands = [("MGET", *keys)] if whole else [("MGET", key) for key in keys]
            try:
                replies = await pool.batch(commands, self._share(timeout))
            except RtxError as error:
                replies = [ServerError(str(error))]
            parts = [reply for reply in replies if isinstance(reply, list)]
            if len(parts) == len(commands):
                self.answered += 1
                return [value for part in parts for value in part]
            self._past.retries += 1
        values = await self._primary.call("MGET", *keys, timeout=_left(timeout, began))
        return cast("list[Reply]", values)

    def _share(self, timeout: float | None) -> float:
        """How long a replica may take of a call's time; the primary may need the rest."""
        return self._max_lag if timeout is None else min(self._max_lag, timeout / 2)

    # --- replicas --------------------------------------------------------------------------

    async def _watch(self) -> None:
        loop, every = asyncio.get_running_loop(), self._max_lag / _ASKED_IN_MAX_LAG
        while True:
            began = loop.time()
            primaries = tuple(self._family.primaries)
            found = await asyncio.gather(*(self._look(primary, every) for primary in primaries))
            for replica in self._pools.keys() - set().union(*found):
                self._leave(replica)
            await asyncio.sleep(max(0.0, began + every - loop.time()))

    async def _look(self, primary: Address, within: float) -> set[Address]:
        """Ask a primary and its replicas for their role; returns all that may be its replicas."""
        lag = self._lags.setdefault(primary, Lag(primary, self._max_lag))
        began = asyncio.get_running_loop().time()
        try:
            standing = standing_of(
                await self._family.caller_of(primary).call("ROLE", timeout=within)
            )
        except RtxError:
            return set(self._pools)
        if not standing.is_primary:
            return set(self._pools)
        lag.wrote(began, standing.offset)
        replicas = set(self._family.replicas_of(primary, standing))
        await asyncio.gather(*(self._ask(lag, replica, within) for replica in replicas))
        return replicas

    async def _ask(self, lag: Lag, replica: Address, within: float) -> None:
        try:
            reply = await self._pool(replica).call("ROLE", timeout=within)
        except RtxError:
            lag.lose(replica)
        else:
            lag.applied(replica, standing_of(reply))

    def _pool(self, replica: Address) -> Pool:
        pool = self._pools.get(replica)
        if pool is None:

            def dial(on_close: Callable[[Connection], None]) -> Awaitable[Connection]:
                return self._family.dial(replica, on_close, self._max_lag)

            pool = self._pools[replica] = Pool(dial, self._settings)
            pool.on_loss(lambda: self._lose(replica))
            pool.start()
        return pool

    def _lose(self, replica: Address) -> None:
        for lag in self._lags.values():
            lag.lose(replica)

    def _leave(self, replica: Address) -> None:
        pool = self._pools.pop(replica)
        self._lose(replica)
        _add(self._past, dataclasses.replace(pool.stats, connections=0, in_flight=0))
        task = asyncio.create_task(pool.drain(_DRAIN), name=f"rtx-drain-{replica}")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


def _left(timeout: float | None, began: float) -> float | None:
    if timeout is None:
        return None
    return max(0.0, timeout - (asyncio.get_running_loop().time() - began))


def _add(total: PoolStats, part: PoolStats) -> None:
    for item in dataclasses.fields(PoolStats):
        setattr(total, item.name, getattr(total, item.name) + getattr(part, item.name))
