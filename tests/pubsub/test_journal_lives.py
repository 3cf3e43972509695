"""Logs that another server carries on: positions are good as far as that server had them."""

from __future__ import annotations

import redis.asyncio as redis_py

import rtx
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.conftest import eventually
from tests.pubsub.journals import fill, log_of, meta_of, orders, publish


async def lose_from(
    witness: redis_py.Redis, layer: rtx.DataLayer, seq: int, life: str = "elsewhere"
) -> None:
    """Make the log that of another server, which had the messages before `seq` only."""
    newest = int(await witness.hget(meta_of(layer), "seq"))
    # A stream that ends earlier gives out its ids again only when it is made anew.
    kept = await witness.xrange(log_of(layer), max=f"{seq - 1}-0")
    await witness.delete(log_of(layer))
    for id, fields in kept:
        await witness.xadd(log_of(layer), fields, id=id)
    await witness.hset(
        meta_of(layer), mapping={"seq": seq - 1, "life": life, "at": "table: 0x0", "due": 0}
    )
    assert newest >= seq - 1


async def test_positions_are_good_as_far_as_the_next_server_had_them(
    layer: rtx.DataLayer, journal_witness: redis_py.Redis
) -> None:
    first = (await publish(layer, 10))[0].epoch
    await lose_from(journal_witness, layer, 8)
    second = (await publish(layer, 5, first=21))[0]
    assert second.seq == 8
    assert second.epoch != first
    await lose_from(journal_witness, layer, 11)
    third = (await publish(layer, 2, first=31))[0]
    assert third.seq == 11
    log = [*range(1, 8), 21, 22, 23, 31, 32]

    async def after(epoch: str, seq: int) -> tuple[str, list[int]]:
        history = await layer.executions.history(1, rtx.Offset(epoch, seq))
        position = rtx.Offset(epoch, seq)
        async with layer.executions.subscribe(1, after=position) as fills:
            await fills.ready()
            assert (fills.recovered, fills.reason) == (history.recovered, history.reason)
            if not history.recovered:
                gap = await anext(fills)
                assert isinstance(gap, rtx.Gap)
                assert (gap.recovered, gap.cause) == (False, history.reason)
            got = [one.order_id for one in history.messages]
            assert await orders(fills, len(got)) == got
            assert fills.position == history.last
        return history.reason, got

    for seq in range(8):
        assert await after(first, seq) == ("", log[seq:])
    for seq in (8, 10, 12):  # even where the number is given again
        assert await after(first, seq) == ("rewound", log[7:])
    for seq in (7, 8, 10):
        assert await after(second.epoch, seq) == ("", log[seq:])
    assert await after(second.epoch, 11) == ("rewound", log[10:])
    assert await after(third.epoch, 11) == ("", log[11:])
    assert await after(third.epoch, 13) == ("rewound", [])
    assert await after("unknown", 3) == ("epoch changed", log)


async def test_a_live_subscriber_goes_on_into_the_next_epoch_without_a_gap(
    layer: rtx.DataLayer, journal_witness: redis_py.Redis
) -> None:
    async with layer.executions.subscribe(1) as fills:
        await fills.ready()
        (first, *_) = await publish(layer, 3)
        assert await orders(fills, 3) == [1, 2, 3]
        await journal_witness.hset(meta_of(layer), mapping={"life": "other", "due": 0})
        (second,) = await publish(layer, 1, first=4)
        assert second.epoch != first.epoch
        assert await orders(fills, 1) == [4]
        assert fills.position == second


async def test_many_lives_are_remembered_up_to_a_bound(
    layer: rtx.DataLayer, journal_witness: redis_py.Redis
) -> None:
    epochs = []
    for number in range(20):
        await journal_witness.hset(meta_of(layer), mapping={"life": f"{number}", "due": 0})
        epochs += [offset.epoch for offset in await publish(layer, 1, first=number)]
    reasons = [
        (await layer.executions.history(1, rtx.Offset(epoch, seq + 1))).reason
        for seq, epoch in enumerate(epochs)
    ]
    assert len(set(epochs)) == 20
    assert reasons == ["epoch changed"] * 3 + [""] * 17
    size = await journal_witness.memory_usage(meta_of(layer))
    print(f"{size} bytes of meta")
    assert size < 2_000


async def test_a_key_gives_the_position_in_the_epoch_of_its_message(
    layer: rtx.DataLayer, journal_witness: redis_py.Redis
) -> None:
    before = await layer.executions.publish(1, fill(1), key="a")
    await journal_witness.hset(meta_of(layer), mapping={"life": "other", "due": 0})
    after = await layer.executions.publish(1, fill(2), key="b")
    assert before.epoch != after.epoch
    assert await layer.executions.publish(1, fill(1), key="a") == before
    assert await layer.executions.publish(1, fill(2), key="b") == after


async def test_a_restart_with_its_data_begins_an_epoch_and_loses_nothing(
    durable_server: ServerProcess,
) -> None:
    async with rtx.open(Settings.load(url=durable_server.url)) as layer:
        async with layer.executions.subscribe(1) as fills:
            await fills.ready()
            before = await publish(layer, 3)
            durable_server.kill()
            await durable_server.wait()
            await durable_server.start()
            await eventually(lambda: layer.hub.down is None and not layer.hub.idle)
            after = await layer.executions.publish(1, fill(4), key="a")
            assert after.seq == 4
            assert after.epoch != before[0].epoch
            got = [await anext(fills) for _ in range(5)]
            gaps = [item for item in got if isinstance(item, rtx.Gap)]
            assert [gap.recovered for gap in gaps] == [True]
            assert [i.order_id for i in got if isinstance(i, rtx.Execution)] == [1, 2, 3, 4]
        history = await layer.executions.history(1, before[0])
        assert history.recovered
        assert [one.order_id for one in history.messages] == [2, 3, 4]


async def test_entries_older_than_the_log_keeps_go_while_it_is_in_use(
    settings: Settings, journal_witness: redis_py.Redis
) -> None:
    channels = settings.channels.model_copy(update={"log_ttl": 1.0})
    async with rtx.open(settings.model_copy(update={"channels": channels})) as layer:
        offsets: list[rtx.Offset] = []

        async def first_is_gone() -> bool:
            offset = await layer.executions.publish(1, fill(1), key=f"{len(offsets)}")
            offsets.append(offset)
            oldest = await journal_witness.xrange(log_of(layer), count=1)
            return bool(oldest[0][0] != b"1-0")

        await eventually(first_is_gone, every=0.05)
        entries = await journal_witness.xlen(log_of(layer))
        assert 0 < entries < len(offsets)
        keys = await journal_witness.zcard(f"{{{layer.keys.executions(1)}}}:keys")
        assert keys == entries
        history = await layer.executions.history(1, offsets[0])
        assert (history.recovered, history.reason) == (False, "trimmed")
        assert len(history.messages) == entries
        await eventually(lambda: _is_gone(journal_witness, layer))


async def _is_gone(witness: redis_py.Redis, layer: rtx.DataLayer) -> bool:
    names = (log_of(layer), meta_of(layer), f"{{{layer.keys.executions(1)}}}:keys")
    return int(await witness.exists(*names)) == 0
