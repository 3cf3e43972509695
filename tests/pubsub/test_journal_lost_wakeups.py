"""Messages that the log has and no channel told of: found by looking, within a second."""

from __future__ import annotations

import asyncio
import time

import msgspec
import redis.asyncio as redis_py

import rtx
from rtx import codecs
from rtx.pubsub import journal_watch
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.conftest import eventually
from tests.pubsub.journals import fill, log_of, meta_of, orders, publish


async def append_in_silence(
    witness: redis_py.Redis, layer: rtx.DataLayer, epoch: str, order_id: int
) -> None:
    """Write to the log as the script does, but publish nothing: the wake-up is lost."""
    seq = await witness.hincrby(meta_of(layer), "seq", 1)
    message = codecs.encode(msgspec.structs.replace(fill(order_id), seq=seq, epoch=epoch))
    await witness.xadd(log_of(layer), {"m": message}, id=f"{seq}-0")


async def test_a_lost_wake_up_with_nothing_after_it_is_noticed_within_a_second(
    layer: rtx.DataLayer, journal_witness: redis_py.Redis
) -> None:
    # What an idle machine takes at most: the settings are the defaults.
    assert layer.settings.channels.poll_interval + journal_watch._GRACE < 1.0
    async with layer.executions.subscribe(1) as fills, layer.executions.subscribe(1) as too:
        await fills.ready()
        await too.ready()
        (first,) = await publish(layer, 1)
        assert await orders(fills, 1) == await orders(too, 1) == [1]
        for number in (2, 3):
            began = time.monotonic()
            await append_in_silence(journal_witness, layer, first.epoch, number)
            for subscription in (fills, too):
                gap = await anext(subscription)
                assert isinstance(gap, rtx.Gap)
                assert (gap.cause, gap.recovered) == ("a message was lost on the way", True)
                assert await orders(subscription, 1) == [number]
            print(f"found after {time.monotonic() - began:.2f} s")
        assert layer.stats()["channel.executions"]["lost_wakeups"] == 4


async def test_what_is_on_its_way_is_not_taken_for_lost(layer: rtx.DataLayer) -> None:
    watch = layer.executions._watch
    asking, over = watch._look, asyncio.Event()

    async with layer.executions.subscribe(1) as fills:
        await fills.ready()

        async def go_on() -> None:
            while not over.is_set():
                await layer.executions.publish(1, fill(1))

        async def look() -> None:
            for _ in range(100):
                await asking([layer.keys.executions(1)])
            over.set()

        await asyncio.gather(go_on(), look())
        published = layer.executions.stats.published
        assert await orders(fills, published) == [1] * published
        await asyncio.sleep(0.15)  # the last look's grace
        assert layer.stats()["channel.executions"]["gaps"] == 0


async def test_a_log_that_was_made_anew_in_silence_is_noticed(
    layer: rtx.DataLayer, journal_witness: redis_py.Redis
) -> None:
    async with layer.executions.subscribe(1) as fills:
        await fills.ready()
        await publish(layer, 3)
        assert await orders(fills, 3) == [1, 2, 3]
        await journal_witness.delete(log_of(layer), meta_of(layer))
        await journal_witness.hset(meta_of(layer), "epoch", "e2")
        await append_in_silence(journal_witness, layer, "e2", 11)
        gap = await anext(fills)
        assert isinstance(gap, rtx.Gap)
        assert (gap.cause, gap.recovered) == ("epoch changed", False)
        assert await orders(fills, 1) == [11]


async def test_nobody_is_asked_while_nobody_listens_and_one_command_for_each_log_else(
    own_server: ServerProcess,
) -> None:
    settings = Settings.load(url=own_server.url, channels={"poll_interval": 0.1})
    many = 1_200
    async with (
        rtx.open(settings) as layer,
        redis_py.Redis.from_url(own_server.url) as witness,
    ):

        async def asked() -> int:
            stats = await witness.info("commandstats")
            return int(stats.get("cmdstat_hmget", {}).get("calls", 0))

        await asyncio.sleep(0.3)
        assert await asked() == 0
        subscriptions = [layer.executions.subscribe(n) for n in range(many) for _ in range(2)]
        await asyncio.gather(*(each.ready() for each in subscriptions))
        async with asyncio.timeout(20):
            begun = await asked()
            while (count := await asked()) < begun + 3 * many:
                await asyncio.sleep(0.02)
        print(f"{count - begun} questions for {many} logs with {2 * many} subscribers")
        await asyncio.gather(*(each.close() for each in subscriptions))
        await eventually(lambda: layer.executions._watch._task is None)
        rest = await asked()
        await asyncio.sleep(0.3)
        assert await asked() == rest
