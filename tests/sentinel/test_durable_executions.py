"""Executions that a replica has before they are acknowledged: none is lost with the primary."""

from __future__ import annotations

import asyncio
import signal

import pytest

import rtx
from rtx.errors import NotReplicated, Unavailable
from rtx.settings import Settings
from rtx.topology.local import LocalSentinels
from tests.conftest import eventually
from tests.sentinel.load import client_of

pytestmark = pytest.mark.timeout(120)


def fill(order_id: int) -> rtx.Execution:
    return rtx.Execution(order_id, 9, "EURUSD", "BUY", 1.0, 1.1, timestamp=1)


async def test_durable_executions_survive_a_killed_primary_each_once_and_in_order(
    group: LocalSentinels,
) -> None:
    settings = Settings.load(url=group.url, channels={"durable": True, "publish_deadline": 60})
    accounts, writers, each = range(5), 8, 60
    given: dict[tuple[int, int], rtx.Offset] = {}
    async with rtx.open(settings) as layer, rtx.open(settings) as other:
        heard: dict[int, list[rtx.Execution]] = {account: [] for account in accounts}
        gaps: list[rtx.Gap] = []
        subscriptions = [other.executions.subscribe(account) for account in accounts]

        async def follow(account: int) -> None:
            async for item in subscriptions[account]:
                if isinstance(item, rtx.Gap):
                    gaps.append(item)
                else:
                    heard[account].append(item)

        async def publish(writer: int) -> None:
            for number in range(each):
                account, order = number % len(accounts), writer * 1_000 + number
                given[account, order] = await layer.executions.publish(
                    account, fill(order), key=f"order-{order}"
                )
                await asyncio.sleep(0.001)

        for subscription in subscriptions:
            await subscription.ready()
        following = [asyncio.create_task(follow(account)) for account in accounts]
        publishing = [asyncio.create_task(publish(writer)) for writer in range(writers)]
        await eventually(lambda: len(given) > 100)
        group.servers[0].kill()
        await asyncio.gather(*publishing)
        assert len(given) == writers * each
        for account in accounts:
            wanted = sorted(order for at, order in given if at == account)
            await eventually(lambda: len(heard[account]) >= len(wanted))  # noqa: B023
            got = heard[account]
            assert [one.seq for one in got] == list(range(1, len(wanted) + 1))
            assert sorted(one.order_id for one in got) == wanted
            epochs = list(dict.fromkeys(one.epoch for one in got))
            assert len(epochs) <= 2
            for one in got:
                assert given[account, one.order_id].seq == one.seq
        stats = layer.executions.stats
        print(f"{len(given)} acknowledged, {stats.retries} retries, {stats.repeated} repeated")
        assert gaps
        assert all(gap.recovered for gap in gaps)
        for subscription in subscriptions:
            await subscription.close()
        await asyncio.gather(*following)


async def test_a_replica_that_does_not_answer_is_told_and_a_key_waits_again(
    small_group: LocalSentinels,
) -> None:
    settings = Settings.load(url=small_group.url, channels={"durable_timeout": 0.3})
    replica = small_group.servers[1]
    async with rtx.open(settings) as layer:
        first = await layer.executions.publish(1, fill(1), durable=True)
        replica.kill(signal.SIGSTOP)
        with pytest.raises(NotReplicated, match="0 of 1 replicas") as caught:
            await layer.executions.publish(1, fill(2), durable=True, key="a", deadline=0)
        assert caught.value.maybe_applied
        assert layer.executions.stats.unreplicated == 1
        replica.kill(signal.SIGCONT)
        assert (await layer.executions.publish(1, fill(2), durable=True, key="a")).seq == 2
        with pytest.raises(NotReplicated, match="nothing was published"):
            async with rtx.open(
                Settings.load(url=small_group.url, channels={"durable_replicas": 2})
            ) as demanding:
                await demanding.executions.publish(1, fill(3), durable=True)
        history = await layer.executions.history(1, first)
        assert [one.order_id for one in history.messages] == [2]


async def test_durable_publishes_of_one_moment_share_a_wait(small_group: LocalSentinels) -> None:
    async with (
        rtx.open(Settings.load(url=small_group.url)) as layer,
        client_of(small_group.servers[0]) as witness,
    ):
        await layer.executions.publish(1, fill(0), durable=True)
        await witness.config_resetstat()
        await asyncio.gather(
            *(layer.executions.publish(n % 7, fill(n), durable=True) for n in range(500))
        )
        waits = (await witness.info("commandstats"))["cmdstat_wait"]["calls"]
        print(f"{waits} WAITs for 500 publishes")
        assert waits <= 5


async def test_a_closed_layer_ends_durable_publishes(small_group: LocalSentinels) -> None:
    small_group.servers[1].kill(signal.SIGSTOP)
    settings = Settings.load(url=small_group.url, channels={"durable_timeout": 60.0})
    async with rtx.open(settings) as layer:
        task = asyncio.create_task(layer.executions.publish(1, fill(1), durable=True))
        await eventually(lambda: layer.executions._writer._durable._lanes)
        await eventually(lambda: not task.done())
    with pytest.raises(Unavailable):
        await task
    small_group.servers[1].kill(signal.SIGCONT)
