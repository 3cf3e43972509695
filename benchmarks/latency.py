"""From publish to handler: the age of each tick when the handler has it, decoded.

A process of its own publishes at a steady rate and stamps each tick with the monotonic clock, which
all processes of one machine share, just before it is sent, or given to the library that sends it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from statistics import quantiles

from benchmarks import data
from benchmarks.bare import open_bare
from benchmarks.base import Arena, Case, Contestant, Measure, Role, Run, Sample, WrongResult
from benchmarks.clients import open_redis_py, open_rtx
from benchmarks.publisher import STAMP
from rtx import Gap, codecs

SYMBOLS = 20
_NAMES = data.symbols(SYMBOLS)
_CHANNELS = [f"market_data:{name}" for name in _NAMES]

Ages = Callable[[int], Awaitable[list[int]]]
"""Handles this many ticks; their ages in nanoseconds."""

Receiver = Callable[[Arena], AbstractAsyncContextManager[Ages]]


def _race(arena: Arena, receive: Ages, mode: str, per_second: int) -> Run:
    async def run(total: int) -> Sample:
        await arena.publisher.prepare(mode, total, SYMBOLS, per_second)
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
async def _ours(arena: Arena) -> AsyncIterator[Ages]:
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
                ages.append(time.monotonic_ns() - tick.time * STAMP)
                if len(ages) == total:
                    break
            return ages

        yield receive


@asynccontextmanager
async def _redis_py(arena: Arena) -> AsyncIterator[Ages]:
    async with open_redis_py(arena, connections=2) as client, client.pubsub() as pubsub:
        await pubsub.subscribe(*_CHANNELS)
        for _ in _CHANNELS:
            await pubsub.get_message(timeout=5)

        async def receive(total: int) -> list[int]:
            ages: list[int] = []
            async for message in pubsub.listen():
                if message["type"] == "message":
                    tick = codecs.decode_tick(message["data"])
                    ages.append(time.monotonic_ns() - tick.time * STAMP)
                    if len(ages) == total:
                        break
            return ages

        yield receive


@asynccontextmanager
async def _bare(arena: Arena) -> AsyncIterator[Ages]:
    ages: list[int] = []
    wanted = 0
    finished = asyncio.Event()

    def on_push(push: list[bytes]) -> None:
        if push[0] == b"message":
            tick = codecs.decode_tick(push[2])
            ages.append(time.monotonic_ns() - tick.time * STAMP)
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
        yield receive


def _contestant(
    name: str, role: Role, receiver: Receiver, per_second: int, mode: str = "paced"
) -> Contestant:
    @asynccontextmanager
    async def opened(arena: Arena) -> AsyncIterator[Run]:
        async with receiver(arena) as receive:
            yield _race(arena, receive, mode, per_second)

    return Contestant(name, role, opened)


_MEASURES = (
    Measure("p50", "µs", more_is_better=False),
    Measure("p99", "µs", more_is_better=False),
)


def _at(name: str, per_second: int) -> Case:
    return Case(
        name=name,
        title=f"publish to handler at {per_second:,} ticks/s",
        measures=_MEASURES,
        contestants=(
            _contestant("RTX async for", Role.OURS, _ours, per_second),
            _contestant("redis-py listen() + msgspec", Role.PEER, _redis_py, per_second),
            _contestant("bare loop + msgspec", Role.CEILING, _bare, per_second),
        ),
        amount=per_second // 10,
        fixed=2 * per_second,
        note="The publisher is the same for all: a blocking socket in a process of its own.",
    )


CASES = (
    _at("latency", 5_000),
    _at("latency.20k", 20_000),
    Case(
        name="latency.feed",
        title="from a feed to a handler at 20,000 ticks/s, with the price stored",
        measures=_MEASURES,
        contestants=(
            _contestant("RTX publisher() and async for", Role.OURS, _ours, 20_000, "offered"),
            _contestant(
                "redis-py pipelines and listen()", Role.PEER, _redis_py, 20_000, "pipelined"
            ),
        ),
        amount=2_000,
        fixed=40_000,
        note="Each publishes with its own library. The feed wakes up every millisecond, gives what "
        "is due by then, and stamps it at that moment.",
    ),
)
