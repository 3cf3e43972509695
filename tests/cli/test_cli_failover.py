"""`rtx server failover`: a planned failover on real servers, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import redis.asyncio as redis_py

import rtx as package
from rtx.errors import Unavailable
from rtx.settings import Settings
from rtx.topology import Role
from rtx.topology.local import SERVICE, LocalSentinels
from rtx.topology.local_cluster import LocalCluster
from rtx.topology.process import ServerProcess
from tests.cli.conftest import Rtx
from tests.conftest import eventually
from tests.sentinel.load import PLANNED_OUTAGE, Load, client_of, clients_on
from tests.sentinel.watching import Lateness

pytestmark = pytest.mark.timeout(120)

TICK = '{"type":"tick","symbol":"GBPUSD","time":9000000000000,"bid":1.0,"ask":1.1,"lp":"A"}'


def server_at(address: str, servers: list[ServerProcess]) -> ServerProcess:
    return next(server for server in servers if address == f"127.0.0.1:{server.port}")


# --- sentinels ------------------------------------------------------------------------------


async def test_nothing_acknowledged_is_lost_and_no_subscriber_stays_behind(rtx: Rtx) -> None:
    late = Lateness()
    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(LocalSentinels())
        settings = Settings.load(url=group.url)
        layer, *others = [await stack.enter_async_context(package.open(settings)) for _ in range(4)]
        subscribers = [
            await stack.enter_async_context(other.market_data.subscribe("EURUSD", "GBPUSD"))
            for other in others
        ]
        for ticks in subscribers:
            await ticks.ready()
        old = await group.primary()
        load = Load(layer)
        async with load.running(), late.measured():
            ended = await rtx("server", "failover", "--json", env={"RTX_URL": group.url})
            assert (ended.code, ended.err) == (0, "")
            report = json.loads(ended.out)
            new = server_at(report["new"], group.servers)
            for sentinel in group.sentinels:
                async with redis_py.Redis(port=sentinel.port, decode_responses=True) as witness:
                    asked = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
                    named = await witness.execute_command(*asked)
                    assert named == ["127.0.0.1", str(new.port)]
            await eventually(lambda: _left(old))
            await eventually(lambda: load.switched and load.acked_since(load.switched[0]) > 50)
        print(
            f"{ended.out.strip()}: writes out for {load.outage:.2f} s, {len(load.sets.acked)} SETs "
            f"and {sum(len(each.acked) for each in load.counts)} INCRs acknowledged; errors "
            f"{dict(load.errors)}; the machine {late.seconds:.2f} s late"
        )
        assert report["old"] == f"127.0.0.1:{old.port}"
        assert report["lossless"] is True
        assert 0 <= report["held_up"] < PLANNED_OUTAGE + late.seconds
        assert load.outage < PLANNED_OUTAGE + late.seconds
        assert await load.check(new) == (0, 0)
        async with client_of(new) as witness:
            assert await witness.publish("market_data:GBPUSD", TICK) == len(subscribers)
        for ticks in subscribers:
            async with asyncio.timeout(5):
                while getattr(await anext(ticks), "symbol", "") != "GBPUSD":
                    pass


async def _left(old: ServerProcess) -> bool:
    return not await clients_on(old)


@pytest.fixture
async def small_group() -> AsyncIterator[LocalSentinels]:
    """One primary, one replica and one sentinel."""
    async with LocalSentinels(replicas=1, sentinels=1) as opened:
        yield opened


async def test_a_failover_that_cannot_be_is_refused_with_the_cause_and_the_remedy(
    rtx: Rtx, small_group: LocalSentinels
) -> None:
    group = small_group
    [sentinel] = group.sentinels
    primary, replica = group.servers

    async def refused(*arguments: str, **env: str) -> str:
        ended = await rtx("server", "failover", *arguments, env={"RTX_URL": group.url, **env})
        assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1), ended.err
        async with client_of(primary) as witness:
            assert (await witness.role())[0] == "master"
        return ended.err

    mixed = await rtx("server", "--port", 0, "failover", env={"RTX_URL": group.url})
    assert mixed.code == 2
    assert "leave them out" in mixed.err
    standalone = await refused("--url", f"redis://127.0.0.1:{primary.port}")
    assert "is a single server" in standalone
    assert "redis+sentinel://" in standalone
    assert "embedded:// is a single server" in await refused("--url", "embedded://")
    assert "--node is for a cluster" in await refused("--node", "127.0.0.1:1")
    assert "choose one with --role" in await refused(RTX_CACHE_URL="redis://127.0.0.1:1")
    several = await refused("--role", "cache", RTX_CACHE_URL="redis://127.0.0.1:1")
    assert "127.0.0.1:1 is a single server" in several
    unknown = await refused(RTX_URL=group.url.replace(SERVICE, "other"))
    assert "does not name the primary of 'other'" in unknown
    assert "no sentinel answers" in await refused(RTX_URL=f"redis+sentinel://127.0.0.1:1/{SERVICE}")

    async with redis_py.Redis(port=sentinel.port) as witness:
        await witness.execute_command("SENTINEL", "SET", SERVICE, "quorum", "2")
        missing = await refused()
        await witness.execute_command("SENTINEL", "SET", SERVICE, "quorum", "1")
    assert "too few sentinels" in missing
    assert "NOQUORUM" in missing

    async with client_of(replica) as witness:
        await witness.replicaof("127.0.0.1", "1")
        # Its primary has no replica from the moment that it sees the link's end.
        await eventually(lambda: _replicas(primary, 0))
        assert "no replica is in sync with the primary" in await refused()
        await witness.replicaof("127.0.0.1", str(primary.port))
    await eventually(lambda: _replicas(primary, 1))

    primary.kill(signal.SIGSTOP)
    ended = await rtx(
        "server", "failover", env={"RTX_URL": group.url, "RTX_POOL__READ_TIMEOUT": "1"}
    )
    primary.kill(signal.SIGCONT)
    assert ended.code == 1
    assert "does not answer" in ended.err
    assert "a planned failover needs it" in ended.err


async def _replicas(server: ServerProcess, count: int) -> bool:
    async with client_of(server) as witness:
        return len((await witness.role())[2]) == count


async def test_a_failover_whose_end_is_not_seen_in_time_says_so_with_a_code_of_its_own(
    rtx: Rtx, small_group: LocalSentinels
) -> None:
    _, replica = small_group.servers
    replica.kill(signal.SIGSTOP)
    ended = await rtx("server", "failover", "--timeout", 2, env={"RTX_URL": small_group.url})
    assert ended.code == 3
    assert "begun, but within 2 s no replica became the primary" in ended.err
    again = await rtx("server", "failover", env={"RTX_URL": small_group.url})
    replica.kill(signal.SIGCONT)
    assert again.code == 1
    assert "is under way" in again.err


async def test_sentinels_that_know_no_coordination_fail_over_with_a_warning(rtx: Rtx) -> None:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server here: a sentinel of Redis 7 is needed")
    async with LocalSentinels(replicas=1, sentinels=1, binary=binary) as group:
        ended = await rtx("server", "failover", env={"RTX_URL": group.url})
        assert ended.code == 0, ended.err
        assert ended.err.startswith("warning: ")
        assert "may be lost" in ended.err
        assert ended.out.startswith(f"127.0.0.1:{group.servers[0].port} -> 127.0.0.1:")


# --- a cluster ------------------------------------------------------------------------------


async def test_a_primary_of_a_cluster_is_relieved_and_nothing_acknowledged_is_lost(
    rtx: Rtx,
) -> None:
    late = Lateness()
    async with (
        LocalCluster(node_timeout=2.0) as cluster,
        package.open(Settings.load(url=cluster.url)) as layer,
    ):
        env = {"RTX_URL": cluster.url}
        first = cluster.servers[0]
        unnamed = await rtx("server", "failover", env=env)
        assert unnamed.code == 1
        assert f"--node: 127.0.0.1:{first.port}, " in unnamed.err
        unknown = await rtx("server", "failover", "--node", "127.0.0.1:1", env=env)
        assert unknown.code == 1
        assert "127.0.0.1:1 is no node of the cluster" in unknown.err

        keys = [f"count:{number}" for number in range(60)]
        keys = [key for key in keys if await cluster.primary_of(key) is first]
        acked: Counter[str] = Counter()
        ending = asyncio.Event()

        async def count(key: str) -> None:
            while not ending.is_set():
                try:
                    await layer._roles.pool(Role.CACHE).call("INCR", key)
                    acked[key] += 1
                except Unavailable:
                    pass
                await asyncio.sleep(0.002)

        async with asyncio.TaskGroup() as tasks, late.measured():
            for key in keys:
                tasks.create_task(count(key))
            await eventually(lambda: len(acked) == len(keys))
            node = f"127.0.0.1:{first.port}"
            ended = await rtx("server", "failover", "--json", "--node", node, env=env)
            assert ended.code == 0, ended.err
            done = acked.total()
            await eventually(lambda: acked.total() > done + 100)
            ending.set()
        report = json.loads(ended.out)
        print(f"{ended.out.strip()}; {acked.total()} acknowledged")
        assert report["old"] == node
        assert report["lossless"] is True
        assert report["held_up"] < PLANNED_OUTAGE + late.seconds
        new = server_at(report["new"], cluster.servers)
        async with client_of(new) as witness:
            for key in keys:
                assert int(await witness.get(key)) >= acked[key]

        # The replica can be named as well: back to where it was.
        back = await rtx("server", "failover", "--node", node, env=env)
        assert back.code == 0, back.err
        assert back.out.startswith(f"{report['new']} -> {node}; writes held up for ")
