"""Market data across joins and breaks: the latest price first, then what is live, in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
import redis.asyncio as redis_py

import rtx
from rtx import codecs
from rtx.pubsub import Policy, Subscription
from rtx.pubsub.market_inbox import MarketDataStats
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.conftest import eventually

START = 1_700_000_000_000


def tick(number: int, symbol: str = "EURUSD") -> rtx.Tick:
    return rtx.Tick(symbol, time=START + number, bid=float(number + 1), ask=1e9, lp="LP")


@pytest.fixture
async def feed(settings: Settings) -> AsyncIterator[rtx.DataLayer]:
    """Another program that publishes."""
    async with rtx.open(settings) as layer:
        yield layer


async def cut_subscribers(witness: redis_py.Redis) -> None:
    await witness.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


async def reached(stats: MarketDataStats, counter: str, count: int) -> None:
    await eventually(lambda: getattr(stats, counter) >= count)


def number_of(item: rtx.Tick | rtx.Gap) -> int:
    assert isinstance(item, rtx.Tick), item
    return item.time - START


# --- joining ---------------------------------------------------------------------------------


async def test_a_subscriber_gets_the_cached_price_first(layer: rtx.DataLayer) -> None:
    await layer.prices.put(rtx.Price("EURUSD", bid=1.0, ask=2.0, time=START))
    async with layer.market_data.subscribe("GBPUSD", "EURUSD") as ticks:
        await ticks.ready()
        await layer.market_data.publish(tick(5, "GBPUSD"))
        assert await anext(ticks) == rtx.Tick("EURUSD", time=START, bid=1.0, ask=2.0, lp="")
        assert await anext(ticks) == tick(5, "GBPUSD")


async def test_an_unreadable_cached_price_is_left_out_of_the_snapshot(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    await witness.set(layer.keys.price("A"), "not json")
    await witness.lpush(layer.keys.price("B"), "not even a string")
    await layer.prices.put(rtx.Price("C", bid=1.0, ask=2.0, time=START))
    async with layer.market_data.subscribe("A", "B", "C") as ticks:
        first = await anext(ticks)
        assert isinstance(first, rtx.Tick)
        assert first.symbol == "C"


async def test_ticks_still_on_their_way_when_the_snapshot_was_read_come_no_more(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    """A batch stores its last price before its ticks go out, and a snapshot may fall between."""
    last = tick(3)
    price = codecs.encode_price(last.symbol, last.bid, last.ask, last.time)
    await witness.set(layer.keys.price("EURUSD"), price)
    async with layer.market_data.subscribe("EURUSD") as ticks:
        await ticks.ready()
        for number in (1, 2, 3, 4, 5):
            await witness.publish(layer.keys.market_data("EURUSD"), codecs.encode(tick(number)))
        assert [number_of(await anext(ticks)) for _ in range(3)] == [3, 4, 5]


async def test_a_new_subscriber_does_not_wait_for_the_clock_of_a_provider_that_runs_ahead(
    layer: rtx.DataLayer,
) -> None:
    """Its price in the cache is a minute ahead; the ticks of the others must still come."""
    await layer.prices.put(rtx.Price("EURUSD", bid=1.0, ask=2.0, time=START + 60_000))
    async with layer.market_data.subscribe("EURUSD") as ticks:
        assert number_of(await anext(ticks)) == 60_000
        publishing = asyncio.ensure_future(_publish_slowly(layer))
        try:
            async with asyncio.timeout(5):
                assert number_of(await anext(ticks)) < 60_000
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)


async def _publish_slowly(layer: rtx.DataLayer) -> None:
    number = 0
    while True:
        await layer.market_data.publish(tick(number))
        number += 1
        await asyncio.sleep(0.05)


# --- breaks ----------------------------------------------------------------------------------


async def test_after_a_break_come_the_gap_the_latest_price_and_then_live_ticks(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    async with layer.market_data.subscribe("EURUSD") as ticks:
        await ticks.ready()
        await layer.market_data.publish(tick(1))
        assert await anext(ticks) == tick(1)
        await layer.market_data.publish(tick(2))
        assert await anext(ticks) == tick(2)
        await cut_subscribers(witness)
        gap = await anext(ticks)
        assert isinstance(gap, rtx.Gap)
        assert gap.channel == layer.keys.market_data("EURUSD")
        assert "closed the connection" in gap.cause
        assert 0 < gap.duration < 5
        assert not gap.recovered
        snapshot = await anext(ticks)
        assert isinstance(snapshot, rtx.Tick)
        assert (number_of(snapshot), snapshot.lp) == (2, "")
        await layer.market_data.publish(tick(3))
        assert await anext(ticks) == tick(3)
    assert layer.stats()["channel.market_data"]["gaps"] == 1
    assert layer.stats()["hub"]["losses"] == 1


@pytest.mark.parametrize("policy", ["every", "latest", "disconnect"])
@pytest.mark.parametrize("queue_size", [1, 2, 100])
async def test_a_break_is_told_whatever_the_policy_and_however_small_the_queue(
    layer: rtx.DataLayer, witness: redis_py.Redis, policy: Policy, queue_size: int
) -> None:
    async with layer.market_data.subscribe("EURUSD", policy=policy, queue_size=queue_size) as ticks:
        await ticks.ready()
        for number in range(1, 6, 2):
            await layer.market_data.publish(tick(number))
            assert await anext(ticks) == tick(number)
            await cut_subscribers(witness)
            assert isinstance(await anext(ticks), rtx.Gap)
            assert number_of(await anext(ticks)) == number
            await layer.market_data.publish(tick(number + 1))
            assert await anext(ticks) == tick(number + 1)


@pytest.mark.parametrize("policy", ["every", "latest"])
@pytest.mark.parametrize("queue_size", [1, 2, 3, 7])
async def test_many_breaks_while_nobody_reads_keep_the_queue_small_and_every_count_true(
    layer: rtx.DataLayer, witness: redis_py.Redis, policy: Policy, queue_size: int
) -> None:
    async with layer.market_data.subscribe(
        "A", "B", policy=policy, snapshot=False, queue_size=queue_size
    ) as ticks:
        await ticks.ready()
        published = 0
        for losses in range(1, 9):
            await layer.market_data.publish_many(
                tick(published + i, "AB"[i % 2]) for i in range(losses % 4)
            )
            published += losses % 4
            await reached(layer.market_data.stats, "delivered", published)
            await cut_subscribers(witness)
            await reached(layer.market_data.stats, "gaps", losses)
        await layer.market_data.publish(tick(published, "B"))
        await reached(layer.market_data.stats, "delivered", published + 1)  # nothing was read yet
        items = [await anext(ticks)]
        while items[-1] != tick(published, "B"):
            items.append(await anext(ticks))
    gaps = [item for item in items if isinstance(item, rtx.Gap)]
    got = [item for item in items if isinstance(item, rtx.Tick)]
    assert any(not gap.skipped for gap in gaps)
    assert sum(gap.skipped for gap in gaps) == ticks.skipped
    if policy == "every":
        assert len(got) <= queue_size
        assert len(items) <= 3 * queue_size + 2
        assert [number_of(one) for one in got] == list(range(published + 1))[-len(got) :]
        assert len(got) + ticks.skipped == published + 1
    else:
        assert len(got) + ticks.conflated == published + 1
        assert len(items) <= 6


async def test_ticks_across_many_breaks_never_step_back_and_each_hole_is_told(
    layer: rtx.DataLayer, feed: rtx.DataLayer, witness: redis_py.Redis, seeded: random.Random
) -> None:
    total = 3_000

    async def publish() -> None:
        number = 0
        while number < total:
            size = min(seeded.choice([1, 2, 30]), total - number)
            await feed.market_data.publish_many(tick(number + i) for i in range(size))
            number += size
            await asyncio.sleep(0.001)

    over = asyncio.Event()  # redis-py may swallow a cancellation, so the cutter is asked to end

    async def cut() -> None:
        while not over.is_set():
            await asyncio.sleep(seeded.uniform(0.02, 0.2))
            await cut_subscribers(witness)

    async with layer.market_data.subscribe("EURUSD") as ticks:
        await ticks.ready()
        cutting = asyncio.ensure_future(cut())
        publishing = asyncio.ensure_future(publish())
        try:
            await _follow(ticks, total - 1)
        finally:
            over.set()
            await asyncio.gather(publishing, cutting, return_exceptions=True)
    assert layer.stats()["channel.market_data"]["gaps"] >= 1


async def _follow(ticks: Subscription[rtx.Tick], last: int) -> None:
    expected: int | None = None
    may_repeat = False
    async for item in ticks:
        if isinstance(item, rtx.Gap):
            may_repeat, previous = True, -1 if expected is None else expected - 1
            expected = None
            continue
        number = number_of(item)
        if may_repeat:  # the snapshot after a gap is the last one seen, or newer
            assert number >= previous
            may_repeat = False
        elif expected is not None:
            assert number == expected
        expected = number + 1
        if number == last:
            return


async def test_a_server_that_was_killed_and_started_again_is_followed_again(
    own_server: ServerProcess,
) -> None:
    async with (
        rtx.open(Settings.load(url=own_server.url)) as layer,
        layer.market_data.subscribe("EURUSD") as ticks,
        layer.market_data.subscribe("*", policy="latest") as everything,
    ):
        await ticks.ready()
        await everything.ready()
        await layer.market_data.publish(tick(1))
        assert await anext(ticks) == tick(1)
        assert await anext(everything) == tick(1)
        own_server.kill()
        await own_server.wait()
        await eventually(lambda: layer.hub.stats.connect_failures > 0)
        late = layer.market_data.subscribe("EURUSD")
        health = await layer.health()
        assert not health.subscriber.up
        assert "refused" in health.subscriber.error
        await own_server.start()
        for subscription in (ticks, everything):
            gap = await anext(subscription)
            assert isinstance(gap, rtx.Gap)
            assert gap.duration > 0
        await late.ready()
        assert (await layer.health()).subscriber.up

        async def published() -> bool:
            try:
                await layer.market_data.publish(tick(2))
            except rtx.Unavailable:
                return False
            return True

        await eventually(published)
        assert [await anext(one) for one in (ticks, everything, late)] == [tick(2)] * 3
        await late.close()


async def test_a_break_before_the_first_confirmation_is_not_a_gap(
    own_server: ServerProcess,
) -> None:
    async with rtx.open(Settings.load(url=own_server.url)) as layer:
        own_server.kill()
        await own_server.wait()
        ticks = layer.market_data.subscribe("EURUSD", snapshot=False)
        await eventually(lambda: layer.hub.stats.connect_failures > 0)
        await own_server.start()
        await ticks.ready()

        async def published() -> bool:
            try:
                await layer.market_data.publish(tick(1))
            except rtx.Unavailable:
                return False
            return True

        await eventually(published)
        assert await anext(ticks) == tick(1)
        await ticks.close()
