"""A price never takes the place of one of a later tick, whoever stores either of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
import redis.asyncio as redis_py

import rtx
from rtx import codecs
from rtx.setting_groups import MarketDataSettings, TTLSettings
from rtx.settings import Settings

NOON = 1_768_732_245_123  # 2026-01-18T10:30:45.123Z

Write = Callable[[rtx.DataLayer, int, float], Awaitable[object]]


def tick(time: int, bid: float, symbol: str = "EURUSD") -> rtx.Tick:
    return rtx.Tick(symbol, time=time, bid=bid, ask=9.0)


WRITES: dict[str, Write] = {
    "put": lambda layer, time, bid: layer.prices.put(rtx.Price("EURUSD", bid, 9.0, time)),
    "put_many": lambda layer, time, bid: layer.prices.put_many(
        [rtx.Price("GBPUSD", 1.0, 2.0, time), rtx.Price("EURUSD", bid, 9.0, time)]
    ),
    "publish": lambda layer, time, bid: layer.market_data.publish(tick(time, bid)),
    "publish among others": lambda layer, time, bid: asyncio.gather(
        *(layer.market_data.publish(tick(time, bid, name)) for name in ("A", "EURUSD", "B"))
    ),
    "publish_many": lambda layer, time, bid: layer.market_data.publish_many(
        [tick(time, bid, "A"), tick(time, bid)]
    ),
}

FOREIGN = {
    "epoch milliseconds": lambda time: time,
    "epoch milliseconds with a fraction": lambda time: float(time),
    "iso": lambda time: codecs.iso(time),
    "iso with spaces": lambda time: codecs.iso(time).replace("T", " "),
    "iso without zone": lambda time: codecs.iso(time).removesuffix("Z"),
    "iso with offset 0": lambda time: codecs.iso(time).replace("Z", "+00:00"),
    "iso with microseconds": lambda time: codecs.iso(time).replace("Z", "999Z"),
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Prices live a minute, so that none is gone before it is looked at; late ticks are sent."""
    late = MarketDataSettings(in_order="off")
    return settings.model_copy(update={"ttl": TTLSettings(price=60.0), "market_data": late})


async def bid_of(layer: rtx.DataLayer) -> float | None:
    price = await layer.prices.get("EURUSD")
    return None if price is None else price.bid


def late(layer: rtx.DataLayer) -> int:
    return layer.prices.stats.late + layer.market_data.stats.prices_late


@pytest.mark.parametrize("second", WRITES)
@pytest.mark.parametrize("first", WRITES)
async def test_the_later_price_stays_in_whatever_order_they_come(
    layer: rtx.DataLayer, first: str, second: str
) -> None:
    await WRITES[first](layer, NOON + 1, 2.0)
    before = late(layer)
    await WRITES[second](layer, NOON, 1.0)
    assert await bid_of(layer) == 2.0
    assert late(layer) > before
    await WRITES[second](layer, NOON + 1, 3.0)  # of the same moment the last counts
    assert await bid_of(layer) == 3.0
    await WRITES[second](layer, NOON + 2, 4.0)
    assert await bid_of(layer) == 4.0


@pytest.mark.parametrize("spaces", [False, True])
@pytest.mark.parametrize("form", FOREIGN)
@pytest.mark.parametrize("write", ["put", "publish"])
async def test_a_later_price_of_another_program_stays_too(
    layer: rtx.DataLayer, witness: redis_py.Redis, write: str, form: str, spaces: bool
) -> None:
    def value(time: int) -> str:
        fields = {"ask": 9.0, "bid": 5.0, "time": FOREIGN[form](time), "symbol": "EURUSD", "v": 1}
        return json.dumps(fields, separators=None if spaces else (",", ":"))

    key = layer.keys.price("EURUSD")
    await witness.set(key, value(NOON))
    await WRITES[write](layer, NOON - 1, 1.0)
    assert await bid_of(layer) == 5.0
    await WRITES[write](layer, NOON + 1, 2.0)
    assert await bid_of(layer) == 2.0
    await witness.set(key, value(NOON))
    await WRITES[write](layer, NOON, 3.0)
    assert await bid_of(layer) == 3.0


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"not json",
        b'{"time":null}',
        b'{"time":"tomorrow"}',
        b'{"time":"2026-01-18T10:30:45.123+02:00"}',
        b'{"time":-1}',
        b'{"time":1e99}',
        b'{"symbol":"EURUSD","time":"',
        b"\xff" * 40,
    ],
)
async def test_what_has_no_readable_time_gives_way(
    layer: rtx.DataLayer, witness: redis_py.Redis, broken: bytes
) -> None:
    for write in WRITES.values():
        await witness.set(layer.keys.price("EURUSD"), broken)
        await write(layer, NOON, 2.0)
        assert await bid_of(layer) == 2.0
    await witness.delete(layer.keys.price("EURUSD"))
    await witness.lpush(layer.keys.price("EURUSD"), "a list")
    await WRITES["put"](layer, NOON, 2.0)
    assert await bid_of(layer) == 2.0


async def test_in_one_call_the_latest_of_a_symbol_counts_and_every_tick_is_published(
    layer: rtx.DataLayer,
) -> None:
    steps = [3, 1, 4, 1, 5, 8, 2, 6]
    sent = [tick(NOON + step, float(step)) for step in steps]
    async with layer.market_data.subscribe("EURUSD", snapshot=False) as ticks:
        await ticks.ready()
        assert (await layer.market_data.publish_many(sent)).count == len(steps)
        assert [await anext(ticks) for _ in steps] == sent
    assert await bid_of(layer) == 8.0
    await layer.prices.put_many(
        [rtx.Price("EURUSD", 2.0, 9.0, NOON + 20), rtx.Price("EURUSD", 3.0, 9.0, NOON + 19)]
    )
    assert await bid_of(layer) == 2.0
    assert layer.prices.stats.late == 1


async def test_of_publishers_at_once_the_latest_tick_of_a_symbol_is_its_price(
    layer: rtx.DataLayer,
) -> None:
    order = [7, 3, 9, 1, 8]
    await asyncio.gather(
        *(layer.market_data.publish(tick(NOON + step, float(step))) for step in order)
    )
    assert await bid_of(layer) == 9.0
    assert layer.market_data.stats.published == len(order)


async def test_a_server_that_forgot_the_script_stores_the_price_all_the_same(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    for step, write in enumerate(WRITES.values()):
        await witness.script_flush()
        await write(layer, NOON + step, float(step + 1))
        assert await bid_of(layer) == float(step + 1)


async def test_a_late_price_leaves_the_time_to_live_alone(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    await layer.prices.put(rtx.Price("EURUSD", 2.0, 9.0, NOON))
    await witness.pexpire(layer.keys.price("EURUSD"), 30_000)
    for write in WRITES.values():
        await write(layer, NOON - 1, 1.0)
    assert await witness.pttl(layer.keys.price("EURUSD")) <= 30_000


async def test_a_publisher_that_gives_up_disturbs_no_other_of_its_turn(
    layer: rtx.DataLayer,
) -> None:
    publishing = [
        asyncio.ensure_future(layer.market_data.publish(tick(NOON, 1.0, name)))
        for name in ("A", "B", "C", "D")
    ]
    await asyncio.sleep(0)
    publishing[2].cancel()
    results = await asyncio.gather(*publishing, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [
        False,
        False,
        True,
        False,
    ]
    assert set(await layer.prices.get_many(["A", "B", "D"])) == {"A", "B", "D"}


async def test_what_cannot_be_packed_is_refused_alone(layer: rtx.DataLayer) -> None:
    results = await asyncio.gather(
        *(layer.market_data.publish(tick(NOON, 1.0, name)) for name in ("A", "\ud800", "C")),
        return_exceptions=True,
    )
    assert [isinstance(result, Exception) for result in results] == [False, True, False]
    assert set(await layer.prices.get_many(["A", "C"])) == {"A", "C"}
