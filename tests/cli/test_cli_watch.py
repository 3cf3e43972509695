"""`rtx watch`: lines, JSON, the table, and readers that are slow or gone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio as redis_py

import rtx as package
from rtx import codecs
from rtx.topology.process import ServerProcess
from tests.cli.conftest import Rtx
from tests.conftest import eventually

TICK = package.Tick("EURUSD", time=1_768_732_245_123, bid=1.0955, ask=1.0956, lp="OANDA")


async def subscribed(witness: redis_py.Redis, channel: str) -> None:
    """Return when somebody listens on the channel."""

    async def heard() -> bool:
        return (await witness.pubsub_numsub(channel))[0][1] > 0

    await eventually(heard)


@asynccontextmanager
async def ticking(layer: package.DataLayer, *symbols: str) -> AsyncIterator[None]:
    """Ticks of the symbols, as fast as the loop gives way."""

    async def run() -> None:
        number = 0
        while True:
            number += 1
            bid = 1 + number % 100 / 10_000
            ticks = [package.Tick(name, bid=bid, ask=bid + 0.0001, lp="T") for name in symbols]
            await layer.market_data.publish_many(ticks)
            await asyncio.sleep(0.001)

    task = asyncio.create_task(run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_piped_it_writes_a_line_a_tick(
    connected: Rtx, layer: package.DataLayer, witness: redis_py.Redis, namespace: str
) -> None:
    watching = await connected.start("watch", "EURUSD", "--count", 1)
    await subscribed(witness, f"{namespace}:market_data:EURUSD")
    # Past the cache, so that the tick itself is shown, and not the price read as a snapshot.
    await witness.publish(f"{namespace}:market_data:EURUSD", codecs.encode(TICK))
    ended = await watching.end()
    assert ended.code == 0
    assert ended.out == "2026-01-18T10:30:45.123Z EURUSD 1.0955 1.0956 0.0001 OANDA\n"


async def test_json_lines_are_the_messages_of_the_channel(
    connected: Rtx, layer: package.DataLayer
) -> None:
    async with ticking(layer, "EURUSD", "BTCUSD"):
        ended = await connected("watch", "--json", "--count", 40)
    ticks = [json.loads(line) for line in ended.lines]
    assert ended.code == 0
    assert len(ticks) == 40
    assert {tick["symbol"] for tick in ticks} == {"EURUSD", "BTCUSD"}
    assert all(tick["type"] == "tick" for tick in ticks)


async def test_the_cached_price_comes_first(connected: Rtx, layer: package.DataLayer) -> None:
    stop = asyncio.Event()

    async def keep_fresh() -> None:
        while not stop.is_set():
            await layer.prices.put(package.Price("EURUSD", bid=1.5, ask=1.6, time=TICK.time))
            await asyncio.sleep(0.1)

    keeper = asyncio.create_task(keep_fresh())
    ended = await connected("watch", "EURUSD", "--count", 1)
    stop.set()
    await keeper
    assert ended.out == "2026-01-18T10:30:45.123Z EURUSD 1.5 1.6 0.1 -\n"


async def test_ctrl_c_ends_it(connected: Rtx, witness: redis_py.Redis, namespace: str) -> None:
    watching = await connected.start("watch", "EURUSD")
    await subscribed(witness, f"{namespace}:market_data:EURUSD")
    ended = await watching.interrupt()
    assert (ended.code, ended.out, ended.err) == (130, "", "")


async def test_ctrl_c_ends_it_while_nobody_reads_what_it_writes(
    connected: Rtx, layer: package.DataLayer, witness: redis_py.Redis, namespace: str
) -> None:
    reading, writing = os.pipe()
    watching = await connected.start("watch", "EURUSD", "--json", stdout=writing)
    os.close(writing)
    await subscribed(witness, f"{namespace}:market_data:EURUSD")
    many = [TICK] * 1_000
    for _ in range(20):  # 2 MB, where a pipe holds 64 kB
        await layer.market_data.publish_many(many)
    process = watching.process
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(2):
        await process.wait()
    os.close(reading)
    assert process.returncode == 130


async def test_a_reader_that_leaves_ends_it_quietly(
    connected: Rtx, layer: package.DataLayer
) -> None:
    reading, writing = os.pipe()
    watching = await connected.start("watch", stdout=writing)
    os.close(writing)
    async with ticking(layer, "EURUSD"):
        first = await asyncio.to_thread(os.read, reading, 10)
        os.close(reading)
        ended = await watching.end()
    assert len(first) == 10
    assert (ended.code, ended.err) == (141, "")


async def test_a_restart_of_the_server_is_told_and_outlived(
    rtx: Rtx, own_server: ServerProcess
) -> None:
    rtx.env["RTX_URL"] = own_server.url
    watching = await rtx.start("watch", "EURUSD")

    async def next_line() -> str:
        settings = package.Settings.load(url=own_server.url)
        async with package.open(settings) as layer, ticking(layer, "EURUSD"):
            return await watching.line()

    assert " EURUSD " in await next_line()
    await own_server.stop()
    await own_server.start()
    async with asyncio.timeout(20):
        while not (line := await next_line()).startswith("gap "):
            pass
    assert "messages may be missing" in line
    assert (await watching.interrupt()).code == 130
