"""What is owed to the caches is stored with the change, once, until it is settled."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from decimal import Decimal

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from rtx.database import Owed, SqlDatabase
from rtx.errors import DatabaseUnavailable
from rtx.models import SymbolSpec

EURUSD = SymbolSpec("EURUSD", "Euro", "EUR", "USD", 5, 100_000.0, 0.01)
GBPUSD = SymbolSpec("GBPUSD", "Sterling", "GBP", "USD", 5, 100_000.0, 0.01)


async def change(database: SqlDatabase, account_id: int) -> Owed:
    """Update an account; what that owes."""
    async with database.update_account(account_id) as account:
        account.balance += Decimal("0.01")
        assert account.outbox_id == 0
    assert account.outbox_id > 0
    return Owed(account.outbox_id, "account", account_id, account.version)


async def test_an_update_owes_its_account_in_its_version(
    database: SqlDatabase, account_id: int
) -> None:
    assert await database.owed(10) == []
    owed = await change(database, account_id)
    assert await database.owed(10) == [owed] == await database.owed(10)
    await database.settled([owed.id])
    assert await database.owed(10) == []


async def test_an_update_that_is_rolled_back_owes_nothing(
    database: SqlDatabase, account_id: int
) -> None:
    async def fail() -> None:
        async with database.update_account(account_id) as account:
            account.balance = Decimal(1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await database.owed(10) == []


async def test_a_later_update_takes_the_place_of_an_earlier_and_is_not_settled_with_it(
    database: SqlDatabase, account_id: int
) -> None:
    (other,) = await database.add_accounts([("OTHER", Decimal(0))])
    first = await change(database, account_id)
    between = await change(database, other)
    second = await change(database, account_id)
    assert await database.owed(10) == [between, second]
    await database.settled([first.id])
    assert await database.owed(10) == [between, second]
    await database.settled([second.id, between.id])
    assert await database.owed(10) == []


async def test_a_debt_settled_is_never_named_again(database: SqlDatabase, account_id: int) -> None:
    ids = []
    for _ in range(5):
        owed = await change(database, account_id)
        await database.settled([owed.id])
        ids.append(owed.id)
    assert ids == sorted(set(ids))


async def test_symbols_are_owed_by_name_and_without_version(database: SqlDatabase) -> None:
    await database.add_symbols([GBPUSD, EURUSD])
    first = await database.owed(10)
    assert {(one.entity, one.key, one.version) for one in first} == {
        ("symbol", "EURUSD", 0),
        ("symbol", "GBPUSD", 0),
    }
    await database.add_symbols([EURUSD])
    await database.settled([one.id for one in first])
    (again,) = await database.owed(10)
    assert again.key == "EURUSD"


async def test_the_oldest_is_owed_first_and_no_more_than_asked_for(database: SqlDatabase) -> None:
    ids = await database.add_accounts((f"A{n}", Decimal(n)) for n in range(7))
    debts = [await change(database, account_id) for account_id in reversed(ids)]
    assert await database.owed(100) == debts
    assert await database.owed(3) == debts[:3]


async def test_settling_twice_nothing_or_what_never_was_is_harmless(
    database: SqlDatabase, account_id: int
) -> None:
    owed = await change(database, account_id)
    await database.settled([])
    await database.settled([owed.id + 1, -1, 10**12])
    assert await database.owed(10) == [owed]
    await database.settled([owed.id, owed.id])
    await database.settled([owed.id])
    await database.settled(range(owed.id, owed.id + 40_000))
    assert await database.owed(10) == []


async def test_a_commit_whose_outcome_is_unknown_stays_owed(
    database: SqlDatabase, account_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come to pass after the invalidation by the caller, who must not settle it."""
    commit = AsyncConnection.commit

    async def lost(connection: AsyncConnection) -> None:
        await commit(connection)
        raise OSError("the answer is lost")

    monkeypatch.setattr(AsyncConnection, "commit", lost)
    with pytest.raises(DatabaseUnavailable) as caught:
        async with database.update_account(account_id) as account:
            account.balance = Decimal(1)
    monkeypatch.undo()
    assert caught.value.maybe_applied
    assert account.outbox_id == 0
    (owed,) = await database.owed(10)
    assert (owed.key, owed.version) == (account_id, account.version)


async def test_a_process_that_dies_after_its_commit_has_left_the_debt(kept_url: str) -> None:
    program = (
        "import asyncio, os, sys\n"
        "from rtx.database import SqlDatabase\n"
        "async def main():\n"
        "    database = SqlDatabase(sys.argv[1])\n"
        "    await database.open()\n"
        "    async with database.update_account(int(sys.argv[2])) as account:\n"
        "        account.balance += 1\n"
        "    os._exit(7)\n"
        "asyncio.run(main())\n"
    )
    async with SqlDatabase(kept_url) as database:
        (account_id,) = await database.add_accounts([("A", Decimal(5))])
        died = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", program, kept_url, str(account_id)], check=False
        )
        assert died.returncode == 7
        (owed,) = await database.owed(10)
        assert (owed.entity, owed.key) == ("account", account_id)
        assert owed.version == (await database.versioned_accounts([account_id]))[account_id].version


@pytest.mark.parametrize("times", [1, 2])
async def test_a_program_with_sql_of_its_own_leaves_word_too(kept_url: str, times: int) -> None:
    insert, replace = (
        "INSERT INTO",
        ("ON CONFLICT (entity, key) DO UPDATE SET id = EXCLUDED.id, version = EXCLUDED.version"),
    )
    if kept_url.startswith("sqlite"):
        insert, replace = "INSERT OR REPLACE INTO", ""
    engine = create_async_engine(kept_url)
    async with SqlDatabase(kept_url) as database:
        (account_id,) = await database.add_accounts([("A", Decimal(5))])
        first = await change(database, account_id)
        for _ in range(times):
            async with engine.begin() as connection:
                for statement in (
                    f"UPDATE accounts SET version = version + 1 WHERE id = {account_id}",
                    f"{insert} outbox (entity, key, version, created_at)"
                    f" SELECT 'account', id, version, 0 FROM accounts WHERE id = {account_id}"
                    f" {replace}",
                ):
                    await connection.execute(text(statement))
        (owed,) = await database.owed(10)
        assert owed == Owed(owed.id, "account", account_id, first.version + times)
        assert owed.id > first.id
    await engine.dispose()


async def test_many_settle_and_change_the_same_debts_at_once(url: str) -> None:
    """None waits for the other in a circle, and no change is forgotten."""
    async with SqlDatabase(url) as database:
        ids = await database.add_accounts((f"A{n}", Decimal(0)) for n in range(8))
        told = dict.fromkeys(ids, 0)

        async def write(account_id: int) -> None:
            for _ in range(6):
                await change(database, account_id)

        async def relay(*, backwards: bool) -> None:
            for _ in range(12):
                owed = await database.owed(100)
                for one in owed:
                    assert isinstance(one.key, int)
                    told[one.key] = max(told[one.key], one.version)
                await database.settled([one.id for one in (owed[::-1] if backwards else owed)])

        async with asyncio.TaskGroup() as group:
            for account_id in ids:
                group.create_task(write(account_id))
            for backwards in (True, False, True):
                group.create_task(relay(backwards=backwards))
        await relay(backwards=False)
        accounts = await database.versioned_accounts(ids)
        assert told == {id: one.version for id, one in accounts.items()}
        assert await database.owed(100) == []


async def test_settling_does_not_wait_for_an_update_of_the_account(
    postgres_url: str,
) -> None:
    async with SqlDatabase(postgres_url, timeout=5.0) as database:
        (account_id,) = await database.add_accounts([("A", Decimal(0))])
        owed = await change(database, account_id)
        async with database.update_account(account_id), asyncio.timeout(4):
            await database.settled([owed.id])
            assert await database.owed(10) == []


async def test_debts_are_unavailable_with_their_database() -> None:
    database = SqlDatabase("sqlite+aiosqlite://")
    for call in (database.owed(1), database.settled([1])):
        with pytest.raises(DatabaseUnavailable):
            await call
