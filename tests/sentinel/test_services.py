"""Roles on services of their own: one fails over and the others do not feel it."""

from __future__ import annotations

import asyncio
import time

import pytest

import rtx
from rtx.errors import Unavailable
from rtx.settings import Settings
from rtx.topology import Role
from rtx.topology.local import LocalSentinels
from tests.conftest import eventually
from tests.sentinel.load import pool_of, topology_of

pytestmark = pytest.mark.timeout(120)


async def test_each_role_follows_the_primary_of_its_own_service(
    small_group: LocalSentinels,
) -> None:
    async with LocalSentinels(replicas=1, sentinels=1) as other:
        settings = Settings.load(url=small_group.url, pubsub_url=other.url)
        async with rtx.open(settings) as layer:
            cache, pubsub = topology_of(layer), topology_of(layer, Role.PUBSUB)
            assert cache is topology_of(layer, Role.LIMITS)
            assert cache is not pubsub
            slowest = 0.0
            ending = asyncio.Event()

            async def use_cache() -> int:
                nonlocal slowest
                count = 0
                while not ending.is_set():
                    started = time.monotonic()
                    count += 1
                    assert await pool_of(layer).call("INCR", "count") == count
                    assert (await layer.limits.api.peek("user")).allowed
                    slowest = max(slowest, time.monotonic() - started)
                    await asyncio.sleep(0.002)
                return count

            async with layer.market_data.subscribe("EURUSD") as ticks:
                await ticks.ready()
                using = asyncio.create_task(use_cache())
                await other.failover()
                await eventually(lambda: pubsub.switches == 1)
                tick = rtx.Tick("EURUSD", time=1, bid=1.0, ask=1.1)
                await eventually(lambda: published(layer, tick))
                assert isinstance(await anext(ticks), rtx.Gap)
                assert isinstance(await anext(ticks), rtx.Tick)
                ending.set()
                count = await using
            print(f"{count} rounds on the other service meanwhile, slowest {slowest * 1000:.0f} ms")
            assert cache.switches == 0
            assert layer.stats()["wire.cache"]["lost"] == 0
            assert (await layer.health()).ready


async def published(layer: rtx.DataLayer, tick: rtx.Tick) -> bool:
    """Publish once the subscription is back, so that its tick is there to be heard."""
    if layer.hub.down is not None:
        return False
    try:
        await layer.market_data.publish(tick)
    except Unavailable:
        return False
    return True
