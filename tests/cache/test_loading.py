"""Loads: gathered, capped, and never older than who asked for them."""

from __future__ import annotations

import asyncio

import pytest

from rtx.cache import CacheStats
from rtx.cache.loading import Given, Loads
from rtx.errors import DatabaseUnavailable
from rtx.models import Versioned
from tests.cache.numbers import Rows


def loads_of(rows: Rows, at_once: int = 4) -> Loads[int, int]:
    return Loads(rows.load, CacheStats(), at_once=at_once)


async def value(loads: Loads[int, int], id: int) -> int | None:
    found = (await loads.load([id])).get(id)
    return None if found is None else found.value


async def test_requests_of_one_turn_go_out_together_each_id_once() -> None:
    rows = Rows(n1=1, n2=2, n3=3)
    loads = loads_of(rows)
    found = await asyncio.gather(
        loads.load([1, 2]), loads.load([2, 3]), loads.load([9]), loads.load([])
    )
    assert found == [
        {1: Versioned(1, 0), 2: Versioned(2, 0)},
        {2: Versioned(2, 0), 3: Versioned(3, 0)},
        {},
        {},
    ]
    assert rows.asked == [[1, 2, 3, 9]]


async def test_a_request_is_never_answered_by_a_load_that_began_before_it() -> None:
    rows = Rows(n1=1)
    loads = loads_of(rows)
    rows.gate.clear()
    early = asyncio.ensure_future(value(loads, 1))
    await rows.asked_for(1)
    rows.rows[1] = 2
    late = asyncio.ensure_future(value(loads, 1))
    await rows.asked_for(2)
    rows.gate.set()
    assert (await early, await late) == (1, 2)


async def test_only_so_many_run_at_once_and_the_rest_wait_and_go_out_together() -> None:
    rows = Rows(**{f"n{id}": id for id in range(100)})
    loads = loads_of(rows, at_once=2)
    rows.gate.clear()
    readers = []
    for id in range(50):
        readers += [asyncio.ensure_future(value(loads, id)) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert len(rows.asked) == 2
    rows.gate.set()
    assert await asyncio.gather(*readers) == [id for id in range(50) for _ in range(3)]
    assert rows.most == 2
    assert sum(map(len, rows.asked)) <= 52  # an id may be asked for again once its load runs
    assert len(rows.asked) == 3


async def test_a_batch_has_a_thousand_ids_at_most() -> None:
    rows = Rows()
    await loads_of(rows).load(range(2_500))
    assert [len(ids) for ids in rows.asked] == [1_000, 1_000, 500]


async def test_too_many_that_wait_are_refused_with_the_remedy() -> None:
    rows = Rows(n1=1)
    loads = loads_of(rows, at_once=1)
    rows.gate.clear()
    first = asyncio.ensure_future(loads.load([0]))
    await rows.asked_for(1)
    waiting = [asyncio.ensure_future(loads.load([id])) for id in range(1, 10_001)]
    await asyncio.sleep(0)
    with pytest.raises(DatabaseUnavailable, match=r"10000 ids wait .* raise cache\.max_loads"):
        await loads.load([10_001])
    again = asyncio.ensure_future(value(loads, 1))  # waits already, so it costs nothing
    rows.gate.set()
    assert await again == 1
    assert await first == {}
    await asyncio.gather(*waiting)


async def test_one_request_for_more_than_may_wait_is_served_all_the_same() -> None:
    rows = Rows(**{f"n{id}": id for id in range(10_500)})
    assert len(await loads_of(rows).load(range(10_500))) == 10_500


async def test_a_reader_that_gives_up_leaves_the_load_to_the_others() -> None:
    rows = Rows(n1=1)
    loads = loads_of(rows)
    rows.gate.clear()
    one, other = (asyncio.ensure_future(value(loads, 1)) for _ in range(2))
    await rows.asked_for(1)
    one.cancel()
    rows.gate.set()
    assert await other == 1
    assert rows.asked == [[1]]


async def test_a_loader_that_fails_fails_only_its_own_batch() -> None:
    rows = Rows(n1=1, n2=2)
    loads = loads_of(rows, at_once=1)
    rows.gate.clear()
    rows.failure = DatabaseUnavailable("off")
    failing = asyncio.ensure_future(value(loads, 1))
    await rows.asked_for(1)
    waiting = asyncio.ensure_future(value(loads, 2))
    await asyncio.sleep(0)
    rows.gate.set()
    with pytest.raises(DatabaseUnavailable, match="off"):
        await failing
    rows.failure = None
    await asyncio.gather(waiting, return_exceptions=True)
    assert await value(loads, 2) == 2


async def test_closing_ends_all_and_nobody_waits_for_ever() -> None:
    rows = Rows(n1=1)
    loads = loads_of(rows, at_once=1)
    rows.gate.clear()
    readers = [asyncio.ensure_future(value(loads, id)) for id in (1, 2)]
    await rows.asked_for(1)
    readers.append(asyncio.ensure_future(value(loads, 3)))
    await asyncio.sleep(0)
    await loads.close()
    for error in await asyncio.gather(*readers, return_exceptions=True):
        assert isinstance(error, DatabaseUnavailable)
    with pytest.raises(DatabaseUnavailable, match="closed"):
        await loads.load([1])


async def test_the_time_of_a_load_is_known() -> None:
    rows = Rows(n1=1)
    loads = loads_of(rows)
    assert loads.duration == 0.0
    rows.gate.clear()
    reading = asyncio.ensure_future(value(loads, 1))
    await rows.asked_for(1)
    await asyncio.sleep(0.05)
    rows.gate.set()
    await reading
    assert loads.duration >= 0.04


async def test_loaders_of_callers_are_capped_as_well() -> None:
    running = most = 0
    gate = asyncio.Event()

    async def load(id: int) -> int | None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        return id

    stats, at_once = CacheStats(), asyncio.Semaphore(3)
    readers = [asyncio.ensure_future(Given(load, stats, at_once).load([id])) for id in range(10)]
    await asyncio.sleep(0.01)
    gate.set()
    await asyncio.gather(*readers)
    assert (most, stats.loads) == (3, 10)
