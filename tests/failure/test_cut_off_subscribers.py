"""A subscriber too slow for the server is cut off: it is told, and loses no execution."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.conftest import eventually

BATCH = 1_000


def tick(number: int) -> rtx.Tick:
    """256 bytes on the channel, about."""
    return rtx.Tick("EURUSD", time=number, bid=1.0, ask=1.1, lp="L" * 175)


def fill(number: int) -> rtx.Execution:
    """256 bytes on the channel, about."""
    return rtx.Execution(number, 1, "E" * 70, "BUY", 1.0, 1.1)


def alert(number: int) -> rtx.Alert:
    return rtx.Alert("halt", "info", str(number))


def while_the_loop_stands_still(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `work` on a loop of another thread; meanwhile nothing is read on this one."""
    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    thread.join()


async def flood(server: ServerProcess, settings: Settings, count: int, limit: str | None) -> None:
    """Publish so many ticks and executions while a subscriber to both does not read."""
    async with (
        rtx.open(settings) as layer,
        redis_py.Redis(port=server.port) as witness,
        layer.market_data.subscribe("EURUSD") as ticks,
        layer.executions.subscribe(1) as fills,
        layer.alerts.subscribe("system") as alerts,
    ):
        for each in (ticks, fills, alerts):
            await each.ready()
        await layer.market_data.publish(tick(0))
        assert await anext(ticks) == tick(0)
        if limit is not None:
            await witness.config_set("client-output-buffer-limit", limit)

        async def publish() -> None:
            async with rtx.open(settings) as feed:
                await feed.alerts.publish("system", alert(1))
                for start in range(1, count + 1, BATCH):
                    numbers = range(start, min(start + BATCH, count + 1))
                    await feed.market_data.publish_many([tick(number) for number in numbers])
                    await asyncio.gather(*(feed.executions.publish(1, fill(n)) for n in numbers))

        while_the_loop_stands_still(publish)
        await eventually(lambda: layer.hub.stats.connects > 1, within=30)

        got: list[int] = []
        gaps: list[rtx.Gap] = []
        async with asyncio.timeout(120):
            while not got or got[-1] < count:
                item = await anext(fills)
                if isinstance(item, rtx.Gap):
                    gaps.append(item)
                else:
                    got.append(item.order_id)
        assert got == list(range(1, count + 1))
        assert gaps
        assert all(gap.recovered for gap in gaps)

        async with asyncio.timeout(10):
            item = await anext(ticks)
            told = None
            before = 0
            while not (isinstance(item, rtx.Tick) and item.time == count):
                if isinstance(item, rtx.Gap):
                    told = told or (item if "closed the connection" in item.cause else None)
                else:
                    before += 1
                item = await anext(ticks)
        assert told is not None
        assert told.duration > 0
        await layer.market_data.publish(tick(count + 1))
        await layer.alerts.publish("system", alert(2))
        assert await anext(ticks) == tick(count + 1)
        heard = [await anext(alerts) for _ in range(2)]
        if isinstance(heard[-1], rtx.Gap):
            heard.append(await anext(alerts))
        assert [item.message for item in heard if isinstance(item, rtx.Alert)] == ["1", "2"]
        stats = layer.hub.stats
        print(
            f"{2 * count} messages: {stats.received} received live, {stats.losses} losses, "
            f"{stats.cut_offs} of them cut off, {before} ticks before the latest; {told.cause}"
        )
        assert stats.cut_offs
        assert "client-output-buffer-limit" in told.cause


async def test_a_subscriber_that_was_cut_off_is_told_and_loses_no_execution(
    own_server: ServerProcess,
) -> None:
    """10 MB, of which the sockets hold about half."""
    settings = Settings.load(
        url=own_server.url,
        ttl={"price": 600.0},
        channels={"log_size": 20_000},
        pool={"min_idle": 1},
    )
    await flood(own_server, settings, 20_000, "pubsub 1mb 512kb 1")


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_four_hundred_thousand_messages_at_once_lose_no_execution(
    own_server: ServerProcess,
) -> None:
    """With the server's own default: 32 MB, or 8 MB for a minute."""
    settings = Settings.load(
        url=own_server.url,
        ttl={"price": 600.0},
        channels={"log_size": 200_000},
        pool={"min_idle": 1},
    )
    await flood(own_server, settings, 200_000, None)
