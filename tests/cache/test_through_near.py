"""Caches that keep values near: the same answers, with fewer calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis.asyncio as redis_py

from rtx.cache import Cache
from rtx.cache.near import NearCache
from rtx.wire import Pool
from tests.cache.nearby import heard, near_cache
from tests.cache.numbers import CALM, Rows, decode, encode, numbers, open_pool
from tests.conftest import eventually


@asynccontextmanager
async def with_near(
    pool: Pool, near: NearCache, namespace: str, rows: Rows | None
) -> AsyncIterator[Cache[int, int]]:
    cache: Cache[int, int] = Cache(
        pool,
        lambda id: f"{namespace}:{id}",
        60.0,
        encode,
        decode,
        None if rows is None else rows.load,
        settings=CALM,
        near=near,
    )
    try:
        yield cache
    finally:
        await cache.close()


@pytest.fixture
async def pool(shared_server: str) -> AsyncIterator[Pool]:
    async with open_pool(shared_server) as opened:
        yield opened


@pytest.fixture
async def near(shared_server: str) -> AsyncIterator[NearCache]:
    async with near_cache(shared_server) as opened:
        yield opened


@pytest.fixture
def rows() -> Rows:
    return Rows(n1=10, n2=20, n3=30)


@pytest.fixture
async def cache(
    pool: Pool, near: NearCache, namespace: str, rows: Rows
) -> AsyncIterator[Cache[int, int]]:
    async with with_near(pool, near, namespace, rows) as made:
        yield made


@pytest.fixture
async def other(pool: Pool, namespace: str, rows: Rows) -> AsyncIterator[Cache[int, int]]:
    """Another process, without a near cache."""
    async with numbers(pool, namespace, rows) as made:
        yield made


async def test_a_value_is_loaded_once_fetched_once_and_then_near(
    cache: Cache[int, int], rows: Rows
) -> None:
    for _ in range(5):
        assert await cache.get(1) == 10
    assert rows.asked == [[1]]
    stats = cache.stats
    assert (stats.misses, stats.hits, stats.near_hits) == (1, 1, 3)
    looked = await cache.lookup(1)
    assert looked is not None
    assert (looked.value, looked.source, looked.age) == (10, "near", None)
    assert await cache.get_or_load(1, _never) == 10
    assert await cache.get_many([3, 1, 2, 9]) == {3: 30, 1: 10, 2: 20}
    assert list(await cache.get_many([2, 1])) == [2, 1]
    assert stats.near_hits == 3 + 1 + 1 + 1 + 1


async def _never(_id: int) -> int | None:
    raise AssertionError("it is there")


@pytest.mark.parametrize("how", ["invalidate", "put"])
async def test_a_write_in_this_process_is_seen_at_once(
    cache: Cache[int, int], rows: Rows, how: str
) -> None:
    for value in range(11, 30):
        await cache.get(1)
        await cache.get(1)
        rows.rows[1] = value
        if how == "put":
            await cache._put([(1, value, 0)])
        else:
            await cache.invalidate(1)
        assert await cache.get(1) == value
        assert await cache.get_many([1]) == {1: value}


async def test_a_write_of_another_process_is_seen_when_the_server_has_told(
    cache: Cache[int, int], other: Cache[int, int], near: NearCache, rows: Rows
) -> None:
    await cache.get(1)
    await cache.get(1)
    assert cache.stats.hits == 1
    rows.rows[1] = 11
    await other.invalidate(1)
    await heard(near)
    assert await cache.get(1) == 11


async def test_a_value_nobody_can_read_is_replaced(
    cache: Cache[int, int], namespace: str, witness: redis_py.Redis
) -> None:
    await witness.set(f"{namespace}:1", "no number")
    await witness.lpush(f"{namespace}:2", "a list")
    assert await cache.get(1) == 10
    assert await cache.get(2) == 20
    assert cache.stats.undecodable == 2
    assert await witness.get(f"{namespace}:1") == b"10"


async def test_without_its_connection_everything_goes_through_the_pool(
    pool: Pool, near: NearCache, cache: Cache[int, int], rows: Rows
) -> None:
    await cache.get(1)
    await cache.get(1)
    await near.close()
    hits = cache.stats.hits
    for _ in range(3):
        assert await cache.get(1) == 10
        assert await cache.get_many([1]) == {1: 10}
    assert cache.stats.hits == hits + 6
    assert rows.asked == [[1]]


async def test_prices_and_the_like_need_no_database(
    pool: Pool, near: NearCache, namespace: str
) -> None:
    async with with_near(pool, near, namespace, None) as cache:
        assert await cache.get(1) is None
        await cache._put([(1, 5, 0)])
        assert await cache.get(1) == 5
        assert await cache.get(1) == 5
        assert cache.stats.near_hits == 1


async def test_many_readers_and_a_writer_end_with_the_last_value(
    cache: Cache[int, int], other: Cache[int, int], near: NearCache, rows: Rows
) -> None:
    ending = asyncio.Event()

    async def read() -> None:
        last = 0
        while not ending.is_set():
            found = await cache.get(1)
            assert found is not None
            assert found >= last, "the own reads of a process go forward"
            last = found
            await asyncio.sleep(0)

    readers = [asyncio.ensure_future(read()) for _ in range(5)]
    for value in range(11, 200):
        rows.rows[1] = value
        await (cache if value % 2 else other).invalidate(1)
        await asyncio.sleep(0.001)
    ending.set()
    await asyncio.gather(*readers)
    await heard(near)
    assert await cache.get(1) == 199


async def test_what_a_near_hit_costs_is_printed(cache: Cache[int, int]) -> None:
    await cache.get(1)
    await cache.get(1)
    count, best = 5_000, 1.0
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(count):
            await cache.get(1)
        best = min(best, (time.perf_counter() - began) / count)
    print(f"a near hit through the cache: {best * 1e6:.2f} µs")
    await eventually(lambda: cache.stats.near_hits >= 5 * count)
