"""One symbol to many subscribers of one process: the cost of a delivery, and of one that stalls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from statistics import quantiles

from benchmarks import data
from benchmarks.base import (
    Arena,
    Case,
    Contestant,
    Measure,
    Role,
    Run,
    Sample,
    Watch,
    WrongResult,
)
from benchmarks.clients import open_rtx
from benchmarks.publisher import STAMP
from rtx import DataLayer, Gap, Subscription, Tick

DELIVERIES = 300_000
PER_SECOND = 50
GOOD = 999
BLOCK = 10
"""Ticks before the stalled subscriber comes or goes."""
_SYMBOL = data.symbols(1)[0]
_PER_DELIVERY = (
    Measure("rate", "deliveries/s"),
    Measure("cpu", "µs/delivery", more_is_better=False),
)


@asynccontextmanager
async def _subscribers(
    layer: DataLayer, count: int, queue_size: int = DELIVERIES
) -> AsyncIterator[list[Subscription[Tick]]]:
    async with AsyncExitStack() as stack:
        several = []
        for _ in range(count):
            subscription = layer.market_data.subscribe(
                _SYMBOL, snapshot=False, queue_size=queue_size
            )
            several.append(await stack.enter_async_context(subscription))
        for subscription in several:
            await subscription.ready()
        yield several


async def _follow(subscription: Subscription[Tick], count: int) -> int:
    times = 0
    async for tick in subscription:
        if isinstance(tick, Gap):
            raise WrongResult(f"a gap: {tick}")
        times += tick.time
        count -= 1
        if not count:
            break
    return times


def _burst(subscribers: int) -> Callable[[Arena], AbstractAsyncContextManager[Run]]:
    """All ticks wait in the server when the clock starts."""

    @asynccontextmanager
    async def opened(arena: Arena) -> AsyncIterator[Run]:
        async with open_rtx(arena) as layer, _subscribers(layer, subscribers) as several:

            async def run(deliveries: int) -> Sample:
                ticks = deliveries // subscribers
                await arena.publisher.prepare("burst", ticks, 1)
                arena.publisher.go()
                arena.publisher.wait_until_done()
                watch = Watch()
                async with asyncio.timeout(60):
                    sums = await asyncio.gather(*(_follow(each, ticks) for each in several))
                sample = watch.sample(ticks * subscribers)
                if set(sums) != {sum(range(data.START, data.START + ticks))}:
                    raise WrongResult("not every subscriber got every tick")
                return sample

            yield run

    return opened


def _live(subscribers: int) -> Callable[[Arena], AbstractAsyncContextManager[Run]]:
    """A tick is published when all have had the one before, so each wakes for every tick."""

    @asynccontextmanager
    async def opened(arena: Arena) -> AsyncIterator[Run]:
        async with open_rtx(arena) as layer, _subscribers(layer, subscribers) as several:
            published = 0

            async def run(deliveries: int) -> Sample:
                nonlocal published
                ticks = data.ticks(max(1, deliveries // subscribers), 1, data.START + published)
                published += len(ticks)
                arrived, missing = asyncio.Event(), 0

                async def follow(subscription: Subscription[Tick]) -> int:
                    nonlocal missing
                    times = count = 0
                    async for tick in subscription:
                        if isinstance(tick, Gap):
                            raise WrongResult(f"a gap: {tick}")
                        times += tick.time
                        count += 1
                        missing -= 1
                        if not missing:
                            arrived.set()
                        if count == len(ticks):
                            break
                    return times

                following = asyncio.gather(*(follow(each) for each in several))
                await asyncio.sleep(0)
                watch = Watch()
                async with asyncio.timeout(60):
                    for tick in ticks:
                        missing = subscribers
                        arrived.clear()
                        await layer.market_data.publish(tick)
                        await arrived.wait()
                sample = watch.sample(len(ticks) * subscribers)
                if set(await following) != {sum(tick.time for tick in ticks)}:
                    raise WrongResult("not every subscriber got every tick")
                return sample

            yield run

    return opened


@asynccontextmanager
async def _stalled(arena: Arena) -> AsyncIterator[Run]:
    """Ages of ticks at good subscribers, in every other block beside one that reads nothing.

    So what else the machine does is in both halves alike. The processor time of the blocks says the
    same with less noise.
    """
    async with open_rtx(arena) as layer, _subscribers(layer, GOOD) as good:
        cpu = [0.0, 0.0]

        async def toggle() -> None:
            """Be there in the odd blocks."""
            number = 0
            began = time.process_time()
            async with layer.market_data.subscribe(_SYMBOL, snapshot=False) as clock:
                await clock.ready()
                stalled = None
                async for _ in clock:
                    number += 1
                    if number % BLOCK:
                        continue
                    now = time.process_time()
                    cpu[stalled is not None] += now - began
                    began = now
                    if stalled is None:
                        stalled = layer.market_data.subscribe(
                            _SYMBOL, snapshot=False, queue_size=BLOCK // 5
                        )
                    else:
                        if not stalled.skipped:
                            raise WrongResult("the stalled subscriber skipped nothing")
                        await stalled.close()
                        stalled = None

        async def ages_of(subscription: Subscription[Tick], count: int) -> list[int]:
            ages: list[int] = []
            async for tick in subscription:
                if isinstance(tick, Gap):
                    raise WrongResult(f"a gap: {tick}")
                ages.append(time.monotonic_ns() - tick.time * STAMP)
                if len(ages) == count:
                    break
            return ages

        async def run(total: int) -> Sample:
            await arena.publisher.prepare("paced", total, 1, PER_SECOND)
            cpu[:] = 0.0, 0.0
            toggling = asyncio.create_task(toggle())
            await asyncio.sleep(0.1)
            started = time.perf_counter()
            arena.publisher.go()
            async with asyncio.timeout(60):
                each = await asyncio.gather(*(ages_of(one, total) for one in good))
            seconds = time.perf_counter() - started
            toggling.cancel()
            await asyncio.gather(toggling, return_exceptions=True)
            arena.publisher.wait_until_done()
            alone, beside = (
                quantiles(
                    [
                        age
                        for ages in each
                        for number, age in enumerate(ages)
                        if number // BLOCK % 2 == half and number % BLOCK
                    ],
                    n=100,
                )
                for half in (0, 1)
            )
            values = {
                "p99 alone": alone[98] / 1000,
                "p99 beside": beside[98] / 1000,
                "p99 moved": (beside[98] / alone[98] - 1) * 100,
                "cpu moved": (cpu[1] / cpu[0] - 1) * 100,
            }
            return Sample(total * GOOD, seconds, values)

        yield run


def _by_number(
    opener: Callable[[int], Callable[[Arena], AbstractAsyncContextManager[Run]]],
) -> tuple[Contestant, ...]:
    return tuple(
        Contestant(f"{number:,} subscriber{'s' * (number > 1)}", Role.OURS, opener(number))
        for number in (1, 10, 100, 1_000)
    )


CASES = (
    Case(
        name="fanout.burst",
        title="deliver a backlog of one symbol to local subscribers",
        measures=_PER_DELIVERY,
        contestants=_by_number(_burst),
        amount=20_000,
        fixed=DELIVERIES,
        note="A ratio below 1 says that a delivery costs less than with one subscriber.",
    ),
    Case(
        name="fanout.live",
        title="the same, each tick published when all have had the one before",
        measures=_PER_DELIVERY,
        contestants=_by_number(_live),
        amount=1_000,
        note="Publishing is in it, so what one subscriber costs is mostly the way to the server.",
    ),
    Case(
        name="fanout.stalled",
        title=f"age of ticks at {GOOD} subscribers, {PER_SECOND} ticks/s",
        measures=(
            Measure("p99 alone", "µs", more_is_better=False),
            Measure("p99 beside", "µs", more_is_better=False),
            Measure("p99 moved", "%", more_is_better=False),
            Measure("cpu moved", "%", more_is_better=False),
        ),
        contestants=(Contestant(f"RTX, {GOOD} that read", Role.OURS, _stalled),),
        amount=2 * BLOCK,
        fixed=40 * BLOCK,
        note="Alone and beside one that reads nothing, in turns of a fifth of a second.",
    ),
)
