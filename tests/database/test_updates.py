"""What changing an account promises: all or nothing, one at a time, checked."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from rtx.database import SqlDatabase
from rtx.errors import DatabaseUnavailable, NotFound
from rtx.models import Position
from tests.database.conftest import PRIVATE
from tests.database.samples import balance_of, everything, fill


async def test_update_commits_at_the_end_of_its_block(
    database: SqlDatabase, account_id: int
) -> None:
    async with database.update_account(account_id) as account:
        assert (account.id, account.account_number) == (account_id, "RTX-000001")
        account.balance += Decimal("0.01")
        opened = await account.open_position("EURUSD", "BUY", 2.0, 1.1, Decimal("22.00"))
        assert account.positions == ()
        assert account.margin == Decimal("22.00")
        # A read beside the update sees what is committed, and does not wait.
        assert await balance_of(database, account_id) == Decimal("10000.00")
        assert await database.positions([account_id]) == {account_id: ()}

    assert await balance_of(database, account_id) == Decimal("10000.01")
    async with database.update_account(account_id) as account:
        assert account.positions == (opened,)
        assert account.margin == Decimal("22.00")


async def test_positions_are_resized_and_closed(database: SqlDatabase, account_id: int) -> None:
    async with database.update_account(account_id) as account:
        one = await account.open_position("EURUSD", "BUY", 2.0, 1.1, Decimal("20"))
        two = await account.open_position("EURUSD", "SELL", 1.0, 1.2, Decimal("10"))
    async with database.update_account(account_id) as account:
        await account.mark_position(one.id, 1.15, Decimal("5"))
        resized = await account.resize_position(one.id, 3.0, 1.12, Decimal("30"))
        assert resized == Position(one.id, "EURUSD", "BUY", 3.0, 1.12, 1.15, Decimal("5"))
        await account.close_position(two.id)
        assert account.margin == Decimal("30")

    assert await database.positions([account_id]) == {account_id: (resized,)}
    assert (await database.accounts([account_id]))[account_id].margin == Decimal("30")


async def test_id_of_a_closed_position_is_never_given_again(
    database: SqlDatabase, account_id: int
) -> None:
    async with database.update_account(account_id) as account:
        first = await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))
        await account.close_position(first.id)
    async with database.update_account(account_id) as account:
        second = await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))
    assert second.id > first.id


async def test_unknown_account_and_foreign_positions_are_not_found(
    database: SqlDatabase, account_id: int
) -> None:
    (other,) = await database.add_accounts([("OTHER", Decimal(0))])
    async with database.update_account(other) as account:
        foreign = await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))
    with pytest.raises(NotFound, match="999"):
        async with database.update_account(999):
            pytest.fail("entered")
    async with database.update_account(account_id) as account:
        for position_id in (foreign.id, 999):
            with pytest.raises(NotFound):
                await account.close_position(position_id)
            with pytest.raises(NotFound):
                await account.resize_position(position_id, 1.0, 1.1, Decimal(1))
            with pytest.raises(NotFound):
                await account.mark_position(position_id, 1.0, Decimal(1))
    assert len((await database.positions([other]))[other]) == 1


async def test_exception_in_the_block_leaves_nothing(
    database: SqlDatabase, account_id: int
) -> None:
    before = await everything(database, account_id)

    async def fail() -> None:
        async with database.update_account(account_id) as account:
            account.balance = Decimal(1)
            await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))
            await account.record_execution(fill())
            raise OSError("the caller's own")

    with pytest.raises(OSError, match="the caller's own"):
        await fail()
    assert await everything(database, account_id) == before


async def test_cancellation_in_the_block_leaves_nothing(
    database: SqlDatabase, account_id: int
) -> None:
    before = await everything(database, account_id)
    inside = asyncio.Event()

    async def update() -> None:
        async with database.update_account(account_id) as account:
            account.balance = Decimal(1)
            await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(update())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await everything(database, account_id) == before
    async with database.update_account(account_id) as account:
        account.balance += 1


async def test_cancelled_at_any_moment_an_update_happens_all_or_not_at_all(
    database: SqlDatabase, account_id: int
) -> None:
    async def update() -> None:
        async with database.update_account(account_id) as account:
            account.balance += Decimal(1)
            await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))

    done = 0
    async with asyncio.timeout(20):  # a lock that one of them left behind would cost 5 s each
        for turns in range(100):
            task = asyncio.create_task(update())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            done += not task.cancelled()
        await update()
    account = (await database.accounts([account_id]))[account_id]
    assert account.balance - Decimal("10000.00") == account.open_positions >= done + 1


async def test_reads_cancelled_at_any_moment_leave_the_database_usable(
    database: SqlDatabase, account_id: int
) -> None:
    for turns in range(60):
        tasks = [asyncio.create_task(database.accounts([account_id])) for _ in range(12)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    reads = await asyncio.gather(*(database.accounts([account_id]) for _ in range(50)))
    assert len(reads) == 50


async def test_fifty_updates_at_once_lose_no_cent(database: SqlDatabase, account_id: int) -> None:
    async def deposit() -> None:
        async with database.update_account(account_id) as account:
            account.balance += Decimal("1.00")

    await asyncio.gather(*(deposit() for _ in range(50)))
    assert await balance_of(database, account_id) == Decimal("10050.00")


async def test_updates_in_two_instances_of_the_database_lose_no_cent(
    url: str, database: SqlDatabase, account_id: int
) -> None:
    if url == PRIVATE:
        pytest.skip("a private database has one instance")

    async def deposit(database: SqlDatabase) -> None:
        async with database.update_account(account_id) as account:
            account.balance += Decimal("1.00")

    async with SqlDatabase(url) as other:
        await asyncio.gather(*(deposit(one) for one in (database, other) * 25))
    assert await balance_of(database, account_id) == Decimal("10050.00")


async def test_waiting_updates_do_not_keep_readers_waiting(
    database: SqlDatabase, account_id: int
) -> None:
    (other,) = await database.add_accounts([("OTHER", Decimal(0))])
    started = 0

    async def update(account_id: int) -> None:
        nonlocal started
        started += 1
        async with database.update_account(account_id) as account:
            await database.accounts([account_id])
            await database.symbols()
            account.balance += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(30):
            group.create_task(update(account_id))
            group.create_task(update(other))
        await asyncio.sleep(0)
        assert started == 60
        async with asyncio.timeout(5):
            await database.accounts([account_id])
    assert await balance_of(database, account_id) == Decimal("10030.00")
    assert await balance_of(database, other) == 30


async def test_update_inside_its_own_block_is_refused_after_the_timeout(url: str) -> None:
    async with SqlDatabase(url, timeout=0.2) as database:
        (account_id,) = await database.add_accounts([("A", Decimal(0))])
        async with database.update_account(account_id) as outer:
            with pytest.raises(DatabaseUnavailable, match=r"0\.2 s"):
                async with database.update_account(account_id):
                    pytest.fail("entered")
            outer.balance = Decimal(1)
        assert await balance_of(database, account_id) == 1


async def test_failed_operation_that_is_swallowed_stops_the_commit(
    database: SqlDatabase, account_id: int
) -> None:
    before = await everything(database, account_id)

    async def swallow() -> None:
        async with database.update_account(account_id) as account:
            await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))
            task = asyncio.create_task(account.record_execution(fill()))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            account.balance = Decimal(1)

    with pytest.raises(DatabaseUnavailable, match="nothing of the update") as caught:
        await swallow()
    assert not caught.value.maybe_applied
    assert await everything(database, account_id) == before


@pytest.mark.parametrize("bad", ["NaN", "sNaN", "Infinity", "-Infinity", "1e100", "1e-101"])
async def test_money_that_cannot_be_kept_exactly_is_refused(
    database: SqlDatabase, account_id: int, bad: str
) -> None:
    money = Decimal(bad)
    async with database.update_account(account_id) as account:
        with pytest.raises(ValueError, match="balance"):
            account.balance = money
        with pytest.raises(ValueError, match="margin"):
            await account.open_position("EURUSD", "BUY", 1.0, 1.1, money)
    with pytest.raises(ValueError, match="balance"):
        await database.add_accounts([("X", money)])


async def test_values_that_make_no_sense_are_refused_and_the_update_goes_on(
    database: SqlDatabase, account_id: int
) -> None:
    async with database.update_account(account_id) as account:
        with pytest.raises(TypeError, match="not float"):
            account.balance = 1.5  # type: ignore[assignment]
        with pytest.raises(ValueError, match="margin"):
            await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(-1))
        with pytest.raises(ValueError, match="BUY or SELL"):
            await account.open_position("EURUSD", "HOLD", 1.0, 1.1, Decimal(1))  # type: ignore[arg-type]
        for number in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="volume"):
                await account.open_position("EURUSD", "BUY", number, 1.1, Decimal(1))
            with pytest.raises(ValueError, match="price"):
                await account.open_position("EURUSD", "BUY", 1.0, number, Decimal(1))
        account.balance = Decimal("2.50")
    assert await balance_of(database, account_id) == Decimal("2.50")
