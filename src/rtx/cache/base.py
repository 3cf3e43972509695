"""The contract of every typed cache, and the reading and writing that they share.

Guarantees:

- a value that cannot be decoded is a miss, and is counted, never an exception;
- a read never fails because Redis does, where a loader (the database) is behind the cache;
- an invalidation that could not be sent is remembered, for as long as the stale value could live,
  and applied before the cache is read again.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from rtx.codecs import DecodeError
from rtx.errors import ConnectionLost, RtxError, ServerError, Unavailable
from rtx.wire import Caller, Reply

K = TypeVar("K")
V = TypeVar("V")

Loader: TypeAlias = Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]
"""Reads values from the system of record; ids that do not exist are left out."""

_CHUNK = 1_000
_OWED_AT_MOST = 100_000


@dataclass(slots=True)
class CacheStats:
    """Counters since the layer was opened."""

    hits: int = 0
    misses: int = 0
    loads: int = 0
    fallbacks: int = 0
    puts: int = 0
    invalidations: int = 0
    undecodable: int = 0
    fill_failures: int = 0
    invalidations_owed: int = 0


class Cache(Generic[K, V]):
    """Typed values by id, each with a time to live, in front of an optional loader."""

    def __init__(
        self,
        pool: Caller,
        key: Callable[[K], str],
        ttl: float,
        encode: Callable[[V], bytes],
        decode: Callable[[bytes], V],
        load: Loader[K, V] | None = None,
    ) -> None:
        self._pool = pool
        self._key = key
        self._ttl_ms = max(1, round(ttl * 1000))
        self._encode = encode
        self._decode = decode
        self._load = load
        self._owed: dict[str, float] = {}
        self.stats = CacheStats()

    # --- reading ---------------------------------------------------------------------------

    async def get(self, id: K) -> V | None:
        """The value, or None when there is none (without a loader: none that is fresh).

        Raises `Unavailable` or `ServerError` only where no loader stands behind the cache, and
        `DatabaseUnavailable` when the loader is needed and fails.
        """
        try:
            if self._owed:
                await self._settle()
            raw = await self._pool.call("GET", self._key(id))
        except (Unavailable, ServerError) as error:
            return (await self._fall_back([id], error)).get(id)
        value = self._decoded(raw)
        if value is not None:
            self.stats.hits += 1
            return value
        self.stats.misses += 1
        if self._load is None:
            return None
        return (await self._load_and_fill([id])).get(id)

    async def get_many(self, ids: Iterable[K]) -> dict[K, V]:
        """The values that exist, in the order asked, in one round trip. Raises as `get`."""
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return {}
        try:
            if self._owed:
                await self._settle()
            raws = await self._pool.call("MGET", *map(self._key, wanted))
        except (Unavailable, ServerError) as error:
            found = await self._fall_back(wanted, error)
        else:
            assert isinstance(raws, list)
            values = zip(wanted, map(self._decoded, raws), strict=True)
            found = {id: value for id, value in values if value is not None}
            self.stats.hits += len(found)
            missing = [id for id in wanted if id not in found]
            self.stats.misses += len(missing)
            if missing and self._load is not None:
                found.update(await self._load_and_fill(missing))
        return {id: found[id] for id in wanted if id in found}

    def _decoded(self, raw: Reply) -> V | None:
        if raw is None:
            return None
        try:
            return self._decode(raw)  # type: ignore[arg-type]
        except (*DecodeError, TypeError, ValueError):
            self.stats.undecodable += 1
            return None

    async def _load_and_fill(self, ids: list[K]) -> dict[K, V]:
        assert self._load is not None
        self.stats.loads += len(ids)
        values = dict(await self._load(ids))
        try:
            await self._store(values)
        except (Unavailable, ServerError):
            self.stats.fill_failures += 1  # the caller has the value; the next reader loads again
        return values

    async def _fall_back(self, ids: list[K], error: RtxError) -> dict[K, V]:
        """Redis failed: ask once more where the connection just broke, then the database."""
        if isinstance(error, ConnectionLost) and not self._owed:
            try:
                raws = await self._pool.execute("MGET", *map(self._key, ids), idempotent=True)
            except (Unavailable, ServerError) as again:
                error = again
            else:
                assert isinstance(raws, list)
                values = zip(ids, map(self._decoded, raws), strict=True)
                found = {id: value for id, value in values if value is not None}
                if len(found) == len(ids) or self._load is None:
                    self.stats.hits += len(found)
                    return found
        if self._load is None:
            raise error
        self.stats.fallbacks += len(ids)
        return dict(await self._load(ids))

    # --- writing ---------------------------------------------------------------------------

    async def _put(self, values: Mapping[K, V]) -> None:
        """Store what a caller has now, after the invalidations of what was there before."""
        if self._owed:
            await self._settle()
        await self._store(values)

    async def _store(self, values: Mapping[K, V]) -> None:
        commands = [
            ("SET", self._key(id), self._encode(value), "PX", self._ttl_ms)
            for id, value in values.items()
        ]
        for start in range(0, len(commands), _CHUNK):
            for reply in await self._pool.batch(commands[start : start + _CHUNK]):
                if isinstance(reply, ServerError):
                    raise reply
        self.stats.puts += len(commands)

    async def invalidate(self, *ids: K) -> None:
        """Delete cached values; what cannot be sent now is applied before the next read."""
        if not ids:
            return
        self.stats.invalidations += len(ids)
        keys = [self._key(id) for id in ids]
        try:
            await self._pool.call("DEL", *keys)
        except (Unavailable, ServerError):
            self._owe(keys)
        except BaseException:  # cancelled: nobody knows whether it left
            self._owe(keys)
            raise

    def _owe(self, keys: list[str]) -> None:
        now = time.monotonic()
        if len(self._owed) >= _OWED_AT_MOST:
            self._owed = {key: until for key, until in self._owed.items() if until > now}
        self.stats.invalidations_owed += len(keys)
        for key in keys:
            self._owed[key] = now + self._ttl_ms / 1000

    async def _settle(self) -> None:
        """Send the invalidations that are owed; raises, and keeps them, when it cannot."""
        now = time.monotonic()
        owed = dict(self._owed)
        due = [key for key, until in owed.items() if until > now]
        for start in range(0, len(due), _CHUNK):
            await self._pool.call("DEL", *due[start : start + _CHUNK])
        for key, until in owed.items():
            if self._owed.get(key) == until:  # else it was invalidated again meanwhile
                del self._owed[key]
