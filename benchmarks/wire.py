"""The wire by itself: GET of 100 bytes, by many callers at once, by one, and by ever more."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from statistics import quantiles
from typing import TypeAlias

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
from benchmarks.clients import concurrently, open_coredis, open_glide, open_redis_py, open_wire

CALLERS = 100
CURVE = (1, 10, 100, 1000)
RAW = b"x" * 100

Read: TypeAlias = Callable[[], Awaitable[object]]
Race: TypeAlias = Callable[[Arena, Read], Run]


def _together(arena: Arena, read: Read) -> Run:
    """As many reads as asked, by 100 callers."""

    async def run(total: int) -> Sample:
        arena.witness.set("raw", RAW)
        return await _checked(read, CALLERS, total)

    return run


async def _checked(read: Read, callers: int, total: int) -> Sample:
    wrong = 0

    async def work(_number: int) -> None:
        nonlocal wrong
        if await read() != RAW:
            wrong += 1

    sample = await concurrently(callers, total, work)
    if wrong:
        raise WrongResult(f"{wrong} of {total} replies were not the value stored")
    return sample


def _one_by_one(arena: Arena, read: Read) -> Run:
    """As many reads as asked, each after the reply to the one before."""

    async def run(total: int) -> Sample:
        arena.witness.set("raw", RAW)
        took = []
        for _ in range(total):
            started = time.perf_counter_ns()
            reply = await read()
            took.append(time.perf_counter_ns() - started)
            if reply != RAW:
                raise WrongResult("a reply was not the value stored")
        cuts = quantiles(took, n=100)
        return Sample(total, sum(took) / 1e9, {"p50": cuts[49] / 1000, "p99": cuts[98] / 1000})

    return run


def _ever_more(arena: Arena, read: Read) -> Run:
    """The rate by number of callers, and what is left at the most callers of the peak before."""

    async def run(total: int) -> Sample:
        arena.witness.set("raw", RAW)
        values: dict[str, float] = {}
        seconds = 0.0
        for callers in CURVE:
            sample = await _checked(read, callers, total if callers > 1 else total // 10)
            values[f"{callers:,} callers"] = sample.values["rate"]
            seconds += sample.seconds
        values["left"] = values[f"{CURVE[-1]:,} callers"] / max(values.values()) * 100
        return Sample(total, seconds, values)

    return run


def _contestants(race: Race, *, others: bool = True) -> tuple[Contestant, ...]:
    @asynccontextmanager
    async def ours(arena: Arena) -> AsyncIterator[Run]:
        async with open_wire(arena) as pool:
            yield race(arena, lambda: pool.call("GET", "raw"))

    @asynccontextmanager
    async def redis_py(arena: Arena) -> AsyncIterator[Run]:
        async with open_redis_py(arena, connections=CALLERS) as client:
            yield race(arena, lambda: client.get("raw"))

    @asynccontextmanager
    async def redis_py_curve(arena: Arena) -> AsyncIterator[Run]:
        async with open_redis_py(arena, connections=CURVE[-1]) as client:
            yield race(arena, lambda: client.get("raw"))

    @asynccontextmanager
    async def coredis(arena: Arena) -> AsyncIterator[Run]:
        async with open_coredis(arena) as client:
            yield race(arena, lambda: client.get("raw"))

    @asynccontextmanager
    async def glide(arena: Arena) -> AsyncIterator[Run]:
        async with open_glide(arena) as client:
            yield race(arena, lambda: client.get("raw"))

    @asynccontextmanager
    async def bare(arena: Arena) -> AsyncIterator[Run]:
        async with open_bare(arena) as loop:
            yield race(arena, lambda: loop.call("GET", "raw"))

    peers = (
        Contestant("coredis", Role.PEER, coredis, needs="coredis"),
        Contestant("valkey-glide", Role.PEER, glide, needs="glide"),
    )
    return (
        Contestant("RTX wire", Role.OURS, ours),
        Contestant("redis-py", Role.PEER, redis_py if others else redis_py_curve),
        *(peers if others else ()),
        Contestant("bare loop", Role.CEILING, bare),
    )


CASES = (
    Case(
        name="wire.get",
        title=f"GET of {len(RAW)} bytes, {CALLERS} callers at once",
        measures=throughput("get", target=12.0),
        contestants=_contestants(_together),
        amount=2_000,
        step=CALLERS,
    ),
    Case(
        name="wire.one",
        title=f"GET of {len(RAW)} bytes, one call at a time",
        measures=(
            Measure("p50", "µs", more_is_better=False, target=1.0),
            Measure("p99", "µs", more_is_better=False),
        ),
        contestants=_contestants(_one_by_one),
        amount=500,
    ),
    Case(
        name="wire.callers",
        title=f"GET of {len(RAW)} bytes by {', '.join(f'{n:,}' for n in CURVE)} callers",
        measures=(
            *(Measure(f"{callers:,} callers", "gets/s") for callers in CURVE),
            Measure("left", "% of the peak at the most callers"),
        ),
        contestants=_contestants(_ever_more, others=False),
        amount=2_000,
        fixed=20_000,
        note="redis-py has a connection for each of 1,000 callers.",
    ),
)
