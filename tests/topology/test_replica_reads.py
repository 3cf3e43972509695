"""Plain reads from replicas: answered by one that is near enough, never older than is allowed."""

from __future__ import annotations

import asyncio
import signal
import time
from bisect import bisect_right
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis.asyncio as redis_py

from rtx.errors import RtxError, SettingsError
from rtx.settings import Settings
from rtx.topology import Role
from rtx.topology.local import LocalSentinels
from rtx.topology.local_cluster import LocalCluster
from rtx.topology.process import ServerProcess
from rtx.topology.reader import ReplicaReader
from rtx.topology.replicas import Lag
from rtx.topology.roles import Roles
from rtx.topology.standing import Standing, standing_of
from rtx.urls import Address
from tests.conftest import eventually

pytestmark = pytest.mark.timeout(120)

PRIMARY, ONE, TWO = (Address("10.0.0.1", port) for port in (1, 2, 3))


# --- how near a replica is ------------------------------------------------------------------


def applied(offset: int, link: str = "connected", primary: Address = PRIMARY) -> Standing:
    return Standing("slave", offset, (), primary, link)


@pytest.fixture
def lag() -> Lag:
    """The primary has written 100 bytes a second, from second 10 on."""
    lag = Lag(PRIMARY, max_lag=1.0)
    for moment in (10.0, 10.25, 10.5, 10.75):
        lag.wrote(moment, round((moment - 10) * 100))
    return lag


def test_a_replica_is_good_for_max_lag_after_the_moment_that_it_has_caught_up_with(
    lag: Lag,
) -> None:
    lag.applied(ONE, applied(60))  # all of second 10.5, not all of 10.75
    assert lag.good(11.49) == ONE
    assert lag.good(11.51) is None


def test_what_is_further_behind_than_max_lag_is_never_good(lag: Lag) -> None:
    lag.wrote(11.6, 160)
    lag.applied(ONE, applied(70))
    assert lag.good(11.6) is None


@pytest.mark.parametrize(
    "standing",
    [
        applied(75, link="connect"),
        applied(75, link="sync"),
        applied(75, primary=Address("10.0.0.1", 9)),
        applied(75, primary=Address("10.0.0.9", 1)),
        applied(-1),
        Standing("master", 75),
        standing_of([b"sentinel", []]),
        standing_of(b"OK"),
    ],
)
def test_only_a_replica_of_this_primary_with_its_link_up_is_good(
    lag: Lag, standing: Standing
) -> None:
    lag.applied(ONE, applied(75))
    assert lag.good(10.8) == ONE
    lag.applied(ONE, standing)
    assert lag.good(10.8) is None


def test_a_replica_that_knows_its_primary_by_another_kind_of_name_is_good() -> None:
    lag = Lag(Address("state-1", 6379), max_lag=1.0)
    lag.wrote(1.0, 5)
    lag.applied(ONE, applied(5, primary=Address("10.0.0.1", 6379)))
    assert lag.good(1.5) == ONE


def test_reads_keep_to_one_replica_while_it_is_good(lag: Lag) -> None:
    lag.applied(ONE, applied(75))
    assert lag.good(10.8) == ONE
    lag.applied(TWO, applied(75))
    assert [lag.good(10.8) for _ in range(20)] == [ONE] * 20
    lag.lose(ONE)
    assert [lag.good(10.8) for _ in range(20)] == [TWO] * 20
    lag.applied(ONE, applied(75))
    assert lag.good(10.8) == TWO


# --- sentinels ------------------------------------------------------------------------------


@asynccontextmanager
async def reading(url: str, max_lag: float = 1.0) -> AsyncIterator[tuple[Roles, ReplicaReader]]:
    """The roles at a URL, once the caches' reader has found a replica."""
    settings = Settings.load(url=url, reads={"cache_from": "replica", "max_lag": max_lag})
    roles = Roles(settings)
    await roles.open()
    try:
        reader = roles.reader(Role.CACHE)
        assert isinstance(reader, ReplicaReader)
        yield roles, reader
    finally:
        await roles.close()


async def gets(servers: list[ServerProcess]) -> dict[int, int]:
    """How many GET and MGET each server has answered since its counters were reset, by port."""
    counts: dict[int, int] = {}
    for server in servers:
        async with redis_py.Redis(port=server.port) as witness:
            stats = await witness.info("commandstats")
            counts[server.port] = sum(
                stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("get", "mget")
            )
    return counts


async def found(reader: ReplicaReader, count: int = 1) -> None:
    """Wait until a replica answers."""
    begun = reader.answered

    async def answers() -> bool:
        await reader.call("GET", "nothing")
        return reader.answered >= begun + count

    await eventually(answers)


@pytest.fixture
async def group() -> AsyncIterator[LocalSentinels]:
    async with LocalSentinels(sentinels=1, down_after=1.5) as opened:
        yield opened


async def test_reads_go_to_one_replica_and_all_else_to_the_primary(group: LocalSentinels) -> None:
    async with reading(group.url) as (roles, reader):
        await found(reader)
        pool = roles.pool(Role.CACHE)
        await pool.batch([("SET", f"key:{number}", number) for number in range(10)])
        await asyncio.sleep(0.2)
        before = await gets(group.servers)
        for number in range(10):
            assert await reader.call("GET", f"key:{number}") == str(number).encode()
        keys = [f"key:{number}" for number in range(12)]
        expected = [*(str(number).encode() for number in range(10)), None, None]
        assert await reader.call("MGET", *keys) == expected
        after = await gets(group.servers)
        took = [after[port] - before[port] for port in before]
        assert took[0] == 0
        assert sorted(took[1:]) == [0, 11]
        assert await reader.call("SET", "key:1", "new") == b"OK"
        assert await reader.batch([("GET", "key:1")]) == [b"new"]
        assert await reader.execute("GET", "key:1") == b"new"
        assert roles.reader(Role.PUBSUB) is roles.pool(Role.PUBSUB)
        assert roles.reader(Role.LIMITS) is roles.pool(Role.LIMITS)
        assert reader.down is None
        assert reader.stats.connections >= 2


async def test_no_answer_is_older_than_max_lag_whatever_befalls_the_replicas(
    group: LocalSentinels,
) -> None:
    """A counter is counted up; no read may be behind what it was `max_lag` before it began."""
    max_lag = 0.5
    async with reading(group.url, max_lag) as (roles, reader):
        await found(reader)
        pool = roles.pool(Role.CACHE)
        moments: list[float] = []
        ending = asyncio.Event()

        async def count() -> None:
            while not ending.is_set():
                assert await pool.call("INCR", "counter") == len(moments) + 1
                moments.append(time.monotonic())
                await asyncio.sleep(0.001)

        oldest, reads, slowest = 0.0, 0, 0.0

        async def read() -> None:
            nonlocal oldest, reads, slowest
            while not ending.is_set():
                began = time.monotonic()
                value = int(await reader.call("GET", "counter") or 0)
                reads += 1
                slowest = max(slowest, time.monotonic() - began)
                assert value >= bisect_right(moments, began - max_lag)
                if value < len(moments):
                    oldest = max(oldest, began - moments[value])
                await asyncio.sleep(0.001)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(count())
            tasks.create_task(read())
            primary, first, second = group.servers
            for replica in (first, second):
                async with redis_py.Redis(port=replica.port) as witness:
                    await witness.replicaof("127.0.0.1", "1")  # nobody there
                await asyncio.sleep(2 * max_lag)
            cut_off = reader.answered
            await asyncio.sleep(0.3)
            assert reader.answered == cut_off  # the primary answers when no replica may
            for replica in (first, second):
                async with redis_py.Redis(port=replica.port) as witness:
                    await witness.replicaof("127.0.0.1", str(primary.port))
            await found(reader, 10)
            for replica in (first, second):
                replica.kill(signal.SIGSTOP)
                await asyncio.sleep(3 * max_lag)
            for replica in (first, second):
                replica.kill(signal.SIGCONT)
            await found(reader, 10)
            ending.set()
        print(
            f"{reads} reads, {reader.answered} answered by replicas, {reader.stats.retries} again "
            f"by the primary; the oldest {oldest * 1000:.0f} ms old, the slowest took "
            f"{slowest * 1000:.0f} ms"
        )
        assert reader.answered > 100


async def test_reads_follow_a_failover_and_the_promoted_replica_is_one_no_more(
    group: LocalSentinels,
) -> None:
    async with reading(group.url) as (roles, reader):
        await found(reader)
        await roles.pool(Role.CACHE).call("SET", "key", "1")
        old = await group.primary()
        old.kill()

        async def answers() -> bool:
            try:
                return await reader.call("GET", "key") == b"1" and reader.down is None
            except RtxError:
                return False

        await eventually(lambda: roles.topology(Role.CACHE).switches, within=20)  # type: ignore[attr-defined]
        await eventually(answers)
        await found(reader)
        new = await group.primary()
        [left] = [server for server in group.servers if server not in (old, new)]
        await eventually(lambda: [*reader._pools] == [Address("127.0.0.1", left.port)])


async def test_a_read_that_a_replica_does_not_answer_is_answered_by_the_primary_in_time(
    group: LocalSentinels,
) -> None:
    async with reading(group.url) as (roles, reader):
        await found(reader)
        await roles.pool(Role.CACHE).call("SET", "key", "1")
        for replica in group.servers[1:]:
            replica.kill(signal.SIGSTOP)
        started = time.monotonic()
        several = [reader.call("GET", "key", timeout=1.0), reader.call("MGET", "key", "none")]
        assert await asyncio.gather(*several) == [b"1", [b"1", None]]
        assert time.monotonic() - started < 3.0
        assert reader.stats.retries >= 2


async def test_reads_from_the_primary_are_the_default(group: LocalSentinels) -> None:
    roles = Roles(Settings.load(url=group.url))
    await roles.open()
    try:
        assert all(roles.reader(role) is roles.pool(role) for role in Role)
    finally:
        await roles.close()


@pytest.mark.parametrize("url", ["embedded://", "redis://127.0.0.1:6379", "unix:///tmp/none"])
def test_reading_from_a_replica_where_there_can_be_none_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"reads\.cache_from.*redis\+sentinel://"):
        Settings.load(url=url, reads={"cache_from": "replica"})
    sentinels = "redis+sentinel://127.0.0.1:26379/trading-redis"
    Settings.load(url=url, cache_url=sentinels, reads={"cache_from": "replica"})


# --- a cluster ------------------------------------------------------------------------------


async def test_reads_of_a_cluster_go_to_replicas_of_each_key_s_primary() -> None:
    async with (
        LocalCluster(node_timeout=1.0) as cluster,
        reading(cluster.url) as (roles, reader),
    ):
        keys = [f"key:{number}" for number in range(30)]
        await asyncio.gather(*(roles.pool(Role.CACHE).call("SET", key, key) for key in keys))

        async def all_by_replicas() -> bool:
            begun = reader.answered
            for key in keys:
                assert await reader.call("GET", key) in (key.encode(), None)
            return reader.answered == begun + len(keys)

        await eventually(all_by_replicas)
        await asyncio.sleep(0.2)
        before = await gets(cluster.servers)
        expected = [*(key.encode() for key in keys), None]
        assert await reader.call("MGET", *keys, "key:none") == expected
        after = await gets(cluster.servers)
        took = {port: after[port] - before[port] for port in before}
        primaries, replicas = cluster.servers[:3], cluster.servers[3:]
        assert [took[server.port] for server in primaries] == [0, 0, 0]
        assert sum(took[server.port] for server in replicas) == 31

        old = await cluster.primary_of(keys[0])
        old.kill()
        await eventually(lambda: reads(reader, keys[0]), within=20)
        others = [key for key in keys if await cluster.primary_of(key) is not old]
        assert others
        assert all([await reads(reader, key) for key in others])


async def reads(reader: ReplicaReader, key: str) -> bool:
    try:
        return await reader.call("GET", key) == key.encode()
    except RtxError:
        return False
