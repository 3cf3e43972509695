"""Subscribing again: ten thousand channels within a second, and from the latest tick on."""

from __future__ import annotations

import asyncio
import time

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from rtx.urls import Address
from tests.conftest import eventually
from tests.wire.faults import Faults, Proxy

CHANNELS = 10_000
LIMIT = 1.0
SLACK = 3.0
"""A loaded machine of two cores may take this many times what an idle one is allowed."""


async def cpu_of(server: redis_py.Redis) -> float:
    """Seconds of processor time that a server has used."""
    info = await server.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


@pytest.mark.parametrize("snapshot", [False, True], ids=["live_only", "with_snapshot"])
async def test_ten_thousand_channels_are_back_within_a_second(
    own_server: ServerProcess, snapshot: bool
) -> None:
    names = [f"S{number}" for number in range(CHANNELS)]
    settings = Settings.load(url=own_server.url, ttl={"price": 60.0})
    async with (
        rtx.open(settings) as layer,
        redis_py.Redis.from_url(own_server.url) as witness,
        layer.market_data.subscribe(*names, snapshot=snapshot, queue_size=2 * CHANNELS) as ticks,
    ):
        await ticks.ready()
        prices = [rtx.Price(name, bid=1.0, ask=1.1, time=1) for name in names]
        await layer.prices.put_many(prices)
        connects, theirs = layer.hub.stats.connects, await cpu_of(witness)
        await witness.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await eventually(lambda: layer.hub.stats.connects > connects, every=0.0)
        started, ours = time.monotonic(), time.process_time()
        gap = await anext(ticks)
        took = time.monotonic() - started
        ours, theirs = time.process_time() - ours, await cpu_of(witness) - theirs
        print(
            f"{CHANNELS} channels back {took:.3f} s after the reconnect, {ours:.3f} s of this "
            f"process and {theirs:.3f} s of the server"
        )
        assert isinstance(gap, rtx.Gap)
        assert ours + theirs < LIMIT
        assert took < LIMIT * SLACK
        if snapshot:
            first = [await anext(ticks) for _ in names]
            assert {item.symbol for item in first if isinstance(item, rtx.Tick)} == set(names)
        await layer.market_data.publish_many(
            [rtx.Tick(name, time=2, bid=2.0, ask=2.1) for name in names]
        )
        async with asyncio.timeout(10):
            last = [await anext(ticks) for _ in names]
        assert [item.symbol for item in last if isinstance(item, rtx.Tick)] == names


async def test_who_joins_just_after_a_script_was_forgotten_begins_with_the_latest_tick(
    own_server: ServerProcess,
) -> None:
    """As all subscribers do after a restart. The reply that the script is not known is held up."""
    direct = Settings.load(url=own_server.url, ttl={"price": 60.0})
    async with (
        Proxy(Address("127.0.0.1", own_server.port), lambda: Faults(delay=0.05)) as proxy,
        rtx.open(direct) as layer,
        rtx.open(Settings.load(url=f"redis://{proxy.address}", ttl={"price": 60.0})) as feed,
        redis_py.Redis.from_url(own_server.url) as witness,
        layer.market_data.subscribe("X") as early,
    ):
        await early.ready()
        one, two = (rtx.Tick("X", time=n, bid=1.0, ask=1.1, lp="LP") for n in (1, 2))
        await feed.market_data.publish(one)
        assert await anext(early) == one
        await witness.script_flush()
        publishing = asyncio.ensure_future(feed.market_data.publish(two))
        assert await anext(early) == two
        proxy.freeze()
        async with layer.market_data.subscribe("X") as late:
            first = await anext(late)
        proxy.thaw()
        await publishing
        assert isinstance(first, rtx.Tick)
        assert first.time == 2
