"""Executions across the loss of a primary: each that survived comes once, and a loss is told."""

from __future__ import annotations

import asyncio

import pytest

import rtx
from rtx.errors import NotWritable, Unavailable
from rtx.keys import Keys
from rtx.settings import Settings
from rtx.topology import Role
from rtx.topology.local import LocalSentinels
from rtx.topology.process import ServerProcess
from tests.conftest import eventually
from tests.sentinel.load import client_of, primary_by_all, topology_of

pytestmark = pytest.mark.timeout(120)

DB = 1


def fill(order_id: int) -> rtx.Execution:
    return rtx.Execution(order_id, 9, "EURUSD", "BUY", 1.0, 1.1, timestamp=1)


class Consumer:
    """Takes everything of one account, and remembers it."""

    def __init__(self, layer: rtx.DataLayer) -> None:
        self.fills: list[rtx.Execution] = []
        self.gaps: list[rtx.Gap] = []
        self.subscription = layer.executions.subscribe(1)
        self._task = asyncio.create_task(self._take())

    async def _take(self) -> None:
        async for item in self.subscription:
            if isinstance(item, rtx.Gap):
                self.gaps.append(item)
            else:
                self.fills.append(item)

    @property
    def orders(self) -> list[int]:
        return [each.order_id for each in self.fills]

    async def close(self) -> None:
        await self.subscription.close()
        await self._task


async def stored(server: ServerProcess, layer: rtx.DataLayer) -> list[rtx.Execution]:
    """The log on a server, read by redis-py."""
    log = Keys.companion(layer.keys.executions(1), "log")
    async with client_of(server, DB) as witness:
        entries = await witness.xrange(log)
    return [rtx.codecs.decode_execution(fields["m"].encode()) for _, fields in entries]


async def test_each_execution_that_survives_a_killed_primary_comes_once_and_in_order(
    group: LocalSentinels,
) -> None:
    async with rtx.open(Settings.load(url=group.url)) as layer:
        consumer = Consumer(layer)
        await consumer.subscription.ready()
        acked: list[int] = []
        unsure: list[int] = []
        ending = asyncio.Event()

        async def publish(writer: int) -> None:
            number = writer
            while not ending.is_set():
                number += 10
                try:
                    await layer.executions.publish(1, fill(number))
                except Unavailable as error:
                    if error.maybe_applied:
                        unsure.append(number)
                except NotWritable:
                    pass
                else:
                    acked.append(number)
                await asyncio.sleep(0.003)

        writers = [asyncio.create_task(publish(writer)) for writer in range(4)]
        await eventually(lambda: len(consumer.fills) > 100)
        old = group.servers[0]
        old.kill()
        await eventually(lambda: topology_of(layer, Role.PUBSUB).switches, within=20)
        begun = len(consumer.fills)
        await eventually(lambda: len(consumer.fills) > begun + 100)
        ending.set()
        await asyncio.gather(*writers)
        log = await stored(await primary_by_all(group, but=old), layer)
        await eventually(lambda: consumer.fills[-1] == log[-1])
        survived = [each.order_id for each in log]
        lost = set(acked) - set(survived)
        print(
            f"{len(acked)} executions acknowledged, {len(unsure)} unsure, {len(lost)} lost with "
            f"the primary; gaps {[(gap.cause, gap.recovered) for gap in consumer.gaps]}"
        )
        assert set(survived) <= {*acked, *unsure}
        assert len(consumer.orders) == len(set(consumer.orders))
        heard = [order for order in consumer.orders if order in set(survived)]
        assert heard == survived
        assert consumer.gaps
        if not set(consumer.orders) - set(survived):
            assert consumer.gaps[0].recovered
        await consumer.close()


async def cut_off_replicas(group: LocalSentinels) -> None:
    """Let the replicas follow a port that nobody listens on: from here on they miss everything."""
    for server in group.servers[1:]:
        async with client_of(server) as witness:
            await witness.replicaof("127.0.0.1", "1")


async def lose_a_tail(
    group: LocalSentinels, layer: rtx.DataLayer, consumer: Consumer, survivors: int, lost: int
) -> None:
    """Publish; the last `lost` executions are acknowledged and consumed, and die unreplicated."""
    for number in range(survivors):
        await layer.executions.publish(1, fill(number))
    for server in group.servers[1:]:
        await eventually(lambda: has_log(server, layer, survivors))  # noqa: B023
    await cut_off_replicas(group)
    for number in range(survivors, survivors + lost):
        await layer.executions.publish(1, fill(number))
    await eventually(lambda: len(consumer.fills) == survivors + lost)
    group.servers[0].kill()


async def has_log(server: ServerProcess, layer: rtx.DataLayer, length: int) -> bool:
    return len(await stored(server, layer)) == length


async def test_a_log_that_lost_its_newest_executions_is_told_as_not_recovered(
    group: LocalSentinels,
) -> None:
    async with rtx.open(Settings.load(url=group.url)) as layer:
        consumer = Consumer(layer)
        await consumer.subscription.ready()
        await lose_a_tail(group, layer, consumer, survivors=5, lost=3)
        await eventually(lambda: consumer.gaps, within=30)
        assert [(gap.cause, gap.recovered) for gap in consumer.gaps] == [("rewound", False)]
        await eventually(lambda: publishes(layer, 100))
        await eventually(lambda: consumer.orders[-1] == 100)
        assert consumer.orders == [*range(8), 100]
        await consumer.close()


async def publishes(layer: rtx.DataLayer, number: int) -> bool:
    try:
        await layer.executions.publish(1, fill(number))
    except (Unavailable, NotWritable):
        return False
    return True


async def test_executions_that_reuse_lost_numbers_are_not_taken_for_those_lost(
    group: LocalSentinels,
) -> None:
    async with rtx.open(Settings.load(url=group.url)) as layer:
        consumer = Consumer(layer)
        await consumer.subscription.ready()
        await lose_a_tail(group, layer, consumer, survivors=5, lost=3)
        position = consumer.subscription.position
        await consumer.close()
        # While the consumer is away others publish more than was lost.
        for number in range(100, 105):
            await eventually(lambda: publishes(layer, number), within=30)  # noqa: B023
        history = await layer.executions.history(1, after=position)
        print(f"after {position}: {history}")
        assert (history.recovered, history.reason) == (False, "rewound")
        assert [each.order_id for each in history.messages] == [100, 101, 102, 103, 104]
