"""Limiters, ours and others', each opened as its own documentation says, at its best here."""

from __future__ import annotations

import hashlib
import importlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from benchmarks.bare import open_bare
from benchmarks.base import Arena
from benchmarks.clients import open_redis_py, open_rtx, open_wire
from rtx.ratelimit.decider import decide_script
from rtx.ratelimit.rules import TAKEN, rule
from rtx.setting_groups import LimitSettings

DB = 2

# The common practice, as many services have it: hits of one millisecond share a member, so it lets
# more through than its limit says. It does less work than an exact limit must.
SORTED_SET = """\
local key = KEYS[1]
local limit = tonumber(ARGV[1])
local window = tonumber(ARGV[2])
local current_time = tonumber(ARGV[3])
local start_time = current_time - window
redis.call('ZREMRANGEBYSCORE', key, 0, start_time)
local count = redis.call('ZCARD', key)
if count < limit then
    redis.call('ZADD', key, current_time, current_time)
    redis.call('EXPIRE', key, window)
    return 1
else
    return 0
end
"""


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `limit` hits in `per` seconds, asked for by so many callers at once."""

    limit: int
    per: int
    callers: int


Hit = Callable[[int], Awaitable[bool]]
"""Takes one hit of an id; whether it was allowed."""

Opener = Callable[[Arena, Quota], AbstractAsyncContextManager[Hit]]


@asynccontextmanager
async def ours(arena: Arena, quota: Quota) -> AsyncIterator[Hit]:
    """The layer's exact limit."""
    limits = {"bench": {"limit": quota.limit, "per": quota.per}}
    async with open_rtx(arena, limits=limits) as layer:
        limit = layer.limits["bench"]

        async def hit(id: int) -> bool:
            return (await limit.hit(id)).allowed

        yield hit


@asynccontextmanager
async def bare_script(arena: Arena, quota: Quota) -> AsyncIterator[Hit]:
    """The same script over a bare loop, each hit by itself."""
    script = decide_script()
    arena.witness.script_load(script.text)
    message = rule(LimitSettings(limit=quota.limit, per=quota.per), quota.limit, 1)
    async with open_bare(arena, DB) as loop:

        async def hit(id: int) -> bool:
            reply = await loop.call("EVALSHA", script.sha, 1, f"ratelimit:bench:{id}", message)
            return isinstance(reply, bytes) and len(reply) == TAKEN.size

        yield hit


@asynccontextmanager
async def sorted_set(arena: Arena, quota: Quota) -> AsyncIterator[Hit]:
    """redis-py and the script above."""
    async with open_redis_py(arena, DB, quota.callers) as client:
        await client.script_load(SORTED_SET)
        sha = hashlib.sha1(SORTED_SET.encode(), usedforsecurity=False).hexdigest()
        limit, window = str(quota.limit), str(quota.per * 1000)

        async def hit(id: int) -> bool:
            now = str(time.time_ns() // 1_000_000)
            key = f"ratelimit:bench:{id}"
            reply: object = await client.evalsha(sha, 1, key, limit, window, now)
            return reply == 1

        yield hit


def limits(strategy: str) -> Opener:
    """The library `limits` over redis-py."""

    @asynccontextmanager
    async def opened(arena: Arena, quota: Quota) -> AsyncIterator[Hit]:
        storage = importlib.import_module("limits.aio.storage").RedisStorage(
            f"async+redis://127.0.0.1:{arena.port}/{DB}",
            implementation="redispy",
            max_connections=quota.callers,
        )
        limiter = getattr(importlib.import_module("limits.aio.strategies"), strategy)(storage)
        item = importlib.import_module("limits").parse(f"{quota.limit}/{quota.per} second")

        async def hit(id: int) -> bool:
            return bool(await limiter.hit(item, f"bench:{id}"))

        try:
            yield hit
        finally:
            await storage.bridge.storage.aclose()

    return opened


def throttled(algorithm: str) -> Opener:
    """The library `throttled-py`."""

    @asynccontextmanager
    async def opened(arena: Arena, quota: Quota) -> AsyncIterator[Hit]:
        library = importlib.import_module("throttled.asyncio")
        store = library.RedisStore(
            server=f"redis://127.0.0.1:{arena.port}/{DB}",
            options={"MAX_CONNECTIONS": quota.callers},
        )
        per = library.per_duration(timedelta(seconds=quota.per), quota.limit, burst=quota.limit)
        limiter = library.Throttled(using=algorithm, quota=per, store=store)

        async def hit(id: int) -> bool:
            return not (await limiter.limit(f"bench:{id}")).limited

        try:
            yield hit
        finally:
            await store._backend.get_client().aclose()

    return opened


@asynccontextmanager
async def wire_incrby(arena: Arena, _: Quota) -> AsyncIterator[Hit]:
    """INCRBY on our wire: what a round trip costs."""
    async with open_wire(arena, DB) as pool:

        async def hit(id: int) -> bool:
            return await pool.call("INCRBY", f"count:{id}", 1) is not None

        yield hit


@asynccontextmanager
async def redis_py_incrby(arena: Arena, _: Quota) -> AsyncIterator[Hit]:
    """INCRBY on redis-py."""
    async with open_redis_py(arena, DB, 1) as client:

        async def hit(id: int) -> bool:
            return await client.incrby(f"count:{id}", 1) is not None

        yield hit
