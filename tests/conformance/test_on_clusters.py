"""What only clusters do, on every server: slots that move, channels with a node, primaries lost."""

from __future__ import annotations

import asyncio
import time

import pytest

import rtx
from rtx.errors import AccessDenied
from rtx.models import Price
from rtx.topology import Role
from rtx.topology.local import ask
from rtx.topology.local_cluster import LocalCluster
from rtx.topology.process import ServerProcess
from rtx.topology.slots import key_slot
from rtx.wire import Caller
from tests.cluster.load import check_nothing_lost, incrementing
from tests.conformance.deployments import ClusterDeployment, client_of
from tests.conformance.drill import Drill
from tests.conformance.samples import fill, quote, take
from tests.conformance.servers import on
from tests.conftest import eventually

pytestmark = [on("cluster"), pytest.mark.timeout(90)]


@pytest.fixture
def cluster(deployment: ClusterDeployment) -> LocalCluster:
    return deployment.cluster


async def another(cluster: LocalCluster, slot: int) -> ServerProcess:
    """A primary that does not have the slot."""
    owner = await cluster.owner(slot)
    return next(server for server in await cluster.primaries() if server is not owner)


async def test_keys_of_many_slots_are_split_and_gathered(
    deployment: ClusterDeployment, layer: rtx.DataLayer, caller: Caller, namespace: str
) -> None:
    keys = [f"{namespace}:{number}" for number in range(300)]
    await caller.batch([("SET", key, number) for number, key in enumerate(keys)])
    assert await caller.call("MGET", *keys) == [b"%d" % number for number in range(300)]
    sizes = []
    for server in await deployment.primaries():
        async with client_of(server) as witness:
            sizes.append(len([key async for key in witness.scan_iter(f"{namespace}:*", 1000)]))
    assert sum(sizes) == 300
    assert min(sizes) > 0
    assert await caller.call("EXISTS", *keys, f"{namespace}:none") == 300
    assert await caller.call("DEL", *keys, f"{namespace}:none") == 300
    health = await layer.health()
    assert health.ready, health


async def test_a_slot_moves_under_load_and_no_call_notices(
    cluster: LocalCluster, caller: Caller, namespace: str
) -> None:
    keys = [f"{{{namespace}}}:{number}" for number in range(20)]
    slot = key_slot(namespace.encode())
    async with incrementing(caller, keys) as ledgers:
        for _ in range(2):
            before = min(ledger.acknowledged for ledger in ledgers)
            await cluster.migrate(slot, await another(cluster, slot))
            await eventually(
                lambda before=before: min(each.acknowledged for each in ledgers) > before
            )
    assert not any(ledger.errors for ledger in ledgers)
    await check_nothing_lost(caller, ledgers)
    assert caller.stats.retries > 0, "nobody was redirected"


async def test_both_sides_of_a_half_moved_slot_are_asked(
    cluster: LocalCluster, caller: Caller, namespace: str
) -> None:
    keys = [f"{{{namespace}}}:{number}" for number in range(20)]
    slot = key_slot(namespace.encode())
    await caller.batch([("SET", key, number) for number, key in enumerate(keys)])
    to = await another(cluster, slot)
    source = await cluster.begin_migration(slot, to)
    await ask(source.port, "MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys[:10])
    assert await caller.call("MGET", *keys) == [b"%d" % number for number in range(20)]
    assert await caller.call("SET", f"{{{namespace}}}:new", "1") is not None
    assert await caller.call("DEL", *keys[5:15]) == 10
    await cluster.move_keys(slot, source, to)
    await cluster.end_migration(slot, source, to)
    assert await caller.call("EXISTS", *keys, f"{{{namespace}}}:new") == 11


async def test_a_user_that_may_not_say_asking_is_told_so(
    deployment: ClusterDeployment, namespace: str
) -> None:
    cluster, slot = deployment.cluster, key_slot(namespace.encode())
    may = ["~*", "&*", "+@all", "-asking"]
    to = await another(cluster, slot)
    source = await cluster.begin_migration(slot, to)
    async with deployment.user("conformance", ">pw", *may):
        url = deployment.url.replace("://", "://conformance:pw@", 1)
        async with rtx.open(deployment.settings(namespace, url=url)) as layer:
            with pytest.raises(AccessDenied, match=r"(?i)asking"):
                await layer._roles.pool(Role.CACHE).call("SET", f"{{{namespace}}}:new", "1")
    await cluster.end_migration(slot, source, to)


async def test_channels_are_at_the_node_of_their_slot_and_follow_it(
    cluster: LocalCluster, layer: rtx.DataLayer, other: rtx.DataLayer
) -> None:
    channel = layer.keys.executions(1)
    slot = key_slot(channel.encode())
    async with layer.executions.subscribe(1) as fills:
        await fills.ready()
        await other.executions.publish(1, fill(1))
        assert [item.seq for item in await take(fills, 1)] == [1]
        to = await another(cluster, slot)
        source = await cluster.owner(slot)
        async with client_of(source) as witness:
            assert channel in await witness.execute_command("PUBSUB", "SHARDCHANNELS")
        await cluster.migrate(slot, to)
        await other.executions.publish(1, fill(2))
        gap, second = await take(fills, 2)
        assert isinstance(gap, rtx.Gap)
        assert gap.recovered
        assert second.seq == 2
        async with client_of(to) as witness:
            assert channel in await witness.execute_command("PUBSUB", "SHARDCHANNELS")


async def test_a_planned_failover_loses_nothing(
    cluster: LocalCluster, layer: rtx.DataLayer, other: rtx.DataLayer
) -> None:
    drill = await drill_at_one_node(cluster, layer, other)
    async with drill.running():
        struck = time.monotonic()
        await cluster.failover(await cluster.primary_of(drill.key))
        back = await drill.recovered(struck)
    print(f"CLUSTER FAILOVER: writes go on after {back:.3f} s; {dict(drill.errors)}")
    assert await drill.lost() == 0
    drill.check_heard()
    await cluster.settled()


async def test_a_killed_primary_is_replaced(
    deployment: ClusterDeployment, layer: rtx.DataLayer, other: rtx.DataLayer
) -> None:
    cluster = deployment.cluster
    drill = await drill_at_one_node(cluster, layer, other)
    elsewhere = [f"S{number}" for number in range(30)]
    victim = await cluster.primary_of(drill.key)
    async with drill.running():
        struck = time.monotonic()
        victim.kill()
        back = await drill.recovered(struck)
        await asyncio.gather(*(layer.market_data.publish(quote(name, 1)) for name in elsewhere))
    print(f"kill -9: writes after {back:.2f} s, {await drill.lost()} lost; {dict(drill.errors)}")
    drill.check_heard()
    await layer.prices.put_many([Price(name, bid=1.0, ask=2.0) for name in elsewhere])
    await eventually(lambda: victim.pid is None)
    await cluster.settled()


async def drill_at_one_node(
    cluster: LocalCluster, layer: rtx.DataLayer, other: rtx.DataLayer
) -> Drill:
    """A drill whose key, symbol and account are all at one primary that has a replica."""
    for number in range(1, 1000):
        channel = layer.keys.market_data(f"SYM{number}")
        server = await cluster.primary_of(channel)
        if await has_replica(cluster, server):
            break
    account = 1
    while await cluster.primary_of(layer.keys.executions(account)) is not server:
        account += 1
    key = layer.keys.companion(channel, "count")
    return Drill(layer, other, key=key, symbol=f"SYM{number}", account=account)


async def has_replica(cluster: LocalCluster, server: ServerProcess) -> bool:
    async with client_of(server) as witness:
        return len((await witness.role())[2]) > 0
