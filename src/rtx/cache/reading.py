"""How a cache reads: from the server, else from whoever else can answer."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from time import monotonic
from typing import Final, Generic, Literal, TypeVar, cast

from rtx.cache.breaker import Breaker
from rtx.cache.contract import CacheStats, Found, Kept, ReadTimes, value_of, values_of
from rtx.cache.filling import Filler
from rtx.cache.loading import Loading, Loads
from rtx.cache.near import NearCache
from rtx.cache.remote import CHUNK, Remote
from rtx.cache.trip import LEAST, UNREADABLE
from rtx.errors import (
    ConnectionLost,
    DatabaseUnavailable,
    RtxError,
    ServerBusy,
    ServerError,
    Unavailable,
)
from rtx.wire import Caller, Reply
from rtx.wire.options import Argument

K = TypeVar("K")
V = TypeVar("V")

FAILURES = (Unavailable, ServerError)
"""How a read of the server ends when it has no answer to give."""


class _Pass(Enum):
    PASS = 0


_PASS: Final = _Pass.PASS
"""The near cache has no answer, whereas the pool may."""


class Reading(Generic[K, V]):
    """Reads for one cache; `patience` (seconds) is the server's time where others can answer too.

    A read goes to the server, once more where its connection broke, then to the loader. While the
    breaker is open it goes to the loader at once. Without a loader the server's time is that of the
    pool, and its failure is raised.
    """

    def __init__(
        self,
        pool: Caller,
        reader: Caller,
        remote: Remote,
        near: NearCache | None,
        breaker: Breaker,
        filler: Filler[K, V],
        loads: Loads[K, V] | None,
        key: Callable[[K], str],
        decode: Callable[[bytes], V],
        stats: CacheStats,
        times: ReadTimes,
        *,
        patience: float,
        early: bool,
        kept: Kept[K, V] | None,
    ) -> None:
        self._pool = pool
        self._reader = reader
        self._remote = remote
        self._near = near
        self._breaker = breaker
        self._filler = filler
        self._loads = loads
        self._key = key
        self._decode = decode
        self._stats = stats
        self._times = times
        self._patience = patience
        self._early = early
        self._kept = kept

    async def one(self, id: K, key: str, loads: Loading[K, V] | None) -> V | None:
        """The value of an id."""
        breaker = self._breaker
        began = monotonic()
        if not breaker.allows:
            if loads is not None:
                return value_of(await self._from_database([id], loads, began), id)
            await breaker.admit()
            began = monotonic()
        near = self._near
        if near is not None and near.serves(key):
            value = await self._over_near(near, key, loads)
            if value is None:
                return value_of(await self._missed([id], loads, began, {}), id)
            if value is not _PASS:
                return self._hit(id, value, began)
        try:
            if self._early and loads is not None:
                raw = await self._early_get(id, key, loads)
            else:
                timeout = None if loads is None else self._patience
                raw = await self._reader.call("GET", key, timeout=timeout)
        except FAILURES as error:
            return await self.after_failure(id, key, loads, began, error)
        return await self.after_reply(id, key, loads, began, raw)

    async def after_failure(
        self, id: K, key: str, loads: Loading[K, V] | None, began: float, error: RtxError
    ) -> V | None:
        """The value of an id whose GET, sent at `began`, has failed."""
        try:
            raw = await self._rescued(error, loads, began, "GET", key)
        except FAILURES:
            if loads is None:
                raise
            return value_of(await self._from_database([id], loads, began), id)
        return await self.after_reply(id, key, loads, began, raw)

    async def after_reply(
        self, id: K, key: str, loads: Loading[K, V] | None, began: float, raw: Reply
    ) -> V | None:
        """The value of an id whose GET, sent at `began`, was answered with this."""
        unreadable: dict[str, bytes] = {}
        if raw is not None:
            try:
                return self._hit(id, self._decode(raw), began)  # type: ignore[arg-type]
            except UNREADABLE:
                self._stats.undecodable += 1
                unreadable[key] = cast(bytes, raw)
        return value_of(await self._missed([id], loads, began, unreadable), id)

    async def many(self, ids: list[K], loads: Loading[K, V] | None) -> dict[K, V]:
        """The values of those ids that have one, in any order."""
        if not ids:
            return {}
        breaker = self._breaker
        began = monotonic()
        if not breaker.allows:
            if loads is not None:
                return values_of(await self._from_database(ids, loads, began))
            await breaker.admit()
            began = monotonic()
        keys = [*map(self._key, ids)]
        try:
            timeout = None if loads is None else self._patience
            raws = await self._reader.call("MGET", *keys, timeout=timeout)
        except FAILURES as error:
            try:
                raws = await self._rescued(error, loads, began, "MGET", *keys)
            except FAILURES:
                if loads is None:
                    raise
                return values_of(await self._from_database(ids, loads, began))
        replies = cast("list[bytes]", raws)
        if None in replies:
            return await self._some(ids, keys, replies, loads, began)
        try:
            found = dict(zip(ids, map(self._decode, replies), strict=True))
        except UNREADABLE:
            return await self._some(ids, keys, replies, loads, began)
        self._hits(found, began)
        return found

    async def _some(
        self,
        ids: Sequence[K],
        keys: Sequence[str],
        raws: Sequence[bytes | None],
        loads: Loading[K, V] | None,
        began: float,
    ) -> dict[K, V]:
        """The values of ids whose keys have these raw values, not all of which are any."""
        found: dict[K, V] = {}
        missing: list[K] = []
        unreadable: dict[str, bytes] = {}
        for id, key, raw in zip(ids, keys, raws, strict=True):
            if raw is None:
                missing.append(id)
                continue
            try:
                found[id] = self._decode(raw)
            except UNREADABLE:
                self._stats.undecodable += 1
                unreadable[key] = raw
                missing.append(id)
        self._hits(found, began)
        return found | values_of(await self._missed(missing, loads, began, unreadable))

    async def look(self, id: K, key: str, loads: Loading[K, V] | None) -> Found[V] | None:
        """The value of an id with its age and version."""
        began = monotonic()
        if not self._breaker.allows:
            if loads is not None:
                return (await self._from_database([id], loads, began)).get(id)
            await self._breaker.admit()
            began = monotonic()
        left: Reply = None
        version: Reply = None
        try:
            timeout = None if loads is None else self._patience
            raw, left, version = await self._remote.look(key, timeout)
        except FAILURES as error:
            try:
                raw = await self._rescued(error, loads, began, "GET", key)
            except FAILURES:
                if loads is None:
                    raise
                return (await self._from_database([id], loads, began)).get(id)
        unreadable: dict[str, bytes] = {}
        if raw is not None:
            try:
                value = self._hit(id, self._decode(raw), began)  # type: ignore[arg-type]
            except UNREADABLE:
                self._stats.undecodable += 1
                unreadable[key] = cast(bytes, raw)
            else:
                age = None
                if isinstance(left, int) and left >= 0:
                    age = max(0, self._remote.ttl_ms(key) - left) / 1000
                known = int(version) if isinstance(version, bytes) else 0
                return Found(value, known, "redis", 0, age)
        return (await self._missed([id], loads, began, unreadable)).get(id)

    # --- from the server -------------------------------------------------------------------

    def _hit(self, id: K, value: V, began: float) -> V:
        hits = self._stats.hits = self._stats.hits + 1
        if hits >= self._times.due:
            self._times.sample(hits, began)
        self._breaker.succeeded()
        if self._kept is not None:
            self._kept.keep(id, value)
        return value

    def _hits(self, found: Mapping[K, V], began: float) -> None:
        self._stats.hits += len(found)
        self._times.hit.take(monotonic() - began)
        self._breaker.succeeded()
        if self._kept is not None:
            for id, value in found.items():
                self._kept.keep(id, value)

    async def _over_near(
        self, near: NearCache, key: str, loads: Loading[K, V] | None
    ) -> V | Literal[_Pass.PASS] | None:
        try:
            # Half of the time: what its connection cannot do, the pool's others may.
            return await near.fetch(key, self._decode, self._patience / 2)
        except FAILURES:
            return _PASS
        except UNREADABLE:
            self._stats.undecodable += loads is None  # else it is counted when it is replaced
            return None

    async def _early_get(self, id: K, key: str, loads: Loading[K, V]) -> Reply:
        """The value; shortly before its end one reader, drawn by lot, has it loaded anew.

        Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention, 2015.
        """
        raw, left = await self._pool.batch((("GET", key), ("PTTL", key)), self._patience)
        if isinstance(raw, ServerError):
            raise raw
        if raw is not None and isinstance(left, int) and left >= 0:
            ahead = -loads.duration * math.log(1.0 - random.random())
            if ahead >= left / 1000:
                self._filler.refresh(id, loads)
        return raw

    async def _rescued(
        self,
        error: RtxError,
        loads: Loading[K, V] | None,
        began: float,
        *command: Argument,
    ) -> Reply:
        """What a read comes to after all that failed at first; raises what it ends with."""
        if isinstance(error, ConnectionLost):
            timeout = None
            if loads is not None:
                timeout = max(LEAST, self._patience - (monotonic() - began))
            try:
                return await self._reader.call(*command, timeout=timeout)
            except FAILURES as again:
                error = again
        if isinstance(error, Unavailable | ServerBusy):
            self._breaker.failed(str(command[1]), error)
        elif isinstance(error, ServerError) and error.prefix == "WRONGTYPE":
            self._stats.undecodable += loads is None  # else it is counted when it is replaced
            return None
        raise error

    # --- from the loader -------------------------------------------------------------------

    async def _missed(
        self,
        ids: Sequence[K],
        loads: Loading[K, V] | None,
        began: float,
        unreadable: Mapping[str, bytes],
    ) -> dict[K, Found[V]]:
        self._stats.misses += len(ids)
        found: dict[K, Found[V]] = {}
        spent = monotonic() - began
        if loads is None:
            self._times.miss.take(spent)
            return found
        try:
            for start in range(0, len(ids), CHUNK):
                some = ids[start : start + CHUNK]
                found |= await self._filler.find(some, loads, spent, unreadable)
                spent = 0.0
        except DatabaseUnavailable as error:
            return self._stale(ids, error)
        self._times.miss.take(monotonic() - began)
        return self._keep(found)

    async def _from_database(
        self, ids: Sequence[K], loads: Loading[K, V], began: float
    ) -> dict[K, Found[V]]:
        self._stats.fallbacks += len(ids)
        try:
            if loads is self._loads:
                return self._keep(await self._filler.load(ids, loads))
            return await self._filler.find(ids, loads, ask=False)
        except DatabaseUnavailable as error:
            return self._stale(ids, error)
        finally:
            self._times.fallback.take(monotonic() - began)

    def _keep(self, found: dict[K, Found[V]]) -> dict[K, Found[V]]:
        if self._kept is not None:
            for id, one in found.items():
                if one.value is not None:
                    self._kept.keep(id, one.value)
        return found

    def _stale(self, ids: Sequence[K], error: DatabaseUnavailable) -> dict[K, Found[V]]:
        """The values seen last, where all of them were; else the error."""
        if self._kept is None:
            raise error
        found: dict[K, Found[V]] = {}
        for id in ids:
            seen = self._kept.get(id)
            if seen is None:
                raise error
            found[id] = Found(seen[0], 0, "near", 0, seen[1], stale=True)
        self._stats.stale_served += len(found)
        return found
