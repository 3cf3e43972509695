"""Rows with versions never go backwards, whoever is late with an older one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.cache import Cache
from rtx.database import SqlDatabase
from rtx.keys import Keys
from rtx.settings import Settings
from rtx.wire import Pool
from tests.cache.memory import account
from tests.cache.numbers import Rows, numbers, open_pool
from tests.conftest import eventually


@pytest.fixture
async def pool(shared_server: str) -> AsyncIterator[Pool]:
    async with open_pool(shared_server) as opened:
        yield opened


@pytest.fixture
def rows() -> Rows:
    return Rows(n1=10)


@pytest.fixture
async def cache(pool: Pool, namespace: str, rows: Rows) -> AsyncIterator[Cache[int, int]]:
    async with numbers(pool, namespace, rows) as made:
        yield made


async def known(witness: redis_py.Redis, namespace: str) -> bytes | None:
    found: bytes | None = await witness.get(Keys.version(f"{namespace}:1"))
    return found


async def test_an_older_row_that_is_loaded_late_is_not_stored(
    cache: Cache[int, int], rows: Rows, namespace: str, witness: redis_py.Redis
) -> None:
    """Such as one of a database's replica that lags."""
    rows.version = 7
    await cache.invalidate(1, version=8)
    assert await known(witness, namespace) == b"8"
    assert await cache.get(1) == 10
    assert cache.stats.older_versions_refused == 1
    assert await witness.exists(f"{namespace}:1", Keys.lease(f"{namespace}:1")) == 0
    rows.rows[1], rows.version = 11, 8
    assert await cache.get(1) == 11
    assert await witness.get(f"{namespace}:1") == b"11"


async def test_an_older_value_that_is_put_late_is_not_stored(cache: Cache[int, int]) -> None:
    await cache._put([(1, 12, 12)])
    await cache._put([(1, 11, 11), (2, 5, 5)])
    assert await cache.get_many([1, 2]) == {1: 12, 2: 5}
    assert (cache.stats.older_versions_refused, cache.stats.puts) == (1, 2)
    await cache._put([(1, 13, 12)])  # the same version again is as good as the first
    assert await cache.get(1) == 13


async def test_a_version_is_never_forgotten_for_an_older_one(
    cache: Cache[int, int], namespace: str, witness: redis_py.Redis
) -> None:
    await cache.invalidate(1, version=2**40)
    await cache.invalidate(1, version=9)
    assert await known(witness, namespace) == b"%d" % 2**40
    left = await witness.pttl(Keys.version(f"{namespace}:1"))
    assert 590_000 < left <= 600_000


async def test_a_value_without_a_version_does_not_pass_for_that_of_another(
    cache: Cache[int, int], namespace: str, witness: redis_py.Redis
) -> None:
    await cache.invalidate(1, version=8)
    await cache.invalidate(1)
    assert await cache.get(1) == 10
    assert await known(witness, namespace) == b"8"
    await cache._put([(1, 11, 0)])
    found = await cache.lookup(1)
    assert found is not None
    assert (found.value, found.version) == (11, 0)


async def test_many_are_invalidated_with_their_version_in_one_round_trip(
    pool: Pool, cache: Cache[int, int], rows: Rows, namespace: str, witness: redis_py.Redis
) -> None:
    rows.rows = {id: id for id in range(50)}
    await cache.get_many(range(50))
    assert await cache.invalidate(*range(50), version=3) is True
    keys = [f"{namespace}:{id}" for id in range(50)]
    assert await witness.exists(*keys) == 0
    assert await witness.mget(map(Keys.version, keys)) == [b"3"] * 50


async def test_a_server_that_forgot_its_scripts_is_told_them_again(
    cache: Cache[int, int], rows: Rows, namespace: str, witness: redis_py.Redis
) -> None:
    await cache.get(1)
    for use in (
        lambda: cache.invalidate(1, version=5),
        lambda: cache.get(1),
        lambda: cache._put([(1, 6, 6)]),
        lambda: cache.get(9),
    ):
        await witness.script_flush()
        await use()
    assert await known(witness, namespace) == b"6"
    assert await witness.get(f"{namespace}:1") == b"6"
    assert await witness.get(Keys.lease(f"{namespace}:9")) == b"absent"
    assert cache.stats.fill_failures == 0


# --- through the layer ---------------------------------------------------------------------


async def test_accounts_and_positions_carry_the_version_of_their_row(
    settings: Settings, witness: redis_py.Redis
) -> None:
    database = SqlDatabase("sqlite+aiosqlite://")
    async with rtx.open(settings, database=database) as layer:
        (id,) = await database.add_accounts([("RTX-1", Decimal("1.00"))])
        await layer.accounts.get(id)
        await layer.positions.get(id)
        first = (await layer.accounts.lookup(id)).version  # type: ignore[union-attr]
        async with layer.positions.update(id) as row:
            row.balance += Decimal("1.00")
        for key in (layer.keys.account(id), layer.keys.positions(id)):
            assert await witness.exists(key) == 0
            assert int(await witness.get(Keys.version(key))) == first + 1
        await layer.accounts.put(account(id, "5.00"), version=first)
        changed = await layer.accounts.get(id)
        assert changed is not None
        assert changed.balance == Decimal("2.00")
        looked = await layer.accounts.lookup(id)
        assert looked is not None
        assert (looked.version, looked.source) == (first + 1, "redis")


async def test_what_a_dead_process_did_not_invalidate_another_does_within_a_second(
    settings: Settings, tmp_path: Path
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'rtx.db'}"
    database = SqlDatabase(url)
    async with rtx.open(settings, database=database) as layer, SqlDatabase(url) as dying:
        # Two rounds, which is what an idle machine takes.
        assert layer._relay is not None
        assert 2 * layer._relay._interval < 1.0
        (id,) = await database.add_accounts([("RTX-1", Decimal("1.00"))])
        await layer.accounts.get(id)
        async with dying.update_account(id) as row:  # and nothing after the commit
            row.balance = Decimal("2.00")
        began = asyncio.get_running_loop().time()

        async def seen() -> bool:
            found = await layer.accounts.get(id)
            return found is not None and found.balance == Decimal("2.00")

        await eventually(seen)
        print(f"told after {asyncio.get_running_loop().time() - began:.2f} s")


async def test_what_was_told_is_settled_and_not_told_again(settings: Settings) -> None:
    database = SqlDatabase("sqlite+aiosqlite://")
    async with rtx.open(settings, database=database) as layer:
        (id,) = await database.add_accounts([("RTX-1", Decimal("1.00"))])
        await eventually(lambda: _nothing_owed(database))
        before = layer.accounts.stats.invalidations
        async with layer.accounts.update(id) as row:
            row.balance = Decimal("2.00")
        await eventually(lambda: _nothing_owed(database))
        assert layer.accounts.stats.invalidations == before + 1


async def _nothing_owed(database: SqlDatabase) -> bool:
    return not await database.owed(10)
