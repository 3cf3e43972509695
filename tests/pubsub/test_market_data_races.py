"""Subscribe, snapshot and live ticks at the same time: no gap, no duplicate, no step back."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest
import redis.asyncio as redis_py

import rtx
from rtx import codecs
from rtx.settings import Settings
from tests.conftest import eventually
from tests.pubsub.races import Race, number_of, tick


@pytest.fixture
async def feed(settings: Settings) -> AsyncIterator[rtx.DataLayer]:
    """Another program that publishes."""
    async with rtx.open(settings) as layer:
        yield layer


async def test_a_thousand_joins_of_a_running_feed_see_no_gap_no_duplicate_and_no_step_back(
    layer: rtx.DataLayer, feed: rtx.DataLayer, seeded: random.Random
) -> None:
    await Race(layer, feed, seeded).run(1_000)
    assert layer.stats()["hub"]["channels"] == 0
    assert layer.market_data.stats.skipped == layer.market_data.stats.gaps == 0


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_fifty_thousand_joins_of_a_running_feed(
    layer: rtx.DataLayer, feed: rtx.DataLayer, seeded: random.Random
) -> None:
    await Race(layer, feed, seeded).run(50_000)


async def test_a_price_older_than_what_was_seen_does_not_come_after_a_break(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    """As in a cluster whose node with the price was away while the ticks went on."""
    async with layer.market_data.subscribe("OLD", "NEW") as ticks:
        await ticks.ready()
        await layer.market_data.publish_many(
            tick(number, name) for number in range(10) for name in ("OLD", "NEW")
        )
        assert [number_of(await anext(ticks)) for _ in range(20)] == sorted([*range(10)] * 2)
        for name, number in (("OLD", 7), ("NEW", 12)):
            one = tick(number, name)
            price = codecs.encode_price(name, one.bid, one.ask, one.time)
            await witness.set(layer.keys.price(name), price)
        await witness.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert isinstance(await anext(ticks), rtx.Gap)
        snapshot = await anext(ticks)
        assert isinstance(snapshot, rtx.Tick)
        assert (snapshot.symbol, number_of(snapshot)) == ("NEW", 12)
        await eventually(lambda: layer.hub.down is None)
        await layer.market_data.publish(tick(10, "OLD"))
        assert await anext(ticks) == tick(10, "OLD")
