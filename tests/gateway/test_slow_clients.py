"""Clients that do not keep up: ticks are conflated, executions are not, and nobody else notices."""

from __future__ import annotations

import asyncio
import json

import pytest

import rtx
from rtx.gateway import outbox as outboxes
from rtx.gateway.counters import Counters
from rtx.gateway.outbox import MAX_CHANNELS, OVERFLOW, Batch, Outbox
from tests.conftest import eventually
from tests.gateway.conftest import running

# --- the outbox alone ------------------------------------------------------------------------


def batch(*ticks: tuple[str, int]) -> Batch:
    return Batch([symbol for symbol, _ in ticks], [f'["{symbol}",{n}]' for symbol, n in ticks])


def messages(frame: str) -> list[object]:
    found: list[object] = json.loads(frame)
    return found


async def test_everything_pending_leaves_in_one_frame_in_order() -> None:
    counters = Counters()
    outbox = Outbox(10, counters)
    outbox.put("1")
    outbox.offer(batch(("A", 1), ("B", 1)))
    outbox.put("2")
    outbox.offer(batch(("A", 2)))
    assert messages(await outbox.frame()) == [1, ["A", 1], ["B", 1], 2, ["A", 2]]
    assert (counters.frames, counters.messages, counters.conflated) == (1, 5, 0)
    assert outbox.take() == ""


async def test_a_client_that_lags_gets_the_latest_of_each_symbol() -> None:
    counters = Counters()
    outbox = Outbox(4, counters)
    outbox.put("1")
    outbox.offer(batch(("A", 1), ("B", 1), ("A", 2)))
    assert not outbox.lagging
    outbox.offer(batch(("A", 3), ("C", 1)))
    assert outbox.lagging
    outbox.offer(batch(("C", 2), ("D", 1)))
    outbox.put("2")
    assert messages(outbox.take()) == [1, 2, ["A", 3], ["B", 1], ["C", 2], ["D", 1]]
    assert counters.conflated == 3
    assert counters.messages == 6
    outbox.offer(batch(("A", 4), ("A", 5)))
    assert messages(outbox.take()) == [["A", 4], ["A", 5]], "caught up, it gets every tick again"


async def test_what_is_pending_is_bounded_by_the_symbols_however_long_the_lag() -> None:
    outbox = Outbox(10, Counters())
    for n in range(10_000):
        outbox.offer(batch(("A", n), ("B", n)))
    assert messages(outbox.take()) == [["A", 9999], ["B", 9999]]


async def test_messages_that_may_not_be_dropped_end_a_client_that_is_too_far_behind() -> None:
    counters = Counters()
    outbox = Outbox(3, counters)
    most = 3 + 2 * MAX_CHANNELS
    for n in range(most):
        outbox.put(str(n))
    assert not outbox.ended.done()
    outbox.put("one more")
    assert outbox.ended.result().code == OVERFLOW
    outbox.offer(batch(("A", 1)))
    assert messages(outbox.take()) == list(range(most))
    assert counters.closed_overflow == 1


async def test_the_brake_holds_until_there_is_room() -> None:
    outbox = Outbox(4, Counters())
    assert await outbox.brake()
    outbox.put("1")
    outbox.put("2")
    several = [asyncio.create_task(outbox.brake()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in several)
    outbox.take()
    assert await asyncio.gather(*several) == [True, True, True]


async def test_the_brake_ends_a_client_that_never_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "PATIENCE", 0.01)
    outbox = Outbox(2, Counters())
    outbox.put("1")
    assert not await outbox.brake()
    assert outbox.ended.result().code == OVERFLOW


async def test_the_writer_is_woken_by_the_end_and_survives_cancellation() -> None:
    outbox = Outbox(4, Counters())
    writer = asyncio.create_task(outbox.frame())
    await asyncio.sleep(0)
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    outbox.put("1")
    assert await outbox.frame() == "[1]"
    writer = asyncio.create_task(outbox.frame())
    await asyncio.sleep(0)
    outbox.end(1001, "bye")
    assert await writer == ""


# --- over a real connection ------------------------------------------------------------------


async def test_a_client_that_stops_reading_is_conflated_and_catches_up(
    layer: rtx.DataLayer,
) -> None:
    async with (
        running(layer, send_queue=50) as gateway,
        gateway.stream(max_queue=1) as slow,
        gateway.stream() as quick,
    ):
        symbols = [f"S{n:03}" for n in range(100)]
        await slow.subscribe("market_data:*")
        await quick.subscribe("market_data:*")
        counters = gateway.gateway.counters
        published = 0
        while not counters.conflated:
            bid = 1.0 + published
            await layer.market_data.publish_many(
                rtx.Tick(symbol, bid=bid, ask=bid + 1) for symbol in symbols
            )
            published += 1
            for _ in symbols:
                assert (await quick.next("tick"))["bid"] == bid
            assert published < 5_000
        last = 1.0 + published
        await layer.market_data.publish_many(
            rtx.Tick(symbol, bid=last, ask=last + 1) for symbol in symbols
        )
        seen: dict[str, float] = {}
        got = 0
        while list(seen.values()) != [last] * len(symbols):
            tick = await slow.next("tick")
            assert tick["bid"] >= seen.get(tick["symbol"], 0.0), "never back in time"
            seen[tick["symbol"]] = tick["bid"]
            got += 1
        assert got < (published + 1) * len(symbols)


async def test_a_client_whose_executions_pile_up_is_closed_with_4008_and_can_resume(
    layer: rtx.DataLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "PATIENCE", 0.2)
    async with running(layer, send_queue=20) as gateway:
        counters = gateway.gateway.counters
        async with gateway.stream(max_queue=1) as stream:
            await stream.subscribe("executions:1")
            order = 0
            while not counters.closed_overflow:
                fills = [
                    rtx.Execution(order + n, 9, "X" * 500, "BUY", 1.0, 1.0) for n in range(1, 101)
                ]
                await asyncio.gather(*(layer.executions.publish(1, fill) for fill in fills))
                order += 100
                await asyncio.sleep(0)
                assert order < 100_000
            await eventually(lambda: gateway.gateway.stats()["connections"] == 0)
            assert await stream.closed() == 4008
            got = [message for message in stream._pending if message["type"] == "execution"]
        seqs = [message["seq"] for message in got]
        assert seqs == list(range(1, len(seqs) + 1)), "no hole before the close"
        async with gateway.stream() as stream:
            after = {"executions:1": f"{got[-1]['epoch']}:{got[-1]['seq']}"}
            (confirmation,) = await stream.subscribe("executions:1", after=after)
            assert confirmation["recovered"] is True
            rest = [(await stream.next("execution"))["seq"] for _ in range(order - len(got))]
        assert seqs + rest == list(range(1, order + 1))
