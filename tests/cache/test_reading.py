"""Reading through the caches: hits, misses, absent ids and values that cannot be read."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.database import SqlDatabase
from rtx.settings import Settings
from tests.cache.memory import SYMBOL, MemoryDatabase, account, position


async def test_a_miss_is_read_from_the_database_once_and_kept(
    backed: rtx.DataLayer, records: MemoryDatabase, witness: redis_py.Redis
) -> None:
    for _ in range(3):
        assert await backed.accounts.get(1) == account(1)
        assert await backed.positions.get(1) == ()
        assert await backed.symbols.get("EURUSD") == SYMBOL
    assert records.reads == [("accounts", [1]), ("positions", [1]), ("symbols", ["EURUSD"])]
    for key, ttl in (
        (backed.keys.account(1), 60_000),
        (backed.keys.positions(1), 30_000),
        (backed.keys.symbol("EURUSD"), 3_600_000),
    ):
        assert 0.9 * ttl - 5_000 < await witness.pttl(key) <= ttl
    stats = backed.stats()["cache.accounts"]
    assert (stats["hits"], stats["misses"], stats["loads"], stats["fallbacks"]) == (2, 1, 1, 0)


async def test_ids_that_do_not_exist_are_none_and_left_out(
    backed: rtx.DataLayer, records: MemoryDatabase
) -> None:
    assert await backed.accounts.get(99) is None
    assert await backed.positions.get(99) is None
    assert await backed.symbols.get("NOPE") is None
    records.reads.clear()
    found = await backed.accounts.get_many([4, 99, 2, 4, 98, 1])
    assert list(found) == [4, 2, 1]
    assert found == {id: account(id) for id in (4, 2, 1)}
    # 99 is known to be absent by now.
    assert records.reads == [("accounts", [4, 2, 98, 1])]
    assert backed.stats()["cache.accounts"]["absent_hits"] == 1


async def test_an_account_without_positions_is_not_an_unknown_one(
    backed: rtx.DataLayer, records: MemoryDatabase
) -> None:
    records.held[2] = (position(7), position(8))
    assert await backed.positions.get_many([2, 99, 1]) == {2: (position(7), position(8)), 1: ()}
    records.reads.clear()
    assert await backed.positions.get_many([1, 2]) == {1: (), 2: (position(7), position(8))}
    assert records.reads == []


async def test_only_what_is_missing_is_asked_of_the_database(
    backed: rtx.DataLayer, records: MemoryDatabase
) -> None:
    await backed.accounts.get_many([1, 3])
    records.reads.clear()
    found = await backed.accounts.get_many([1, 2, 3, 4])
    assert list(found) == [1, 2, 3, 4]
    assert records.reads == [("accounts", [2, 4])]


async def test_nothing_asked_is_nothing_done(
    backed: rtx.DataLayer, records: MemoryDatabase
) -> None:
    assert await backed.accounts.get_many([]) == {}
    await backed.accounts.invalidate()
    await backed.accounts.put_many([])
    await backed.positions.put_many({})
    assert records.reads == []


async def test_many_values_are_put_and_read_at_once(
    backed: rtx.DataLayer, records: MemoryDatabase
) -> None:
    several = [account(id, f"{id}.50") for id in range(1, 2_501)]
    await backed.accounts.put_many(several)
    found = await backed.accounts.get_many(range(3_000, 0, -1))
    assert list(found) == list(range(2_500, 0, -1))
    assert found[2_500].balance == Decimal("2500.50")
    assert records.reads == [("accounts", list(range(3_000, 2_500, -1)))]
    assert backed.stats()["cache.accounts"]["puts"] == 2_500


async def test_put_takes_the_place_of_what_was_there_and_invalidate_removes_it(
    layer: rtx.DataLayer,
) -> None:
    await layer.accounts.put(account(1, "1.00"))
    await layer.accounts.put(account(1, "2.00"))
    assert await layer.accounts.get(1) == account(1, "2.00")
    await layer.positions.put(1, (position(n) for n in (1, 2)))
    await layer.positions.put_many({2: [position(3)], 3: []})
    assert await layer.positions.get_many([1, 2, 3]) == {
        1: (position(1), position(2)),
        2: (position(3),),
        3: (),
    }
    await layer.symbols.put_many([SYMBOL])
    assert await layer.symbols.get("EURUSD") == SYMBOL
    await layer.accounts.invalidate(1, 2)
    await layer.positions.invalidate(1, 2, 3)
    await layer.symbols.invalidate("EURUSD")
    assert await layer.accounts.get(1) is None
    assert await layer.positions.get_many([1, 2, 3]) == {}
    assert await layer.symbols.get("EURUSD") is None


@pytest.mark.parametrize(
    "corrupt",
    [
        b"",
        b"null",
        b"{",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"id":1}',
        b'{"id":"one","account_number":"A","balance":1,"equity":1,"margin":0,"free_margin":1,'
        b'"margin_level":0,"open_positions":0}',
        b"[" * 10_000,
        b"1" * 10_000,
    ],
    ids=lambda raw: repr(raw[:12]),
)
async def test_a_value_that_cannot_be_read_is_a_counted_miss_and_is_replaced(
    backed: rtx.DataLayer, witness: redis_py.Redis, corrupt: bytes
) -> None:
    for key in (backed.keys.account(1), backed.keys.symbol("EURUSD"), backed.keys.price("EURUSD")):
        await witness.set(key, corrupt)
    await witness.set(backed.keys.positions(1), corrupt if corrupt != b"[]" else b"{}")
    assert await backed.accounts.get(1) == account(1)
    assert await backed.positions.get_many([1]) == {1: ()}
    assert await backed.symbols.get("EURUSD") == SYMBOL
    assert await backed.prices.get("EURUSD") is None
    assert await backed.prices.get_many(["EURUSD"]) == {}
    for name, count in (("accounts", 1), ("positions", 1), ("symbols", 1), ("prices", 2)):
        stats = backed.stats()[f"cache.{name}"]
        assert (stats["undecodable"], stats["misses"], stats["hits"]) == (count, count, 0), name
    assert await backed.accounts.get(1) == account(1)
    assert backed.stats()["cache.accounts"]["hits"] == 1


async def test_a_key_of_another_kind_does_not_stop_a_reader(
    backed: rtx.DataLayer, records: MemoryDatabase, witness: redis_py.Redis
) -> None:
    for name in ("one", "many"):
        await witness.delete(backed.keys.account(1))
        await witness.lpush(backed.keys.account(1), "a list")
        if name == "one":
            assert await backed.accounts.get(1) == account(1)
        else:
            assert await backed.accounts.get_many([1]) == {1: account(1)}
        assert await backed.accounts.get(1) == account(1)
    assert len(records.reads) == 2
    stats = backed.stats()["cache.accounts"]
    assert (stats["hits"], stats["misses"], stats["undecodable"]) == (2, 2, 2)
    await witness.lpush(backed.keys.price("EURUSD"), "a list")
    assert await backed.prices.get("EURUSD") is None
    assert await backed.prices.get_many(["EURUSD"]) == {}
    assert backed.stats()["cache.prices"]["misses"] == 2


async def test_without_a_database_the_caches_are_what_is_put_into_them(
    layer: rtx.DataLayer,
) -> None:
    assert await layer.accounts.get(1) is None
    assert await layer.accounts.get_many([1, 2]) == {}
    await layer.accounts.put(account(1))
    assert await layer.accounts.get_many([1, 2]) == {1: account(1)}
    stats = layer.stats()["cache.accounts"]
    assert (stats["misses"], stats["hits"], stats["loads"]) == (4, 1, 0)


async def test_a_database_that_is_down_is_felt_by_misses_only(
    backed: rtx.DataLayer, records: MemoryDatabase
) -> None:
    await backed.accounts.get(1)
    records.down = True
    assert await backed.accounts.get(1) == account(1)
    with pytest.raises(rtx.DatabaseUnavailable):
        await backed.accounts.get(2)
    with pytest.raises(rtx.DatabaseUnavailable):
        await backed.accounts.get_many([1, 2])
    assert not (await backed.health()).ready


async def test_a_reader_that_gives_up_disturbs_no_other(
    backed: rtx.DataLayer, records: MemoryDatabase
) -> None:
    records.gate.clear()
    readers = [asyncio.ensure_future(backed.accounts.get(1)) for _ in range(3)]
    await asyncio.sleep(0.01)
    readers[0].cancel()
    records.gate.set()
    results = await asyncio.gather(*readers, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [account(1)] * 2


async def test_the_sql_database_reads_through_as_well(settings: Settings) -> None:
    database = SqlDatabase("sqlite+aiosqlite://")
    async with rtx.open(settings, database=database) as layer:
        one, two = await database.add_accounts(
            [("RTX-1", Decimal("0.10")), ("RTX-2", Decimal("1e-7"))]
        )
        await database.add_symbols([SYMBOL])
        for _ in range(2):
            found = await layer.accounts.get_many([two, 99, one])
            assert list(found) == [two, one]
            assert found[one].balance == Decimal("0.10")
            assert found[two].balance == Decimal("1e-7")
            assert await layer.positions.get(one) == ()
            assert await layer.positions.get(99) is None
            assert await layer.symbols.get("EURUSD") == SYMBOL
        assert layer.stats()["cache.accounts"]["hits"] == 2
