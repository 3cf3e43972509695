"""A subscriber that cannot hear, though its connection looks alive: noticed, told, replaced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from rtx.urls import Address
from tests.conftest import eventually
from tests.failure.deafening import Deafening
from tests.sentinel.watching import Lateness

INTERVAL = 0.5
BOUND = 2 * INTERVAL


def tick(number: int) -> rtx.Tick:
    return rtx.Tick("EURUSD", time=number, bid=1.0, ask=1.1, lp="LP")


def fill(number: int) -> rtx.Execution:
    return rtx.Execution(number, 1, "EURUSD", "BUY", 1.0, 1.1)


@pytest.fixture
async def proxy(own_server: ServerProcess) -> AsyncIterator[Deafening]:
    async with Deafening(Address("127.0.0.1", own_server.port)) as opened:
        yield opened


def through(proxy: Deafening, interval: float = INTERVAL) -> Settings:
    """Settings for the proxy, with one connection a role beside the subscriber's."""
    return Settings.load(
        url=f"redis://{proxy.address}",
        channels={"probe_interval": interval},
        pool={"size": 1, "min_idle": 0},
        ttl={"price": 60.0},
    )


async def proven(layer: rtx.DataLayer) -> None:
    """Return when a probe has come back that had not been sent before."""
    before = layer.hub.stats.probes
    await eventually(lambda: layer.hub.stats.probes > before and layer.hub.stats.probe_ms > 0)


def stand_still_for(seconds: float) -> None:
    """Let nothing else run in this event loop."""
    time.sleep(seconds)


async def another_server(stack: AsyncExitStack, directory: Path) -> ServerProcess:
    server = ServerProcess(directory)
    await server.start()
    stack.push_async_callback(server.stop)
    return server


@pytest.mark.parametrize("fault", ["messages dropped", "wrong server", "half open"])
async def test_a_connection_that_cannot_hear_is_replaced_within_two_intervals(
    own_server: ServerProcess, proxy: Deafening, fault: str, tmp_path: Path
) -> None:
    late = Lateness()
    async with AsyncExitStack() as stack:
        layer = await stack.enter_async_context(rtx.open(through(proxy)))
        ticks = await stack.enter_async_context(layer.market_data.subscribe("EURUSD"))
        fills = await stack.enter_async_context(layer.executions.subscribe(1))
        alerts = await stack.enter_async_context(layer.alerts.subscribe("system"))
        for each in (ticks, fills, alerts):
            await each.ready()
        await proven(layer)
        assert (await layer.health()).ready
        server = own_server
        await stack.enter_async_context(late.measured())
        struck = time.monotonic()
        if fault == "messages dropped":
            proxy.deafen()
        elif fault == "half open":
            proxy.silence()
        else:  # whoever publishes is led to another server, the subscriber stays at the old one
            server = await another_server(stack, tmp_path)
            proxy.target = Address("127.0.0.1", server.port)
            struck = time.monotonic()
            async with redis_py.Redis(port=own_server.port) as admin:
                await admin.execute_command("CLIENT", "KILL", "TYPE", "normal")
        await eventually(lambda: layer.hub.stats.losses, every=0.002)
        noticed = time.monotonic() - struck
        await eventually(lambda: layer.hub.stats.connects == 2, every=0.002)
        replaced = time.monotonic() - struck
        await eventually(lambda: layer.hub.down is None)
        async with rtx.open(Settings.load(url=server.url, ttl={"price": 60.0})) as feed:
            await feed.market_data.publish(tick(5))
            await feed.executions.publish(1, fill(1))
            await feed.alerts.publish("system", rtx.Alert("halt", "info", "1"))
        expected = "silent" if fault == "half open" else "deaf"
        for subscription in (ticks, fills, alerts):
            async with asyncio.timeout(5):
                gap, message = await anext(subscription), await anext(subscription)
            assert isinstance(gap, rtx.Gap)
            assert expected in gap.cause, gap
            assert gap.duration > 0
            assert not isinstance(message, rtx.Gap)
        stats = layer.hub.stats
        print(
            f"{fault}: noticed after {noticed:.3f} s, replaced after {replaced:.3f} s of "
            f"{BOUND:g} s; the machine {late.seconds:.2f} s late; {gap.cause}"
        )
        assert replaced < BOUND + late.seconds
        assert (stats.losses, stats.probe_failures) == (1, fault != "half open")


async def test_health_says_that_the_subscriber_is_deaf_until_it_hears(
    proxy: Deafening, own_server: ServerProcess
) -> None:
    """No new connection is better than the first, so that replacing does not help."""
    async with (
        rtx.open(through(proxy, interval=0.1)) as layer,
        layer.market_data.subscribe("EURUSD") as ticks,
    ):
        await ticks.ready()
        await proven(layer)
        proxy.deafen(later_ones_too=True)
        await eventually(lambda: layer.hub.stats.probe_failures >= 16)
        health = await layer.health()
        stats = layer.hub.stats
        print(f"{stats.probe_failures} probes lost, {stats.losses} connections replaced")
        assert not health.ready
        assert not health.subscriber.up
        assert "is deaf" in health.subscriber.error
        assert 1 < stats.losses <= 5  # after 1, 2, 4, 8 probes
        before = stats.losses
        proxy.heal()
        await eventually(lambda: layer.hub.down is None)
        assert (await layer.health()).ready
        assert layer.hub.stats.losses == before


async def test_a_probe_that_cannot_be_published_tears_nothing_down(
    proxy: Deafening, own_server: ServerProcess
) -> None:
    async with (
        rtx.open(through(proxy, interval=0.2)) as layer,
        redis_py.Redis(port=own_server.port) as witness,
        layer.market_data.subscribe("EURUSD", snapshot=False) as ticks,
    ):
        await ticks.ready()
        await proven(layer)
        await proxy.refuse()
        await witness.execute_command("CLIENT", "KILL", "TYPE", "normal")
        await eventually(lambda: layer.hub.stats.probes_unpublished >= 4)
        health = await layer.health()
        assert not health.subscriber.up
        assert "no probe could be published" in health.subscriber.error
        await witness.publish("market_data:EURUSD", rtx.codecs.encode(tick(1)))
        async with asyncio.timeout(5):
            assert await anext(ticks) == tick(1)
        await proxy.listen()
        await eventually(lambda: layer.hub.down is None)
        assert (layer.hub.stats.losses, layer.hub.stats.probe_failures) == (0, 0)


async def test_a_subscription_that_the_server_has_ended_is_made_again(
    proxy: Deafening, own_server: ServerProcess
) -> None:
    async with (
        rtx.open(through(proxy)) as layer,
        layer.market_data.subscribe("EURUSD") as ticks,
        layer.market_data.subscribe("*", snapshot=False) as everything,
    ):
        for each in (ticks, everything):
            await each.ready()
        await proven(layer)
        proxy.inject(b"UNSUBSCRIBE\r\nPUNSUBSCRIBE\r\n")
        await layer.market_data.publish(tick(1))  # behind a new confirmation, or before
        for each in (ticks, everything):
            async with asyncio.timeout(5):
                while not isinstance(item := await anext(each), rtx.Gap):
                    assert item == tick(1)
            assert "the server ended the subscription" in item.cause
        await layer.market_data.publish(tick(2))
        for each in (ticks, everything):
            async with asyncio.timeout(5):
                while (await anext(each)) != tick(2):
                    pass
        assert layer.hub.stats.losses == 0


async def test_a_healthy_connection_is_never_replaced(own_server: ServerProcess) -> None:
    """Two hundred probes under load, with a server and an event loop that stand still at times."""
    over = asyncio.Event()

    async def publish(layer: rtx.DataLayer) -> None:
        number = 0
        while not over.is_set():
            await layer.market_data.publish_many([tick(number + n) for n in range(100)])
            number += 100
            await asyncio.sleep(0.002)

    async def disturb() -> None:
        async with redis_py.Redis(port=own_server.port) as witness:
            while not over.is_set():
                await witness.execute_command("DEBUG", "SLEEP", 0.03)
                await asyncio.sleep(0.1)
                stand_still_for(0.03)

    async with rtx.open(Settings.load(url=own_server.url)) as layer:
        layer.hub._probing = replace(layer.hub._probing, interval=0.01)
        async with layer.market_data.subscribe("EURUSD", policy="latest") as ticks:
            await ticks.ready()
            tasks = [asyncio.create_task(publish(layer)), asyncio.create_task(disturb())]
            await eventually(lambda: layer.hub.stats.probes >= 200, within=60)
            over.set()
            await asyncio.gather(*tasks)
            print(layer.hub.stats)
            assert (layer.hub.stats.probe_failures, layer.hub.stats.losses) == (0, 0)


async def test_a_server_that_is_busy_for_long_is_frozen_and_for_a_moment_it_is_not(
    own_server: ServerProcess,
) -> None:
    """Nothing tells a server that will be back in a second from one that is cut off."""
    settings = Settings.load(url=own_server.url, channels={"probe_interval": 0.4})
    async with (
        rtx.open(settings) as layer,
        redis_py.Redis(port=own_server.port) as witness,
        layer.executions.subscribe(1) as fills,
    ):
        await fills.ready()
        await proven(layer)
        await witness.execute_command("DEBUG", "SLEEP", 0.1)
        await proven(layer)
        assert layer.hub.stats.losses == 0
        await witness.execute_command("DEBUG", "SLEEP", 1.2)  # three intervals
        await layer.executions.publish(1, fill(1))
        gap = await anext(fills)
        assert isinstance(gap, rtx.Gap)
        assert "frozen or cut off" in gap.cause
        assert gap.recovered
        assert await anext(fills) == await _first(layer)
        await eventually(lambda: layer.hub.down is None)
        assert (layer.hub.stats.losses, layer.hub.stats.probe_failures) == (1, 0)


async def _first(layer: rtx.DataLayer) -> rtx.Execution:
    return (await layer.executions.history(1)).messages[0]


async def test_an_event_loop_that_stood_still_takes_nobody_for_dead(
    own_server: ServerProcess,
) -> None:
    settings = Settings.load(url=own_server.url, channels={"probe_interval": 0.2})
    async with rtx.open(settings) as layer, layer.market_data.subscribe("EURUSD") as ticks:
        await ticks.ready()
        for _ in range(3):
            await proven(layer)
            stand_still_for(0.5)
        await proven(layer)
        assert (layer.hub.stats.losses, layer.hub.stats.probe_failures) == (0, 0)
        assert (await layer.health()).subscriber.up


async def test_nobody_is_probed_where_nobody_listens(own_server: ServerProcess) -> None:
    settings = Settings.load(url=own_server.url, channels={"probe_interval": 0.05})
    async with rtx.open(settings) as layer:
        async with layer.market_data.subscribe("EURUSD") as ticks:
            await ticks.ready()
            await proven(layer)
            assert layer.hub.stats.probe_age_s < 5
        await asyncio.sleep(0.1)  # a probe that was under way
        before = layer.hub.stats.probes
        await asyncio.sleep(0.2)
        assert layer.hub.stats.probes == before
        assert layer.hub.stats.probe_age_s == 0
        async with layer.market_data.subscribe("EURUSD"):
            await proven(layer)


@pytest.mark.parametrize("forbidden", ["subscribe", "publish"])
async def test_a_user_who_may_not_probe_hears_as_before(
    own_server: ServerProcess, forbidden: str
) -> None:
    rules = ["~*", "+@all", "resetchannels", "&market_data:*"]
    if forbidden == "publish":
        rules += ["&rtx:probe:*", "-publish"]
    async with redis_py.Redis(port=own_server.port) as admin:
        await admin.execute_command("ACL", "SETUSER", "desk", "on", ">pw", *rules)
        url = own_server.url.replace("redis://", "redis://desk:pw@")
        settings = Settings.load(url=url, channels={"probe_interval": 0.05})
        async with rtx.open(settings) as layer, layer.market_data.subscribe("EURUSD") as ticks:
            await ticks.ready()
            await eventually(lambda: layer.hub.stats.probe_refusals)
            await admin.publish("market_data:EURUSD", rtx.codecs.encode(tick(1)))
            assert await anext(ticks) == tick(1)
            assert (await layer.health()).subscriber.up
            assert (layer.hub.stats.probe_refusals, layer.hub.stats.losses) == (1, 0)
