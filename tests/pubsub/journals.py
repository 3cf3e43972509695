"""Steps that tests of executions and alerts share."""

from __future__ import annotations

import rtx
from rtx.keys import Keys
from rtx.pubsub import JournalSubscription


def fill(order_id: int) -> rtx.Execution:
    return rtx.Execution(order_id, 9, "EURUSD", "BUY", 1.0, 1.1, timestamp=1)


async def publish(layer: rtx.DataLayer, count: int, first: int = 1) -> list[rtx.Offset]:
    return [await layer.executions.publish(1, fill(first + i)) for i in range(count)]


async def orders(fills: JournalSubscription[rtx.Execution], count: int) -> list[int]:
    """Order ids of the next messages, which must all be executions."""
    got = []
    for _ in range(count):
        item = await anext(fills)
        assert isinstance(item, rtx.Execution), item
        got.append(item.order_id)
    return got


async def assert_quiet(fills: JournalSubscription[rtx.Execution], layer: rtx.DataLayer) -> None:
    """Nothing but a message published now is waiting."""
    await layer.executions.publish(1, fill(-1))
    assert await orders(fills, 1) == [-1]


def log_of(layer: rtx.DataLayer) -> str:
    return Keys.companion(layer.keys.executions(1), "log")


def meta_of(layer: rtx.DataLayer) -> str:
    return Keys.companion(layer.keys.executions(1), "meta")
