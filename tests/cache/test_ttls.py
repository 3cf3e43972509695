"""Times to live on the server, as redis-py sees them, for every way that writes a value."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest
import redis.asyncio as redis_py

import rtx
from rtx.models import now_ms
from rtx.settings import Settings
from tests.cache.memory import SYMBOL, MemoryDatabase, account, position
from tests.conftest import eventually

LATE = 2_000
"""Milliseconds that a busy machine may take until the witness looks."""


def tick(symbol: str = "EURUSD") -> rtx.Tick:
    return rtx.Tick(symbol, bid=1.0, ask=2.0)


def price(symbol: str = "EURUSD") -> rtx.Price:
    return rtx.Price(symbol, bid=1.0, ask=2.0)


async def changed_symbol(layer: rtx.DataLayer) -> None:
    await layer.symbols.put(SYMBOL)
    async with layer.symbols.update("EURUSD") as edit:
        edit.value = msgspec.structs.replace(edit.value, digits=3)


async def changed_price(layer: rtx.DataLayer) -> None:
    await layer.prices.put(price())
    async with layer.prices.update("EURUSD") as edit:
        edit.value = rtx.Price("EURUSD", bid=1.5, ask=2.0, time=now_ms())


async def published(layer: rtx.DataLayer) -> None:
    async with layer.market_data.publisher() as out:
        out.offer(tick("A"))
        out.offer(tick())


async def given(_id: object) -> rtx.Account:
    return account(1)


async def given_price(_symbol: str) -> rtx.Price:
    return price()


Write = Callable[[rtx.DataLayer], Awaitable[object]]

# How it is written, its key, its time to live in seconds, and whether that is exact.
PATHS: dict[str, tuple[Write, str, float, bool]] = {
    "accounts.put": (lambda layer: layer.accounts.put(account(1)), "account:1", 60, False),
    "accounts.put_many": (
        lambda layer: layer.accounts.put_many([account(1), account(2)]),
        "account:1",
        60,
        False,
    ),
    "positions.put": (
        lambda layer: layer.positions.put(1, [position(1)]),
        "positions:1",
        30,
        False,
    ),
    "positions.put_many": (
        lambda layer: layer.positions.put_many({1: [], 2: []}),
        "positions:1",
        30,
        False,
    ),
    "symbols.put": (lambda layer: layer.symbols.put(SYMBOL), "symbol:EURUSD", 3_600, False),
    "symbols.update": (changed_symbol, "symbol:EURUSD", 3_600, False),
    "prices.put": (lambda layer: layer.prices.put(price()), "price:EURUSD", 1, True),
    "prices.put_many": (
        lambda layer: layer.prices.put_many([price("A"), price()]),
        "price:EURUSD",
        1,
        True,
    ),
    "prices.update": (changed_price, "price:EURUSD", 1, True),
    "market_data.publish": (
        lambda layer: layer.market_data.publish(tick()),
        "price:EURUSD",
        1,
        True,
    ),
    "market_data.publish, two at once": (
        lambda layer: asyncio.gather(
            layer.market_data.publish(tick("A")), layer.market_data.publish(tick())
        ),
        "price:EURUSD",
        1,
        True,
    ),
    "market_data.publish_many": (
        lambda layer: layer.market_data.publish_many([tick("A"), tick()]),
        "price:EURUSD",
        1,
        True,
    ),
    "market_data.publisher": (published, "price:EURUSD", 1, True),
    "prices.get_or_load": (
        lambda layer: layer.prices.get_or_load("EURUSD", given_price),
        "price:EURUSD",
        1,
        True,
    ),
    "accounts.get_or_load": (
        lambda layer: layer.accounts.get_or_load(1, given),
        "account:1",
        60,
        False,
    ),
}

FILLS: dict[str, tuple[Write, str, float, bool]] = {
    "accounts.get": (lambda layer: layer.accounts.get(1), "account:1", 60, False),
    "accounts.get_many": (lambda layer: layer.accounts.get_many([1, 2]), "account:1", 60, False),
    "positions.get": (lambda layer: layer.positions.get(1), "positions:1", 30, False),
    "symbols.get": (lambda layer: layer.symbols.get("EURUSD"), "symbol:EURUSD", 3_600, False),
    "symbols.lookup": (lambda layer: layer.symbols.lookup("EURUSD"), "symbol:EURUSD", 3_600, False),
}


async def check(
    layer: rtx.DataLayer, witness: redis_py.Redis, path: tuple[Write, str, float, bool]
) -> None:
    write, name, seconds, exact = path
    ttl = round(seconds * 1000)
    key = f"{layer.keys.namespace}:{name}"
    if exact:

        async def seen() -> bool:
            await write(layer)
            left = await witness.pttl(key)
            assert left <= ttl
            assert left > 0 or left == -2  # gone already, on a busy machine
            return bool(left > ttl / 2)

        await eventually(seen)
        return
    await write(layer)
    left = await witness.pttl(key)
    assert 0.9 * ttl - LATE < left <= ttl


@pytest.mark.parametrize("path", PATHS)
async def test_what_is_stored_lives_as_long_as_the_contract_says(
    layer: rtx.DataLayer, witness: redis_py.Redis, path: str
) -> None:
    await check(layer, witness, PATHS[path])


@pytest.mark.parametrize("path", FILLS)
async def test_what_a_miss_fills_lives_as_long_too(
    backed: rtx.DataLayer, witness: redis_py.Redis, path: str
) -> None:
    await check(backed, witness, FILLS[path])


async def test_an_early_refresh_gives_its_whole_time_again(
    backed: rtx.DataLayer, records: MemoryDatabase, witness: redis_py.Redis
) -> None:
    key = backed.keys.symbol("EURUSD")
    await backed.symbols.get("EURUSD")
    await witness.pexpire(key, 1_000)
    backed.symbols._loads.duration = 1e6  # type: ignore[union-attr]
    assert await backed.symbols.get("EURUSD") == SYMBOL

    async def fresh() -> bool:
        return int(await witness.pttl(key)) > 0.9 * 3_600_000 - LATE

    await eventually(fresh)


async def test_values_stored_together_do_not_expire_together_but_prices_do(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    """By up to a tenth, and always downwards."""
    await layer.accounts.put_many(account(id) for id in range(1, 501))
    await layer.prices.put_many(price(f"S{id}") for id in range(100))
    prices = await _left(witness, [layer.keys.price(f"S{id}") for id in range(100)])
    accounts = await _left(witness, [layer.keys.account(id) for id in range(1, 501)])
    prices = [left for left in prices if left > 0]
    assert all(left <= 1_000 for left in prices)
    if prices:
        assert max(prices) - min(prices) < 500
    assert all(54_000 - LATE < left <= 60_000 for left in accounts)
    assert max(accounts) - min(accounts) > 5_000
    tenths = [0] * 6
    for left in accounts:
        tenths[min(5, max(0, (left - 54_000) // 1_000))] += 1
    assert min(tenths) > 500 / 6 / 3, tenths


async def _left(witness: redis_py.Redis, keys: list[str]) -> list[int]:
    async with witness.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.pttl(key)
        found: list[int] = await pipeline.execute()
    return found


async def test_other_times_to_live_are_kept_as_they_are_set(
    settings: Settings, witness: redis_py.Redis
) -> None:
    ttl = settings.ttl.model_copy(update={"price": 20.0, "account": 0.004})
    async with rtx.open(settings.model_copy(update={"ttl": ttl})) as layer:
        await layer.prices.put(price())
        await layer.market_data.publish(tick("A"))
        for symbol in ("EURUSD", "A"):
            assert 20_000 - LATE < await witness.pttl(layer.keys.price(symbol)) <= 20_000
        await layer.accounts.put(account(1))

        async def gone() -> bool:
            return await layer.accounts.get(1) is None

        await eventually(gone)
