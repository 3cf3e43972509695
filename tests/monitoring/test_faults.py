"""Alerts in a real Prometheus: a fault is made, its alert fires; it is mended, the alert clears.

promtool runs every rule on made-up series in test_alert_rules.py; here the series are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.monitoring import serve_metrics
from rtx.settings import Settings
from rtx.topology.local import LocalSentinels
from rtx.topology.process import free_port
from tests.conftest import eventually
from tests.monitoring.conftest import Prometheus, needed, program, prometheus, rtx_command

HURRY = 20.0  # 15 s are 750 ms, 5 minutes are 15 s
FIRES, CLEARS = 40.0, 60.0


@dataclass
class System:
    """What a fault can be made in."""

    group: LocalSentinels
    feed: asyncio.subprocess.Process

    def client(self, number: int = 0) -> redis_py.Redis:
        return redis_py.Redis(port=self.group.servers[number].port)


@contextlib.asynccontextmanager
async def primary_stranger(system: System) -> AsyncIterator[None]:
    """The replica is told that its primary is where nobody is."""
    async with system.client(1) as replica:
        await replica.replicaof("127.0.0.1", free_port())
        yield
        await replica.replicaof("127.0.0.1", system.group.servers[0].port)


@contextlib.asynccontextmanager
async def replica_frozen(system: System) -> AsyncIterator[None]:
    system.group.servers[1].kill(signal.SIGSTOP)
    yield
    system.group.servers[1].kill(signal.SIGCONT)


@contextlib.asynccontextmanager
async def replica_gone(system: System) -> AsyncIterator[None]:
    await system.group.servers[1].stop()
    yield
    await system.group.servers[1].start()


@contextlib.asynccontextmanager
async def replica_promoted(system: System) -> AsyncIterator[None]:
    async with system.client(1) as replica:
        await replica.replicaof("NO", "ONE")
        yield
        await replica.replicaof("127.0.0.1", system.group.servers[0].port)


@contextlib.asynccontextmanager
async def memory_full(system: System) -> AsyncIterator[None]:
    async with system.client() as client:
        used = int((await client.info("memory"))["used_memory"])
        await client.config_set("maxmemory", used + used // 10)
        yield
        await client.config_set("maxmemory", 0)


@contextlib.asynccontextmanager
async def keys_evicted(system: System) -> AsyncIterator[None]:
    async with system.client() as client:
        used = int((await client.info("memory"))["used_memory"])
        await client.config_set("maxmemory-policy", "allkeys-lru")
        await client.config_set("maxmemory", used + 2**25)
        for number in range(250):  # for as long as a few scrapes
            await client.set(f"big:{number}", b"x" * 2**18)
            await asyncio.sleep(0.05)
        await client.config_set("maxmemory", 0)
        yield


@contextlib.asynccontextmanager
async def snapshot_failed(system: System) -> AsyncIterator[None]:
    async with system.client() as client:
        found = await client.config_get("d*")
        snapshot = Path(found["dir"]) / found["dbfilename"]
        snapshot.unlink(missing_ok=True)
        snapshot.mkdir()
        await client.bgsave()
        yield
        snapshot.rmdir()
        await client.bgsave()


@contextlib.asynccontextmanager
async def command_slow(system: System) -> AsyncIterator[None]:
    async with system.client() as client:
        await client.config_set("latency-monitor-threshold", 1)
        await client.execute_command("DEBUG", "SLEEP", "0.02")
        await client.config_set("latency-monitor-threshold", 0)
        yield
        await client.execute_command("LATENCY", "RESET")


@contextlib.asynccontextmanager
async def somebody_refused(system: System) -> AsyncIterator[None]:
    """More than once: the series begins with the first."""
    async with system.client() as client, system.client() as nobody:
        await client.execute_command("ACL", "SETUSER", "nobody", "on", ">x", "-@all", "+ping")
        for _ in range(10):
            with pytest.raises(redis_py.AuthenticationError):
                await nobody.execute_command("AUTH", "nobody", "wrong")
            await asyncio.sleep(0.5)
        yield
        await client.execute_command("ACL", "DELUSER", "nobody")


@contextlib.asynccontextmanager
async def too_many_clients(system: System) -> AsyncIterator[None]:
    async with system.client() as client:
        most = int((await client.info("clients"))["connected_clients"])
        await client.config_set("maxclients", most)
        port = system.group.servers[0].port
        for _ in range(10):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await asyncio.sleep(0.5)
        await client.config_set("maxclients", 10_000)
        yield


@contextlib.asynccontextmanager
async def clients_blocked(system: System) -> AsyncIterator[None]:
    port = system.group.servers[0].port
    writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(101)]
    for writer in writers:
        writer.write(b"BLPOP nothing 0\r\n")
    yield
    for writer in writers:
        writer.close()


@contextlib.asynccontextmanager
async def primary_paused(system: System) -> AsyncIterator[None]:
    """Shorter than it takes the sentinels to replace it."""
    async with system.client() as client:
        await client.execute_command("CLIENT", "PAUSE", 15_000, "ALL")
        yield


@contextlib.asynccontextmanager
async def feed_gone(system: System) -> AsyncIterator[None]:
    system.feed.send_signal(signal.SIGSTOP)
    yield
    system.feed.send_signal(signal.SIGCONT)


@contextlib.asynccontextmanager
async def primary_replaced(system: System) -> AsyncIterator[None]:
    await system.group.failover()
    yield


FAULTS: dict[str, Callable[[System], AbstractAsyncContextManager[None]]] = {
    "RtxServerDown": replica_frozen,
    "RtxTargetDown": feed_gone,
    "RtxReplicaLinkDown": primary_stranger,
    "RtxNoGoodReplica": replica_gone,
    "RtxNotOnePrimary": replica_promoted,
    "RtxMemoryHigh": memory_full,
    "RtxStateEvicted": keys_evicted,
    "RtxRdbFailing": snapshot_failed,
    "RtxLatencySpike": command_slow,
    "RtxAccessDenied": somebody_refused,
    "RtxConnectionsRejected": too_many_clients,
    "RtxBlockedClients": clients_blocked,
    "RtxBreakerOpen": primary_paused,
    "RtxLimitWithoutServer": primary_paused,
    "RtxFailover": primary_replaced,
}


@contextlib.asynccontextmanager
async def watched(directory: Path) -> AsyncIterator[tuple[System, Prometheus]]:
    """Servers, a feed and an engine (this process) that reads and asks its limits all the time."""
    feed = free_port()
    async with LocalSentinels(replicas=1, sentinels=1, down_after=25) as group:
        settings = Settings.load(url=group.url, database_url="sqlite+aiosqlite://")
        feeding = rtx_command("feed", "--source", "simulated", "--metrics-port", feed)
        async with (
            program(*feeding, env={"RTX_URL": group.url}) as feeder,
            rtx.open(settings) as layer,
            serve_metrics(layer, 0) as own,
        ):
            engine = own.removeprefix("http://")
            jobs = {
                "feed": {"static_configs": [{"targets": [f"127.0.0.1:{feed}"]}]},
                "engine": {"static_configs": [{"targets": [engine]}]},
                "redis": {
                    "metrics_path": "/metrics/servers",
                    "honor_labels": True,
                    "static_configs": [{"targets": [engine]}],
                },
            }
            work = asyncio.create_task(_work(layer))
            # A server that hangs is waited for: one second, and no scrape may be shorter.
            async with prometheus(directory, jobs, HURRY, interval="2s") as running:
                yield System(group, feeder), running
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


async def _work(layer: rtx.DataLayer) -> None:
    while True:
        await asyncio.gather(
            layer.symbols.get("EURUSD"), layer.limits.orders.hit(1), return_exceptions=True
        )
        await asyncio.sleep(0.05)


@pytest.mark.soak
@pytest.mark.timeout(240)
@pytest.mark.parametrize("alert", FAULTS)
async def test_the_alert_fires_in_the_fault_and_clears_after_it(alert: str, tmp_path: Path) -> None:
    needed("prometheus", "prometheus")
    async with watched(tmp_path) as (system, seen):

        async def fires() -> bool:
            return alert in await seen.firing()

        async def clear() -> bool:
            return not await fires()

        async def scraped() -> bool:
            return {"redis_up", "rtx_info", "rtx_feed_ticks_total"} <= await seen.names()

        await eventually(scraped, within=60, every=0.2)
        await eventually(clear, within=CLEARS, every=0.2)
        async with FAULTS[alert](system):
            await eventually(fires, within=FIRES, every=0.2)
        await eventually(clear, within=CLEARS, every=0.2)
