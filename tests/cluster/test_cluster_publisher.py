"""The batching publisher in a cluster: each symbol's ticks in order, whatever another node does."""

from __future__ import annotations

import signal
from collections import Counter, defaultdict

import rtx
from rtx.topology.local_cluster import LocalCluster
from tests.conftest import eventually

NAMES = [f"S{number}" for number in range(30)]
NOON = 1_768_732_245_123


def tick(number: int, symbol: str) -> rtx.Tick:
    return rtx.Tick(symbol, time=NOON + number, bid=1.0, ask=2.0)


async def test_a_frozen_node_holds_up_no_tick_of_another_and_nothing_comes_twice(
    cluster: LocalCluster, layer: rtx.DataLayer, other: rtx.DataLayer
) -> None:
    victim = await cluster.primary_of(layer.keys.market_data(NAMES[0]))
    free = [
        name
        for name in NAMES
        if victim
        not in [
            await cluster.primary_of(layer.keys.price(name)),
            await cluster.primary_of(layer.keys.market_data(name)),
        ]
    ]
    heard: dict[str, list[int]] = defaultdict(list)
    async with (
        other.market_data.subscribe(*NAMES, snapshot=False) as ticks,
        layer.market_data.publisher(policy="drop_oldest", queue_size=300) as out,
    ):
        await ticks.ready()

        def hear() -> bool:
            queue = ticks._inbox.queue
            while queue:
                item = queue.popleft()
                if isinstance(item, rtx.Tick):
                    heard[item.symbol].append(item.time - NOON)
            return True

        def give(first: int, last: int) -> None:
            for number in range(first, last):
                for name in NAMES:
                    out.offer(tick(number, name))

        give(0, 5)
        await out.flush()
        await eventually(lambda: hear() and sum(map(len, heard.values())) == 150)
        victim.kill(signal.SIGSTOP)
        try:
            give(5, 10)
            await eventually(lambda: hear() and all(heard[name][-1] == 9 for name in free))
            assert not out.stats.dropped, "the others came before the victim was given up"
        finally:
            victim.kill(signal.SIGCONT)
        await eventually(lambda: out.stats.queued == 0)
        give(10, 11)
        await out.flush()
        await eventually(lambda: hear() and all(heard[name][-1] == 10 for name in NAMES))
    assert out.stats.published + out.stats.dropped.total() == 11 * len(NAMES)
    assert set(out.stats.dropped) <= {"unconfirmed"}
    assert all(heard[name] == [*range(11)] for name in free)
    for name in NAMES:
        assert heard[name] == sorted(heard[name])
        assert max(Counter(heard[name]).values()) == 1
    assert not out._lanes
