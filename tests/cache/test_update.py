"""Updates: the database first, then the cache, whatever happens in between."""

from __future__ import annotations

import asyncio
import sqlite3
from decimal import Decimal

import pytest
import redis.asyncio as redis_py
from sqlalchemy.ext.asyncio import AsyncConnection

import rtx
from rtx.database import SqlDatabase
from rtx.errors import NotFound, SettingsError
from rtx.settings import Settings
from tests.cache.memory import MemoryDatabase, account


async def cached(layer: rtx.DataLayer, witness: redis_py.Redis, id: int = 1) -> int:
    return int(await witness.exists(layer.keys.account(id), layer.keys.positions(id)))


async def warm(layer: rtx.DataLayer) -> None:
    await layer.accounts.get_many([1, 2])
    await layer.positions.get_many([1, 2])


async def test_the_commit_comes_first_and_then_both_values_are_dropped(
    backed: rtx.DataLayer, records: MemoryDatabase, witness: redis_py.Redis
) -> None:
    await warm(backed)
    records.may_commit.clear()

    async def update() -> None:
        async with backed.accounts.update(1) as row:
            row.balance = Decimal("42.00")
            assert await cached(backed, witness) == 2

    updating = asyncio.ensure_future(update())
    await records.committing.wait()
    assert await cached(backed, witness) == 2
    records.may_commit.set()
    await updating
    assert await cached(backed, witness) == 0
    assert await cached(backed, witness, id=2) == 2
    assert await backed.accounts.get(1) == account(1, "42.00")


async def test_an_exception_in_the_body_touches_nothing(
    backed: rtx.DataLayer, records: MemoryDatabase, witness: redis_py.Redis
) -> None:
    await warm(backed)

    async def update() -> None:
        async with backed.accounts.update(1) as row:
            row.balance = Decimal("42.00")
            raise ArithmeticError("no money")

    with pytest.raises(ArithmeticError, match="no money"):
        await update()
    assert records.rows[1] == account(1)
    assert await cached(backed, witness) == 2
    assert backed.stats()["cache.accounts"]["invalidations"] == 0


async def test_a_cancellation_in_the_body_touches_nothing(
    backed: rtx.DataLayer, records: MemoryDatabase, witness: redis_py.Redis
) -> None:
    await warm(backed)
    inside = asyncio.Event()

    async def update() -> None:
        async with backed.accounts.update(1) as row:
            row.balance = Decimal("42.00")
            inside.set()
            await asyncio.Event().wait()

    updating = asyncio.ensure_future(update())
    await inside.wait()
    updating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await updating
    assert records.rows[1] == account(1)
    assert await cached(backed, witness) == 2


async def test_a_cancellation_during_the_commit_still_drops_the_values(
    backed: rtx.DataLayer, records: MemoryDatabase, witness: redis_py.Redis
) -> None:
    """The commit may stand, and here it does."""
    await warm(backed)
    records.may_commit.clear()

    async def update() -> None:
        async with backed.accounts.update(1) as row:
            row.balance = Decimal("42.00")

    updating = asyncio.ensure_future(update())
    await records.committing.wait()
    updating.cancel()
    records.may_commit.set()
    with pytest.raises(asyncio.CancelledError):
        await updating
    assert await cached(backed, witness) == 0
    assert await backed.accounts.get(1) == account(1, "42.00")


async def test_a_commit_whose_outcome_is_not_known_drops_the_values(
    backed: rtx.DataLayer, records: MemoryDatabase, witness: redis_py.Redis
) -> None:
    await warm(backed)
    records.commit_fails = True
    with pytest.raises(rtx.DatabaseUnavailable):
        async with backed.accounts.update(1) as row:
            row.balance = Decimal("42.00")
    assert await cached(backed, witness) == 0


async def test_a_cancellation_while_the_values_are_dropped_does_not_stop_that(
    settings: Settings, records: MemoryDatabase, witness: redis_py.Redis
) -> None:
    async with rtx.open(settings, database=records) as layer:
        await warm(layer)

        async def update() -> None:
            async with layer.accounts.update(1) as row:
                row.balance = Decimal("42.00")

        updating = asyncio.ensure_future(update())
        while layer.accounts.stats.invalidations == 0:
            await asyncio.sleep(0)
        updating.cancel()
        await asyncio.gather(updating, return_exceptions=True)
        assert await layer.accounts.get(1) == account(1, "42.00")
        assert await layer.positions.get(1) == ()


async def test_unknown_accounts_and_missing_databases_are_named(
    backed: rtx.DataLayer, layer: rtx.DataLayer, records: MemoryDatabase
) -> None:
    with pytest.raises(NotFound):
        async with backed.accounts.update(99):
            pass
    records.down = True
    with pytest.raises(rtx.DatabaseUnavailable):
        async with backed.accounts.update(1):
            pass
    with pytest.raises(SettingsError, match="no database is attached"):
        async with layer.accounts.update(1):
            pass


async def test_an_order_on_the_sql_database_is_seen_by_the_next_read(settings: Settings) -> None:
    database = SqlDatabase("sqlite+aiosqlite://")
    async with rtx.open(settings, database=database) as layer:
        (id,) = await database.add_accounts([("RTX-1", Decimal("1000.00"))])
        before = await layer.accounts.get(id)
        assert before is not None
        assert before.open_positions == 0
        assert await layer.positions.get(id) == ()
        async with layer.accounts.update(id) as row:
            opened = await row.open_position("EURUSD", "BUY", 0.1, 1.1, Decimal("110.00"))
            row.balance -= Decimal("0.35")
            assert await layer.accounts.get(id) == before
        after = await layer.accounts.get(id)
        assert after is not None
        assert (after.balance, after.margin) == (Decimal("999.65"), Decimal("110.00"))
        assert after.open_positions == 1
        assert await layer.positions.get(id) == (opened,)

        async def close_and_fail() -> None:
            async with layer.accounts.update(id) as row:
                await row.close_position(opened.id)
                raise ArithmeticError

        with pytest.raises(ArithmeticError):
            await close_and_fail()
        assert await layer.accounts.get(id) == after
        assert await layer.positions.get(id) == (opened,)


async def test_concurrent_updates_all_count(settings: Settings) -> None:
    database = SqlDatabase("sqlite+aiosqlite://")
    async with rtx.open(settings, database=database) as layer:
        (id,) = await database.add_accounts([("RTX-1", Decimal("0.00"))])

        async def add() -> None:
            async with layer.accounts.update(id) as row:
                row.balance += Decimal("0.01")
            await layer.accounts.get(id)

        await asyncio.gather(*(add() for _ in range(50)))
        await layer.accounts.invalidate(id)
        total = await layer.accounts.get(id)
        assert total is not None
        assert total.balance == Decimal("0.50")


async def test_a_database_that_fails_in_the_body_touches_nothing(
    backed: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    """The same error as from a commit, but nothing can have been stored."""
    await warm(backed)

    async def update() -> None:
        async with backed.accounts.update(1):
            raise rtx.DatabaseUnavailable("the database is gone")

    with pytest.raises(rtx.DatabaseUnavailable, match="is gone"):
        await update()
    assert await cached(backed, witness) == 2
    assert backed.stats()["cache.accounts"]["invalidations"] == 0


async def test_a_cancellation_raised_after_the_commit_of_the_sql_database_drops_the_values(
    settings: Settings, witness: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    committing = asyncio.Event()
    commit = AsyncConnection.commit

    async def announced(connection: AsyncConnection) -> None:
        committing.set()
        await commit(connection)

    async with rtx.open(settings, database=SqlDatabase("sqlite+aiosqlite://")) as layer:
        id = await one_cached_account(layer)

        async def update() -> None:
            async with layer.accounts.update(id) as row:
                row.balance = Decimal("42.00")

        monkeypatch.setattr(AsyncConnection, "commit", announced)
        updating = asyncio.ensure_future(update())
        await committing.wait()
        updating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await updating
        assert await cached(layer, witness, id) == 0
        after = await layer.accounts.get(id)
        assert after is not None
        assert after.balance == Decimal("42.00")


async def test_a_commit_of_the_sql_database_whose_answer_is_lost_drops_the_values(
    settings: Settings, witness: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = AsyncConnection.commit

    async def lost(connection: AsyncConnection) -> None:
        await commit(connection)
        raise sqlite3.OperationalError("the answer is lost")

    async with rtx.open(settings, database=SqlDatabase("sqlite+aiosqlite://")) as layer:
        id = await one_cached_account(layer)
        monkeypatch.setattr(AsyncConnection, "commit", lost)
        with pytest.raises(rtx.DatabaseUnavailable, match="may be stored") as caught:
            async with layer.accounts.update(id) as row:
                row.balance = Decimal("42.00")
        assert caught.value.maybe_applied
        assert await cached(layer, witness, id) == 0
        after = await layer.accounts.get(id)
        assert after is not None
        assert after.balance == Decimal("42.00")


async def one_cached_account(layer: rtx.DataLayer) -> int:
    """A new account without positions in the layer's SQL database, and in its caches."""
    assert isinstance(layer.database, SqlDatabase)
    (id,) = await layer.database.add_accounts([("RTX-1", Decimal("1000.00"))])
    await layer.accounts.get(id)
    await layer.positions.get(id)
    return id
