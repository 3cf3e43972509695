"""Subscribers of market data: policies of a full queue, sharing, and leaving."""

from __future__ import annotations

import asyncio
import gc

import pytest
import redis.asyncio as redis_py

import rtx
from rtx import codecs
from rtx.keys import Keys
from rtx.pubsub import Policy, Subscription
from rtx.settings import Settings
from tests.conftest import eventually


def tick(number: int, symbol: str = "EURUSD") -> rtx.Tick:
    return rtx.Tick(symbol, time=1_700_000_000_000 + number, bid=float(number + 1), ask=1e9)


async def delivered(layer: rtx.DataLayer, count: int) -> None:
    """Wait until so many ticks have reached the queues of this layer."""
    await eventually(lambda: layer.market_data.stats.delivered >= count)


async def take_all(ticks: Subscription[rtx.Tick], until: rtx.Tick) -> list[rtx.Tick | rtx.Gap]:
    taken: list[rtx.Tick | rtx.Gap] = []
    async for item in ticks:
        taken.append(item)
        if item == until:
            return taken
    raise AssertionError("the subscription ended early")


# --- policies --------------------------------------------------------------------------------


@pytest.mark.parametrize("queue_size", [1, 2, 3, 10, 99, 100])
@pytest.mark.parametrize("count", [1, 100, 1_234])
async def test_every_counts_exactly_what_a_slow_consumer_missed(
    layer: rtx.DataLayer, queue_size: int, count: int
) -> None:
    async with layer.market_data.subscribe("EURUSD", snapshot=False, queue_size=queue_size) as slow:
        await slow.ready()
        await layer.market_data.publish_many(map(tick, range(count)))
        await delivered(layer, count)
        items = await take_all(slow, until=tick(count - 1))
        ticks = [item for item in items if isinstance(item, rtx.Tick)]
        gaps = [item for item in items if isinstance(item, rtx.Gap)]
        assert ticks == [tick(number) for number in range(count)][-queue_size:]
        assert len(ticks) + sum(gap.skipped for gap in gaps) == count
        assert slow.skipped == max(0, count - queue_size)
        if count > queue_size:
            assert items[0] is gaps[0]
            assert len(gaps) == 1
            assert gaps[0].cause == "the consumer is slow"
            assert not gaps[0].recovered


async def test_every_says_at_each_hole_how_many_are_missing_there(layer: rtx.DataLayer) -> None:
    async with layer.market_data.subscribe("EURUSD", snapshot=False, queue_size=5) as slow:
        await slow.ready()
        number = 0
        items: list[rtx.Tick | rtx.Gap] = []
        for burst in (3, 12, 1, 5, 6, 40, 5):
            await layer.market_data.publish_many(map(tick, range(number, number + burst)))
            number += burst
            await delivered(layer, number)
            items += [await anext(slow) for _ in range(2)]
        items += await take_all(slow, until=tick(number - 1))
    expected = 0
    for item in items:
        if isinstance(item, rtx.Gap):
            expected += item.skipped
        else:
            assert item == tick(expected)
            expected += 1
    assert expected == number


async def test_latest_keeps_the_newest_of_each_symbol(layer: rtx.DataLayer) -> None:
    async with layer.market_data.subscribe(
        "A", "B", policy="latest", snapshot=False, queue_size=1
    ) as slow:
        await slow.ready()
        await layer.market_data.publish_many(tick(n, "AB"[n % 2]) for n in range(1_000))
        await delivered(layer, 1_000)
        got = [await anext(slow) for _ in range(2)]
        assert got == [tick(998, "A"), tick(999, "B")]
        assert slow.conflated == 998
        assert slow.skipped == 0
        await layer.market_data.publish(tick(1_000, "B"))
        assert await anext(slow) == tick(1_000, "B")


async def test_latest_gives_every_tick_to_a_consumer_that_keeps_up(layer: rtx.DataLayer) -> None:
    async with layer.market_data.subscribe("A", policy="latest", snapshot=False) as ticks:
        await ticks.ready()
        for number in range(100):
            await layer.market_data.publish(tick(number, "A"))
            assert await anext(ticks) == tick(number, "A")
        assert ticks.conflated == 0


async def test_disconnect_ends_with_a_typed_error_after_what_was_queued(
    layer: rtx.DataLayer, shared_server: str
) -> None:
    async with layer.market_data.subscribe(
        "EURUSD", policy="disconnect", snapshot=False, queue_size=10
    ) as slow:
        await slow.ready()
        await layer.market_data.publish_many(map(tick, range(11)))
        await delivered(layer, 11)
        assert [await anext(slow) for _ in range(10)] == [tick(n) for n in range(10)]
        for _ in range(2):
            with pytest.raises(rtx.errors.SubscriptionClosed, match="10 ticks behind"):
                await anext(slow)
    assert layer.stats()["hub"]["channels"] == 0


@pytest.mark.parametrize("policy", ["every", "latest", "disconnect"])
async def test_batches_give_all_that_has_come(layer: rtx.DataLayer, policy: Policy) -> None:
    async with layer.market_data.subscribe("A", "B", policy=policy, snapshot=False) as ticks:
        await ticks.ready()
        await layer.market_data.publish_many([tick(1, "A"), tick(2, "B")])
        await delivered(layer, 2)
        batches = ticks.batches()
        assert await anext(batches) == [tick(1, "A"), tick(2, "B")]
        await layer.market_data.publish(tick(3, "A"))
        assert await anext(batches) == [tick(3, "A")]
        await batches.aclose()


# --- sharing ---------------------------------------------------------------------------------


async def test_two_subscribers_share_one_subscription_on_the_server(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    channel = layer.keys.market_data("EURUSD")

    async def on_server() -> int:
        return int((await witness.pubsub_numsub(channel))[0][1])

    first = layer.market_data.subscribe("EURUSD")
    second = layer.market_data.subscribe("EURUSD", policy="latest")
    await first.ready()
    await second.ready()
    assert await on_server() == 1
    await layer.market_data.publish(tick(1))
    assert [await anext(first), await anext(second)] == [tick(1), tick(1)]
    await first.close()
    await layer.market_data.publish(tick(2))
    assert await anext(second) == tick(2)
    assert await on_server() == 1
    await second.close()

    async def gone() -> bool:
        return await on_server() == 0

    await eventually(gone)
    again = layer.market_data.subscribe("EURUSD", snapshot=False)
    await again.ready()
    assert await on_server() == 1
    await layer.market_data.publish(tick(3))
    assert await anext(again) == tick(3)
    await again.close()


async def test_leaving_and_coming_back_at_once_misses_nothing(layer: rtx.DataLayer) -> None:
    for number in range(50):
        first = layer.market_data.subscribe("EURUSD", snapshot=False)
        if number % 3 == 0:
            await first.ready()
        closing = asyncio.ensure_future(first.close())
        second = layer.market_data.subscribe("EURUSD", snapshot=False)
        await closing
        await second.ready()
        await layer.market_data.publish(tick(number))
        assert await anext(second) == tick(number)
        await second.close()


async def test_a_subscription_dropped_without_close_is_released(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    dropped = layer.market_data.subscribe("EURUSD")
    await dropped.ready()
    assert layer.stats()["hub"]["channels"] == 1
    del dropped
    gc.collect()
    await eventually(lambda: layer.stats()["hub"]["channels"] == 0)

    async def gone() -> bool:
        (_, count), *_ = await witness.pubsub_numsub(layer.keys.market_data("EURUSD"))
        return int(count) == 0

    await eventually(gone)


async def test_breaking_out_of_the_loop_releases_the_subscription(layer: rtx.DataLayer) -> None:
    await layer.market_data.publish(tick(1))
    async for _ in layer.market_data.subscribe("EURUSD"):
        break
    gc.collect()
    await eventually(lambda: layer.stats()["hub"]["channels"] == 0)


async def test_the_star_is_every_symbol(
    layer: rtx.DataLayer, namespace: str, journal_witness: redis_py.Redis
) -> None:
    another = Keys(namespace + "x").market_data("EURUSD")
    async with (
        layer.market_data.subscribe("*") as everything,
        layer.market_data.subscribe("EURUSD", snapshot=False) as one,
    ):
        await everything.ready()
        await one.ready()
        await journal_witness.publish(another, codecs.encode(tick(0, "EURUSD")))
        await layer.executions.publish(1, rtx.Execution(1, 2, "EURUSD", "BUY", 1.0, 1.0))
        sent = [tick(1, "EURUSD"), tick(2, "BTC/USD"), tick(3, "*"), tick(4, "EURUSD")]
        await layer.market_data.publish_many(sent)
        assert [await anext(everything) for _ in sent] == sent
        assert [await anext(one) for _ in range(2)] == [sent[0], sent[3]]


async def test_other_pattern_characters_are_taken_as_they_are(layer: rtx.DataLayer) -> None:
    async with layer.market_data.subscribe("EUR*", "[AB]", "?", snapshot=False) as ticks:
        await ticks.ready()
        await layer.market_data.publish_many([tick(1, "EURUSD"), tick(2, "A"), tick(3, "EUR*")])
        assert await anext(ticks) == tick(3, "EUR*")


async def test_subscribing_to_nothing_is_refused(layer: rtx.DataLayer) -> None:
    with pytest.raises(ValueError, match="name the symbols"):
        layer.market_data.subscribe()


async def test_thousands_of_symbols_are_subscribed_at_once(layer: rtx.DataLayer) -> None:
    names = [f"S{number}" for number in range(3_000)]
    async with layer.market_data.subscribe(*names) as ticks:
        await ticks.ready()
        assert layer.stats()["hub"]["channels"] == 3_000
        sent = [tick(number, name) for number, name in enumerate(names)]
        await layer.market_data.publish_many(sent)
        assert [await anext(ticks) for _ in sent] == sent
    assert layer.stats()["hub"]["channels"] == 0


# --- consumers -------------------------------------------------------------------------------


async def test_a_second_consumer_at_the_same_time_is_refused(layer: rtx.DataLayer) -> None:
    async with layer.market_data.subscribe("EURUSD", snapshot=False) as ticks:
        await ticks.ready()
        first = asyncio.ensure_future(anext(ticks))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one consumer at a time"):
            await anext(ticks)
        await layer.market_data.publish(tick(1))
        assert await first == tick(1)


async def test_a_consumer_that_raises_or_is_cancelled_or_sleeps_touches_no_other(
    layer: rtx.DataLayer,
) -> None:
    good = layer.market_data.subscribe("EURUSD", snapshot=False)
    raising = layer.market_data.subscribe("EURUSD", snapshot=False)
    cancelled = layer.market_data.subscribe("EURUSD", snapshot=False)
    sleeping = layer.market_data.subscribe("EURUSD", snapshot=False, queue_size=1)
    everyone = (good, raising, cancelled, sleeping)
    for ticks in everyone:
        await ticks.ready()

    async def raise_at_the_second() -> None:
        async with raising:
            async for item in raising:
                if item == tick(1):
                    raise ArithmeticError("the strategy broke")

    async def wait_for_ever() -> None:
        async with cancelled:
            async for _ in cancelled:
                await asyncio.Event().wait()

    broken = asyncio.ensure_future(raise_at_the_second())
    stopped = asyncio.ensure_future(wait_for_ever())
    await layer.market_data.publish_many(map(tick, range(3)))
    assert [await anext(good) for _ in range(3)] == [tick(n) for n in range(3)]
    stopped.cancel()
    results = await asyncio.gather(broken, stopped, return_exceptions=True)
    assert [type(result) for result in results] == [ArithmeticError, asyncio.CancelledError]
    await layer.market_data.publish_many(map(tick, range(3, 1_000)))
    assert [await anext(good) for _ in range(997)] == [tick(n) for n in range(3, 1_000)]
    assert sleeping.skipped == 999
    for ticks in everyone:
        await ticks.close()
    assert layer.stats()["hub"]["channels"] == 0


async def test_a_cancelled_wait_loses_no_tick(layer: rtx.DataLayer) -> None:
    async with layer.market_data.subscribe("EURUSD", snapshot=False) as ticks:
        await ticks.ready()
        for number in range(50):
            waiting = asyncio.ensure_future(anext(ticks))
            await asyncio.sleep(0)
            publishing = asyncio.ensure_future(layer.market_data.publish(tick(number)))
            if number % 2:
                await publishing
            waiting.cancel()
            (taken,) = await asyncio.gather(waiting, return_exceptions=True)
            await publishing
            if isinstance(taken, asyncio.CancelledError):
                taken = await anext(ticks)
            assert taken == tick(number)


async def test_closing_ends_a_consumer_that_waits(layer: rtx.DataLayer) -> None:
    ticks = layer.market_data.subscribe("EURUSD", snapshot=False)
    await ticks.ready()
    waiting = asyncio.ensure_future(anext(ticks, None))
    await asyncio.sleep(0)
    await ticks.close()
    await ticks.close()
    assert await waiting is None
    assert [item async for item in ticks] == []


async def test_closing_the_layer_ends_every_subscription_with_a_typed_error(
    settings: Settings,
) -> None:
    async with rtx.open(settings) as layer:
        ticks = layer.market_data.subscribe("EURUSD", snapshot=False)
        fills = layer.executions.subscribe(1)
        await ticks.ready()
        await fills.ready()
        waiting = [asyncio.ensure_future(anext(ticks)), asyncio.ensure_future(anext(fills))]
        await asyncio.sleep(0)
    for ended in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(ended, rtx.Unavailable)
        assert "closed" in str(ended)
    with pytest.raises(rtx.Unavailable, match="closed"):
        layer.market_data.subscribe("EURUSD")
