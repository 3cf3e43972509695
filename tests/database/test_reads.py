"""What reading a database promises, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

from decimal import Decimal

import pytest

from rtx.database import Duplicate, SqlDatabase
from rtx.errors import NotFound
from rtx.models import Account, Position, SymbolSpec
from tests.database.samples import BTCUSD, EURUSD


async def test_absent_ids_and_names_are_left_out(database: SqlDatabase, account_id: int) -> None:
    assert set(await database.accounts([account_id, 999])) == {account_id}
    assert set(await database.positions([999, account_id])) == {account_id}
    assert await database.symbols(["NOPE"]) == {}


async def test_ids_and_names_that_cannot_exist_are_absent_not_errors(
    database: SqlDatabase,
) -> None:
    for impossible in (2**63, -(2**63) - 1, 10**30):
        assert await database.accounts([impossible]) == {}
        assert await database.positions([impossible]) == {}
        assert await database.executions(impossible) == []
        with pytest.raises(NotFound):
            async with database.update_account(impossible):
                pytest.fail("entered")
    assert await database.symbols(["EUR\0USD", "\ud800"]) == {}


async def test_nothing_asked_is_nothing_answered(database: SqlDatabase) -> None:
    assert await database.accounts([]) == {}
    assert await database.positions([]) == {}
    assert await database.symbols([]) == {}
    assert await database.account_ids() == []
    assert await database.add_accounts([]) == []
    await database.add_symbols([])


async def test_account_without_positions_has_all_its_money_free(
    database: SqlDatabase, account_id: int
) -> None:
    assert await database.positions([account_id]) == {account_id: ()}
    money = Decimal("10000.00")
    assert (await database.accounts([account_id]))[account_id] == Account(
        account_id, "RTX-000001", money, money, Decimal(0), money, Decimal(0), 0
    )


async def test_account_with_positions_has_equity_margin_and_level(
    database: SqlDatabase, account_id: int
) -> None:
    async with database.update_account(account_id) as account:
        first = await account.open_position("EURUSD", "BUY", 1.0, 1.0950, Decimal("1095.00"))
        second = await account.open_position("BTCUSD", "SELL", 0.1, 95000.5, Decimal("950.01"))
        await account.mark_position(first.id, 1.0955, Decimal("50.00"))
        await account.mark_position(second.id, 95100.5, Decimal("-10.005"))

    assert (await database.accounts([account_id]))[account_id] == Account(
        id=account_id,
        account_number="RTX-000001",
        balance=Decimal("10000.00"),
        equity=Decimal("10039.995"),
        margin=Decimal("2045.01"),
        free_margin=Decimal("7994.985"),
        margin_level=Decimal("490.95"),
        open_positions=2,
    )
    assert (await database.positions([account_id]))[account_id] == (
        Position(first.id, "EURUSD", "BUY", 1.0, 1.0950, 1.0955, Decimal("50.00")),
        Position(second.id, "BTCUSD", "SELL", 0.1, 95000.5, 95100.5, Decimal("-10.005")),
    )


async def test_many_accounts_are_read_at_once_each_with_its_own_positions(
    database: SqlDatabase,
) -> None:
    ids = await database.add_accounts((f"A{n}", Decimal(n)) for n in range(300))
    for account_id in ids[:3]:
        async with database.update_account(account_id) as account:
            await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(account_id))

    accounts = await database.accounts(ids)
    assert [accounts[i].balance for i in ids] == [Decimal(n) for n in range(300)]
    assert [accounts[i].margin for i in ids[:4]] == [*map(Decimal, ids[:3]), 0]
    positions = await database.positions(ids)
    assert [len(positions[i]) for i in ids[:4]] == [1, 1, 1, 0]
    assert await database.account_ids() == sorted(ids)


async def test_more_ids_than_a_statement_takes_parameters(
    database: SqlDatabase, account_id: int
) -> None:
    assert set(await database.accounts(range(account_id, account_id + 40_000))) == {account_id}


async def test_symbols_are_replaced_by_name(database: SqlDatabase) -> None:
    await database.add_symbols([EURUSD, BTCUSD])
    wider = SymbolSpec("EURUSD", "Euro", "EUR", "USD", 5, 100_000.0, 0.02)
    await database.add_symbols([wider])
    assert await database.symbols() == {"EURUSD": wider, "BTCUSD": BTCUSD}
    assert await database.symbols(["BTCUSD", "BTCUSD"]) == {"BTCUSD": BTCUSD}


async def test_taken_account_number_adds_no_account_at_all(
    database: SqlDatabase, account_id: int
) -> None:
    with pytest.raises(Duplicate, match="taken"):
        await database.add_accounts([("NEW", Decimal(1)), ("RTX-000001", Decimal(2))])
    assert await database.account_ids() == [account_id]


async def test_ping_returns(database: SqlDatabase) -> None:
    await database.ping()
