"""Sentinels that are dead, frozen, mistaken or behind a password."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.errors import AccessDenied, ConnectFailed
from rtx.settings import Settings
from rtx.topology.local import SERVICE, LocalSentinels
from rtx.topology.process import ServerProcess
from rtx.topology.sentinel import SentinelTopology
from rtx.urls import Address
from tests.conftest import eventually
from tests.sentinel.load import (
    AFTER_THE_PROMOTION,
    SLACK,
    Load,
    client_of,
    pool_of,
    topology_of,
)
from tests.sentinel.watching import Failover, Lateness

pytestmark = pytest.mark.timeout(120)


async def opening(settings: Settings) -> float:
    """Seconds until a layer is open."""
    started = time.monotonic()
    async with rtx.open(settings):
        return time.monotonic() - started


async def test_a_dead_and_a_frozen_sentinel_delay_neither_opening_nor_failover() -> None:
    async with LocalSentinels(sentinels=5, down_after=1.5) as group:
        settings = Settings.load(url=group.url)
        healthy = min([await opening(settings) for _ in range(3)])
        dead, frozen, *_ = group.sentinels
        dead.kill()
        await dead.wait()
        frozen.kill(signal.SIGSTOP)
        hurt = min([await opening(settings) for _ in range(3)])
        print(
            f"opening: {healthy * 1000:.0f} ms, with a dead and a frozen sentinel {hurt * 1000:.0f}"
        )
        assert hurt < healthy + 0.2 * SLACK

        async with rtx.open(settings) as layer:
            topology = topology_of(layer)
            old = await primary_of(group.sentinels[2], group)
            failover, late = Failover(), Lateness()
            async with failover.watched(group, but=(dead, frozen)), late.measured():
                old.kill()
                await eventually(lambda: topology.switches, within=20)
                await pool_of(layer).execute("SET", "after", "1", idempotent=True)
                wrote = time.monotonic() - failover.promoted
            print(f"first write {wrote * 1000:.0f} ms after the promotion")
            assert wrote < AFTER_THE_PROMOTION + late.seconds

            # The one that slept through it all names the dead primary, by its older epoch.
            new = topology.primary
            frozen.kill(signal.SIGCONT)
            thawed = Address("127.0.0.1", frozen.port)
            await eventually(lambda: names(topology, thawed) is not None)
            await eventually(lambda: names(topology, thawed) == new, within=20)
            assert topology.switches == 1
            assert topology.primary == new


def names(topology: SentinelTopology, sentinel: Address) -> Address | None:
    """Which primary a sentinel named last; None while it does not answer."""
    word = topology._council.said_by(sentinel)
    return word.address if word else None


async def primary_of(sentinel: ServerProcess, group: LocalSentinels) -> ServerProcess:
    async with redis_py.Redis(port=sentinel.port, decode_responses=True) as witness:
        found = await witness.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
    return next(server for server in group.servers if server.port == int(found[1]))


async def test_a_layer_outlives_all_sentinels_and_opening_names_each_with_its_cause() -> None:
    async with LocalSentinels(replicas=0, sentinels=3) as group:
        async with rtx.open(Settings.load(url=group.url)) as layer:
            load = Load(layer, writers=2)
            async with load.running():
                first, second, third = group.sentinels
                for sentinel in (first, second):
                    sentinel.kill()
                    await sentinel.wait()
                third.kill(signal.SIGSTOP)
                begun = time.monotonic()
                topology = topology_of(layer)
                await eventually(lambda: len(topology._errors) == 3)
                await eventually(lambda: load.acked_since(begun) > 100)
            assert not load.errors
            assert not load.gaps
            assert await load.check(group.servers[0]) == (0, 0)

        started = time.monotonic()
        with pytest.raises(ConnectFailed) as failed:
            await opening(Settings.load(url=group.url))
        took = time.monotonic() - started
        print(f"refused after {took:.2f} s: {failed.value}")
        assert took < 1.0 * SLACK
        assert "no sentinel knows the primary of 'trading-redis'" in str(failed.value)
        for sentinel in (first, second):
            assert f"127.0.0.1:{sentinel.port}: cannot connect" in str(failed.value)
        assert f"127.0.0.1:{third.port}: no answer from" in str(failed.value)


async def test_a_service_that_no_sentinel_knows_is_refused_at_once(
    small_group: LocalSentinels,
) -> None:
    started = time.monotonic()
    with pytest.raises(ConnectFailed, match=r"primary of 'other' .*No such (master|primary)"):
        await opening(Settings.load(url=small_group.url.replace(SERVICE, "other")))
    assert time.monotonic() - started < 1.0 * SLACK


@pytest.fixture
async def locked_group(small_group: LocalSentinels) -> AsyncIterator[LocalSentinels]:
    """A group whose servers ask for `data-secret` and whose sentinel for `sentinel-secret`."""
    for server in small_group.servers:
        async with client_of(server) as witness:
            await witness.config_set("masterauth", "data-secret")
            await witness.config_set("requirepass", "data-secret")
    [sentinel] = small_group.sentinels
    async with redis_py.Redis(port=sentinel.port) as witness:
        await witness.execute_command("SENTINEL", "SET", SERVICE, "auth-pass", "data-secret")
        await witness.execute_command(
            "ACL", "SETUSER", "watcher", "on", ">sentinel-secret", "+@all", "&*"
        )
        await witness.execute_command("ACL", "SETUSER", "default", "off")
    yield small_group
    for server in small_group.servers:
        async with redis_py.Redis(port=server.port, password="data-secret") as witness:
            await witness.config_set("requirepass", "")


def with_password(group: LocalSentinels, password: str = "data-secret") -> str:
    return group.url.replace("://", f"://:{password}@")


async def test_sentinels_and_servers_have_credentials_of_their_own(
    locked_group: LocalSentinels,
) -> None:
    settings = Settings.load(
        url=with_password(locked_group),
        sentinel_login={"username": "watcher", "password": "sentinel-secret"},
    )
    async with rtx.open(settings) as layer:
        load = Load(layer, writers=2)
        [sentinel] = locked_group.sentinels
        old = locked_group.servers[0]
        async with load.running():
            async with redis_py.Redis(
                port=sentinel.port, username="watcher", password="sentinel-secret"
            ) as witness:
                await witness.execute_command("SENTINEL", "FAILOVER", SERVICE, "COORDINATED")
            await eventually(lambda: load.switched)
            moment = load.switched[0]
            await eventually(lambda: load.acked_since(moment) > 50 and load.heard_since(moment) > 5)
        assert topology_of(layer).primary == Address("127.0.0.1", locked_group.servers[1].port)
        assert old.port != topology_of(layer).primary.port


async def test_a_wrong_password_of_the_sentinels_is_told_from_one_of_the_servers(
    locked_group: LocalSentinels,
) -> None:
    login = {"username": "watcher", "password": "sentinel-secret"}
    with pytest.raises(ConnectFailed, match="NOAUTH") as failed:
        await opening(Settings.load(url=with_password(locked_group)))
    assert str(locked_group.sentinels[0].port) in str(failed.value)
    with pytest.raises(ConnectFailed, match="WRONGPASS") as failed:
        await opening(
            Settings.load(
                url=with_password(locked_group),
                sentinel_login={"username": "watcher", "password": "guessed"},
            )
        )
    assert "guessed" not in str(failed.value)
    with pytest.raises(AccessDenied, match="WRONGPASS") as denied:
        await opening(
            Settings.load(url=with_password(locked_group, "guessed"), sentinel_login=login)
        )
    assert "guessed" not in str(denied.value)
