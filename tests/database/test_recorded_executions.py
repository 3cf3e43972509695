"""Executions are stored for good, each order once."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from rtx.database import Duplicate, SqlDatabase
from tests.database.samples import fill


async def test_executions_come_in_the_order_of_their_recording(
    database: SqlDatabase, account_id: int
) -> None:
    async with database.update_account(account_id) as account:
        for n in range(1, 6):
            await account.record_execution(fill(order_id=100 - n, volume=float(n)))
    recorded = await database.executions(account_id)
    assert recorded == [fill(100 - n, float(n)) for n in range(1, 6)]
    assert await database.executions(account_id, limit=2) == recorded[-2:]
    assert await database.executions(account_id, limit=0) == []
    assert await database.executions(999) == []


async def test_new_order_ids_are_unique_over_accounts_and_skip_those_given(
    database: SqlDatabase, account_id: int
) -> None:
    (other,) = await database.add_accounts([("OTHER", Decimal(0))])
    recorded: list[int] = []

    async def record(account_id: int, *order_ids: int) -> None:
        async with database.update_account(account_id) as account:
            for order_id in order_ids:
                stored = await account.record_execution(fill(order_id))
                assert stored == fill(stored.order_id)
                recorded.append(stored.order_id)

    await record(account_id, 0, 0, 5, 6, 7)
    await record(other, 1_000)
    for _ in range(5):
        await asyncio.gather(record(account_id, 0, 0), record(other, 0, 0))
    assert len(set(recorded)) == len(recorded) == 26
    assert min(recorded) > 0


async def test_order_id_recorded_before_is_a_duplicate_and_the_update_goes_on(
    database: SqlDatabase, account_id: int
) -> None:
    (other,) = await database.add_accounts([("OTHER", Decimal(0))])
    async with database.update_account(account_id) as account:
        await account.record_execution(fill(5))
    async with database.update_account(other) as account:
        with pytest.raises(Duplicate, match="order 5"):
            await account.record_execution(fill(5))
        await account.record_execution(fill(6))
    assert await database.executions(other) == [fill(6)]


async def test_position_records_when_it_was_opened(database: SqlDatabase, account_id: int) -> None:
    from sqlalchemy import select

    from rtx.database.tables import positions
    from rtx.models import now_ms

    start = now_ms()
    async with database.update_account(account_id) as account:
        await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal("12.345"))
    (row,) = await database._rows("read", select(positions.c.opened_at, positions.c.margin))
    assert start <= row[0] <= now_ms()
    assert row[1] == Decimal("12.345")
