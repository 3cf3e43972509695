"""What a caller's own loader brings is stored only where nobody was quicker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.models import now_ms
from rtx.setting_groups import TTLSettings
from rtx.settings import Settings
from tests.cache.numbers import numbers, open_pool

Write = Callable[[rtx.DataLayer, rtx.Tick], Awaitable[object]]

WRITES: dict[str, Write] = {
    "put": lambda layer, t: layer.prices.put(rtx.Price(t.symbol, t.bid, t.ask, t.time)),
    "publish": lambda layer, t: layer.market_data.publish(t),
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Prices live a minute, so that none is gone before it is looked at."""
    return settings.model_copy(update={"ttl": TTLSettings(price=60.0)})


class Slowly:
    """A loader that reads when it begins, and answers when it may."""

    def __init__(self, value: object) -> None:
        self.value = value
        self.began = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, _id: object) -> object:
        self.began.set()
        await self.go_on.wait()
        return self.value


@pytest.mark.parametrize("write", WRITES)
async def test_a_loaded_price_does_not_take_the_place_of_one_that_came_meanwhile(
    layer: rtx.DataLayer, settings: Settings, write: str
) -> None:
    now = now_ms()
    load = Slowly(rtx.Price("EURUSD", 1.0, 2.0, now - 500))
    async with rtx.open(settings) as other:
        reading = asyncio.ensure_future(layer.prices.get_or_load("EURUSD", load))  # type: ignore[arg-type]
        await load.began.wait()
        await WRITES[write](other, rtx.Tick("EURUSD", time=now, bid=1.5, ask=2.0))
        load.go_on.set()
        await reading
        for one in (layer, other):
            assert await one.prices.get("EURUSD") == rtx.Price("EURUSD", 1.5, 2.0, now)
    assert layer.prices.stats.stale_fills_refused == 1


async def test_a_loaded_price_is_stored_where_there_is_none_that_can_be_read(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    loaded = rtx.Price("EURUSD", 1.0, 2.0, now_ms())

    async def load(_symbol: str) -> rtx.Price:
        return loaded

    key = layer.keys.price("EURUSD")
    for raw in (None, b"", b"no price"):
        if raw is not None:
            await witness.set(key, raw)
        assert await layer.prices.get_or_load("EURUSD", load) == loaded
        assert await layer.prices.get("EURUSD") == loaded
        assert 0 < await witness.pttl(key) <= 60_000
        await layer.prices.invalidate("EURUSD")
    await witness.lpush(key, "a list")
    assert await layer.prices.get_or_load("EURUSD", load) == loaded
    assert await layer.prices.get("EURUSD") == loaded


@pytest.mark.parametrize("how", ["invalidate", "put"])
async def test_without_a_database_too_a_write_ends_the_fills_under_way(
    shared_server: str, namespace: str, how: str
) -> None:
    load = Slowly(1)
    async with (
        open_pool(shared_server) as pool,
        numbers(pool, namespace, None) as cache,
        numbers(pool, namespace, None) as other,
    ):
        reading = asyncio.ensure_future(cache.get_or_load(7, load))  # type: ignore[arg-type]
        await load.began.wait()
        if how == "put":
            await other._put([(7, 2, 0)])
        else:
            await other.invalidate(7)
        load.go_on.set()
        assert await reading == 1  # it was asked for before
        assert await cache.get(7) == (2 if how == "put" else None)
        assert cache.stats.stale_fills_refused == 1
