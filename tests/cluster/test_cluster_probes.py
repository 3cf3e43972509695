"""Probes in a cluster: one for each node that is listened to, wherever slots move."""

from __future__ import annotations

from dataclasses import replace

import pytest

import rtx
from rtx.topology.local_cluster import LocalCluster
from rtx.topology.slots import key_slot
from tests.conftest import eventually

pytestmark = pytest.mark.usefixtures("patient_drills")

SYMBOLS = [f"SYM{number}" for number in range(30)]


def proven(layer: rtx.DataLayer) -> set[object]:
    """The nodes that a probe has come back from lately."""
    now = {home: link.probe.proven_at for home, link in layer.hub._links.items()}
    return {home for home, when in now.items() if when is not None}


async def test_each_node_is_probed_and_moving_slots_are_no_deafness(
    cluster: LocalCluster, layer: rtx.DataLayer
) -> None:
    layer.hub._probing = replace(layer.hub._probing, interval=0.02)
    async with layer.market_data.subscribe(*SYMBOLS, snapshot=False) as ticks:
        await ticks.ready()
        links = layer.hub._links
        await eventually(lambda: len(links) == 3 and all(each.probe.key for each in links.values()))
        for link in links.values():
            assert layer.hub._homes.home(link.probe.key) == link.home
        primaries = await cluster.primaries()
        for _ in range(3):
            for link in list(links.values()):  # the slot of each probe goes to another node
                slot = key_slot(link.probe.key)
                owner = await cluster.owner(slot)
                to = next(each for each in primaries if each is not owner)
                await cluster.migrate(slot, to)
            before = {link: link.probe.proven_at for link in links.values()}
            await eventually(
                lambda before=before: all(
                    link.probe.proven_at is not None and link.probe.proven_at != before.get(link)
                    for link in links.values()
                )
            )
        await eventually(
            lambda: all(
                layer.hub._homes.home(link.probe.key) == link.home for link in links.values()
            )
        )
        await eventually(lambda: layer.hub.down is None)
        stats = layer.hub.stats
        print(stats)
        assert stats.probe_failures == 0
        assert stats.losses == 0


async def test_a_node_whose_probe_reaches_nobody_is_connected_to_anew(
    cluster: LocalCluster, layer: rtx.DataLayer
) -> None:
    async with layer.executions.subscribe(1) as fills:
        await fills.ready()
        await eventually(lambda: layer.hub.stats.probe_ms)
        [link] = layer.hub._links.values()
        connection = link._connection
        assert connection is not None
        # Ended behind the link's back: it takes this for the answer to its own.
        for name in (link.probe.key, layer.keys.executions(1).encode()):
            link._leaving[name] += 1
            await connection.subscribe("SUNSUBSCRIBE", [name.decode()])
        await eventually(lambda: layer.hub.stats.losses)
        await layer.executions.publish(1, rtx.Execution(1, 1, "X", "BUY", 1.0, 1.0))
        gap = await anext(fills)
        assert isinstance(gap, rtx.Gap)
        assert "a probe reached nobody" in gap.cause
        assert gap.recovered
        fill = await anext(fills)
        assert isinstance(fill, rtx.Execution)
        assert (layer.hub.stats.probe_failures, layer.hub.stats.losses) == (1, 1)
