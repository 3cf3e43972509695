"""A primary that is none any more, and what sentinels say about it."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.errors import ConnectFailed, NotWritable
from rtx.setting_groups import PoolSettings
from rtx.settings import Settings
from rtx.topology import Role
from rtx.topology.local import SERVICE, LocalSentinels
from rtx.topology.process import ServerProcess
from rtx.topology.sentinel import SentinelTopology
from rtx.topology.sentinel_words import Word
from rtx.urls import Address
from tests.conftest import eventually
from tests.sentinel.load import SLACK, client_of, pool_of, topology_of
from tests.sentinel.watching import Lateness

pytestmark = pytest.mark.timeout(60)


async def demote(group: LocalSentinels) -> ServerProcess:
    """Silence the sentinel and make the primary a replica of the other; the former primary."""
    primary, other = group.servers
    group.sentinels[0].kill(signal.SIGSTOP)
    async with client_of(primary) as witness:
        await witness.replicaof("127.0.0.1", str(other.port))
    return primary


async def test_a_read_only_reply_refuses_the_call_and_retires_the_connection(
    small_group: LocalSentinels,
) -> None:
    # One connection and no spares, so that the next call would need another.
    pool_settings = PoolSettings(size=1, min_idle=0, connect_timeout=1.0)
    settings = Settings.load(url=small_group.url, pool=pool_settings)
    async with rtx.open(settings) as layer:
        pool = pool_of(layer)
        await pool.call("SET", "before", "1")
        former = await demote(small_group)
        with pytest.raises(NotWritable, match="this is a replica; write to the primary"):
            await pool.call("SET", "after", "1")
        await eventually(lambda: pool.stats.lost == 1)
        started = time.monotonic()
        with pytest.raises(ConnectFailed, match="says that it is no primary") as refused:
            await pool.call("SET", "after", "1")
        assert not refused.value.maybe_applied
        assert time.monotonic() - started < pool_settings.connect_timeout * SLACK
        async with client_of(former) as witness:
            assert not await witness.exists("after")


async def test_one_read_only_reply_makes_every_connection_leave_at_once(
    small_group: LocalSentinels,
) -> None:
    late = Lateness()
    async with (
        rtx.open(Settings.load(url=small_group.url)) as layer,
        layer.market_data.subscribe("EURUSD") as ticks,
        late.measured(),
    ):
        await ticks.ready()
        pools = [pool_of(layer, role) for role in Role]
        await eventually(lambda: all(pool.stats.connections == 10 for pool in pools))
        await demote(small_group)
        with pytest.raises(NotWritable):
            await pools[0].call("SET", "after", "1")
        refused = time.monotonic()
        await eventually(lambda: not any(pool.stats.connections for pool in pools), every=0.001)
        await eventually(lambda: layer.hub.down is not None, every=0.001)
        took = time.monotonic() - refused
        print(f"30 connections and the subscriber left {took * 1000:.0f} ms after the reply")
        assert took < 0.1 + late.seconds


async def test_an_idle_layer_notices_within_two_seconds(small_group: LocalSentinels) -> None:
    async with (
        rtx.open(Settings.load(url=small_group.url)) as layer,
        layer.market_data.subscribe("EURUSD") as ticks,
    ):
        await ticks.ready()
        await eventually(lambda: pool_of(layer).stats.connections == 10)
        started = time.monotonic()
        await demote(small_group)
        await eventually(lambda: pool_of(layer).stats.connections == 0)
        await eventually(lambda: layer.hub.down is not None)
        print(f"a demotion was noticed after {time.monotonic() - started:.2f} s")
        assert time.monotonic() - started < 2.0 * SLACK
        health = await layer.health()
        assert not health.ready
        assert "it says that it is no primary (slave)" in health.subscriber.error


async def test_a_demoted_primary_is_used_again_when_it_is_one_again(
    small_group: LocalSentinels,
) -> None:
    async with (
        rtx.open(Settings.load(url=small_group.url)) as layer,
        layer.market_data.subscribe("EURUSD") as ticks,
    ):
        await ticks.ready()
        former = await demote(small_group)
        await eventually(lambda: layer.hub.down is not None)
        async with client_of(former) as witness:
            await witness.replicaof("NO", "ONE")
        tick = rtx.Tick("EURUSD", time=1, bid=1.0, ask=1.1)
        await eventually(lambda: works(layer, tick))
        gap = await anext(ticks)
        assert isinstance(gap, rtx.Gap)
        assert "it says that it is no primary" in gap.cause
        assert isinstance(await anext(ticks), rtx.Tick)


async def works(layer: rtx.DataLayer, tick: rtx.Tick) -> bool:
    try:
        await layer.market_data.publish(tick)
    except rtx.RtxError:
        return False
    return layer.hub.down is None


def said(topology: SentinelTopology, group: LocalSentinels) -> Word:
    """What the one sentinel of the group said last."""
    [sentinel] = group.sentinels
    word = topology._council.said_by(Address("127.0.0.1", sentinel.port))
    assert word is not None
    return word


async def test_sentinels_that_were_set_up_anew_are_believed_once_the_primary_is_silent(
    small_group: LocalSentinels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtx.topology.sentinel._GIVEN_UP_AFTER", 0.5)
    first, second = small_group.servers
    async with rtx.open(Settings.load(url=small_group.url)) as layer:
        topology = topology_of(layer)
        await small_group.failover()
        await eventually(lambda: topology.switches == 1)
        await small_group.settled()
        port = small_group.sentinels[0].port
        async with client_of(first) as witness:
            await witness.replicaof("NO", "ONE")
        async with redis_py.Redis(port=port) as witness:
            await witness.execute_command("SENTINEL", "REMOVE", SERVICE)
            await witness.execute_command(
                "SENTINEL", "MONITOR", SERVICE, "127.0.0.1", first.port, 1
            )
        # Their epoch is 0 now: while the primary answers it is not left for that.
        await eventually(lambda: said(topology, small_group).epoch == 0)
        await asyncio.sleep(1.0)
        assert topology.switches == 1
        second.kill()
        await eventually(lambda: topology.switches == 2)
        await eventually(lambda: pool_of(layer).down is None)
        assert await pool_of(layer).call("SET", "after", "1") == b"OK"
        async with client_of(first) as witness:
            assert await witness.get("after") == "1"
