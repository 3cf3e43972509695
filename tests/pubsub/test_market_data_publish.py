"""Publishing market data: every tick to its channel, the last one kept, the bad ones refused."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.settings import Settings
from rtx.topology.process import ServerProcess


def tick(symbol: str = "EURUSD", number: int = 1, bid: float = 1.0) -> rtx.Tick:
    return rtx.Tick(symbol, time=1_700_000_000_000 + number, bid=bid, ask=bid + 1, lp="LP")


async def calls(client: redis_py.Redis, command: str) -> int:
    stats = await client.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))


@pytest.fixture
async def own_witness(own_server: ServerProcess) -> AsyncIterator[redis_py.Redis]:
    client = redis_py.Redis.from_url(own_server.url)
    yield client
    await client.aclose()


async def test_ticks_arrive_in_the_order_they_were_published(layer: rtx.DataLayer) -> None:
    sent = [tick("EURUSD" if i % 2 else "GBPUSD", i) for i in range(2_500)]
    async with layer.market_data.subscribe("EURUSD", "GBPUSD") as ticks:
        await ticks.ready()
        for one in sent[:100]:
            await layer.market_data.publish(one)
        published = await layer.market_data.publish_many(sent[100:])
        assert published == rtx.Published(2_400, {})
        assert [await anext(ticks) for _ in sent] == sent


async def test_a_batch_publishes_every_tick_and_stores_the_last_of_each_symbol(
    own_server: ServerProcess, own_witness: redis_py.Redis
) -> None:
    async with rtx.open(Settings.load(url=own_server.url)) as layer:
        await own_witness.config_resetstat()
        sent = [tick(f"S{i % 3}", i) for i in range(900)]
        assert (await layer.market_data.publish_many(sent)).count == 900
        assert await calls(own_witness, "set") == 3
        assert await calls(own_witness, "publish") == 900
        stored = [json.loads(await own_witness.get(f"price:S{i}"))["time"] for i in range(3)]
        assert [time[-5:] for time in stored] == [".897Z", ".898Z", ".899Z"]
        assert layer.stats()["channel.market_data"]["published"] == 900
        assert layer.stats()["channel.market_data"]["prices_stored"] == 3


async def test_roles_on_two_servers_store_on_one_and_publish_on_the_other(
    own_server: ServerProcess, own_witness: redis_py.Redis, shared_server: str, namespace: str
) -> None:
    settings = Settings.load(url=shared_server, cache_url=own_server.url, namespace=namespace)
    async with rtx.open(settings) as layer, layer.market_data.subscribe("EURUSD") as ticks:
        await ticks.ready()
        await layer.market_data.publish_many([tick(number=1), tick(number=2)])
        assert [await anext(ticks) for _ in range(2)] == [tick(number=1), tick(number=2)]
        assert await calls(own_witness, "publish") == 0
        assert await own_witness.exists(layer.keys.price("EURUSD")) == 1
        async with layer.market_data.subscribe("EURUSD") as late:
            snapshot = await anext(late)
            assert isinstance(snapshot, rtx.Tick)
            assert (snapshot.time, snapshot.lp) == (tick(number=2).time, "")


async def test_a_lost_cache_server_does_not_stop_the_ticks_of_the_other(
    own_server: ServerProcess, shared_server: str, namespace: str
) -> None:
    settings = Settings.load(url=shared_server, cache_url=own_server.url, namespace=namespace)
    async with rtx.open(settings) as layer:
        own_server.kill()
        await own_server.wait()
        async with layer.market_data.subscribe("EURUSD") as ticks:
            await ticks.ready()
            await layer.market_data.publish(tick())
            assert await anext(ticks) == tick()
        assert layer.stats()["channel.market_data"]["prices_not_stored"] == 1


BAD = {
    "not_finite": [(math.nan, 1.0), (1.0, math.nan), (math.nan, math.nan), (1.0, math.inf)],
    "not_positive": [(0.0, 1.0), (-1.0, 1.0), (0.0, 0.0), (-0.0, 1.0), (1.0, 0.0), (-2.0, -1.0)],
    "crossed": [(1.1, 1.0), (1.0000000000000002, 1.0)],
}
BAD["not_finite"] += [(-math.inf, 1.0), (math.inf, math.inf)]


@pytest.mark.parametrize(
    ("reason", "bid", "ask"), [(why, *quote) for why, quotes in BAD.items() for quote in quotes]
)
async def test_a_bad_tick_is_refused_by_reason_and_not_published(
    layer: rtx.DataLayer, reason: str, bid: float, ask: float
) -> None:
    bad = rtx.Tick("EURUSD", bid=bid, ask=ask)
    async with layer.market_data.subscribe("EURUSD") as ticks:
        await ticks.ready()
        with pytest.raises(rtx.BadTick, match="EURUSD") as refusal:
            await layer.market_data.publish(bad)
        assert refusal.value.reason == reason
        with pytest.raises(rtx.BadTick):
            await layer.prices.put(rtx.Price("EURUSD", bid=bid, ask=ask))
        result = await layer.market_data.publish_many([bad, tick(), bad])
        assert result == rtx.Published(1, {reason: 2})
        assert await anext(ticks) == tick()
    assert layer.stats()["channel.market_data"]["refused"] == {reason: 3}


@pytest.mark.parametrize("time", [10**18, -(10**18), 10**30, -(10**12) * 100])
async def test_a_time_that_no_calendar_has_is_refused_and_the_rest_of_the_batch_goes_on(
    layer: rtx.DataLayer, time: int
) -> None:
    """Nanoseconds in place of milliseconds, for one."""
    bad = rtx.Tick("EURUSD", time=time, bid=1.0, ask=2.0)
    with pytest.raises(rtx.BadTick) as refusal:
        await layer.market_data.publish(bad)
    assert refusal.value.reason == "bad_time"
    result = await layer.market_data.publish_many([tick("A"), bad, tick("B")])
    assert result == rtx.Published(2, {"bad_time": 1})
    assert list(await layer.prices.get_many(["A", "EURUSD", "B"])) == ["A", "B"]


async def test_nothing_to_publish_is_fine(layer: rtx.DataLayer) -> None:
    assert await layer.market_data.publish_many([]) == rtx.Published(0, {})
    bad = rtx.Tick("EURUSD", bid=2.0, ask=1.0)
    assert await layer.market_data.publish_many([bad]) == rtx.Published(0, {"crossed": 1})


async def test_a_locked_quote_with_bid_and_ask_alike_is_good(layer: rtx.DataLayer) -> None:
    await layer.market_data.publish(rtx.Tick("EURUSD", bid=1.1, ask=1.1))
    price = await layer.prices.get("EURUSD")
    assert price is not None
    assert price.spread == 0.0
    assert price.mid == 1.1


@pytest.mark.parametrize("symbol", ["BTC/USD", "a b", "EUR:USD", "*x", "[ab]", "Ünï", 'q"uote', ""])
async def test_any_name_is_a_symbol(layer: rtx.DataLayer, symbol: str) -> None:
    async with layer.market_data.subscribe(symbol) as ticks:
        await ticks.ready()
        await layer.market_data.publish(tick(symbol))
        assert await anext(ticks) == tick(symbol)
    price = await layer.prices.get(symbol)
    assert price is not None
    assert price.symbol == symbol
