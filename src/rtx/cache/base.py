"""The contract of every typed cache, and what they share.

Guarantees, where a loader (the database) is behind a cache:

- a read never fails because Redis does;
- when a write has returned, no read that begins later gives an older value: fills hold a lease that
  a write ends, and rows with versions never go backwards;
- an id that many miss at once is loaded once by a process, and once by all processes;
- what Redis could not be told is told before it is trusted again; see `Breaker`.

In all caches a value that cannot be decoded is a miss, and is counted, never an exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from itertools import islice
from time import monotonic
from typing import Generic, TypeAlias, TypeVar, cast

from rtx.cache.breaker import Breaker
from rtx.cache.contract import CacheStats, Edit, Kept, Lookup, ReadTimes
from rtx.cache.fields import field_of
from rtx.cache.filling import Filler
from rtx.cache.loading import Given, Loader, Loads
from rtx.cache.near import NearCache
from rtx.cache.reading import FAILURES, Reading
from rtx.cache.remote import CHUNK, Debt, Remote, drop
from rtx.cache.trip import UNREADABLE
from rtx.errors import Conflict, NotFound, ServerError, SettingsError, Unavailable
from rtx.setting_groups import CacheSettings
from rtx.wire import Caller, Reply

__all__ = ["Cache", "CacheStats"]

K = TypeVar("K")
V = TypeVar("V")

Remember: TypeAlias = Callable[[Callable[[bytes], V], int], Callable[[bytes], V]]

_DROP_WITHIN = 0.5


class Cache(Generic[K, V]):
    """Typed values by id, each with a time to live (`ttl`, seconds), before an optional loader.

    `filled` is False for keys that are put only: writes then end no fills, and one by `get_or_load`
    stores nothing over what is there by then. `reader` may answer plain reads in place of `pool`.
    `early` has values loaded anew in the background shortly before they expire, `keeps` those seen
    last for when all else is away. `remember` is `remembering` or `remembering_small` where values
    are immutable: the same bytes are then decoded once.
    """

    def __init__(
        self,
        pool: Caller,
        key: Callable[[K], str],
        ttl: float,
        encode: Callable[[V], bytes],
        decode: Callable[[bytes], V],
        load: Loader[K, V] | None = None,
        *,
        settings: CacheSettings | None = None,
        breaker: Breaker | None = None,
        near: NearCache | None = None,
        reader: Caller | None = None,
        filled: bool = True,
        early: bool = False,
        keeps: bool = False,
        remember: Remember[V] | None = None,
    ) -> None:
        settings = settings or CacheSettings()
        if remember is not None:
            decode = remember(decode, settings.decoded)
        self.stats = CacheStats()
        self.times = ReadTimes()
        self._pool = pool
        self._key = key
        self._ttl = ttl
        self._encode = encode
        self._decode = decode
        self._near = near
        self._kept: Kept[K, V] | None = Kept() if keeps else None
        self._filled = filled
        self._own_breaker = None if breaker is not None else Breaker(pool, settings.read_timeout)
        self._breaker = breaker or cast(Breaker, self._own_breaker)
        self._remote = Remote(pool, ttl, settings.lease, settings.absent_ttl, companions=filled)
        self._filler: Filler[K, V] = Filler(
            self._remote,
            self._breaker,
            key,
            encode,
            decode,
            self.stats,
            patience=settings.read_timeout,
            lease=settings.lease,
        )
        self._loads: Loads[K, V] | None = None
        if load is not None:
            self._loads = Loads(load, self.stats, at_once=settings.max_loads)
        self._given_at_once = asyncio.Semaphore(settings.max_loads)
        reader = reader or pool
        self._call = reader.call
        self._timeout = None if load is None else settings.read_timeout
        self._direct = near is None and not early and not keeps
        self._reading: Reading[K, V] = Reading(
            pool,
            reader,
            self._remote,
            near,
            self._breaker,
            self._filler,
            self._loads,
            key,
            decode,
            self.stats,
            self.times,
            patience=settings.read_timeout,
            early=early,
            kept=self._kept,
        )

    async def close(self) -> None:
        """End the loads and fills that are under way."""
        await self._filler.close()
        if self._loads is not None:
            await self._loads.close()
        if self._own_breaker is not None:
            await self._own_breaker.close()

    # --- reading ---------------------------------------------------------------------------

    async def get(self, id: K) -> V | None:
        """The value, or None when there is none (without a loader: none that is fresh).

        Raises `Unavailable` or `ServerError` only where no loader stands behind the cache, and
        what the loader raises (`DatabaseUnavailable`) when it is needed and fails.
        """
        key = self._key(id)
        near = self._near
        if near is not None:
            kept = near.get(key)
            if kept is not None:
                self.stats.near_hits += 1
                return kept  # type: ignore[return-value]
        elif self._direct and self._breaker.calm:
            # The way of nearly all reads that go to the server, in as few steps as can be.
            began = monotonic()
            try:
                raw = await self._call("GET", key, timeout=self._timeout)
            except FAILURES as error:
                return await self._reading.after_failure(id, key, self._loads, began, error)
            if raw is not None:
                try:
                    value = self._decode(raw)  # type: ignore[arg-type]
                except UNREADABLE:
                    return await self._reading.after_reply(id, key, self._loads, began, raw)
                hits = self.stats.hits = self.stats.hits + 1
                if hits >= self.times.due:
                    self.times.sample(hits, began)
                return value
            return await self._reading.after_reply(id, key, self._loads, began, None)
        return await self._reading.one(id, key, self._loads)

    async def get_many(self, ids: Iterable[K]) -> dict[K, V]:
        """The values that exist, in the order asked, in one round trip. Raises as `get`."""
        wanted = list(dict.fromkeys(ids))
        if self._near is None:
            found = await self._reading.many(wanted, self._loads)
        else:
            kept = {id: self._near.get(self._key(id)) for id in wanted}
            left = [id for id, value in kept.items() if value is None]
            self.stats.near_hits += len(wanted) - len(left)
            found = await self._reading.many(left, self._loads) if left else {}
            found |= {id: cast(V, value) for id, value in kept.items() if value is not None}
        if [*found] == wanted:
            return found
        return {id: found[id] for id in wanted if id in found}

    async def get_or_load(self, id: K, load: Callable[[K], Awaitable[V | None]]) -> V | None:
        """As `get`, with a loader for this id, whose None means that it does not exist."""
        key = self._key(id)
        kept = None if self._near is None else self._near.get(key)
        if kept is not None:
            self.stats.near_hits += 1
            return cast(V, kept)
        return await self._reading.one(id, key, Given(load, self.stats, self._given_at_once))

    async def lookup(self, id: K) -> Lookup[V] | None:
        """The value with its source, age and version, or None. Raises as `get`."""
        key = self._key(id)
        kept = None if self._near is None else self._near.get(key)
        if kept is not None:
            self.stats.near_hits += 1
            return Lookup(cast(V, kept), "near", None)
        found = await self._reading.look(id, key, self._loads)
        if found is None or found.value is None:
            return None
        return Lookup(found.value, found.source, found.age, found.version, found.stale)

    async def field(self, id: K, name: str) -> object:
        """One field of the value, or None when there is no value.

        Raises `UnknownName` for a field that there is not, and as `get`.
        """
        value = await self.get(id)
        return None if value is None else field_of(value, name)

    # --- writing ---------------------------------------------------------------------------

    async def invalidate(self, *ids: K, version: int = 0) -> bool:
        """Delete cached values; False if the server could not be told, so that it is told later.

        `version` is that of the row after the change, if it is known: older rows are then refused.
        Until the server is told this process reads the database, and others may see the old value
        until it runs out.
        """
        self.stats.invalidations += len(ids)
        debts = {self._key(id): Debt(version, self._filled) for id in ids}
        if not debts:
            return True
        self._forget(ids, debts)
        if not self._breaker.allows:
            self._owe(debts, Unavailable("the server was away when a value was invalidated"))
            return False
        left = dict(debts)
        try:
            while left:
                some = dict(islice(left.items(), CHUNK))
                await drop(self._pool, some, _DROP_WITHIN)
                for key in some:
                    del left[key]
                self._breaker.confirm(some, self._ttl)
        except (Unavailable, ServerError) as error:
            self._owe(left, error)
            return False
        except BaseException:
            self._owe(left, Unavailable("an invalidation was cancelled on its way"))
            raise
        finally:
            self._forget(ids, debts)
        return True

    async def _put(self, values: Iterable[tuple[K, V, int]]) -> None:
        """Store (id, value, version), once the server knows of what was invalidated before.

        Of a put that fails nobody knows what is on the server now, so that where a database can
        tell, an invalidation is owed.
        """
        given = list(values)
        items = [(self._key(id), self._encode(value), version) for id, value, version in given]
        await self._breaker.attempt()
        ids = [id for id, _, _ in given]
        for start in range(0, len(items), CHUNK):
            some = items[start : start + CHUNK]
            debts = {key: Debt(version, True) for key, _, version in some if self._filled}
            try:
                replies = await self._write(some)
            except (Unavailable, ServerError) as error:
                self._owe(debts, error)
                raise
            except BaseException:
                self._owe(debts, Unavailable("a write was cancelled on its way"))
                raise
            finally:
                self._forget(ids[start : start + CHUNK], [key for key, _, _ in some])
            for reply in replies:
                if isinstance(reply, ServerError):
                    raise reply
            self._count_stored(replies)
            self._breaker.confirm(debts, self._ttl)

    async def _write(self, items: list[tuple[str, bytes, int]]) -> list[Reply]:
        """Store (key, value, version); 0 is the reply for what is older than what is there."""
        write = self._remote.put if self._filled else self._remote.set
        return await write(items, None)

    def _count_stored(self, replies: list[Reply]) -> None:
        refused = sum(1 for reply in replies if reply == 0)
        self.stats.puts += len(replies) - refused
        self.stats.older_versions_refused += refused

    def _forget(self, ids: Iterable[K], keys: Iterable[str]) -> None:
        """Drop what this process has of changed values, and let nobody join their fills."""
        if self._near is not None:
            self._near.drop(*keys)
        self._filler.detach(ids)
        if self._kept is not None:
            for id in ids:
                self._kept.forget(id)

    def _owe(self, debts: Mapping[str, Debt], cause: Unavailable | ServerError) -> None:
        if debts:
            self.stats.invalidations_owed += len(debts)
            self._breaker.owe(debts, self._ttl, cause)

    # --- changing --------------------------------------------------------------------------

    @asynccontextmanager
    async def _editing(
        self, id: K, save: Callable[[V], Awaitable[object]] | None
    ) -> AsyncIterator[Edit[V]]:
        """Change a value: in the system of record by `save`, then dropped here; else in Redis.

        Raises `NotFound`, and in Redis `Conflict` when it has been changed meanwhile.
        """
        missing = NotFound(f"there is no {self._key(id)}; create it first")
        if save is not None and self._loads is not None:
            loaded = (await self._loads.load([id])).get(id)
            if loaded is None:
                raise missing
            edit = Edit(loaded.value)
            yield edit
            try:
                await save(edit.value)
            finally:  # from here on its outcome may be unknown, and dropping it is harmless
                await asyncio.shield(asyncio.ensure_future(self.invalidate(id)))
            return
        if self._loads is not None:
            raise SettingsError("this database cannot save such values; change them in its own way")
        key = self._key(id)
        await self._breaker.attempt()
        raw = await self._pool.call("GET", key)
        if raw is None:
            raise missing
        try:
            edit = Edit(self._decode(cast(bytes, raw)))
        except UNREADABLE:
            raise missing from None
        yield edit
        new = self._encode(edit.value)
        try:
            changed = await self._remote.swap(key, cast(bytes, raw), new, None)
        finally:
            self._forget([id], [key])
        if not changed:
            raise Conflict(f"{key} was changed by somebody else; read it again and repeat the edit")
        self.stats.puts += 1
