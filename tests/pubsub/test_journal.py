"""Executions and alerts: numbered without a hole, and replayed exactly once and in order."""

from __future__ import annotations

import asyncio
import random

import pytest

import rtx
from rtx.settings import Settings
from tests.conftest import eventually
from tests.pubsub.journals import assert_quiet, fill, orders, publish

# --- numbering -------------------------------------------------------------------------------


async def test_numbers_have_no_hole_under_eight_publishers(settings: Settings) -> None:
    per_publisher = 50
    async with rtx.open(settings) as one, rtx.open(settings) as other:

        async def run(publisher: int) -> list[rtx.Offset]:
            layer = (one, other)[publisher % 2]
            return [
                await layer.executions.publish(1, fill(publisher * 1_000 + i))
                for i in range(per_publisher)
            ]

        async with one.executions.subscribe(1) as fills:
            await fills.ready()
            given = await asyncio.gather(*(run(publisher) for publisher in range(8)))
            got = [await anext(fills) for _ in range(8 * per_publisher)]
    assert [item.seq for item in got if isinstance(item, rtx.Execution)] == list(range(1, 401))
    assert len({offset.epoch for offsets in given for offset in offsets}) == 1
    assert sorted(offset.seq for offsets in given for offset in offsets) == list(range(1, 401))
    place = {item.order_id: item.seq for item in got if isinstance(item, rtx.Execution)}
    for publisher, offsets in enumerate(given):
        assert [place[publisher * 1_000 + i] for i in range(per_publisher)] == [
            offset.seq for offset in offsets
        ]


async def test_a_message_gets_a_new_number_when_it_is_published_again(
    layer: rtx.DataLayer,
) -> None:
    (first,) = await publish(layer, 1)
    (stored,) = (await layer.executions.history(1)).messages
    assert (stored.epoch, stored.seq) == first
    again = await layer.executions.publish(1, stored)
    assert again == rtx.Offset(first.epoch, 2)
    elsewhere = await layer.executions.publish(2, stored)
    assert elsewhere.seq == 1
    assert elsewhere.epoch != first.epoch


async def test_accounts_and_kinds_have_logs_of_their_own(layer: rtx.DataLayer) -> None:
    await publish(layer, 3)
    assert (await layer.executions.publish(2, fill(1))).seq == 1
    assert (await layer.alerts.publish(1, rtx.Alert("margin_call", "critical", "now"))).seq == 1
    assert (await layer.alerts.publish("system", rtx.Alert("news", "info", "NFP"))).seq == 1
    assert (await layer.executions.history(3)).messages == []


# --- subscribing -----------------------------------------------------------------------------


async def test_without_a_position_it_begins_with_the_next_message(layer: rtx.DataLayer) -> None:
    await publish(layer, 5)
    async with layer.executions.subscribe(1) as fills:
        await fills.ready()
        assert fills.position is not None
        assert fills.position.seq == 5
        assert (fills.recovered, fills.reason) == (True, "")
        await publish(layer, 2, first=6)
        assert await orders(fills, 2) == [6, 7]


@pytest.mark.parametrize("after", range(6))
async def test_after_a_position_every_later_message_comes_once(
    layer: rtx.DataLayer, after: int
) -> None:
    offsets = await publish(layer, 5)
    position = rtx.Offset(offsets[0].epoch, after)
    async with layer.executions.subscribe(1, after=str(position)) as fills:
        assert await orders(fills, 5 - after) == list(range(after + 1, 6))
        await fills.ready()
        assert (fills.recovered, fills.reason) == (True, "")
        await assert_quiet(fills, layer)


async def test_replay_of_many_pages_joins_the_live_messages_without_a_seam(
    layer: rtx.DataLayer, settings: Settings
) -> None:
    async with rtx.open(settings) as other:
        many = 2_500
        await asyncio.gather(*(other.executions.publish(1, fill(i)) for i in range(many)))
        start = rtx.Offset((await other.executions.history(1, limit=1)).last.epoch, 0)

        async def go_on() -> None:
            for i in range(300):
                await other.executions.publish(1, fill(many + i))

        async with layer.executions.subscribe(1, after=start) as fills:
            publishing = asyncio.ensure_future(go_on())
            got = [await anext(fills) for _ in range(many + 300)]
            await publishing
        seqs = [item.seq for item in got if isinstance(item, rtx.Execution)]
        assert seqs == list(range(1, many + 301))


async def test_joining_while_others_publish_has_no_hole(
    layer: rtx.DataLayer, settings: Settings, seeded: random.Random
) -> None:
    async with rtx.open(settings) as other:
        going = True

        async def go_on() -> None:
            number = 0
            while going:
                burst = seeded.choice([1, 1, 2, 10])
                await asyncio.gather(
                    *(other.executions.publish(1, fill(number + i)) for i in range(burst))
                )
                number += burst
                await asyncio.sleep(seeded.choice([0, 0.001]))

        async def join() -> None:
            await asyncio.sleep(seeded.uniform(0, 0.01))
            async with layer.executions.subscribe(1) as fills:
                got = [await anext(fills) for _ in range(20)]
            seqs = [item.seq for item in got if isinstance(item, rtx.Execution)]
            assert seqs == list(range(seqs[0], seqs[0] + 20))

        publishing = asyncio.ensure_future(go_on())
        for _ in range(10):
            await asyncio.gather(*(join() for _ in range(10)))
        going = False
        await publishing


@pytest.mark.parametrize(
    "position", ["", "abc", "5", "e:", "e:x", "e:-1", "e:1.5", "e:٣", "e:" + "9" * 16, "e:1 "]
)
async def test_a_malformed_position_is_refused(layer: rtx.DataLayer, position: str) -> None:
    with pytest.raises(ValueError, match="epoch:seq"):
        layer.executions.subscribe(1, after=position)
    with pytest.raises(ValueError, match="epoch:seq"):
        await layer.executions.history(1, after=position)


async def test_a_position_before_the_first_message_is_good_once_there_is_one(
    layer: rtx.DataLayer,
) -> None:
    """What a reader of an account without executions has in hand."""
    empty = await layer.executions.history(1)
    assert (empty.messages, empty.recovered, str(empty.last)) == ([], True, ":0")
    waiting = layer.executions.subscribe(1, after=empty.last)
    await waiting.ready()
    await publish(layer, 3)
    history = await layer.executions.history(1, after=":0")
    assert (len(history.messages), history.recovered, history.reason) == (3, True, "")
    async with layer.executions.subscribe(1, after=":0") as fills:
        assert await orders(fills, 3) == [1, 2, 3]
        assert fills.recovered
    assert await orders(waiting, 3) == [1, 2, 3]
    await waiting.close()


# --- history ---------------------------------------------------------------------------------


async def test_history_gives_the_latest_or_those_after_a_position(layer: rtx.DataLayer) -> None:
    offsets = await publish(layer, 250)

    async def order_ids(after: rtx.Offset | None, limit: int) -> list[int]:
        history = await layer.executions.history(1, after, limit)
        assert history.recovered
        assert history.last == offsets[-1]
        return [one.order_id for one in history.messages]

    assert await order_ids(None, 100) == list(range(151, 251))
    assert await order_ids(None, 3) == [248, 249, 250]
    assert await order_ids(None, 0) == []
    assert await order_ids(None, -5) == []
    assert await order_ids(None, 100_000) == list(range(1, 251))
    assert await order_ids(offsets[9], 5) == [11, 12, 13, 14, 15]
    assert await order_ids(offsets[9], 0) == []
    assert await order_ids(offsets[-1], 100) == []
    assert await order_ids(offsets[-2], 1) == [250]
    default = await layer.executions.history(1)
    assert len(default.messages) == 100


async def test_history_pages_through_the_whole_log(layer: rtx.DataLayer) -> None:
    await publish(layer, 95)
    position: rtx.Offset | str = ":0"
    got: list[int] = []
    while True:
        page = await layer.executions.history(1, position, limit=10)
        assert page.recovered
        if not page.messages:
            break
        got += [one.order_id for one in page.messages]
        position = rtx.Offset(page.messages[-1].epoch, page.messages[-1].seq)
    assert got == list(range(1, 96))
    assert position == page.last


# --- alerts ----------------------------------------------------------------------------------


async def test_system_alerts_reach_every_subscriber_and_are_kept(
    layer: rtx.DataLayer, settings: Settings
) -> None:
    async with rtx.open(settings) as other:
        subscriptions = [one.alerts.subscribe("system") for one in (layer, layer, other)]
        private = layer.alerts.subscribe(1)
        for alerts in (*subscriptions, private):
            await alerts.ready()
        offset = await other.alerts.publish("system", rtx.Alert("halt", "critical", "now", 5))
        mine = await other.alerts.publish(1, rtx.Alert("margin_call", "warning", "soon", 6))
        expected = rtx.Alert("halt", "critical", "now", 5, offset.seq, offset.epoch)
        assert [await anext(alerts) for alerts in subscriptions] == [expected] * 3
        assert await anext(private) == rtx.Alert(
            "margin_call", "warning", "soon", 6, mine.seq, mine.epoch
        )
        for alerts in (*subscriptions, private):
            await alerts.close()
        assert (await layer.alerts.history("system")).messages == [expected]


async def test_a_closed_or_dropped_subscription_is_released(layer: rtx.DataLayer) -> None:
    first, second = layer.executions.subscribe(1), layer.executions.subscribe(1)
    await first.ready()
    await second.ready()
    assert layer.stats()["hub"]["channels"] == 1
    await first.close()
    del second
    await eventually(lambda: layer.stats()["hub"]["channels"] == 0)
