"""Receiving ticks: how many a second one process can take from the server, decode and handle.

Another process floods the server while the receiver stands still, so that all ticks wait in the
server's output buffer; then the clock starts and the receiver takes them. So the receiver alone is
measured, not the publisher.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import redis.asyncio as redis_py

from benchmarks import data
from benchmarks.bare import open_bare
from benchmarks.base import (
    Arena,
    Case,
    Contestant,
    Role,
    Run,
    Sample,
    Watch,
    WrongResult,
    throughput,
)
from benchmarks.clients import open_coredis, open_redis_py, open_rtx
from rtx import Gap, Subscription, Tick, codecs

SYMBOLS = 20
TICKS = 100_000
_NAMES = data.symbols(SYMBOLS)
_CHANNELS = [f"market_data:{name}" for name in _NAMES]

Drain: TypeAlias = Callable[[int], Awaitable[tuple[int, int]]]
"""Receives this many ticks; returns how many came and the sum of their times."""


def _race(arena: Arena, drain: Drain) -> Run:
    async def run(total: int) -> Sample:
        await arena.publisher.prepare("burst", total, SYMBOLS)
        arena.publisher.go()
        arena.publisher.wait_until_done()  # the loop stands still: nothing is received meanwhile
        watch = Watch()
        async with asyncio.timeout(60):
            count, times = await drain(total)
        sample = watch.sample(total)
        expected = sum(range(data.START, data.START + total))
        if (count, times) != (total, expected):
            raise WrongResult(f"{count} of {total} ticks came, their times add up to {times}")
        return sample

    return run


@asynccontextmanager
async def _subscribed(arena: Arena) -> AsyncIterator[Subscription[Tick]]:
    async with (
        open_rtx(arena) as layer,
        layer.market_data.subscribe(*_NAMES, queue_size=2 * TICKS) as subscription,
    ):
        await subscription.ready()
        yield subscription


@asynccontextmanager
async def _ours(arena: Arena) -> AsyncIterator[Run]:
    async with _subscribed(arena) as subscription:

        async def drain(total: int) -> tuple[int, int]:
            count = times = 0
            async for tick in subscription:
                if isinstance(tick, Gap):
                    raise WrongResult(f"a gap: {tick}")
                count += 1
                times += tick.time
                if count == total:
                    break
            return count, times

        yield _race(arena, drain)


@asynccontextmanager
async def _ours_batches(arena: Arena) -> AsyncIterator[Run]:
    async with _subscribed(arena) as subscription:

        async def drain(total: int) -> tuple[int, int]:
            count = times = 0
            async for batch in subscription.batches():
                for tick in batch:
                    if isinstance(tick, Gap):
                        raise WrongResult(f"a gap: {tick}")
                    count += 1
                    times += tick.time
                if count >= total:
                    break
            return count, times

        yield _race(arena, drain)


@asynccontextmanager
async def _ours_listen(arena: Arena) -> AsyncIterator[Run]:
    count = times = wanted = 0
    finished = asyncio.Event()

    def handle(tick: Tick | Gap) -> None:
        nonlocal count, times
        if isinstance(tick, Gap):
            raise WrongResult(f"a gap: {tick}")
        count += 1
        times += tick.time
        if count == wanted:
            finished.set()

    async def drain(total: int) -> tuple[int, int]:
        nonlocal wanted, count, times
        wanted = total
        await finished.wait()
        finished.clear()
        answer, count, times = (count, times), 0, 0
        return answer

    async with (
        open_rtx(arena) as layer,
        layer.market_data.listen(handle, *_NAMES, queue_size=2 * TICKS) as listener,
    ):
        await listener.ready()
        yield _race(arena, drain)


def _redis_py(time_of: Callable[[bytes], int]) -> Callable[[redis_py.client.PubSub], Drain]:
    def drain_of(pubsub: redis_py.client.PubSub) -> Drain:
        async def drain(total: int) -> tuple[int, int]:
            count = times = 0
            async for message in pubsub.listen():
                if message["type"] == "message":
                    count += 1
                    times += time_of(message["data"])
                    if count == total:
                        break
            return count, times

        return drain

    return drain_of


def _time_by_msgspec(raw: bytes) -> int:
    return codecs.decode_tick(raw).time


def _time_by_json(raw: bytes) -> int:
    stamp: int = json.loads(raw)["time"]
    return stamp


def _open_redis_py(
    time_of: Callable[[bytes], int],
) -> Callable[[Arena], AsyncIterator[Run]]:
    async def opened(arena: Arena) -> AsyncIterator[Run]:
        async with open_redis_py(arena, connections=2) as client, client.pubsub() as pubsub:
            await pubsub.subscribe(*_CHANNELS)
            for _ in _CHANNELS:
                await pubsub.get_message(timeout=5)
            yield _race(arena, _redis_py(time_of)(pubsub))

    return opened


@asynccontextmanager
async def _coredis(arena: Arena) -> AsyncIterator[Run]:
    async with open_coredis(arena) as client, client.pubsub(channels=_CHANNELS) as pubsub:

        async def drain(total: int) -> tuple[int, int]:
            count = times = 0
            async for message in pubsub:
                if message["type"] == "message":
                    count += 1
                    times += _time_by_msgspec(message["data"])
                    if count == total:
                        break
            return count, times

        yield _race(arena, drain)


@asynccontextmanager
async def _bare(arena: Arena) -> AsyncIterator[Run]:
    count = times = wanted = 0
    finished = asyncio.Event()

    def on_push(push: list[bytes]) -> None:
        nonlocal count, times
        if push[0] == b"message":
            count += 1
            times += codecs.decode_tick(push[2]).time
            if count == wanted:
                finished.set()

    async def drain(total: int) -> tuple[int, int]:
        nonlocal wanted, count, times
        wanted = total
        await finished.wait()
        finished.clear()
        answer, count, times = (count, times), 0, 0
        return answer

    async with open_bare(arena, on_push=on_push) as loop:
        await loop.subscribe(_CHANNELS)
        yield _race(arena, drain)


CASES = (
    Case(
        name="subscribe",
        title=f"receive and decode ticks of {SYMBOLS} symbols",
        measures=throughput("tick"),
        contestants=(
            Contestant("RTX async for", Role.OURS, _ours),
            Contestant("RTX batches()", Role.OURS, _ours_batches),
            Contestant("RTX listen(function)", Role.OURS, _ours_listen),
            Contestant(
                "redis-py listen() + msgspec",
                Role.PEER,
                asynccontextmanager(_open_redis_py(_time_by_msgspec)),
                target=10.0,
            ),
            Contestant(
                "redis-py listen() + json.loads",
                Role.PEER,
                asynccontextmanager(_open_redis_py(_time_by_json)),
                target=10.0,
            ),
            Contestant(
                "coredis async for + msgspec", Role.PEER, _coredis, needs="coredis", target=8.0
            ),
            Contestant("bare loop + msgspec", Role.CEILING, _bare, target=0.7),
        ),
        amount=TICKS // 20,
        fixed=TICKS,
        note="The ticks wait in the server when the clock starts; the publisher is not measured.",
    ),
)
