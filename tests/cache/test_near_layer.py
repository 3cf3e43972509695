"""The near cache where the layer has joined it: reads, writes and the outages of the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.database.sql import SqlDatabase
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.conftest import eventually


@pytest.fixture
async def layer(own_server: ServerProcess) -> AsyncIterator[rtx.DataLayer]:
    database = SqlDatabase("sqlite+aiosqlite://")
    settings = Settings.load(url=own_server.url, cache={"near": ("accounts", "positions")})
    async with rtx.open(settings, database=database) as layer:
        await database.add_accounts([("RTX-000001", Decimal("100.00"))])
        yield layer


async def balance(layer: rtx.DataLayer) -> Decimal:
    account = await layer.accounts.get(1)
    assert account is not None
    return account.balance


async def near(layer: rtx.DataLayer) -> None:
    """Read until the account is answered from this process."""

    async def hit() -> bool:
        before = layer.accounts.stats.near_hits
        await balance(layer)
        return layer.accounts.stats.near_hits > before

    await eventually(hit)


async def test_a_second_read_makes_no_call_and_says_so(layer: rtx.DataLayer) -> None:
    await near(layer)
    calls = layer.accounts.stats.hits + layer.accounts.stats.misses
    for _ in range(10):
        assert await balance(layer) == Decimal("100.00")
    assert layer.accounts.stats.hits + layer.accounts.stats.misses == calls
    found = await layer.accounts.lookup(1)
    assert found is not None
    assert found.source == "near"
    assert layer.stats()["near"]["entries"] == 1


async def test_an_update_in_this_process_is_seen_at_once(layer: rtx.DataLayer) -> None:
    for n in range(1, 30):
        await near(layer)
        async with layer.accounts.update(1) as account:
            account.balance = Decimal(n)
        assert await balance(layer) == Decimal(n)


async def test_a_change_by_another_program_is_seen_when_the_server_tells(
    layer: rtx.DataLayer, own_server: ServerProcess
) -> None:
    await near(layer)
    async with redis_py.Redis(port=own_server.port) as witness:
        raw = await witness.get("account:1")
        await witness.set("account:1", raw.replace(b"100.00", b"77.25"))

    async def changed() -> bool:
        return await balance(layer) == Decimal("77.25")

    await eventually(changed)


async def test_nothing_is_near_when_the_server_has_gone(
    layer: rtx.DataLayer, own_server: ServerProcess
) -> None:
    await near(layer)
    own_server.kill()

    async def from_the_database() -> bool:
        found = await layer.accounts.lookup(1)
        assert found is not None
        return found.source == "database"

    await eventually(from_the_database)
    assert await balance(layer) == Decimal("100.00")
