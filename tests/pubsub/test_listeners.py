"""Handlers called with ticks: whatever one of them does, the others get everything."""

from __future__ import annotations

import asyncio
import logging

import pytest

import rtx
from rtx.pubsub import Policy
from rtx.settings import Settings
from tests.conftest import eventually


def tick(number: int, symbol: str = "EURUSD") -> rtx.Tick:
    return rtx.Tick(symbol, time=1_700_000_000_000 + number, bid=float(number + 1), ask=1e9)


def ticks(count: int, first: int = 0) -> list[rtx.Tick]:
    return [tick(number) for number in range(first, first + count)]


async def test_plain_functions_and_coroutine_functions_get_every_tick_in_order(
    layer: rtx.DataLayer,
) -> None:
    plain: list[object] = []
    awaited: list[object] = []

    async def handle(item: rtx.Tick | rtx.Gap) -> None:
        await asyncio.sleep(0)
        awaited.append(item)

    listeners = [
        layer.market_data.listen(plain.append, "EURUSD", snapshot=False),
        layer.market_data.listen(handle, "EURUSD", snapshot=False),
    ]
    for listener in listeners:
        await listener.ready()
    await layer.market_data.publish_many(ticks(500))
    await eventually(lambda: len(plain) == len(awaited) == 500)
    assert plain == awaited == ticks(500)
    assert [listener.stats.handled for listener in listeners] == [500, 500]
    assert all(0 < each.stats.slowest <= each.stats.busy for each in listeners)
    assert layer.stats()["channel.market_data"]["handled"] == 1_000
    assert layer.stats()["channel.market_data"]["listeners"] == 2
    assert set(layer.market_data.listeners) == set(listeners)
    for listener in listeners:
        await listener.close()
        await listener.close()
        assert listener.ended
    await eventually(lambda: layer.stats()["channel.market_data"]["listeners"] == 0)
    assert layer.stats()["hub"]["channels"] == 0


async def test_the_cached_price_comes_first(layer: rtx.DataLayer) -> None:
    await layer.prices.put(rtx.Price("EURUSD", bid=1.0, ask=2.0, time=5))
    got: list[object] = []
    async with layer.market_data.listen(got.append, "EURUSD"):
        await eventually(lambda: got == [rtx.Tick("EURUSD", time=5, bid=1.0, ask=2.0)])


async def test_a_handler_that_raises_is_counted_and_logged_and_goes_on(
    layer: rtx.DataLayer, caplog: pytest.LogCaptureFixture
) -> None:
    good: list[object] = []
    seen: list[object] = []

    def broken(item: rtx.Tick | rtx.Gap) -> None:
        seen.append(item)
        raise ArithmeticError("the strategy broke")

    other = layer.market_data.listen(good.append, "EURUSD", snapshot=False)
    listener = layer.market_data.listen(broken, "EURUSD", snapshot=False)
    await listener.ready()
    await other.ready()
    with caplog.at_level(logging.ERROR, "rtx.pubsub"):
        await layer.market_data.publish_many(ticks(100))
        await eventually(lambda: len(seen) == len(good) == 100)
    assert (listener.stats.handled, listener.stats.errors) == (100, 100)
    assert layer.stats()["channel.market_data"]["handler_errors"] == 100
    assert other.stats.errors == 0
    assert not listener.ended
    (record,) = caplog.records  # not one for each of a hundred
    assert "broken raised" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ArithmeticError)


async def test_a_handler_that_is_to_end_on_an_error_gets_nothing_after_it(
    layer: rtx.DataLayer,
) -> None:
    seen: list[object] = []

    async def broken(item: rtx.Tick | rtx.Gap) -> None:
        seen.append(item)
        if len(seen) == 3:
            raise ArithmeticError("the strategy broke")

    listener = layer.market_data.listen(broken, "EURUSD", snapshot=False, end_on_error=True)
    await listener.ready()
    await layer.market_data.publish_many(ticks(10))
    with pytest.raises(ArithmeticError, match="the strategy broke"):
        await listener.wait()
    assert seen == ticks(3)
    assert (listener.stats.handled, listener.stats.errors) == (3, 1)
    assert listener.ended
    assert layer.market_data.listeners == ()
    assert layer.stats()["hub"]["channels"] == 0


@pytest.mark.parametrize("policy", ["every", "latest", "disconnect"])
async def test_a_slow_handler_gets_what_its_policy_says_and_holds_up_no_other(
    layer: rtx.DataLayer, policy: Policy
) -> None:
    go, slow, good = asyncio.Event(), [], []

    async def handle(item: rtx.Tick | rtx.Gap) -> None:
        slow.append(item)
        await go.wait()

    listener = layer.market_data.listen(
        handle, "EURUSD", snapshot=False, policy=policy, queue_size=5
    )
    other = layer.market_data.listen(good.append, "EURUSD", snapshot=False)
    await listener.ready()
    await other.ready()
    await layer.market_data.publish(tick(0))
    await eventually(lambda: slow == [tick(0)])
    await layer.market_data.publish_many(ticks(999, first=1))
    await eventually(lambda: len(good) == 1_000)
    assert good == ticks(1_000)
    assert slow == [tick(0)]
    go.set()
    if policy == "every":
        await eventually(lambda: slow[-1] == tick(999))
        gap = slow[1]
        assert isinstance(gap, rtx.Gap)
        assert gap.skipped == listener.skipped == 994
        assert slow[2:] == ticks(5, first=995)
    elif policy == "latest":
        await eventually(lambda: len(slow) == 2)
        assert slow == [tick(0), tick(999)]
        assert listener.conflated == 998
    else:
        with pytest.raises(rtx.errors.SubscriptionClosed):
            await listener.wait()
        assert slow == ticks(6)


async def test_a_function_that_takes_long_leaves_the_loop_to_others_in_between(
    layer: rtx.DataLayer,
) -> None:
    turns = 0
    handled_at_a_turn: list[int] = []

    def handle(_: rtx.Tick | rtx.Gap) -> None:
        deadline = loop.time() + 0.002
        while loop.time() < deadline:
            pass

    async def others() -> None:
        nonlocal turns
        while listener.stats.handled < 200:
            handled_at_a_turn.append(listener.stats.handled)
            await asyncio.sleep(0)

    loop = asyncio.get_running_loop()
    listener = layer.market_data.listen(handle, "EURUSD", snapshot=False)
    await listener.ready()
    await layer.market_data.publish_many(ticks(200))
    await others()
    assert len(set(handled_at_a_turn)) > 20  # not all of them between two turns


async def test_a_cancellation_from_inside_the_handler_is_an_error_of_the_handler(
    layer: rtx.DataLayer,
) -> None:
    async def handle(_: rtx.Tick | rtx.Gap) -> None:
        inner = asyncio.ensure_future(asyncio.Event().wait())
        inner.cancel()
        await inner

    listener = layer.market_data.listen(handle, "EURUSD", snapshot=False)
    await listener.ready()
    await layer.market_data.publish_many(ticks(3))
    await eventually(lambda: listener.stats.errors == 3)
    assert not listener.ended


async def test_a_handler_that_cancels_its_own_task_ends_only_itself(layer: rtx.DataLayer) -> None:
    good: list[object] = []

    async def handle(_: rtx.Tick | rtx.Gap) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    other = layer.market_data.listen(good.append, "EURUSD", snapshot=False)
    listener = layer.market_data.listen(handle, "EURUSD", snapshot=False)
    await listener.ready()
    await other.ready()
    await layer.market_data.publish_many(ticks(3))
    await listener.wait()
    await eventually(lambda: good == ticks(3))
    assert layer.market_data.listeners == (other,)


async def test_a_handler_may_close_its_own_listener(layer: rtx.DataLayer) -> None:
    seen: list[object] = []

    async def handle(item: rtx.Tick | rtx.Gap) -> None:
        seen.append(item)
        await listener.close()

    listener = layer.market_data.listen(handle, "EURUSD", snapshot=False)
    await listener.ready()
    await layer.market_data.publish_many(ticks(3))
    await listener.wait()
    assert seen == ticks(1)


async def test_the_layer_ends_its_listeners(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def handle(_: rtx.Tick | rtx.Gap) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with caplog.at_level(logging.WARNING, "rtx.pubsub"):
        async with rtx.open(settings) as layer:
            busy = layer.market_data.listen(handle, "EURUSD", snapshot=False)
            idle = layer.market_data.listen(handle, "GBPUSD")
            await busy.ready()
            await layer.market_data.publish(tick(0))
            await started.wait()
    assert cancelled.is_set()
    assert busy.ended
    assert idle.ended
    await busy.wait()
    assert not [task for task in asyncio.all_tasks() if "rtx" in task.get_name()]
    assert not caplog.records


async def test_symbols_are_checked_before_anything_is_started(layer: rtx.DataLayer) -> None:
    with pytest.raises(ValueError, match="name the symbols"):
        layer.market_data.listen(print)
    assert layer.market_data.listeners == ()
