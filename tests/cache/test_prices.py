"""Prices that are gone when they are old."""

from __future__ import annotations

import asyncio
import time

import pytest

import rtx
from rtx.setting_groups import TTLSettings
from rtx.settings import Settings
from tests.conftest import eventually


def price(symbol: str = "EURUSD", bid: float = 1.0) -> rtx.Price:
    return rtx.Price(symbol, bid=bid, ask=2.0, time=1_700_000_000_000)


@pytest.fixture
def brief(settings: Settings) -> Settings:
    """Prices live 100 ms."""
    return settings.model_copy(update={"ttl": TTLSettings(price=0.1)})


async def test_a_price_vanishes_after_one_second(layer: rtx.DataLayer) -> None:
    started = time.monotonic()
    await layer.prices.put(price())
    assert await layer.prices.get("EURUSD") == price()

    async def gone() -> bool:
        return await layer.prices.get("EURUSD") is None

    await eventually(gone, within=5)
    assert time.monotonic() - started >= 0.99


async def test_a_published_price_vanishes_as_well(brief: Settings) -> None:
    async with rtx.open(brief) as layer:
        await layer.market_data.publish(rtx.Tick("EURUSD", bid=1.0, ask=2.0))
        await layer.prices.put_many([price("GBPUSD")])

        async def gone() -> bool:
            return await layer.prices.get_many(["EURUSD", "GBPUSD"]) == {}

        await eventually(gone, within=5)


async def test_a_newer_price_lives_on(brief: Settings) -> None:
    async with rtx.open(brief) as layer:
        for number in range(20):
            await layer.prices.put(price(bid=1.0 + number / 1_000))
            await asyncio.sleep(0.01)
        assert await layer.prices.get("EURUSD") == price(bid=1.019)


async def test_of_several_prices_of_a_symbol_the_last_is_stored(layer: rtx.DataLayer) -> None:
    await layer.prices.put_many([price("A"), price("B"), price("A", bid=1.5)])
    assert await layer.prices.get_many(["B", "C", "A"]) == {"B": price("B"), "A": price("A", 1.5)}


async def test_one_bad_price_keeps_all_from_being_stored(layer: rtx.DataLayer) -> None:
    with pytest.raises(rtx.BadTick):
        await layer.prices.put_many([price("A"), price("B", bid=-1.0)])
    assert await layer.prices.get("A") is None


async def test_an_invalidated_price_is_not_fresh(layer: rtx.DataLayer) -> None:
    await layer.prices.put_many([price("A"), price("B")])
    await layer.prices.invalidate("A")
    assert list(await layer.prices.get_many(["A", "B"])) == ["B"]
