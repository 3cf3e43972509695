"""From publish to handler: the age of each tick when the handler has it, decoded.

A process of its own publishes at a steady rate and stamps each tick with the monotonic clock, which
all processes of one machine share, just before it is sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from statistics import quantiles

from benchmarks import data
from benchmarks.bare import open_bare
from benchmarks.base import Arena, Case, Contestant, Measure, Role, Run, Sample, WrongResult
from benchmarks.clients import open_redis_py, open_rtx
from rtx import Gap, codecs

PER_SECOND = 5_000
TICKS = 2 * PER_SECOND
SYMBOLS = 20
_NAMES = data.symbols(SYMBOLS)
_CHANNELS = [f"market_data:{name}" for name in _NAMES]

Ages = Callable[[int], Awaitable[list[int]]]
"""Handles this many ticks; their ages in nanoseconds."""


def _race(arena: Arena, receive: Ages) -> Run:
    async def run(total: int) -> Sample:
        await arena.publisher.prepare("paced", total, SYMBOLS, PER_SECOND)
        started = time.perf_counter()
        arena.publisher.go()
        async with asyncio.timeout(60):
            ages = await receive(total)
        seconds = time.perf_counter() - started
        arena.publisher.wait_until_done()
        if len(ages) != total or min(ages) <= 0:
            raise WrongResult(f"{len(ages)} of {total} ticks came; the youngest was {min(ages)} ns")
        cuts = quantiles(ages, n=100)
        return Sample(total, seconds, {"p50": cuts[49] / 1000, "p99": cuts[98] / 1000})

    return run


@asynccontextmanager
async def _ours(arena: Arena) -> AsyncIterator[Run]:
    async with (
        open_rtx(arena) as layer,
        layer.market_data.subscribe(*_NAMES) as subscription,
    ):
        await subscription.ready()

        async def receive(total: int) -> list[int]:
            ages: list[int] = []
            async for tick in subscription:
                if isinstance(tick, Gap):
                    raise WrongResult(f"a gap: {tick}")
                ages.append(time.monotonic_ns() - tick.time)
                if len(ages) == total:
                    break
            return ages

        yield _race(arena, receive)


@asynccontextmanager
async def _redis_py(arena: Arena) -> AsyncIterator[Run]:
    async with open_redis_py(arena, connections=2) as client, client.pubsub() as pubsub:
        await pubsub.subscribe(*_CHANNELS)
        for _ in _CHANNELS:
            await pubsub.get_message(timeout=5)

        async def receive(total: int) -> list[int]:
            ages: list[int] = []
            async for message in pubsub.listen():
                if message["type"] == "message":
                    tick = codecs.decode_tick(message["data"])
                    ages.append(time.monotonic_ns() - tick.time)
                    if len(ages) == total:
                        break
            return ages

        yield _race(arena, receive)


@asynccontextmanager
async def _bare(arena: Arena) -> AsyncIterator[Run]:
    ages: list[int] = []
    wanted = 0
    finished = asyncio.Event()

    def on_push(push: list[bytes]) -> None:
        if push[0] == b"message":
            tick = codecs.decode_tick(push[2])
            ages.append(time.monotonic_ns() - tick.time)
            if len(ages) == wanted:
                finished.set()

    async def receive(total: int) -> list[int]:
        nonlocal ages, wanted
        wanted = total
        await finished.wait()
        finished.clear()
        answer, ages = ages, []
        return answer

    async with open_bare(arena, on_push=on_push) as loop:
        await loop.subscribe(_CHANNELS)
        yield _race(arena, receive)


CASES = (
    Case(
        name="latency",
        title=f"publish to handler at {PER_SECOND:,} ticks/s",
        measures=(
            Measure("p50", "µs", more_is_better=False),
            Measure("p99", "µs", more_is_better=False),
        ),
        contestants=(
            Contestant("RTX async for", Role.OURS, _ours),
            Contestant("redis-py listen() + msgspec", Role.PEER, _redis_py),
            Contestant("bare loop + msgspec", Role.CEILING, _bare),
        ),
        amount=PER_SECOND // 10,
        fixed=TICKS,
        note="The publisher is the same for all: a blocking socket in a process of its own.",
    ),
)
