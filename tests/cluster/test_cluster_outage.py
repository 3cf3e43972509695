"""A shard without any node, and deadlines that hold whatever the cluster does."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

import pytest

import rtx
from rtx.errors import CallTimeout, Unavailable
from rtx.models import Execution
from rtx.topology import Role
from rtx.topology.cluster import ClusterTopology
from rtx.topology.local import ask
from rtx.topology.local_cluster import LocalCluster
from rtx.wire import Caller
from tests.cluster.conftest import SharedCluster
from tests.conftest import eventually


@pytest.fixture
def settings(settings: rtx.Settings) -> rtx.Settings:
    """Calls wait for a new primary for half a second only."""
    pool = settings.pool.model_copy(update={"pool_timeout": 0.5})
    return settings.model_copy(update={"pool": pool})


def fill(number: int) -> Execution:
    return Execution(order_id=number, position_id=1, symbol="X", side="BUY", volume=1.0, price=1.0)


async def test_a_shard_that_comes_back_is_used_again(
    cluster: LocalCluster,
    shared_cluster: SharedCluster,
    layer: rtx.DataLayer,
    other: rtx.DataLayer,
) -> None:
    caller = other._roles.pool(Role.CACHE)
    victim = await cluster.primary_of(layer.keys.executions(1))
    keys = [f"{layer.keys.namespace}:{n}" for n in range(12)]
    elsewhere = [key for key in keys if await cluster.primary_of(key) is not victim]
    async with layer.executions.subscribe(1) as fills:
        await fills.ready()
        await other.executions.publish(1, fill(1))
        assert isinstance(await anext(fills), Execution)
        replica = await cluster.replica_of(victim)
        replica.kill()
        victim.kill()

        async def refused_everywhere() -> str:
            """The other nodes find out, and answer CLUSTERDOWN."""
            try:
                await caller.call("INCR", elsewhere[0])
            except Unavailable as error:
                return "" if error.maybe_applied else str(error)
            return ""

        told = await eventually(refused_everywhere)
        print(f"keys on other nodes: {told}")
        assert "CLUSTERDOWN" in str(told)
        assert not (await layer.health()).ready

        await shared_cluster.repair()
        started = time.monotonic()
        await other.executions.publish(1, fill(2))
        async with asyncio.timeout(5):
            gap = await anext(fills)
            again = await anext(fills)
        print(f"live {time.monotonic() - started:.2f} s after the cluster was")
        assert isinstance(gap, rtx.Gap)
        assert isinstance(again, Execution)
        assert again.order_id == 2
        await eventually(lambda: caller.down is None)
        assert (await caller.call("MGET", *keys)) is not None
    assert (await layer.health()).ready


async def test_a_deadline_holds_whatever_the_node_does(
    cluster: LocalCluster, caller: Caller, namespace: str
) -> None:
    keys = [f"{namespace}:{n}" for n in range(12)]
    await caller.call("MGET", *keys)
    victim = await cluster.primary_of(keys[0])
    victim.kill(signal.SIGSTOP)
    started = time.monotonic()
    for call in (
        caller.call("GET", keys[0], timeout=0.2),
        caller.call("MGET", *keys, timeout=0.2),
        caller.batch([("GET", key) for key in keys], timeout=0.2),
    ):
        with pytest.raises(CallTimeout) as caught:
            await call
        assert caught.value.maybe_applied
    took = time.monotonic() - started
    print(f"three calls with 200 ms each ended after {took:.3f} s")
    assert took < 0.75
    victim.kill(signal.SIGCONT)
    assert await caller.call("GET", keys[0]) is None


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def connections(cluster: LocalCluster, name: str) -> dict[int, int]:
    """How many connections of a client each node has, by port."""
    counted = {}
    for server in cluster.servers:
        clients = await ask(server.port, "CLIENT", "LIST")
        assert isinstance(clients, bytes)
        counted[server.port] = clients.count(f" name={name} ".encode())
    return counted


@pytest.mark.usefixtures("patient_drills")
@pytest.mark.skipif(sys.platform != "linux", reason="counts files in /proc")
async def test_five_failovers_in_a_row_leak_nothing(
    cluster: LocalCluster, settings: rtx.Settings
) -> None:
    before, opened = asyncio.all_tasks(), open_files()
    # As many spares as there are primaries to share them, so that a count is a whole one.
    pool = settings.pool.model_copy(update={"min_idle": 3})
    named = settings.model_copy(update={"client_name": "leaking", "pool": pool})
    channels = [f"S{n}" for n in range(30)]
    each = len(Role) + 1  # a spare for each role, and the subscriber
    async with (
        rtx.open(named) as layer,
        layer.market_data.subscribe(*channels) as ticks,
    ):
        await ticks.ready()
        topology = layer._roles.topology(Role.CACHE)
        assert isinstance(topology, ClusterTopology)

        async def at_rest() -> bool:
            """Nothing is left over, and nothing is missing.

            Besides, every node may have the connection that asks it about the cluster.
            """
            primaries = {server.port for server in await cluster.primaries()}
            if {address.port for address in topology.primaries} != primaries:
                return False
            found = await connections(cluster, "leaking")
            wanted = {port: each if port in primaries else 0 for port in found}
            return all(0 <= found[port] - count <= 1 for port, count in wanted.items())

        await eventually(at_rest)
        tasks, files = len(asyncio.all_tasks()), open_files()
        started = time.monotonic()
        for turn in range(5):
            await cluster.failover(await cluster.primary_of(layer.keys.market_data(f"S{turn}")))
            await cluster.settled()
            await eventually(at_rest, within=20)
            await layer.limits.orders.hit(1)
            await eventually(lambda: layer.hub.down is None)
            await eventually(lambda: len(asyncio.all_tasks()) == tasks and open_files() <= files)
        print(
            f"five planned failovers in {time.monotonic() - started:.1f} s: {tasks} tasks, {files} "
            f"files and {3 * each} connections as before"
        )
        tick = rtx.Tick("S0", bid=1e6, ask=1e6)
        await layer.market_data.publish(tick)
        async with asyncio.timeout(5):
            while (await anext(ticks)) != tick:
                pass
    await eventually(lambda: asyncio.all_tasks() <= before)
    await eventually(lambda: open_files() <= opened)
