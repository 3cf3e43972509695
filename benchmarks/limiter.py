"""Rate limits: hits on many ids, all of them allowed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from statistics import quantiles

import redis.asyncio as redis_py

from benchmarks.bare import open_bare
from benchmarks.base import (
    Arena,
    Case,
    Contestant,
    Measure,
    Role,
    Run,
    Sample,
    WrongResult,
    throughput,
)
from benchmarks.clients import concurrently, open_redis_py, open_rtx, open_wire
from rtx.wire import Script

CALLERS = 50
LIMIT = 100
WINDOW = 60
HITS_PER_ID = 50
_DB = 2

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

Hit = Callable[[int], Awaitable[bool]]
"""Takes one hit of an id; whether it was allowed."""


def _throughput(arena: Arena, hit: Hit) -> Run:
    async def run(total: int) -> Sample:
        arena.clear()
        denied = 0

        async def work(number: int) -> None:
            nonlocal denied
            if not await hit(number // HITS_PER_ID):
                denied += 1

        sample = await concurrently(CALLERS, total, work)
        if denied:
            raise WrongResult(f"{denied} of {total} hits were denied")
        keyspace: object = arena.witness.info("keyspace")
        assert isinstance(keyspace, dict)
        ids, expected = keyspace[f"db{_DB}"]["keys"], -(-total // HITS_PER_ID)
        if ids != expected:
            raise WrongResult(f"{ids} ids have hits, not {expected}")
        return sample

    return run


def _latency(arena: Arena, hit: Hit) -> Run:
    async def run(total: int) -> Sample:
        arena.clear()
        now = time.perf_counter_ns
        took: list[int] = []
        begun = now()
        for number in range(total):
            started = now()
            allowed = await hit(number // HITS_PER_ID)
            took.append(now() - started)
            if not allowed:
                raise WrongResult(f"hit {number} was denied")
        seconds = (now() - begun) / 1e9
        cuts = quantiles(took, n=100)
        return Sample(total, seconds, {"p50": cuts[49] / 1000, "p99": cuts[98] / 1000})

    return run


def _sorted_set(client: redis_py.Redis) -> Hit:
    sha = hashlib.sha1(SORTED_SET.encode(), usedforsecurity=False).hexdigest()

    async def hit(id: int) -> bool:
        now = time.time_ns() // 1_000_000
        key = f"ratelimit:bench:{id}"
        reply: object = await client.evalsha(sha, 1, key, str(LIMIT), str(WINDOW * 1000), str(now))
        return reply == 1

    return hit


def _ours(race: Callable[[Arena, Hit], Run]) -> Callable[[Arena], AsyncIterator[Run]]:
    async def opened(arena: Arena) -> AsyncIterator[Run]:
        limits = {"bench": {"limit": LIMIT, "per": WINDOW}}
        async with open_rtx(arena, limits=limits) as layer:
            limit = layer.limits["bench"]

            async def hit(id: int) -> bool:
                return (await limit.hit(id)).allowed

            yield race(arena, hit)

    return opened


def _redis_py(
    race: Callable[[Arena, Hit], Run], connections: int
) -> Callable[[Arena], AsyncIterator[Run]]:
    async def opened(arena: Arena) -> AsyncIterator[Run]:
        async with open_redis_py(arena, _DB, connections) as client:
            await client.script_load(SORTED_SET)
            yield race(arena, _sorted_set(client))

    return opened


@asynccontextmanager
async def _bare(arena: Arena) -> AsyncIterator[Run]:
    script = Script.load("rtx.ratelimit", "sliding_log")
    arena.witness.script_load(script.text)
    async with open_bare(arena, _DB) as loop:

        async def hit(id: int) -> bool:
            key = f"ratelimit:bench:{id}"
            reply = await loop.call("EVALSHA", script.sha, 1, key, LIMIT, WINDOW * 1_000_000, 1, 1)
            return isinstance(reply, list) and reply[0] == 1

        yield _throughput(arena, hit)


@asynccontextmanager
async def _wire_incrby(arena: Arena) -> AsyncIterator[Run]:
    async with open_wire(arena, _DB) as pool:

        async def hit(id: int) -> bool:
            return await pool.call("INCRBY", f"count:{id}", 1) is not None

        yield _latency(arena, hit)


@asynccontextmanager
async def _redis_py_incrby(arena: Arena) -> AsyncIterator[Run]:
    async with open_redis_py(arena, _DB, 1) as client:

        async def hit(id: int) -> bool:
            return await client.incrby(f"count:{id}", 1) is not None

        yield _latency(arena, hit)


CASES = (
    Case(
        name="limiter.hits",
        title=f"hits on a limit of {LIMIT} per {WINDOW} s, {CALLERS} callers at once, all allowed",
        measures=throughput("hit"),
        contestants=(
            Contestant("RTX limit.hit (exact)", Role.OURS, asynccontextmanager(_ours(_throughput))),
            Contestant(
                "redis-py + sorted-set script",
                Role.PEER,
                asynccontextmanager(_redis_py(_throughput, CALLERS)),
            ),
            Contestant("bare loop + our script", Role.CEILING, _bare),
        ),
        amount=CALLERS * 40,
        step=CALLERS,
        note="The sorted-set script is inexact: hits of one millisecond count once.",
    ),
    Case(
        name="limiter.latency",
        title="one hit at a time",
        measures=(
            Measure("p50", "µs", more_is_better=False),
            Measure("p99", "µs", more_is_better=False),
        ),
        contestants=(
            Contestant("RTX limit.hit (exact)", Role.OURS, asynccontextmanager(_ours(_latency))),
            Contestant(
                "redis-py + sorted-set script",
                Role.PEER,
                asynccontextmanager(_redis_py(_latency, 1)),
            ),
            Contestant("redis-py INCRBY", Role.PEER, _redis_py_incrby),
            Contestant("RTX wire INCRBY", Role.CEILING, _wire_incrby),
        ),
        amount=200,
    ),
)
