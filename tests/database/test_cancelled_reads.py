"""A reader that gives up while the database works for it: nothing stays behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from rtx.database import SqlDatabase
from tests.conftest import eventually

POOL = 3
Held = Callable[[], Awaitable[int]]


def engine_of(database: SqlDatabase) -> AsyncEngine:
    engine = database._connections._engine
    assert engine is not None
    return engine


@asynccontextmanager
async def held_on_sqlite(database: SqlDatabase, url: str) -> AsyncIterator[Held]:
    """Statements stop in SQLite's threads; gives the number that are there."""
    go_on = threading.Event()
    inside = 0

    def stop(statement: str) -> None:
        nonlocal inside
        inside += 1
        go_on.wait(20)
        inside -= 1

    def connected(connection: Any, _: object) -> None:
        connection.run_async(lambda driver: driver.set_trace_callback(stop))

    async def count() -> int:
        return inside

    engine = engine_of(database)
    await engine.dispose()  # so that every connection is one that stops
    event.listen(engine.sync_engine, "connect", connected)
    try:
        yield count
    finally:
        go_on.set()


@asynccontextmanager
async def held_on_postgresql(database: SqlDatabase, url: str) -> AsyncIterator[Held]:
    """Statements wait for a lock in the server; gives the number that do."""
    other = await asyncpg.connect(url.replace("+asyncpg", ""))

    async def count() -> int:
        found: int = await other.fetchval(
            "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database"
            " WHERE NOT granted AND d.datname = current_database()"
        )
        return found

    try:
        async with other.transaction():
            await other.execute("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE")
            yield count
    finally:
        await other.close()


def held(database: SqlDatabase, url: str) -> AbstractAsyncContextManager[Held]:
    work = held_on_sqlite if url.startswith("sqlite") else held_on_postgresql
    return work(database, url)


async def start_reads(database: SqlDatabase, count: Held, how_many: int) -> list[asyncio.Task[Any]]:
    """As many reads as there are connections are at work, the others wait for one."""
    reads = [asyncio.create_task(database.accounts([1])) for _ in range(how_many)]

    async def all_at_work() -> bool:
        return await count() == POOL

    await eventually(all_at_work)
    return reads


async def usable(database: SqlDatabase, account_id: int) -> None:
    """Every connection is back, and all of them work at the same time."""
    pool: Any = engine_of(database).pool
    await eventually(lambda: pool.checkedout() == 0)
    reads = await asyncio.gather(*(database.accounts([account_id]) for _ in range(POOL * 3)))
    assert all(account_id in read for read in reads)
    async with database.update_account(account_id) as account:
        account.balance += 1


@pytest.fixture
async def small(kept_url: str) -> AsyncIterator[SqlDatabase]:
    async with SqlDatabase(kept_url, pool_size=POOL) as database:
        await database.add_accounts([("A", Decimal(1))])
        yield database


async def test_a_cancelled_read_gives_its_connection_back(
    small: SqlDatabase, kept_url: str
) -> None:
    async with held(small, kept_url) as count:
        reads = await start_reads(small, count, POOL * 3)
        for read in reads:
            read.cancel()
        # Those that waited for a connection need not wait for the database.
        await eventually(lambda: sum(read.done() for read in reads) >= POOL * 2)
    await asyncio.wait(reads)
    assert all(read.cancelled() for read in reads)
    await usable(small, 1)


async def test_a_statement_whose_reader_is_cancelled_ends_in_the_server_too(
    postgres_url: str,
) -> None:
    async with SqlDatabase(postgres_url, pool_size=POOL) as database:
        await database.add_accounts([("A", Decimal(1))])
        async with held(database, postgres_url) as count:
            for read in (reads := await start_reads(database, count, POOL)):
                read.cancel()
            await asyncio.wait(reads)

            async def none_at_work() -> bool:
                return await count() == 0

            await eventually(none_at_work)
        await usable(database, 1)


async def test_one_cancelled_read_leaves_the_others_alone(
    small: SqlDatabase, kept_url: str
) -> None:
    async with held(small, kept_url) as count:
        first, *others = await start_reads(small, count, POOL * 2)
        first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    assert all(1 in found for found in await asyncio.gather(*others))
    await usable(small, 1)
