"""What the nodes of a cluster may do to their clients, under load: nothing wrong, lost or doubled.

The same load and the same checks as on one server; see tests/failure/trial.py.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import rtx
from rtx.settings import Settings
from rtx.topology.local import ask
from rtx.topology.local_cluster import LocalCluster
from rtx.topology.process import ServerProcess
from rtx.urls import Address
from rtx.wire import Connection, ConnectOptions
from rtx.wire.replies import Reply
from tests.conftest import eventually
from tests.failure.alarm import outcome_within
from tests.failure.trial import under_load
from tests.wire.callers import errors_of

CHANNELS = 10_000
LIMIT = 1.0
SLACK = 3.0
"""A loaded machine of two cores may take this many times what an idle one is allowed."""


async def everywhere(cluster: LocalCluster, *command: str | int) -> list[Reply]:
    """Send a command to each primary; its replies."""
    return [await ask(server.port, *command) for server in await cluster.primaries()]


@asynccontextmanager
async def configured(server: ServerProcess, name: str, value: str) -> AsyncIterator[None]:
    """A setting of one node for the time of the context; the cluster is used again."""
    connection = await Connection.dial(Address("127.0.0.1", server.port), ConnectOptions())
    former = await connection.call("CONFIG", "GET", name)
    assert isinstance(former, dict)
    [old] = former.values()
    assert isinstance(old, bytes)
    await connection.call("CONFIG", "SET", name, value)
    try:
        yield
    finally:
        await connection.call("CONFIG", "SET", name, old)
        await connection.close()


async def test_scripts_are_forgotten_by_every_node(
    cluster: LocalCluster, settings: Settings, seeded: random.Random
) -> None:
    await everywhere(cluster, "CONFIG", "RESETSTAT")
    async with under_load(settings, seeded, what="SCRIPT FLUSH everywhere") as trial:
        for _ in range(20):
            await everywhere(cluster, "SCRIPT", "FLUSH")
        told = [str(info) for info in await everywhere(cluster, "INFO", "errorstats")]
        assert any("NOSCRIPT:count=" in text for text in told)
    assert not errors_of(trial.clients)
    assert not trial.follower.gaps, "nothing was lost, so nothing is to be told"
    assert trial.hits.uncertain == 0


@pytest.mark.parametrize("kind", ["normal", "pubsub"])
async def test_clients_of_a_kind_are_killed_on_every_node(
    cluster: LocalCluster, settings: Settings, seeded: random.Random, kind: str
) -> None:
    async with under_load(settings, seeded, what=f"CLIENT KILL TYPE {kind} everywhere") as trial:
        for _ in range(3):
            await everywhere(cluster, "CLIENT", "KILL", "TYPE", kind)
            await trial.back()
        if kind == "normal":
            assert trial.losses == 0
    if kind == "normal":
        assert not trial.follower.gaps, "the subscribers' connections were not touched"
    else:
        assert trial.follower.told
        assert not errors_of(trial.clients), "the calls' connections were not touched"


async def test_a_node_without_room_serves_those_it_has_and_then_the_others(
    cluster: LocalCluster, settings: Settings, seeded: random.Random
) -> None:
    async with under_load(settings, seeded, what="maxclients of one node") as trial:
        full = await cluster.primary_of(trial.layer.keys.market_data("X"))
        gaps = len(trial.follower.gaps)
        async with configured(full, "maxclients", "1"):
            await trial.back()
            assert len(trial.follower.gaps) == gaps
            failures = trial.layer.hub.stats.connect_failures
            with pytest.raises(rtx.errors.ConnectFailed, match="max number of clients"):
                await Connection.dial(Address("127.0.0.1", full.port), ConnectOptions())
            subscribers = trial.layer.hub.stats.losses
            await _kill_subscribers(trial.layer, full)
            await eventually(lambda: trial.layer.hub.stats.losses > subscribers)
            await eventually(lambda: trial.layer.hub.stats.connect_failures > failures)
        await trial.back()
    assert trial.follower.ticks[0].gaps
    assert not errors_of(trial.clients), "those that are connected notice nothing"


async def _kill_subscribers(layer: rtx.DataLayer, server: ServerProcess) -> None:
    """On a connection that is there already: the node takes no more."""
    caller = layer._roles.pool(rtx.topology.Role.CACHE)
    pool = caller.pool_at(Address("127.0.0.1", server.port))  # type: ignore[attr-defined]
    await pool.call("CLIENT", "KILL", "TYPE", "pubsub")


@pytest.mark.parametrize("how", ["DEBUG SLEEP", "SIGSTOP"])
async def test_a_node_that_is_away_for_less_than_the_time_outs(
    cluster: LocalCluster, settings: Settings, seeded: random.Random, how: str
) -> None:
    async with under_load(settings, seeded, what=f"{how} of each node for 0.3 s") as trial:
        for server in await cluster.primaries():
            if how == "SIGSTOP":
                server.kill(signal.SIGSTOP)
                await asyncio.sleep(0.3)
                server.kill(signal.SIGCONT)
            else:
                await ask(server.port, "DEBUG", "SLEEP", "0.3")
            await trial.back()
        assert trial.losses == 0
    assert not errors_of(trial.clients)
    assert not trial.follower.gaps, "late is not lost"


async def test_a_frozen_node_holds_up_no_tick_of_another(
    cluster: LocalCluster, layer: rtx.DataLayer
) -> None:
    names = [f"S{number}" for number in range(30)]
    victim = await cluster.primary_of(layer.keys.price(names[0]))
    elsewhere = []
    for name in names:
        at = [layer.keys.price(name), layer.keys.market_data(name)]
        elsewhere.append(victim not in [await cluster.primary_of(key) for key in at])
    await layer.market_data.publish_many([rtx.Tick(name, bid=1.0, ask=1.1) for name in names])
    victim.kill(signal.SIGSTOP)
    publishing = [
        asyncio.ensure_future(layer.market_data.publish(rtx.Tick(name, bid=2.0, ask=2.1)))
        for name in names
    ]
    others = [each for each, away in zip(publishing, elsewhere, strict=True) if away]
    try:
        outcomes, took = await outcome_within(0.3, asyncio.gather(*others))
        print(f"{len(others)} ticks of other nodes are published after {took * 1000:.0f} ms")
        assert outcomes == [None] * len(others)
    finally:
        victim.kill(signal.SIGCONT)
        await asyncio.gather(*publishing, return_exceptions=True)


async def test_subscribers_over_the_output_buffer_limit_of_a_node(
    cluster: LocalCluster, settings: Settings, seeded: random.Random
) -> None:
    async with under_load(settings, seeded, what="output-buffer limit of one node") as trial:
        channel = trial.layer.keys.market_data("X")
        node = await cluster.primary_of(channel)
        async with configured(node, "client-output-buffer-limit", "pubsub 65536 0 0"):
            flood = await Connection.dial(Address("127.0.0.1", node.port), ConnectOptions())
            for _ in range(3):
                lost = trial.losses
                publish = ("SPUBLISH", channel, "x" * 2_000)
                await flood.batch([("MULTI",), *[publish] * 100, ("EXEC",)])
                await eventually(lambda lost=lost: trial.losses > lost)
                await trial.back()
            await flood.close()
    assert len(trial.follower.ticks[0].gaps) == 3
    assert not errors_of(trial.clients), "the calls' connections were not touched"


async def _cpu_of(cluster: LocalCluster) -> float:
    """Seconds of processor time that the primaries have used."""
    total = 0.0
    for info in await everywhere(cluster, "INFO", "cpu"):
        assert isinstance(info, bytes)
        facts = dict(line.split(":") for line in info.decode().split() if ":" in line)
        total += float(facts["used_cpu_user"]) + float(facts["used_cpu_sys"])
    return total


async def test_ten_thousand_sharded_channels_are_back_within_a_second(
    cluster: LocalCluster, layer: rtx.DataLayer
) -> None:
    names = [f"S{number}" for number in range(CHANNELS)]
    async with layer.market_data.subscribe(*names, snapshot=False, queue_size=40_000) as ticks:
        await ticks.ready()
        stats, theirs = layer.hub.stats, await _cpu_of(cluster)
        connects = stats.connects
        await everywhere(cluster, "CLIENT", "KILL", "TYPE", "pubsub")
        await eventually(lambda: stats.connects > connects, every=0.0)
        started, ours = time.monotonic(), time.process_time()
        await eventually(
            lambda: (
                stats.connects == connects + 3
                and all(channel.confirmed for channel in layer.hub._exact.values())
            ),
            every=0.0,
        )
        took = time.monotonic() - started
        ours, theirs = time.process_time() - ours, await _cpu_of(cluster) - theirs
        print(
            f"{CHANNELS} sharded channels back {took:.3f} s after the reconnect, {ours:.3f} s of "
            f"this process and {theirs:.3f} s of the nodes"
        )
        assert ours + theirs < LIMIT
        assert took < LIMIT * SLACK
        await layer.market_data.publish_many(
            [rtx.Tick(name, time=2, bid=2.0, ask=2.1) for name in names]
        )
        assert isinstance(await anext(ticks), rtx.Gap)
        heard: set[str] = set()
        async with asyncio.timeout(10):
            while len(heard) < CHANNELS:
                item = await anext(ticks)
                if isinstance(item, rtx.Tick):  # a node that was slower has a gap of its own
                    heard.add(item.symbol)
