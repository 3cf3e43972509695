"""Many subscribers in one process: each gets its own, and none costs another anything."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sys
from collections.abc import Iterable

import pytest
import redis
import redis.asyncio as redis_py
import uvloop

import rtx
from rtx import codecs
from rtx.pubsub import Policy, Subscription
from rtx.pubsub.market_inbox import MarketInbox
from rtx.settings import Settings
from tests.conftest import eventually


def tick(number: int, symbol: str = "EURUSD") -> rtx.Tick:
    return rtx.Tick(symbol, time=1_700_000_000_000 + number, bid=float(number + 1), ask=1e9)


async def delivered(layer: rtx.DataLayer, count: int) -> None:
    await eventually(lambda: layer.market_data.stats.delivered >= count, within=30)


async def take(ticks: Subscription[rtx.Tick], count: int) -> list[rtx.Tick | rtx.Gap]:
    return [await anext(ticks) for _ in range(count)]


async def test_each_of_many_gets_its_symbols_in_order_and_nothing_else(
    layer: rtx.DataLayer, witness: redis_py.Redis, seeded: random.Random
) -> None:
    symbols = [f"S{number}" for number in range(8)]
    wanted = [seeded.sample(symbols, seeded.randint(1, 8)) for _ in range(60)]
    several = [layer.market_data.subscribe(*names, snapshot=False) for names in wanted]
    everything = layer.market_data.subscribe("*")
    fills = layer.executions.subscribe(1)
    for subscription in (*several, everything, fills):
        await subscription.ready()
    sent: list[rtx.Tick] = []
    bad = executions = 0
    pipeline = witness.pipeline(transaction=False)
    for number in range(2_000):
        one = tick(number, seeded.choice(symbols))
        channel = layer.keys.market_data(one.symbol)
        pipeline.publish(channel, codecs.encode(one))
        sent.append(one)
        if seeded.random() < 0.01:
            bad += 1
            pipeline.publish(channel, seeded.choice([b"not json", b"", codecs.encode(one)[:-1]]))
        if seeded.random() < 0.01:
            executions += 1
            fill = rtx.Execution(number, 1, one.symbol, "BUY", 1.0, 1.0, 1, executions, "e")
            pipeline.publish(layer.keys.executions(1), codecs.encode(fill))
    await pipeline.execute()
    assert await take(everything, len(sent)) == sent
    for names, subscription in zip(wanted, several, strict=True):
        its = [one for one in sent if one.symbol in names]
        assert await take(subscription, len(its)) == its
    # Each bad message came twice: over its channel and over the pattern.
    assert layer.hub.stats.undecodable == 2 * bad
    assert layer.hub.stats.received == 2 * (len(sent) + bad) + executions
    for subscription in (*several, everything, fills):
        await subscription.close()


def test_a_backlog_is_no_reason_to_skip_for_a_consumer_that_reads(
    settings: Settings, admin_server: str
) -> None:
    """uvloop would read all of it before the consumer has its turn, were it not stopped."""
    count = 60_000  # six times what a queue holds

    async def follow() -> None:
        async with (
            rtx.open(settings) as layer,
            layer.market_data.subscribe("EURUSD", snapshot=False) as ticks,
        ):
            await ticks.ready()
            _publish_while_the_loop_stands_still(layer, admin_server, map(tick, range(count)))
            number = 0
            async for item in ticks:
                assert item == tick(number)
                number += 1
                if number == count:
                    break
            assert ticks.skipped == 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(follow())


def _publish_while_the_loop_stands_still(
    layer: rtx.DataLayer, admin: str, ticks: Iterable[rtx.Tick]
) -> None:
    channel = layer.keys.market_data("EURUSD")
    with contextlib.closing(redis.Redis.from_url(admin)) as client:
        limits = client.config_get("client-output-buffer-limit")
        client.config_set("client-output-buffer-limit", "pubsub 0 0 0")
        pipeline = client.pipeline(transaction=False)
        for one in ticks:
            pipeline.publish(channel, codecs.encode(one))
        pipeline.execute()
        client.config_set("client-output-buffer-limit", limits["client-output-buffer-limit"])


# --- one that stands still -------------------------------------------------------------------


def held(ticks: Subscription[rtx.Tick]) -> tuple[int, int]:
    """Messages and bytes that wait for a consumer."""
    inbox = ticks._inbox
    assert isinstance(inbox, MarketInbox)
    messages = [*inbox.queue, *inbox._latest.values(), *(inbox._held or ())]
    size = sum(map(sys.getsizeof, (inbox.queue, inbox._latest, *messages)))
    return len(messages), size


@pytest.mark.parametrize("policy", ["every", "latest", "disconnect"])
async def test_one_that_stands_still_beside_999_keeps_its_bound_and_costs_them_nothing(
    layer: rtx.DataLayer, policy: Policy
) -> None:
    bound, count = 400, 1_000
    stalled = layer.market_data.subscribe("EURUSD", policy=policy, snapshot=False, queue_size=bound)
    good = [layer.market_data.subscribe("EURUSD", snapshot=False) for _ in range(999)]
    for subscription in (stalled, *good):
        await subscription.ready()

    async def follow(ticks: Subscription[rtx.Tick]) -> int:
        number = 0
        async for batch in ticks.batches():
            for item in batch:
                assert isinstance(item, rtx.Tick)
                assert item.bid == number + 1
                number += 1
            if number == count:
                return number
        raise AssertionError("the subscription ended early")

    following = [asyncio.ensure_future(follow(ticks)) for ticks in good]
    full = 0
    for start in range(0, count, 100):
        await layer.market_data.publish_many(map(tick, range(start, start + 100)))
        await delivered(layer, 999 * (start + 100))
        messages, size = held(stalled)
        assert messages <= bound + 1  # the notice of what was skipped
        if messages >= bound:
            full = full or size
            assert size <= 1.1 * full
    assert set(await asyncio.gather(*following)) == {count}
    if policy == "every":
        assert (await anext(stalled)) == rtx.Gap(
            layer.keys.market_data("EURUSD"), "the consumer is slow", skipped=count - bound
        )
        assert await take(stalled, bound) == [tick(n) for n in range(count - bound, count)]
    elif policy == "latest":
        assert await anext(stalled) == tick(count - 1)
        assert stalled.conflated == count - 1
    else:
        assert await take(stalled, bound) == [tick(n) for n in range(bound)]
        with pytest.raises(rtx.errors.SubscriptionClosed):
            await anext(stalled)
    for subscription in (stalled, *good):
        await subscription.close()


# --- coming and going ------------------------------------------------------------------------


async def come_and_go(
    layer: rtx.DataLayer, witness: redis_py.Redis, cycles: int, seeded: random.Random
) -> None:
    """Subscribe and leave in every way there is; then nothing may be left."""

    async def left_at_server() -> list[bytes]:
        pattern = f"{layer.keys.market_data('*')}"
        return list(await witness.pubsub_channels(pattern))

    async def turn(number: int) -> None:
        symbols = seeded.sample([f"S{n}" for n in range(50)], seeded.choice([1, 1, 3]))
        subscription = layer.market_data.subscribe(*symbols, snapshot=number % 3 == 0)
        way = seeded.randrange(5)
        if way == 1:
            await subscription.ready()
        elif way == 2:
            waiting = asyncio.ensure_future(anext(subscription, None))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        elif way == 3:
            await layer.market_data.listen(lambda _: None, *symbols).close()
        elif way == 4:
            return  # dropped as it is
        await subscription.close()

    async def settled() -> bool:
        gc.collect()
        await asyncio.sleep(0)
        return not layer.market_data._syncs and len(await left_at_server()) <= 1

    async def turns(count: int) -> None:
        for start in range(0, count, 50):
            await asyncio.gather(*(turn(number) for number in range(start, start + 50)))
        await eventually(settled)

    keep = layer.market_data.subscribe("KEEP")  # so that the connection stays
    await keep.ready()
    await turns(500)
    tasks, objects = len(asyncio.all_tasks()), _ours()
    await keep.close()
    keep = layer.market_data.subscribe("KEPT")
    await turns(cycles)
    await keep.close()
    await eventually(lambda: layer.stats()["hub"]["channels"] == 0)
    hub = layer.hub
    assert not hub._inlets
    assert not hub._exact
    assert not hub._unsettled
    assert layer.market_data.listeners == ()
    assert len(asyncio.all_tasks()) <= tasks

    def more() -> dict[str, int]:
        return {name: count for name, count in _ours().items() if count > objects.get(name, 0) + 2}

    await eventually(lambda: not more())


def _ours() -> dict[str, int]:
    """How many objects of this package, and tasks, are alive, by type."""
    gc.collect()
    count: dict[str, int] = {}
    for one in gc.get_objects():
        kind = type(one)
        if str(kind.__module__).startswith("rtx.pubsub") or kind is asyncio.Task:
            count[kind.__qualname__] = count.get(kind.__qualname__, 0) + 1
    return count


async def test_ten_thousand_that_come_and_go_leave_nothing_behind(
    layer: rtx.DataLayer, witness: redis_py.Redis, seeded: random.Random
) -> None:
    await come_and_go(layer, witness, 10_000, seeded)
