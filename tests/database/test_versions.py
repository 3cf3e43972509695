"""Versions of accounts: which of two values is the newer."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from examples.own_database import OwnDatabase
from rtx.database import (
    Database,
    Outbox,
    OwingUpdate,
    SqlDatabase,
    VersionedDatabase,
    VersionedUpdate,
)
from rtx.models import Versioned


async def version_of(database: SqlDatabase, account_id: int) -> int:
    account = (await database.versioned_accounts([account_id]))[account_id]
    positions = (await database.versioned_positions([account_id]))[account_id]
    assert account.version == positions.version
    return account.version


async def test_a_new_account_has_a_version_above_zero(
    database: SqlDatabase, account_id: int
) -> None:
    assert await version_of(database, account_id) > 0


async def test_each_committed_update_raises_the_version_by_one_and_knows_it_from_the_start(
    database: SqlDatabase, account_id: int
) -> None:
    before = await version_of(database, account_id)
    for n in (1, 2, 3):
        async with database.update_account(account_id) as account:
            assert account.version == before + n
        assert account.version == await version_of(database, account_id) == before + n


async def test_an_update_of_a_position_alone_is_a_version_of_the_account(
    database: SqlDatabase, account_id: int
) -> None:
    async with database.update_account(account_id) as account:
        position = await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))
    before = await version_of(database, account_id)
    async with database.update_account(account_id) as account:
        await account.mark_position(position.id, 1.2, Decimal("0.1"))
    assert await version_of(database, account_id) == before + 1


async def test_an_update_that_is_rolled_back_makes_no_version(
    database: SqlDatabase, account_id: int
) -> None:
    before = await version_of(database, account_id)
    with pytest.raises(RuntimeError):
        async with database.update_account(account_id):
            raise RuntimeError
    assert await version_of(database, account_id) == before


async def test_versioned_reads_are_the_reads_with_versions(
    database: SqlDatabase, account_id: int
) -> None:
    (other,) = await database.add_accounts([("OTHER", Decimal("0.10"))])
    async with database.update_account(account_id) as account:
        await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))
        await account.open_position("BTCUSD", "SELL", 1.0, 1.1, Decimal(1))
    ids = [account_id, 999, other, 2**80]
    accounts = await database.versioned_accounts(ids)
    assert {id: one.value for id, one in accounts.items()} == await database.accounts(ids)
    positions = await database.versioned_positions(ids)
    assert {id: one.value for id, one in positions.items()} == await database.positions(ids)
    assert positions[other] == Versioned((), accounts[other].version)


async def test_a_value_and_its_version_are_of_one_moment(
    database: SqlDatabase, account_id: int
) -> None:
    """Each update makes the balance its version, and opens a position."""
    first = await version_of(database, account_id)

    async def write() -> None:
        for _ in range(15):
            async with database.update_account(account_id) as account:
                account.balance = Decimal(account.version)
                await account.open_position("EURUSD", "BUY", 1.0, 1.1, Decimal(1))

    writing = [asyncio.create_task(write()) for _ in range(2)]
    seen = set()
    while not all(task.done() for task in writing):
        account = (await database.versioned_accounts([account_id]))[account_id]
        held = (await database.versioned_positions([account_id]))[account_id]
        if account.version > first:
            assert account.value.balance == account.version
        assert account.value.open_positions == account.version - first
        assert len(held.value) == held.version - first >= account.version - first
        seen.add(account.version)
    await asyncio.gather(*writing)
    assert await version_of(database, account_id) == first + 30
    assert len(seen) > 1


def offers(database: SqlDatabase, update: VersionedUpdate) -> tuple[VersionedDatabase, Outbox]:
    """Checked by mypy: the implementation has every method of the Protocols, typed alike."""
    return database, database


def owes(update: OwingUpdate) -> int:
    return update.outbox_id


async def test_a_database_without_versions_is_told_from_one_with(
    database: SqlDatabase, account_id: int
) -> None:
    assert isinstance(database, VersionedDatabase)
    assert isinstance(database, Outbox)
    async with database.update_account(account_id) as account:
        assert offers(database, account)
        assert owes(account) == 0
    bare: Database = OwnDatabase()
    assert not isinstance(bare, VersionedDatabase)
    assert not isinstance(bare, Outbox)
