"""Executions across lost wake-ups, lost connections and lost servers."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest
import redis.asyncio as redis_py

import rtx
from rtx import codecs
from rtx.keys import Keys
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.conftest import eventually
from tests.pubsub.journals import fill


async def append_in_silence(
    witness: redis_py.Redis, layer: rtx.DataLayer, epoch: str, order_id: int
) -> None:
    """Write to the log as the script does, but publish nothing: the wake-up is lost."""
    channel = layer.keys.executions(1)
    seq = await witness.hincrby(Keys.companion(channel, "meta"), "seq", 1)
    message = codecs.encode(msgspec.structs.replace(fill(order_id), seq=seq, epoch=epoch))
    await witness.xadd(Keys.companion(channel, "log"), {"m": message}, id=f"{seq}-0")


async def test_a_lost_wake_up_is_noticed_at_the_next_message(
    layer: rtx.DataLayer, journal_witness: redis_py.Redis
) -> None:
    async with layer.executions.subscribe(1) as fills:
        await fills.ready()
        first = await layer.executions.publish(1, fill(1))
        assert isinstance(await anext(fills), rtx.Execution)
        await append_in_silence(journal_witness, layer, first.epoch, 2)
        await append_in_silence(journal_witness, layer, first.epoch, 3)
        await layer.executions.publish(1, fill(4))
        gap, *rest = [await anext(fills) for _ in range(4)]
        assert isinstance(gap, rtx.Gap)
        assert gap.recovered
        assert gap.cause == "a message was lost on the way"
        assert [item.order_id for item in rest if isinstance(item, rtx.Execution)] == [2, 3, 4]
    assert layer.stats()["channel.executions"]["recoveries"] == 1


async def test_a_lost_first_message_of_a_new_log_is_recovered(
    layer: rtx.DataLayer, journal_witness: redis_py.Redis
) -> None:
    async with layer.executions.subscribe(1) as fills:
        await fills.ready()
        channel = layer.keys.executions(1)
        await journal_witness.hset(Keys.companion(channel, "meta"), "epoch", "e1")
        await append_in_silence(journal_witness, layer, "e1", 1)
        await layer.executions.publish(1, fill(2))
        gap, *rest = [await anext(fills) for _ in range(3)]
        assert isinstance(gap, rtx.Gap)
        assert gap.recovered
        assert [item.order_id for item in rest if isinstance(item, rtx.Execution)] == [1, 2]


@pytest.mark.parametrize("earlier", [0, 3])
async def test_what_came_while_the_connection_was_away_is_replayed(
    own_server: ServerProcess, earlier: int
) -> None:
    settings = Settings.load(url=own_server.url)
    async with rtx.open(settings) as layer, rtx.open(settings) as other:
        for order_id in range(earlier):
            await other.executions.publish(1, fill(order_id))
        async with (
            layer.executions.subscribe(1) as fills,
            redis_py.Redis.from_url(own_server.url) as witness,
        ):
            await fills.ready()
            await witness.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await other.executions.publish(1, fill(100))
            await other.executions.publish(1, fill(101))
            got = [await anext(fills) for _ in range(3)]
        gaps = [item for item in got if isinstance(item, rtx.Gap)]
        assert [item.order_id for item in got if isinstance(item, rtx.Execution)] == [100, 101]
        assert [gap.recovered for gap in gaps] == [True]
        assert "closed the connection" in gaps[0].cause


async def test_every_message_comes_once_and_in_order_across_many_reconnects(
    layer: rtx.DataLayer, settings: Settings, witness: redis_py.Redis, seeded: random.Random
) -> None:
    total = 2_000
    async with rtx.open(settings) as other:

        async def publish() -> None:
            for number in range(0, total, 10):
                await asyncio.gather(
                    *(other.executions.publish(1, fill(number + i)) for i in range(10))
                )
                await asyncio.sleep(0.003)

        over = asyncio.Event()  # redis-py may swallow a cancellation: the cutter is asked to end

        async def cut() -> None:
            while not over.is_set():
                await asyncio.sleep(seeded.uniform(0.01, 0.15))
                await witness.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

        async with layer.executions.subscribe(1) as fills:
            await fills.ready()
            cutting = asyncio.ensure_future(cut())
            publishing = asyncio.ensure_future(publish())
            seqs: list[int] = []
            gaps: list[rtx.Gap] = []
            try:
                while len(seqs) < total:
                    item = await anext(fills)
                    if isinstance(item, rtx.Gap):
                        gaps.append(item)
                    else:
                        seqs.append(item.seq)
            finally:
                over.set()
                await asyncio.gather(publishing, cutting, return_exceptions=True)
    assert seqs == list(range(1, total + 1))
    assert gaps
    assert all(gap.recovered for gap in gaps)
    assert all(gap.duration >= 0 for gap in gaps)


async def test_a_server_that_kept_its_log_is_followed_on_after_a_restart(
    own_server: ServerProcess,
) -> None:
    async with (
        rtx.open(Settings.load(url=own_server.url)) as layer,
        redis_py.Redis.from_url(own_server.url) as witness,
        layer.executions.subscribe(1) as fills,
    ):
        await fills.ready()
        await layer.executions.publish(1, fill(1))
        assert isinstance(await anext(fills), rtx.Execution)
        await witness.save()
        own_server.kill()
        await own_server.wait()
        await own_server.start()

        async def published() -> bool:
            try:
                await layer.executions.publish(1, fill(2))
            except rtx.Unavailable:
                return False
            return True

        await eventually(published)
        gap, second = [await anext(fills) for _ in range(2)]
        assert isinstance(gap, rtx.Gap)
        assert gap.recovered
        assert isinstance(second, rtx.Execution)
        assert (second.order_id, second.seq) == (2, 2)


async def test_a_server_that_lost_its_log_says_so_after_a_restart(
    own_server: ServerProcess,
) -> None:
    async with (
        rtx.open(Settings.load(url=own_server.url)) as layer,
        layer.executions.subscribe(1) as fills,
    ):
        await fills.ready()
        await layer.executions.publish(1, fill(1))
        assert isinstance(await anext(fills), rtx.Execution)
        own_server.kill()
        await own_server.wait()
        await own_server.start()
        gap = await anext(fills)
        assert isinstance(gap, rtx.Gap)
        assert (gap.recovered, gap.cause) == (False, "epoch changed")

        async def published() -> bool:
            try:
                await layer.executions.publish(1, fill(2))
            except rtx.Unavailable:
                return False
            return True

        await eventually(published)
        second = await anext(fills)
        assert isinstance(second, rtx.Execution)
        assert (second.order_id, second.seq) == (2, 1)


async def test_a_subscription_made_while_the_server_is_away_begins_when_it_is_back(
    own_server: ServerProcess,
) -> None:
    async with rtx.open(Settings.load(url=own_server.url)) as layer:
        own_server.kill()
        await own_server.wait()
        fills = layer.executions.subscribe(1, after=":0")
        await eventually(lambda: layer.hub.stats.connect_failures > 0)
        await own_server.start()
        await fills.ready()
        assert fills.recovered

        async def published() -> bool:
            try:
                await layer.executions.publish(1, fill(1))
            except rtx.Unavailable:
                return False
            return True

        await eventually(published)
        first = await anext(fills)
        assert isinstance(first, rtx.Execution)
        assert first.order_id == 1
        await fills.close()
