"""Executions: what is told of messages that are gone, and what slow consumers still get."""

from __future__ import annotations

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.settings import Settings
from tests.pubsub.journals import assert_quiet, log_of, meta_of, orders, publish

# --- messages that are gone ------------------------------------------------------------------


async def test_a_position_older_than_the_log_is_trimmed(small: Settings) -> None:
    async with rtx.open(small) as layer:
        offsets = await publish(layer, 15)
        async with layer.executions.subscribe(1, after=offsets[0]) as fills:
            gap = await anext(fills)
            assert isinstance(gap, rtx.Gap)
            assert (gap.cause, gap.recovered) == ("trimmed", False)
            assert await orders(fills, 10) == list(range(6, 16))
            assert (fills.recovered, fills.reason) == (False, "trimmed")
            await assert_quiet(fills, layer)
        history = await layer.executions.history(1, after=offsets[0])
        assert (history.recovered, history.reason) == (False, "trimmed")
        assert [one.order_id for one in history.messages] == [*range(7, 16), -1]


async def test_a_position_just_before_the_oldest_message_is_whole(small: Settings) -> None:
    async with rtx.open(small) as layer:
        offsets = await publish(layer, 15)
        history = await layer.executions.history(1, after=offsets[4])
        assert (history.recovered, len(history.messages)) == (True, 10)
        history = await layer.executions.history(1, after=offsets[3])
        assert (history.recovered, len(history.messages)) == (False, 10)


async def test_a_log_that_was_deleted_is_a_new_epoch(
    layer: rtx.DataLayer, journal_witness: redis_py.Redis
) -> None:
    offsets = await publish(layer, 3)
    async with layer.executions.subscribe(1) as live:
        await live.ready()
        await journal_witness.delete(log_of(layer), meta_of(layer))
        new = await publish(layer, 2, first=11)
        assert [offset.seq for offset in new] == [1, 2]
        assert new[0].epoch != offsets[0].epoch
        gap = await anext(live)
        assert isinstance(gap, rtx.Gap)
        assert (gap.cause, gap.recovered) == ("epoch changed", False)
        assert await orders(live, 2) == [11, 12]
    async with layer.executions.subscribe(1, after=offsets[1]) as fills:
        gap = await anext(fills)
        assert isinstance(gap, rtx.Gap)
        assert (gap.cause, gap.recovered) == ("epoch changed", False)
        assert await orders(fills, 2) == [11, 12]
        await assert_quiet(fills, layer)
    history = await layer.executions.history(1, after=offsets[2])
    assert (history.recovered, history.reason, history.last.seq) == (False, "epoch changed", 3)
    assert [one.order_id for one in history.messages] == [11, 12, -1]


@pytest.mark.parametrize("gone", ["log", "meta"])
async def test_half_a_log_is_a_hole_and_not_the_end(
    layer: rtx.DataLayer, journal_witness: redis_py.Redis, gone: str
) -> None:
    """An eviction takes single keys."""
    offsets = await publish(layer, 3)
    async with layer.executions.subscribe(1) as live:
        await live.ready()
        await journal_witness.delete(log_of(layer) if gone == "log" else meta_of(layer))
        async with layer.executions.subscribe(1, after=offsets[0]) as fills:
            await fills.ready()
            assert not fills.recovered
            await publish(layer, 1, first=11)
            gap = await anext(fills)
            assert isinstance(gap, rtx.Gap)
            assert not gap.recovered
            while isinstance(item := await anext(fills), rtx.Gap):
                pass
            assert item.order_id == 11
        items = [await anext(live)]
        if isinstance(items[0], rtx.Gap):
            items.append(await anext(live))
        assert isinstance(items[-1], rtx.Execution)
        assert items[-1].order_id == 11


async def test_a_position_ahead_of_the_log_is_rewound(layer: rtx.DataLayer) -> None:
    """The server came back without its newest entries."""
    offsets = await publish(layer, 3)
    ahead = rtx.Offset(offsets[0].epoch, 8)
    history = await layer.executions.history(1, after=ahead)
    assert (history.recovered, history.reason, history.messages) == (False, "rewound", [])
    async with layer.executions.subscribe(1, after=ahead) as fills:
        gap = await anext(fills)
        assert isinstance(gap, rtx.Gap)
        assert (gap.cause, gap.recovered) == ("rewound", False)
        await publish(layer, 2, first=4)
        assert await orders(fills, 2) == [4, 5]


# --- slow consumers --------------------------------------------------------------------------


async def test_a_consumer_slower_than_its_queue_loses_nothing(settings: Settings) -> None:
    channels = settings.channels.model_copy(update={"queue_size": 3})
    async with rtx.open(settings.model_copy(update={"channels": channels})) as layer:
        async with layer.executions.subscribe(1) as fills:
            await fills.ready()
            number = 0
            taken: list[int] = []
            for burst in (1, 3, 4, 50, 1, 200):
                await publish(layer, burst, first=number)
                number += burst
                taken += await orders(fills, min(2, burst))
            taken += await orders(fills, number - len(taken))
            assert taken == list(range(number))
            await assert_quiet(fills, layer)
        assert layer.stats()["channel.executions"]["gaps"] == 0


async def test_a_consumer_slower_than_the_log_is_told_what_it_cannot_have(
    small: Settings,
) -> None:
    async with rtx.open(small) as layer, layer.executions.subscribe(1) as fills:
        await fills.ready()
        await publish(layer, 40)
        assert await orders(fills, 3) == [1, 2, 3]
        gap = await anext(fills)
        assert isinstance(gap, rtx.Gap)
        assert (gap.cause, gap.recovered) == ("trimmed", False)
        assert await orders(fills, 10) == list(range(31, 41))
        await assert_quiet(fills, layer)


async def test_a_replay_larger_than_the_queue_is_taken_in_parts(small: Settings) -> None:
    async with rtx.open(small) as layer:
        offsets = await publish(layer, 10)
        start = rtx.Offset(offsets[0].epoch, 0)
        async with layer.executions.subscribe(1, after=start) as fills:
            await fills.ready()
            await publish(layer, 1, first=11)
            got = await orders(fills, 3)
            while got[-1] != 11:
                item = await anext(fills)
                if isinstance(item, rtx.Execution):
                    got.append(item.order_id)
                else:
                    assert item.cause == "trimmed"
        assert got == sorted(set(got))


async def test_batches_of_a_replay_are_whole(small: Settings) -> None:
    async with rtx.open(small) as layer:
        offsets = await publish(layer, 10)
        async with layer.executions.subscribe(1, after=rtx.Offset(offsets[0].epoch, 0)) as fills:
            got: list[rtx.Execution | rtx.Gap] = []
            batches = fills.batches()
            while len(got) < 10:
                batch = await anext(batches)
                assert len(batch) <= 3
                got += batch
            await batches.aclose()
    assert [item.order_id for item in got if isinstance(item, rtx.Execution)] == list(range(1, 11))
