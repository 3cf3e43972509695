"""Caches of numbers on a server, before a database that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec

from rtx import urls
from rtx.cache import Cache
from rtx.models import Versioned
from rtx.setting_groups import CacheSettings, PoolSettings
from rtx.topology.base import Manner
from rtx.topology.standalone import StandaloneTopology
from rtx.wire import Pool

CALM = CacheSettings(read_timeout=10.0)
"""More time to answer than any busy machine takes."""

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(int).decode


class Rows:
    """Rows by id with versions; `asked` has the ids of each load.

    A load reads when it begins, and then waits for `gate`; `failure` is raised in its place.
    """

    def __init__(self, **rows: int) -> None:
        self.rows = {int(name.removeprefix("n")): value for name, value in rows.items()}
        self.version = 0
        self.asked: list[list[int]] = []
        self.running = 0
        self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    async def load(self, ids: Sequence[int]) -> Mapping[int, Versioned[int]]:
        self.asked.append(list(ids))
        found = {id: Versioned(self.rows[id], self.version) for id in ids if id in self.rows}
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        if self.failure is not None:
            raise self.failure
        return found

    async def asked_for(self, count: int) -> None:
        """Wait until so many loads have begun."""
        while len(self.asked) < count:
            await asyncio.sleep(0.001)


@asynccontextmanager
async def open_pool(url: str, **fields: float) -> AsyncIterator[Pool]:
    """A pool to a server, database 0."""
    location = urls.parse(url)
    assert isinstance(location, urls.Standalone)
    settings = PoolSettings(**{"min_idle": 1, **fields})  # type: ignore[arg-type]
    topology = StandaloneTopology(location, Manner(settings))
    pool = Pool(lambda on_close: topology.dial(0, on_close), settings)
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


@asynccontextmanager
async def numbers(
    pool: Pool,
    namespace: str,
    rows: Rows | None,
    *,
    ttl: float = 60.0,
    settings: CacheSettings = CALM,
    early: bool = False,
    keeps: bool = False,
) -> AsyncIterator[Cache[int, int]]:
    """A cache as a process of its own would have it: its flights and breaker are no other's."""
    cache: Cache[int, int] = Cache(
        pool,
        lambda id: f"{namespace}:{id}",
        ttl,
        encode,
        decode,
        None if rows is None else rows.load,
        settings=settings,
        early=early,
        keeps=keeps,
    )
    try:
        yield cache
    finally:
        await cache.close()
