"""Caches while Redis is away: reads from the database, and invalidations that are owed."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest
import redis.asyncio as redis_py

import rtx
from rtx import codecs
from rtx.setting_groups import TTLSettings
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.cache.memory import SYMBOL, MemoryDatabase, account
from tests.conftest import eventually


@pytest.fixture
async def durable() -> AsyncIterator[ServerProcess]:
    """A server that has everything it ever answered for after a crash."""
    directory = Path(tempfile.mkdtemp(prefix="rtx-aof-"))
    server = ServerProcess(directory, config={"appendonly": "yes", "appendfsync": "always"})
    await server.start()
    yield server
    await server.stop()
    shutil.rmtree(directory, ignore_errors=True)


async def crash(server: ServerProcess) -> None:
    server.kill()
    await server.wait()


async def reached(layer: rtx.DataLayer) -> None:
    """Wait until the layer has found the server again; touches no cache."""

    async def up() -> bool:
        return not (await layer.health()).degraded

    await eventually(up)


async def test_reads_come_from_the_database_while_redis_is_down_and_cost_nothing_extra(
    own_server: ServerProcess, records: MemoryDatabase
) -> None:
    async with rtx.open(Settings.load(url=own_server.url), database=records) as layer:
        await layer.accounts.get(1)
        await crash(own_server)
        records.rows[1] = account(1, "777.00")
        assert await layer.accounts.get(1) == account(1, "777.00")
        started = time.perf_counter()
        for _ in range(20):
            assert list(await layer.accounts.get_many([3, 99, 2])) == [3, 2]
            assert await layer.positions.get(1) == ()
            assert await layer.positions.get(99) is None
            assert await layer.symbols.get("EURUSD") == SYMBOL
            assert await layer.accounts.get(99) is None
        each = (time.perf_counter() - started) / 100
        assert each < 0.02, f"{each * 1000:.1f} ms a read"
        stats = layer.stats()["cache.accounts"]
        assert stats["fallbacks"] == 1 + 20 * 4
        assert stats["misses"] == 1
        health = await layer.health()
        assert health.degraded
        assert not health.ready


async def test_when_the_database_is_down_too_the_reader_is_told_so(
    own_server: ServerProcess, records: MemoryDatabase
) -> None:
    async with rtx.open(Settings.load(url=own_server.url), database=records) as layer:
        await crash(own_server)
        records.down = True
        with pytest.raises(rtx.DatabaseUnavailable):
            await layer.accounts.get(1)
        with pytest.raises(rtx.DatabaseUnavailable):
            await layer.accounts.get_many([1, 2])
        with pytest.raises(rtx.DatabaseUnavailable):
            await layer.positions.get(1)
        with pytest.raises(rtx.DatabaseUnavailable):
            await layer.symbols.get("EURUSD")


async def test_what_has_no_database_behind_it_is_unavailable_and_never_just_missing(
    own_server: ServerProcess, records: MemoryDatabase
) -> None:
    async with rtx.open(Settings.load(url=own_server.url), database=records) as layer:
        token, _ = await layer.sessions.create("user-7", [1])
        await crash(own_server)
        for read in (
            lambda: layer.prices.get("EURUSD"),
            lambda: layer.prices.get_many(["EURUSD"]),
            lambda: layer.prices.put(rtx.Price("EURUSD", bid=1.0, ask=2.0)),
            lambda: layer.accounts.put(account(1)),
            lambda: layer.sessions.get(token),
            lambda: layer.sessions.create("user-7", [1]),
            lambda: layer.sessions.revoke(token),
        ):
            with pytest.raises(rtx.Unavailable):
                await read()


async def test_after_the_outage_reads_come_from_redis_again(
    own_server: ServerProcess, records: MemoryDatabase
) -> None:
    async with rtx.open(Settings.load(url=own_server.url), database=records) as layer:
        await crash(own_server)
        await layer.accounts.get(1)
        await own_server.start()
        await reached(layer)
        assert await layer.accounts.get(1) == account(1)
        records.reads.clear()
        assert await layer.accounts.get(1) == account(1)
        assert records.reads == []
        assert layer.stats()["cache.accounts"]["hits"] == 1


async def test_readers_whose_connection_is_cut_all_get_an_answer(
    own_server: ServerProcess, records: MemoryDatabase
) -> None:
    async with (
        rtx.open(Settings.load(url=own_server.url), database=records) as layer,
        redis_py.Redis.from_url(own_server.url) as witness,
    ):
        await layer.accounts.get_many(range(1, 6))
        await layer.prices.put(rtx.Price("EURUSD", bid=1.0, ask=2.0))
        for _ in range(10):
            # The server holds the reads back, so that the cut finds them without an answer.
            await witness.client_pause(50)
            reads = [asyncio.ensure_future(layer.accounts.get(1 + i % 5)) for i in range(100)]
            price = asyncio.ensure_future(layer.prices.get("EURUSD"))
            await asyncio.sleep(0.005)
            await witness.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            assert await asyncio.gather(*reads) == [account(1 + i % 5) for i in range(100)]
            await asyncio.gather(price, return_exceptions=True)
        assert layer.stats()["wire.cache"]["lost"] > 0


async def test_an_invalidation_that_is_owed_is_applied_before_the_next_read(
    durable: ServerProcess, records: MemoryDatabase
) -> None:
    async with rtx.open(Settings.load(url=durable.url), database=records) as layer:
        await layer.accounts.get_many([1, 2, 3])
        await layer.positions.get(1)
        await crash(durable)
        for id in (1, 2):
            async with layer.accounts.update(id) as row:
                row.balance = Decimal("5.00")
        assert await layer.accounts.get(1) == account(1, "5.00")
        assert layer.stats()["cache.accounts"]["invalidations_owed"] == 2
        await durable.start()
        async with redis_py.Redis.from_url(durable.url) as witness:
            await reached(layer)
            assert await layer.accounts.get(3) == account(3)
            assert await witness.exists("account:1", "account:2") == 0
            assert await witness.exists("account:3") == 1
            assert await layer.accounts.get(1) == account(1, "5.00")
            assert await layer.positions.get(1) == ()
            found = await layer.accounts.get_many([2, 1])
            assert found == {2: account(2, "5.00"), 1: account(1, "5.00")}
            assert codecs.decode_account(await witness.get("account:1")) == account(1, "5.00")


async def test_get_many_applies_what_is_owed_too(
    durable: ServerProcess, records: MemoryDatabase
) -> None:
    async with rtx.open(Settings.load(url=durable.url), database=records) as layer:
        await layer.accounts.get_many([1, 2])
        await crash(durable)
        records.rows[1] = account(1, "6.00")
        await layer.accounts.invalidate(1)
        await durable.start()
        await reached(layer)
        assert await layer.accounts.get_many([2, 1]) == {2: account(2), 1: account(1, "6.00")}


async def test_a_value_put_after_an_invalidation_that_is_owed_is_kept(
    own_server: ServerProcess,
) -> None:
    settings = Settings.load(url=own_server.url, ttl=TTLSettings(price=30.0))
    async with rtx.open(settings) as layer:
        await crash(own_server)
        await layer.prices.invalidate("A", "B", "C")
        await layer.accounts.invalidate(1)
        await own_server.start()
        await reached(layer)
        new = rtx.Price("A", bid=1.0, ask=2.0, time=1_700_000_000_000)
        await layer.prices.put(new)
        await layer.prices.put_many([rtx.Price("B", bid=1.0, ask=2.0, time=1_700_000_000_000)])
        await layer.accounts.put(account(1))
        assert await layer.prices.get("A") == new
        assert list(await layer.prices.get_many(["A", "B", "C"])) == ["A", "B"]
        assert await layer.accounts.get(1) == account(1)


async def test_an_invalidation_is_owed_no_longer_than_the_value_could_live(
    own_server: ServerProcess, records: MemoryDatabase
) -> None:
    settings = Settings.load(url=own_server.url, ttl=TTLSettings(account=0.05))
    async with (
        rtx.open(settings, database=records) as layer,
        redis_py.Redis.from_url(own_server.url) as witness,
    ):
        await crash(own_server)
        await layer.accounts.invalidate(1)
        await asyncio.sleep(0.06)
        await own_server.start()
        await reached(layer)
        assert "cmdstat_del" not in await witness.info("commandstats")
        assert await layer.accounts.get(1) == account(1)


async def test_an_invalidation_that_is_cancelled_on_its_way_is_owed(
    own_server: ServerProcess, records: MemoryDatabase
) -> None:
    async with (
        rtx.open(Settings.load(url=own_server.url), database=records) as layer,
        redis_py.Redis.from_url(own_server.url) as witness,
    ):
        await layer.accounts.get(1)
        await witness.client_pause(200)
        dropping = asyncio.ensure_future(layer.accounts.invalidate(1))
        await asyncio.sleep(0)
        dropping.cancel()
        await asyncio.gather(dropping, return_exceptions=True)
        assert layer.stats()["cache.accounts"]["invalidations_owed"] == 1
        records.rows[1] = account(1, "8.00")
        assert await layer.accounts.get(1) == account(1, "8.00")


async def test_a_server_that_refuses_writes_does_not_hide_the_database(
    own_server: ServerProcess, records: MemoryDatabase
) -> None:
    async with (
        rtx.open(Settings.load(url=own_server.url), database=records) as layer,
        redis_py.Redis.from_url(own_server.url) as witness,
    ):
        await witness.config_set("maxmemory", 1)
        assert await layer.accounts.get(1) == account(1)
        assert await layer.accounts.get_many([1, 2]) == {1: account(1), 2: account(2)}
        assert layer.stats()["cache.accounts"]["fill_failures"] == 3
        assert layer.stats()["breaker"]["opened"] == 0
        with pytest.raises(rtx.errors.OutOfMemory):
            await layer.accounts.put(account(1))
