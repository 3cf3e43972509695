"""Every channel of the contract, as another program listens to it and speaks on it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import redis.asyncio as redis_py
from redis.asyncio.client import PubSub

import rtx
from rtx.setting_groups import ChannelSettings
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.conftest import eventually

TIME = 1_705_575_045_123
FILL = rtx.Execution(67890, 12345, "EURUSD", "BUY", 1.0, 1.0950, timestamp=TIME)

Databases = Callable[[int], redis_py.Redis]


@asynccontextmanager
async def listening(client: redis_py.Redis, *channels: str) -> AsyncIterator[PubSub]:
    async with client.pubsub() as listener:
        await listener.subscribe(*channels)
        for _ in channels:
            await listener.get_message(timeout=5)
        yield listener


async def heard(listener: PubSub) -> tuple[str, str]:
    """Channel and payload of the next message."""
    message = await listener.get_message(ignore_subscribe_messages=True, timeout=5)
    assert message is not None, "nothing was published"
    return message["channel"].decode(), message["data"].decode()


# --- what we publish -------------------------------------------------------------------------


async def test_a_tick_is_published_as_the_contract_has_it(
    plain: rtx.DataLayer, database: Databases
) -> None:
    async with listening(database(0), "market_data:BTCUSD") as listener:
        await plain.market_data.publish(
            rtx.Tick("BTCUSD", time=TIME, bid=95000.50, ask=95001.50, lp="OANDA")
        )
        assert await heard(listener) == (
            "market_data:BTCUSD",
            '{"type":"tick","symbol":"BTCUSD","time":1705575045123,"bid":95000.5,'
            '"ask":95001.5,"lp":"OANDA"}',
        )


async def test_an_execution_is_published_with_its_place_in_the_log(
    plain: rtx.DataLayer, database: Databases
) -> None:
    async with listening(database(1), "executions:1") as listener:
        offset = await plain.executions.publish(1, FILL)
        channel, payload = await heard(listener)
    assert channel == "executions:1"
    assert list(json.loads(payload).items()) == [
        ("type", "execution"),
        ("order_id", 67890),
        ("position_id", 12345),
        ("symbol", "EURUSD"),
        ("side", "BUY"),
        ("volume", 1.0),
        ("price", 1.095),
        ("timestamp", TIME),
        ("seq", 1),
        ("epoch", offset.epoch),
    ]
    assert offset.seq == 1


async def test_alerts_are_published_to_an_account_and_to_everyone(
    plain: rtx.DataLayer, database: Databases
) -> None:
    async with listening(database(3), "alerts:1", "alerts:system") as listener:
        one = await plain.alerts.publish(
            1, rtx.Alert("margin_call", "critical", 'below 100 % "now"', TIME)
        )
        all_ = await plain.alerts.publish("system", rtx.Alert("maintenance", "info", "später", 1))
        first, second = await heard(listener), await heard(listener)
    assert first[0] == "alerts:1"
    assert json.loads(first[1]) == {
        "type": "alert",
        "kind": "margin_call",
        "severity": "critical",
        "message": 'below 100 % "now"',
        "timestamp": TIME,
        "seq": 1,
        "epoch": one.epoch,
    }
    assert second[0] == "alerts:system"
    assert json.loads(second[1])["message"] == "später"
    assert json.loads(second[1])["epoch"] == all_.epoch


async def test_the_execution_log_is_a_stream_that_others_can_read(
    plain: rtx.DataLayer, database: Databases
) -> None:
    async with listening(database(1), "executions:1") as listener:
        for order_id in (1, 2, 3):
            await plain.executions.publish(
                1, rtx.Execution(order_id, 9, "EURUSD", "SELL", 0.5, 1.1, TIME)
            )
        published = [(await heard(listener))[1].encode() for _ in range(3)]
    log = database(1)
    assert await log.type("{executions:1}:log") == b"stream"
    entries = await log.xrange("{executions:1}:log")
    assert [entry_id for entry_id, _ in entries] == [b"1-0", b"2-0", b"3-0"]
    assert [fields[b"m"] for _, fields in entries] == published
    assert await log.hget("{executions:1}:meta", "seq") == b"3"
    a_week = 7 * 86_400_000
    for key in ("{executions:1}:log", "{executions:1}:meta"):  # a week, and up to a 16th of it more
        assert a_week < await log.pttl(key) <= a_week * 17 // 16


# --- what others publish ---------------------------------------------------------------------


async def test_we_receive_ticks_of_others_with_other_fields_and_whole_numbers(
    plain: rtx.DataLayer, database: Databases
) -> None:
    async with plain.market_data.subscribe("BTCUSD") as ticks:
        await ticks.ready()
        receivers = await database(2).publish(
            "market_data:BTCUSD",
            '{"volume": 3, "type": "tick", "symbol": "BTCUSD", "time": 1705575045123,'
            ' "bid": 95000, "ask": 95001, "lp": "LMAX", "flags": [1]}',
        )
        assert receivers == 1
        tick = await anext(ticks)
    assert tick == rtx.Tick("BTCUSD", time=TIME, bid=95000.0, ask=95001.0, lp="LMAX")


async def test_a_tick_may_leave_out_type_and_provider(
    plain: rtx.DataLayer, database: Databases
) -> None:
    async with plain.market_data.subscribe("BTCUSD") as ticks:
        await ticks.ready()
        await database(0).publish(
            "market_data:BTCUSD", '{"symbol":"BTCUSD","time":1705575045123,"bid":1,"ask":2}'
        )
        assert await anext(ticks) == rtx.Tick("BTCUSD", time=TIME, bid=1.0, ask=2.0)


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "not json",
        "[]",
        '{"type":"quote","symbol":"BTCUSD","time":1,"bid":1,"ask":2}',
        '{"type":"tick","symbol":"BTCUSD","time":1,"bid":"1","ask":2}',
        '{"type":"tick","symbol":"BTCUSD","time":"yesterday","bid":1,"ask":2}',
        '{"type":"tick","symbol":"BTCUSD","time":1,"bid":1}',
        '{"type":"tick","symbol":"BTCUSD","time":1,"bid":NaN,"ask":2}',
        b'{"type":"tick","symbol":"\xff","time":1,"bid":1,"ask":2}',
    ],
)
async def test_what_is_no_tick_is_counted_and_passed_over(
    plain: rtx.DataLayer, database: Databases, payload: str | bytes
) -> None:
    async with plain.market_data.subscribe("BTCUSD") as ticks:
        await ticks.ready()
        await database(0).publish("market_data:BTCUSD", payload)
        good = rtx.Tick("BTCUSD", bid=1.0, ask=2.0)
        await plain.market_data.publish(good)
        assert await anext(ticks) == good
        assert plain.stats()["hub"]["undecodable"] == 1


async def test_we_receive_what_others_append_and_publish_in_step(
    plain: rtx.DataLayer, database: Databases
) -> None:
    other = database(1)
    async with plain.executions.subscribe(1) as fills:
        await fills.ready()
        ours = await plain.executions.publish(1, FILL)
        seq = await other.hincrby("{executions:1}:meta", "seq", 1)
        message = json.dumps(
            {
                "type": "execution",
                "order_id": 2,
                "position_id": 3,
                "symbol": "EURUSD",
                "side": "SELL",
                "volume": 1,
                "price": 1,
                "timestamp": TIME,
                "seq": seq,
                "epoch": ours.epoch,
                "commission": 3.5,
            }
        )
        await other.xadd("{executions:1}:log", {"m": message}, id=f"{seq}-0")
        await other.publish("executions:1", message)
        await plain.executions.publish(1, FILL)
        got = [await anext(fills) for _ in range(3)]
    assert [fill.seq for fill in got if isinstance(fill, rtx.Execution)] == [1, 2, 3]
    assert got[1] == rtx.Execution(2, 3, "EURUSD", "SELL", 1.0, 1.0, TIME, seq=2, epoch=ours.epoch)


BARE = (
    '{"type":"execution","order_id":5,"position_id":6,"symbol":"EURUSD","side":"BUY",'
    '"volume":1.0,"price":1.0950,"timestamp":1705575045123}'
)


@pytest.mark.parametrize("earlier", [0, 3])
async def test_an_execution_without_seq_is_passed_on_though_no_log_has_it(
    plain: rtx.DataLayer, database: Databases, earlier: int
) -> None:
    for _ in range(earlier):
        await plain.executions.publish(1, FILL)
    async with plain.executions.subscribe(1) as fills:
        await fills.ready()
        await database(1).publish("executions:1", BARE)
        numbered = await plain.executions.publish(1, FILL)
        foreign = await anext(fills)
        assert foreign == rtx.Execution(5, 6, "EURUSD", "BUY", 1.0, 1.095, TIME)
        ours = await anext(fills)
        assert isinstance(ours, rtx.Execution)
        assert rtx.Offset(ours.epoch, ours.seq) == numbered
        assert plain.stats()["channel.executions"]["gaps"] == 0
    history = await plain.executions.history(1)
    assert [fill.seq for fill in history.messages] == list(range(1, earlier + 2))


async def test_an_alert_of_another_program_without_seq_is_passed_on(
    plain: rtx.DataLayer, database: Databases
) -> None:
    async with plain.alerts.subscribe("system") as alerts:
        await alerts.ready()
        await database(1).publish(
            "alerts:system",
            '{"type":"alert","kind":"news","severity":"info","message":"NFP","timestamp":1}',
        )
        assert await anext(alerts) == rtx.Alert("news", "info", "NFP", 1)


async def test_a_message_that_is_no_execution_in_the_log_is_counted_and_passed_over(
    plain: rtx.DataLayer, database: Databases
) -> None:
    first = await plain.executions.publish(1, FILL)
    await database(1).hincrby("{executions:1}:meta", "seq", 1)
    await database(1).xadd("{executions:1}:log", {"m": "not json"}, id="2-0")
    await plain.executions.publish(1, FILL)
    async with plain.executions.subscribe(1, after=rtx.Offset(first.epoch, 0)) as fills:
        got = [await anext(fills) for _ in range(2)]
    assert [fill.seq for fill in got if isinstance(fill, rtx.Execution)] == [1, 3]
    assert plain.stats()["channel.executions"]["undecodable"] == 1


async def test_a_log_entry_that_somebody_deleted_is_a_gap_and_not_the_end(
    plain: rtx.DataLayer, database: Databases
) -> None:
    first = await plain.executions.publish(1, FILL)
    for _ in range(3):
        await plain.executions.publish(1, FILL)
    await database(1).xdel("{executions:1}:log", "2-0", "4-0")
    async with plain.executions.subscribe(1, after=first) as fills:
        await fills.ready()
        assert (fills.recovered, fills.reason) == (False, "trimmed")
        await plain.executions.publish(1, FILL)
        gap, *got = [await anext(fills) for _ in range(3)]
    assert isinstance(gap, rtx.Gap)
    assert (gap.cause, gap.recovered) == ("trimmed", False)
    assert [fill.seq for fill in got if isinstance(fill, rtx.Execution)] == [3, 5]


async def test_channels_are_the_same_in_every_database(
    plain: rtx.DataLayer, database: Databases
) -> None:
    """Pub/Sub ignores database numbers, so any connection of another program will do."""
    async with plain.market_data.subscribe("*") as ticks:
        await ticks.ready()
        for number in range(4):
            await database(number).publish(
                f"market_data:S{number}",
                f'{{"type":"tick","symbol":"S{number}","time":1,"bid":1,"ask":2}}',
            )
        got = [await anext(ticks) for _ in range(4)]
    assert [tick.symbol for tick in got if isinstance(tick, rtx.Tick)] == ["S0", "S1", "S2", "S3"]


async def test_messages_without_seq_that_find_no_room_are_counted_in_a_gap(
    own_server: ServerProcess, database: Databases
) -> None:
    settings = Settings.load(url=own_server.url, channels=ChannelSettings(queue_size=2))
    async with rtx.open(settings) as layer, layer.executions.subscribe(1) as fills:
        await fills.ready()
        await layer.executions.publish(1, FILL)
        for _ in range(4):
            await database(1).publish("executions:1", BARE)
        await layer.executions.publish(1, FILL)
        await eventually(lambda: fills.skipped == 3)
        got = [await anext(fills) for _ in range(4)]
    assert [item.seq if isinstance(item, rtx.Execution) else item for item in got] == [
        1,
        0,
        rtx.Gap("executions:1", "the consumer is slow", skipped=3),
        2,
    ]


async def test_joining_among_messages_without_seq_replays_nothing_old(
    plain: rtx.DataLayer, database: Databases
) -> None:
    for _ in range(5):
        await plain.executions.publish(1, FILL)

    quiet = asyncio.Event()

    async def chatter() -> None:
        while not quiet.is_set():  # redis-py may swallow a cancellation, so it is asked to end
            await database(1).publish("executions:1", BARE)

    chattering = asyncio.ensure_future(chatter())
    try:
        for _ in range(20):
            async with plain.executions.subscribe(1) as fills:
                await fills.ready()
                new = await plain.executions.publish(1, FILL)
                while (item := await anext(fills)).seq == 0:  # type: ignore[union-attr]
                    pass
                assert isinstance(item, rtx.Execution)
                assert item.seq == new.seq
    finally:
        quiet.set()
        await chattering
