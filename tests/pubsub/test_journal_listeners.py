"""Handlers called with executions and alerts: each once and in order, whatever a handler does."""

from __future__ import annotations

import asyncio

import pytest

import rtx
from rtx.settings import Settings
from tests.conftest import eventually
from tests.pubsub.journals import fill, publish


async def test_a_handler_gets_what_it_missed_and_then_every_message_in_order(
    layer: rtx.DataLayer,
) -> None:
    first, *_ = await publish(layer, 3)
    got: list[int] = []

    async def handle(item: rtx.Execution | rtx.Gap) -> None:
        assert isinstance(item, rtx.Execution)
        await asyncio.sleep(0)
        got.append(item.order_id)

    async with layer.executions.listen(handle, 1, after=first) as listener:
        await listener.ready()
        await publish(layer, 50, first=4)
        await eventually(lambda: len(got) == 52)
        assert got == list(range(2, 54))
        stats = layer.stats()["channel.executions"]
        assert (stats["listeners"], stats["handled"], stats["handler_errors"]) == (1, 52, 0)
        assert layer.executions.listeners == (listener,)
    await eventually(lambda: layer.executions.stats.listeners == 0)
    assert layer.stats()["hub"]["channels"] == 0


async def test_a_handler_that_is_slower_than_its_queue_loses_nothing(settings: Settings) -> None:
    channels = settings.channels.model_copy(update={"queue_size": 5})
    async with rtx.open(settings.model_copy(update={"channels": channels})) as layer:
        go, got = asyncio.Event(), []

        async def handle(item: rtx.Execution | rtx.Gap) -> None:
            got.append(item)
            await go.wait()

        listener = layer.executions.listen(handle, 1)
        await listener.ready()
        await publish(layer, 100)
        assert len(got) <= 1
        go.set()
        await eventually(lambda: len(got) == 100)
        assert [item.seq for item in got if isinstance(item, rtx.Execution)] == [*range(1, 101)]


@pytest.mark.parametrize("end_on_error", [False, True])
async def test_a_handler_that_raises_harms_nobody_else(
    layer: rtx.DataLayer, end_on_error: bool
) -> None:
    got: list[object] = []

    def handle(item: rtx.Alert | rtx.Gap) -> None:
        raise ValueError("no")

    bad = layer.alerts.listen(handle, "system", end_on_error=end_on_error)
    good = layer.alerts.listen(got.append, "system")
    await bad.ready()
    await good.ready()
    for number in range(3):
        await layer.alerts.publish("system", rtx.Alert("halt", "info", str(number)))
    await eventually(lambda: len(got) == 3)
    await eventually(lambda: bad.stats.errors == (1 if end_on_error else 3))
    if end_on_error:
        with pytest.raises(ValueError, match="no"):
            await bad.wait()
    assert not good.ended


async def test_the_layer_ends_its_listeners_to_logs(settings: Settings) -> None:
    before = asyncio.all_tasks()
    async with rtx.open(settings) as layer:
        listener = layer.executions.listen(lambda _: asyncio.Event().wait(), 1)
        await listener.ready()
        await layer.executions.publish(1, fill(1))
        await eventually(lambda: layer.executions.stats.delivered)
    assert listener.ended
    assert asyncio.all_tasks() == before


async def test_a_malformed_position_starts_nothing(layer: rtx.DataLayer) -> None:
    with pytest.raises(ValueError, match="epoch:seq"):
        layer.executions.listen(print, 1, after="nonsense")
    assert layer.executions.listeners == ()
