"""Probes through failovers: no false alarm, and nobody stays where nothing is published."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

import rtx
from rtx.settings import Settings
from rtx.topology import Role
from rtx.topology.local import LocalSentinels
from rtx.topology.sentinel import SentinelTopology
from rtx.urls import Address
from rtx.wire import Connection
from tests.conftest import eventually
from tests.sentinel.load import client_of, primary_by_all, topology_of
from tests.sentinel.watching import Lateness

INTERVAL = 0.05


def often(layer: rtx.DataLayer) -> None:
    """Probe every 50 ms, so that many probes fall into the failover."""
    layer.hub._probing = replace(layer.hub._probing, interval=INTERVAL)


@pytest.mark.parametrize(
    "planned",
    [
        pytest.param(True, id="coordinated"),
        pytest.param(False, id="killed", marks=pytest.mark.soak),
    ],
)
async def test_a_failover_is_no_deafness(group: LocalSentinels, planned: bool) -> None:
    async with rtx.open(Settings.load(url=group.url)) as layer:
        often(layer)
        async with layer.market_data.subscribe("EURUSD", snapshot=False) as ticks:
            await ticks.ready()
            await eventually(lambda: layer.hub.stats.probes > 5)
            old = await group.primary()
            if planned:
                await group.failover()
            else:
                old.kill()
            await primary_by_all(group, but=old)
            await eventually(lambda: topology_of(layer, Role.PUBSUB).switches == 1)
            after = layer.hub.stats.probes
            await eventually(lambda: layer.hub.stats.probes > after + 20)
            await eventually(lambda: layer.hub.down is None)
            gap = await anext(ticks)
            assert isinstance(gap, rtx.Gap)
            assert gap.duration > 0
            stats = layer.hub.stats
            print(f"{stats}; {gap}")
            assert stats.probe_failures == 0


async def test_a_subscriber_left_at_a_cut_off_former_primary_is_moved_to_the_new_one(
    small_group: LocalSentinels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It should have been moved by the topology; here that overlooks it."""
    leave = SentinelTopology._leave

    def overlook(self: SentinelTopology, address: Address, why: str) -> None:
        kept: dict[Connection, bool] = {c: True for c, sub in self._live.items() if sub}
        for connection in kept:
            del self._live[connection]
        leave(self, address, why)
        self._live |= kept

    late = Lateness()
    async with (
        rtx.open(Settings.load(url=small_group.url)) as layer,
        layer.market_data.subscribe("EURUSD", snapshot=False) as ticks,
    ):
        await ticks.ready()
        await eventually(lambda: layer.hub.stats.probe_ms)
        old = await small_group.primary()
        # No failover of the sentinels': they would end the subscriber's connection.
        new = next(server for server in small_group.servers if server is not old)
        monkeypatch.setattr(SentinelTopology, "_leave", overlook)
        async with client_of(new) as witness, late.measured():
            await witness.execute_command("REPLICAOF", "NO", "ONE")
            topology = topology_of(layer, Role.PUBSUB)
            known = topology._council.known
            assert known is not None
            struck = time.monotonic()
            topology._council.known = replace(known, address=Address("127.0.0.1", new.port))
            topology._leave(known.address, "it was replaced")
            await eventually(lambda: layer.hub.stats.losses)
            took = time.monotonic() - struck
        gap = await anext(ticks)
        print(f"moved after {took:.2f} s, the machine {late.seconds:.2f} s late; {gap}")
        assert isinstance(gap, rtx.Gap)
        assert "a probe reached nobody" in gap.cause
        assert took < 2 + late.seconds
