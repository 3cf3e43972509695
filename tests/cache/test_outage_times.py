"""What a read returns while the server is in trouble, and how long it takes.

The times are printed; asserted are multiples of them that a busy machine keeps too.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from rtx.cache import Cache
from rtx.setting_groups import CacheSettings
from rtx.topology.process import ServerProcess
from rtx.urls import Address
from rtx.wire import Connection, ConnectOptions, Pool
from tests.cache.numbers import CALM, Rows, numbers, open_pool
from tests.conftest import eventually
from tests.wire.faults import HEALTHY, Faults, Proxy

BUDGET = 0.1
"""Seconds that the server gets of a read, by default."""

BUSY = 0.4
"""Seconds that a busy machine may add."""

Break = Callable[[Proxy, ServerProcess], Awaitable[None]]


async def down(proxy: Proxy, server: ServerProcess) -> None:
    await proxy.refuse()
    proxy.cut_all(reset=True)


async def black_holed(proxy: Proxy, server: ServerProcess) -> None:
    proxy.freeze()


async def slow(proxy: Proxy, server: ServerProcess) -> None:
    """Replies take 200 ms, on a connection that stands already."""
    proxy.faults = lambda: Faults(delay=0.2)
    proxy.cut_all()


async def read_only(proxy: Proxy, server: ServerProcess) -> None:
    await command(server, "REPLICAOF", "127.0.0.1", 1)


async def full(proxy: Proxy, server: ServerProcess) -> None:
    await command(server, "CONFIG", "SET", "maxmemory", 1)


async def command(server: ServerProcess, *words: str | int) -> None:
    connection = await Connection.dial(Address("127.0.0.1", server.port), ConnectOptions())
    await connection.call(*words)
    await connection.close()


async def mended(proxy: Proxy, server: ServerProcess) -> None:
    proxy.faults = lambda: HEALTHY
    proxy.thaw()
    proxy.cut_all()
    await proxy.refuse()
    await proxy.listen()
    await command(server, "REPLICAOF", "NO", "ONE")
    await command(server, "CONFIG", "SET", "maxmemory", 0)


@pytest.fixture
async def proxy(own_server: ServerProcess) -> AsyncIterator[Proxy]:
    async with Proxy(Address("127.0.0.1", own_server.port)) as proxy:
        yield proxy


@asynccontextmanager
async def through(
    proxy: Proxy, rows: Rows, settings: CacheSettings | None = None
) -> AsyncIterator[tuple[Cache[int, int], Pool]]:
    async with (
        open_pool(f"redis://{proxy.address}", connect_timeout=0.5) as pool,
        numbers(pool, "n", rows, settings=settings or CacheSettings()) as cache,
    ):
        yield cache, pool


async def timed(read: Awaitable[object]) -> tuple[object, float]:
    began = time.perf_counter()
    value = await read
    return value, time.perf_counter() - began


def table(what: str, times: list[float]) -> None:
    several = sorted(times)
    print(
        f"{what}: median {statistics.median(several) * 1000:.2f} ms, "
        f"longest {several[-1] * 1000:.1f} ms, {sum(one > BUDGET / 2 for one in several)} "
        f"of {len(several)} waited for the server"
    )


@pytest.mark.parametrize("trouble", [down, black_holed, slow], ids=lambda one: one.__name__)
async def test_a_server_that_does_not_answer_costs_100_ms_at_first_and_then_next_to_nothing(
    own_server: ServerProcess, proxy: Proxy, trouble: Break
) -> None:
    rows = Rows(**{f"n{id}": id for id in range(100)})
    async with through(proxy, rows) as (cache, _pool):
        await cache.get_many(range(100))
        rows.rows = {id: id + 1_000 for id in range(100)}
        await trouble(proxy, own_server)
        first = [await timed(cache.get(id)) for id in range(10)]
        many, took = await timed(cache.get_many(range(10, 40)))
        assert [value for value, _ in first] == [id + 1_000 for id in range(10)]
        assert many == {id: id + 1_000 for id in range(10, 40)}
        await eventually(lambda: not cache._breaker.allows)
        later = [await timed(cache.get(id)) for id in range(50, 100)]
        assert [value for value, _ in later] == [id + 1_000 for id in range(50, 100)]
        table(f"{trouble.__name__}, at first", [seconds for _, seconds in first] + [took])
        table(f"{trouble.__name__}, breaker open", [seconds for _, seconds in later])
        assert max(seconds for _, seconds in first) < BUDGET + BUSY
        assert took < BUDGET + BUSY
        assert statistics.median(seconds for _, seconds in later) < 0.005
        assert cache.stats.fallbacks == 10 + 30 + 50

        rows.rows = {id: id for id in range(100)}
        await mended(proxy, own_server)
        began = time.perf_counter()
        await eventually(lambda: cache._breaker.allows)
        print(f"trusted again {time.perf_counter() - began:.2f} s after it was mended")
        assert await cache.get(1) == 1


@pytest.mark.parametrize("trouble", [read_only, full], ids=lambda one: one.__name__)
async def test_a_server_that_takes_no_writes_serves_what_it_has_and_the_database_the_rest(
    own_server: ServerProcess, proxy: Proxy, trouble: Break
) -> None:
    rows = Rows(**{f"n{id}": id for id in range(100)})
    async with through(proxy, rows, CALM) as (cache, _pool):
        await cache.get_many(range(50))
        await trouble(proxy, own_server)
        rows.asked.clear()
        hits = [await timed(cache.get(id)) for id in range(50)]
        assert rows.asked == []
        misses = [await timed(cache.get(id)) for id in range(50, 100)]
        assert [value for value, _ in hits + misses] == list(range(100))
        assert rows.asked == [[id] for id in range(50, 100)]
        assert await cache.get_many(range(100)) == {id: id for id in range(100)}
        table(f"{trouble.__name__}, hits", [seconds for _, seconds in hits])
        table(f"{trouble.__name__}, misses", [seconds for _, seconds in misses])
        assert statistics.median(seconds for _, seconds in misses) < 0.05
        assert cache.stats.fill_failures == 50 + 50
        assert cache._breaker.stats.opened == 0
        await mended(proxy, own_server)

        async def filled() -> bool:
            await cache.get(99)
            rows.asked.clear()
            return await cache.get(99) == 99 and not rows.asked

        await eventually(filled)


async def test_a_slow_database_is_waited_for_and_the_server_only_for_its_share(
    own_server: ServerProcess, proxy: Proxy
) -> None:
    rows = Rows(n1=1)
    load = rows.load

    async def slowly(ids: list[int]) -> object:
        await asyncio.sleep(0.3)
        return await load(ids)

    rows.load = slowly  # type: ignore[method-assign,assignment]
    async with through(proxy, rows) as (cache, _pool):
        proxy.freeze()
        value, took = await timed(cache.get(1))
        print(f"a database of 300 ms behind a black hole: {took * 1000:.0f} ms")
        assert value == 1
        assert 0.39 < took < 0.4 + BUSY
        proxy.thaw()


async def test_a_server_that_falls_silent_between_the_steps_of_a_miss_has_one_budget_for_all(
    own_server: ServerProcess, proxy: Proxy
) -> None:
    rows = Rows(n1=1)
    rows.gate.clear()
    async with through(proxy, rows) as (cache, _pool):
        reading = asyncio.ensure_future(timed(cache.get(1)))
        await rows.asked_for(1)
        proxy.freeze()  # the lease is ours, and the fill will not get through
        began = time.perf_counter()
        rows.gate.set()
        value, _ = await reading
        assert value == 1
        assert time.perf_counter() - began < BUDGET + BUSY
        assert cache.stats.fill_failures == 1
        proxy.thaw()


async def test_a_claim_of_which_nobody_knows_is_given_back(
    own_server: ServerProcess, proxy: Proxy
) -> None:
    """Else the next reader would wait for a holder that there is not."""
    rows = Rows(n1=1)
    async with through(proxy, rows) as (cache, _pool):
        assert await cache.get(2) is None
        await command(own_server, "CLIENT", "PAUSE", 250, "WRITE")
        value, took = await timed(cache.get(1))
        assert value == 1
        assert took < BUDGET + BUSY
        await asyncio.sleep(0.3)
        value, took = await timed(cache.get(1))
        assert value == 1
        assert took < 1.0
        assert cache.stats.waited == 0
