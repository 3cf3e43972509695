"""Random faults in a cluster, seeded: nothing wrong, lost or doubled, and nobody left in the dark.

Every node is behind a proxy that cuts, resets, slices, delays, freezes and black-holes, while slots
move, primaries hand over and are stopped, clients are killed and scripts forgotten. Calls, scripts,
publishers and subscriptions go on meanwhile. Planned failovers lose nothing, so all that was
acknowledged must be there. RTXTEST_SEED=n repeats schedule n.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from rtx.setting_groups import ChannelSettings, PoolSettings
from rtx.settings import Settings
from rtx.topology.local import ask
from rtx.topology.local_cluster import LocalCluster
from rtx.topology.slots import key_slot
from rtx.urls import Address
from rtx.wire import Connection, ConnectOptions
from tests.failure.trial import Trial, under_load
from tests.wire.faults import Proxy
from tests.wire.storms import calm, raging, random_faults

pytestmark = pytest.mark.usefixtures("patient_drills")

READ_TIMEOUT = 0.4
CONNECT_TIMEOUT = 1.0
SCHEDULES = 8
STRIKES = 4


def seeds(count: int) -> list[int]:
    repeated = os.environ.get("RTXTEST_SEED")
    return [int(repeated)] if repeated else [secrets.randbits(32) for _ in range(count)]


@pytest.mark.parametrize("number", range(SCHEDULES))
async def test_a_cluster_under_random_faults_loses_and_doubles_nothing(
    cluster: LocalCluster, settings: Settings, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for seed in seeds(1):
        await run_schedule(seed, cluster, settings, monkeypatch)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_a_cluster_under_hundreds_of_schedules_loses_and_doubles_nothing(
    cluster: LocalCluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in seeds(250):
        await run_schedule(seed, cluster, settings, monkeypatch)


async def run_schedule(
    seed: int, cluster: LocalCluster, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"schedule: RTXTEST_SEED={seed}")
    chance = random.Random(seed)
    brief = settings.model_copy(
        update={
            "namespace": f"{settings.namespace}:{seed}",
            "pool": PoolSettings(
                min_idle=3,
                connect_timeout=CONNECT_TIMEOUT,
                read_timeout=READ_TIMEOUT,
                write_timeout=READ_TIMEOUT,
                max_in_flight=chance.choice([3, 10_000]),
                max_age=chance.choice([0.2, 300.0]),
            ),
            "channels": ChannelSettings(probe_interval=READ_TIMEOUT),
        }
    )
    async with proxied(cluster, monkeypatch) as proxies:
        async with under_load(brief, chance, what=f"schedule {seed}") as trial:
            async with AsyncExitStack() as storms:
                for proxy in proxies:
                    proxy.faults = lambda: random_faults(chance)
                    storm = raging(proxy, chance, pause=0.3, freeze=READ_TIMEOUT * 1.2)
                    await storms.enter_async_context(storm)
                strikes = await strike(cluster, trial, chance)
            for proxy in proxies:
                await calm(proxy)
            await cluster.settled()
        print(f"strikes {dict(strikes)}; {sum(proxy.accepted for proxy in proxies)} connections")


@asynccontextmanager
async def proxied(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[Proxy]]:
    """Every connection that RTX dials to a node goes through that node's proxy.

    The nodes go on naming each other by their own addresses.
    """
    async with AsyncExitStack() as stack:
        proxies = {
            server.port: await stack.enter_async_context(Proxy(Address("127.0.0.1", server.port)))
            for server in cluster.servers
        }

        class Detour:
            @staticmethod
            async def dial(
                address: Address, options: ConnectOptions, *handlers: object
            ) -> Connection:
                return await Connection.dial(
                    proxies[address.port].address,
                    options,
                    *handlers,  # type: ignore[arg-type]
                )

        with monkeypatch.context() as patch:
            patch.setattr("rtx.topology.cluster.Connection", Detour)
            patch.setattr("rtx.topology.cluster_view.Connection", Detour)
            yield list(proxies.values())


async def strike(cluster: LocalCluster, trial: Trial, chance: random.Random) -> Counter[str]:
    """Real faults of the nodes, one after the other; how many of each."""
    keys = trial.layer.keys
    names = [keys.market_data("X"), keys.executions(1), keys.alerts("system")]
    names += [client.count_key for client in trial.clients]
    done: Counter[str] = Counter()
    for _ in range(STRIKES):
        what = chance.choice(["migrate", "migrate", "fail over", "stop", "kill clients", "forget"])
        if what in ("migrate", "fail over"):
            await cluster.settled()  # nodes in disagreement refuse both
        primaries = await cluster.primaries()
        server = chance.choice(primaries)
        match what:
            case "migrate":
                slot = key_slot(chance.choice(names).encode())
                owner = await cluster.owner(slot)
                others = [other for other in primaries if other is not owner]
                await cluster.migrate(slot, chance.choice(others))
            case "fail over":
                await cluster.failover(server)
            case "stop":
                server.kill(signal.SIGSTOP)
                await asyncio.sleep(chance.uniform(0.05, 0.5))
                server.kill(signal.SIGCONT)
            case "kill clients":
                kind = chance.choice(["normal", "pubsub"])
                await ask(server.port, "CLIENT", "KILL", "TYPE", kind)
            case "forget":
                for each in primaries:
                    await ask(each.port, "SCRIPT", "FLUSH")
        done[what] += 1
        await asyncio.sleep(chance.uniform(0.0, 0.1))
    return done
