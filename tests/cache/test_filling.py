"""Misses: one load for all who wait, whatever becomes of one of them, or of another process."""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator

import pytest
import redis.asyncio as redis_py

from rtx.cache import Cache
from rtx.errors import DatabaseUnavailable
from rtx.keys import Keys
from rtx.setting_groups import CacheSettings
from rtx.wire import Pool
from tests.cache.numbers import Rows, numbers, open_pool
from tests.conftest import ROOT


@pytest.fixture
async def pool(shared_server: str) -> AsyncIterator[Pool]:
    async with open_pool(shared_server) as opened:
        yield opened


@pytest.fixture
def rows() -> Rows:
    return Rows(n1=10, n2=20, n3=30)


@pytest.fixture
async def cache(pool: Pool, namespace: str, rows: Rows) -> AsyncIterator[Cache[int, int]]:
    async with numbers(pool, namespace, rows) as made:
        yield made


@pytest.fixture
async def other(pool: Pool, namespace: str, rows: Rows) -> AsyncIterator[Cache[int, int]]:
    """What another process has."""
    async with numbers(pool, namespace, rows) as made:
        yield made


def lease(namespace: str, id: int = 1) -> str:
    return Keys.lease(f"{namespace}:{id}")


# --- one load for all ----------------------------------------------------------------------


async def test_a_thousand_misses_of_one_key_are_one_load(
    cache: Cache[int, int], rows: Rows
) -> None:
    assert await asyncio.gather(*(cache.get(1) for _ in range(1_000))) == [10] * 1_000
    assert rows.asked == [[1]]
    assert cache.stats.misses == 1_000
    assert await cache.get(1) == 10
    assert cache.stats.hits == 1


async def test_two_processes_with_a_thousand_misses_each_load_once(
    cache: Cache[int, int], other: Cache[int, int], rows: Rows
) -> None:
    found = await asyncio.gather(*(one.get(1) for one in (cache, other) for _ in range(1_000)))
    assert found == [10] * 2_000
    assert rows.asked == [[1]]
    assert cache.stats.waited + other.stats.waited == 1


async def test_misses_of_many_keys_at_once_are_one_load_too(
    cache: Cache[int, int], rows: Rows
) -> None:
    rows.rows = {id: id for id in range(100)}
    found = await asyncio.gather(
        *(cache.get(id) for id in range(50)), cache.get_many(range(25, 100))
    )
    assert found[-1] == {id: id for id in range(25, 100)}
    assert sorted(id for ids in rows.asked for id in ids) == list(range(100))
    assert len(rows.asked) <= 2


PROGRAM = """
import asyncio, sys
from tests.cache.numbers import Rows, numbers, open_pool

async def main(url, namespace, what):
    rows = Rows(n1=10)
    load = rows.load
    async with open_pool(url) as pool:
        async def counted(ids):
            await pool.call("HINCRBY", namespace + ":loads", "all", 1)
            print("loading", flush=True)
            await asyncio.sleep(3600 if what == "hang" else 0.2)
            return await load(ids)
        rows.load = counted
        async with numbers(pool, namespace, rows) as cache:
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            found = await asyncio.gather(*(cache.get(1) for _ in range(1_000)))
            assert found == [10] * 1_000, found
            print("done", flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def program(url: str, namespace: str, what: str) -> Process:
    """A process of its own that misses the key 1,000 times when it is told to."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, url, namespace, what), stdin=PIPE, stdout=PIPE, cwd=ROOT
    )
    assert await said(process) == "ready"
    return process


async def said(process: Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


def tell(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")


async def test_two_real_processes_load_once(
    shared_server: str, namespace: str, witness: redis_py.Redis
) -> None:
    processes = await asyncio.gather(
        *(program(shared_server, namespace, "answer") for _ in range(2))
    )
    for process in processes:
        tell(process)
    outputs = await asyncio.gather(*(process.communicate() for process in processes))
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(out.decode().split() for out, _ in outputs) == [["done"], ["loading", "done"]]
    assert await witness.hget(f"{namespace}:loads", "all") == b"1"


async def test_a_process_that_dies_while_loading_is_replaced_within_its_lease(
    shared_server: str, namespace: str, cache: Cache[int, int], rows: Rows
) -> None:
    process = await program(shared_server, namespace, "hang")
    tell(process)
    assert await said(process) == "loading"
    reading = asyncio.ensure_future(cache.get(1))
    while not cache.stats.waited:
        await asyncio.sleep(0.01)
    process.kill()
    died = time.monotonic()
    assert await reading == 10
    took = time.monotonic() - died
    print(f"a dead holder was replaced after {took:.2f} s")
    assert 1.0 < took < 2.0 + 2.0  # 2 s, and what a busy machine needs
    assert rows.asked == [[1]]
    assert await cache.get(1) == 10
    assert cache.stats.hits == 1
    await process.communicate()


async def test_a_long_load_keeps_its_lease_while_it_lives(
    pool: Pool, namespace: str, rows: Rows, witness: redis_py.Redis
) -> None:
    settings = CacheSettings(read_timeout=10.0, lease=0.3)
    async with numbers(pool, namespace, rows, settings=settings) as cache:
        rows.gate.clear()
        reading = asyncio.ensure_future(cache.get(1))
        await rows.asked_for(1)
        token = await witness.get(lease(namespace))
        began = time.monotonic()
        while time.monotonic() - began < 0.9:
            assert await witness.get(lease(namespace)) == token
            await asyncio.sleep(0.01)
        rows.gate.set()
        assert await reading == 10
        assert await witness.get(f"{namespace}:1") == b"10"


# --- leases --------------------------------------------------------------------------------


async def test_a_fill_that_an_invalidation_overtook_is_refused_even_when_a_later_one_is_under_way(
    cache: Cache[int, int],
    other: Cache[int, int],
    rows: Rows,
    namespace: str,
    witness: redis_py.Redis,
) -> None:
    """ABA: the lease is taken again meanwhile, by somebody else."""
    rows.gate.clear()
    old = asyncio.ensure_future(cache.get(1))
    await rows.asked_for(1)
    first = await witness.get(lease(namespace))
    rows.rows[1] = 11
    await other.invalidate(1)
    assert await witness.get(lease(namespace)) is None
    later = Rows(n1=11)
    later.gate.clear()
    other._loads._load = later.load  # type: ignore[union-attr]
    new = asyncio.ensure_future(other.get(1))
    await later.asked_for(1)
    second = await witness.get(lease(namespace))
    assert second not in (None, first)
    rows.gate.set()
    assert await old == 10  # it began before the write
    assert cache.stats.stale_fills_refused == 1
    assert await witness.exists(f"{namespace}:1") == 0
    assert await witness.get(lease(namespace)) == second
    later.gate.set()
    assert await new == 11
    assert await witness.get(f"{namespace}:1") == b"11"
    assert await cache.get(1) == 11


async def test_a_write_in_this_process_lets_later_readers_load_anew(
    cache: Cache[int, int], rows: Rows
) -> None:
    rows.gate.clear()
    old = [asyncio.ensure_future(cache.get(1)) for _ in range(3)]
    await rows.asked_for(1)
    rows.rows[1] = 11
    await cache.invalidate(1)
    new = [asyncio.ensure_future(cache.get(1)) for _ in range(3)]
    await rows.asked_for(2)
    rows.gate.set()
    assert await asyncio.gather(*old) == [10] * 3
    assert await asyncio.gather(*new) == [11] * 3
    assert rows.asked == [[1], [1]]


async def test_who_joins_a_load_that_was_overtaken_looks_again(
    cache: Cache[int, int], other: Cache[int, int], rows: Rows
) -> None:
    rows.gate.clear()
    old = asyncio.ensure_future(cache.get(1))
    await rows.asked_for(1)
    rows.rows[1] = 11
    await other.invalidate(1)  # of which this process knows nothing
    joining = asyncio.ensure_future(cache.get(1))
    while cache.stats.misses < 2:
        await asyncio.sleep(0.001)
    rows.gate.set()
    assert await old == 10
    assert await joining == 11
    assert await cache.get(1) == 11


async def test_a_lease_is_given_back_when_the_load_fails(
    cache: Cache[int, int],
    other: Cache[int, int],
    rows: Rows,
    namespace: str,
    witness: redis_py.Redis,
) -> None:
    rows.failure = DatabaseUnavailable("switched off")
    with pytest.raises(DatabaseUnavailable):
        await cache.get(1)
    while await witness.exists(lease(namespace)):
        await asyncio.sleep(0.001)
    rows.failure = None
    assert await other.get(1) == 10
    assert other.stats.waited == 0


async def test_a_lease_that_ran_out_during_a_frozen_load_lets_nothing_old_in(
    cache: Cache[int, int], rows: Rows, namespace: str, witness: redis_py.Redis
) -> None:
    rows.gate.clear()
    old = asyncio.ensure_future(cache.get(1))
    await rows.asked_for(1)
    await witness.delete(lease(namespace))
    rows.gate.set()
    assert await old == 10
    assert await witness.exists(f"{namespace}:1", lease(namespace)) == 0
    assert cache.stats.stale_fills_refused == 1


async def test_a_value_that_another_process_could_not_bring_is_loaded_without_it(
    pool: Pool, namespace: str, rows: Rows, witness: redis_py.Redis
) -> None:
    """A holder that renews its lease for ever, and never fills."""
    await witness.set(lease(namespace), "somebody's")
    settings = CacheSettings(read_timeout=10.0, lease=0.4)
    async with numbers(pool, namespace, rows, settings=settings) as cache:
        began = time.monotonic()
        assert await cache.get(1) == 10
        assert 0.4 < time.monotonic() - began < 5.0
        assert cache.stats.waited == 1
    assert await witness.get(lease(namespace)) == b"somebody's"


# --- readers and loaders that fail ---------------------------------------------------------


async def test_a_reader_that_gives_up_takes_nothing_from_the_others(
    cache: Cache[int, int], rows: Rows
) -> None:
    rows.gate.clear()
    readers = [asyncio.ensure_future(cache.get(1)) for _ in range(10)]
    await rows.asked_for(1)
    for reader in readers[:9]:
        reader.cancel()
    rows.gate.set()
    results = await asyncio.gather(*readers, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results[:9])
    assert results[9] == 10
    assert rows.asked == [[1]]
    assert await cache.get(1) == 10
    assert cache.stats.hits == 1


async def test_a_load_nobody_waits_for_any_more_still_fills(
    cache: Cache[int, int], rows: Rows, namespace: str, witness: redis_py.Redis
) -> None:
    rows.gate.clear()
    reader = asyncio.ensure_future(cache.get(1))
    await rows.asked_for(1)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    rows.gate.set()
    while not await witness.exists(f"{namespace}:1"):
        await asyncio.sleep(0.001)


async def test_a_loader_that_raises_gives_each_reader_an_error_of_its_own(
    cache: Cache[int, int], rows: Rows
) -> None:
    cause = OSError("the disk is gone")
    rows.failure = DatabaseUnavailable("switched off", maybe_applied=True)
    rows.failure.__cause__ = cause
    readers = [cache.get(1) for _ in range(20)]
    errors = await asyncio.gather(*readers, return_exceptions=True)
    assert len({id(error) for error in errors}) == 20
    for error in errors:
        assert isinstance(error, DatabaseUnavailable)
        assert str(error) == "switched off"
        assert error.maybe_applied
        assert error.__cause__ is cause
    assert rows.asked == [[1]]
    rows.failure = None
    assert await cache.get(1) == 10


class Odd(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code


async def test_an_error_that_cannot_be_copied_is_raised_all_the_same(
    cache: Cache[int, int], rows: Rows
) -> None:
    rows.failure = Odd(code=7)
    with pytest.raises(Odd):
        await cache.get(1)
    with pytest.raises(Odd):
        await cache.get_many([1, 2])


async def test_a_loader_that_cancels_itself_is_an_error_and_no_cancellation(
    cache: Cache[int, int], rows: Rows
) -> None:
    rows.gate.clear()
    reader = asyncio.ensure_future(cache.get(1))
    await rows.asked_for(1)
    [load] = [task for task in asyncio.all_tasks() if task.get_name() == "rtx-load"]
    load.cancel()
    with pytest.raises(DatabaseUnavailable, match="cancelled itself"):
        await reader
    rows.gate.set()
    assert await cache.get(1) == 10


async def test_closing_ends_what_is_under_way_with_an_error(
    pool: Pool, namespace: str, rows: Rows
) -> None:
    before = asyncio.all_tasks()
    rows.gate.clear()
    async with numbers(pool, namespace, rows) as cache:
        readers = [asyncio.ensure_future(cache.get(id)) for id in (1, 1, 2)]
        await rows.asked_for(1)
    for error in await asyncio.gather(*readers, return_exceptions=True):
        assert isinstance(error, DatabaseUnavailable)
        assert "closed" in str(error)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


# --- what does not exist -------------------------------------------------------------------


async def test_what_does_not_exist_is_known_by_all_for_two_seconds(
    cache: Cache[int, int],
    other: Cache[int, int],
    rows: Rows,
    namespace: str,
    witness: redis_py.Redis,
) -> None:
    assert await asyncio.gather(*(cache.get(9) for _ in range(10))) == [None] * 10
    assert await other.get(9) is None
    assert await other.get_many([9, 1]) == {1: 10}
    assert rows.asked == [[9], [1]]
    assert other.stats.absent_hits == 2
    assert await witness.get(lease(namespace, 9)) == b"absent"
    assert 0 < await witness.pttl(lease(namespace, 9)) <= 2_000


@pytest.mark.parametrize("how", ["invalidate", "put"])
async def test_an_absence_ends_with_a_write(
    cache: Cache[int, int], other: Cache[int, int], rows: Rows, how: str
) -> None:
    assert await cache.get(9) is None
    rows.rows[9] = 90
    if how == "put":
        await other._put([(9, 90, 0)])
    else:
        await other.invalidate(9)
    assert await cache.get(9) == 90


async def test_an_absence_that_was_overtaken_is_not_remembered(
    cache: Cache[int, int], other: Cache[int, int], rows: Rows
) -> None:
    rows.gate.clear()
    reading = asyncio.ensure_future(cache.get(9))
    await rows.asked_for(1)
    rows.rows[9] = 90
    await other.invalidate(9)
    rows.gate.set()
    assert await reading is None
    assert await cache.get(9) == 90
    assert cache.stats.stale_fills_refused == 1


async def test_none_from_a_callers_loader_is_an_absence_too(cache: Cache[int, int]) -> None:
    calls: list[int] = []

    async def load(id: int) -> int | None:
        calls.append(id)
        return None if id == 8 else id * 100

    assert await cache.get_or_load(7, load) == 700
    assert await cache.get_or_load(8, load) is None
    assert await cache.get_or_load(7, load) == 700
    assert await cache.get_or_load(8, load) is None
    assert await cache.get(7) == 700
    assert calls == [7, 8]


async def test_a_callers_loader_is_called_once_for_all_and_needs_no_database(
    pool: Pool, namespace: str
) -> None:
    async with numbers(pool, namespace, None) as cache:
        calls = 0

        async def load(_id: int) -> int | None:
            nonlocal calls
            calls += 1
            await asyncio.sleep(0)
            return 5

        found = await asyncio.gather(*(cache.get_or_load(1, load) for _ in range(100)))
        assert found == [5] * 100
        assert calls == 1
        assert await cache.get(1) == 5
