"""A database is opened and closed, and its URL and settings are checked."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from rtx.database import Database, SqlDatabase
from rtx.errors import DatabaseUnavailable, SettingsError
from tests.database.conftest import PRIVATE
from tests.database.samples import EURUSD, everything, fill


async def test_reopened_database_keeps_everything(url: str) -> None:
    if url == PRIVATE:
        pytest.skip("a private database is gone when closed")
    database = SqlDatabase(url)
    async with database:
        (account_id,) = await database.add_accounts([("A", Decimal("1.10"))])
        await database.add_symbols([EURUSD])
        async with database.update_account(account_id) as account:
            await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))
            await account.record_execution(fill())
        before = await everything(database, account_id)
    async with database:
        assert await everything(database, account_id) == before
    async with SqlDatabase(url) as other:
        assert await everything(other, account_id) == before
        assert await other.symbols() == {"EURUSD": EURUSD}


async def test_opened_by_many_at_once_the_tables_are_created_once(url: str) -> None:
    databases = [SqlDatabase(url) for _ in range(8)]
    try:
        await asyncio.gather(*(database.open() for database in databases))
        await asyncio.gather(*(database.ping() for database in databases))
    finally:
        await asyncio.gather(*(database.close() for database in databases))


async def test_open_cancelled_at_any_moment_leaves_nothing_open(url: str) -> None:
    for turns in range(0, 200, 5):  # of the loop; there are about 170 in all
        database = SqlDatabase(url)
        task = asyncio.create_task(database.open())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await database.close()


async def test_close_lets_running_calls_end(url: str) -> None:
    database = SqlDatabase(url)
    await database.open()
    (account_id,) = await database.add_accounts([("A", Decimal(0))])
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def update() -> None:
        async with database.update_account(account_id) as account:
            inside.set()
            await go_on.wait()
            account.balance = Decimal(1)
            await account.record_execution(fill())

    async with asyncio.TaskGroup() as group:
        running = group.create_task(update())
        await inside.wait()
        closing = group.create_task(database.close())
        await asyncio.sleep(0)
        assert not closing.done()
        with pytest.raises(DatabaseUnavailable, match="not open"):
            await database.ping()
        go_on.set()
    assert running.exception() is None


async def test_close_does_not_wait_for_ever(url: str) -> None:
    database = SqlDatabase(url, timeout=0.2)
    await database.open()
    (account_id,) = await database.add_accounts([("A", Decimal(0))])
    async with database.update_account(account_id):
        await database.close()


async def test_closing_twice_and_before_opening_is_harmless(url: str) -> None:
    database = SqlDatabase(url)
    await database.close()
    await database.open()
    await database.open()
    await database.close()
    await database.close()
    with pytest.raises(DatabaseUnavailable, match="open it first"):
        await database.accounts([1])


def conforms(database: SqlDatabase) -> Database:
    """Checked by mypy: the implementation has every method of the Protocol, typed alike."""
    return database


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "nonsense",
        "mysql://u:hush@h/db",
        "postgresql+psycopg2://u:hush@h/db",
        "postgresql+asyncpg://u:hush@h:port/db",
        "sqlite+aiosqlite://file.db",
        "sqlite+aiosqlite:///file.db?timeout=soon",
        "sqlite+aiosqlite:///file:x?mode=memory&uri=true",
        "sqlite+aiosqlite:///file::memory:?cache=shared&uri=true",
    ],
)
def test_bad_url_is_a_settings_error_without_the_password(bad: str) -> None:
    with pytest.raises(SettingsError, match=r"use sqlite\+aiosqlite") as caught:
        SqlDatabase(bad)
    assert "hush" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingsError, match="timeout"):
        SqlDatabase("sqlite://", timeout=0)
    with pytest.raises(SettingsError, match="pool_size"):
        SqlDatabase("sqlite://", pool_size=1)


def test_name_shows_no_password() -> None:
    database = SqlDatabase("postgres://user:hush@host/db?password=hush")
    assert repr(database) == "SqlDatabase('postgresql+asyncpg://user:***@host/db')"
