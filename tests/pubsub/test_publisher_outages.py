"""The batching publisher and a server that dies, is silent, is restarted, or refuses."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.errors import NotPublished
from rtx.pubsub import TickPublisher
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from rtx.urls import Address
from tests.conftest import eventually
from tests.wire.faults import Faults, Proxy

NOON = 1_768_732_245_123
PATIENCE = 0.3


def tick(number: int, symbol: str = "EURUSD") -> rtx.Tick:
    return rtx.Tick(symbol, time=NOON + number, bid=1.0, ask=9.0, lp="LP")


def impatient(address: str) -> Settings:
    return Settings.load(
        url=address,
        pool={
            "min_idle": 0,
            "size": 1,
            "pool_timeout": PATIENCE,
            "connect_timeout": PATIENCE,
            "read_timeout": PATIENCE,
            "write_timeout": PATIENCE,
        },
        ttl={"price": 60.0},
    )


@asynccontextmanager
async def heard(server: ServerProcess) -> AsyncIterator[list[int]]:
    """The numbers of the ticks that come, by a plain client that reconnects on its own."""
    numbers: list[int] = []
    done = asyncio.Event()
    listening = asyncio.Event()

    async def listen() -> None:
        while not done.is_set():
            client = redis_py.Redis.from_url(server.url)
            try:
                async with client.pubsub() as pubsub:
                    await pubsub.psubscribe("market_data:*")
                    while not done.is_set():
                        message = await pubsub.get_message(timeout=0.05)
                        if message is not None and message["type"] == "psubscribe":
                            listening.set()
                        elif message is not None:
                            numbers.append(json.loads(message["data"])["time"] - NOON)
            except (redis_py.ConnectionError, redis_py.TimeoutError):
                await asyncio.sleep(0.01)
            finally:
                await client.aclose()

    task = asyncio.create_task(listen())
    await listening.wait()
    try:
        yield numbers
    finally:
        done.set()
        await task


def accounted(out: TickPublisher) -> int:
    return out.stats.published + out.stats.dropped.total() + out.stats.queued


async def test_a_server_that_dies_and_is_back_costs_no_tick_twice_and_none_uncounted(
    own_server: ServerProcess,
) -> None:
    async with rtx.open(impatient(own_server.url)) as layer:
        out = layer.market_data.publisher(policy="drop_oldest", queue_size=200)
        given = 0

        async def feed(until: asyncio.Event) -> None:
            nonlocal given
            while not until.is_set():
                out.offer(tick(given))
                given += 1
                await asyncio.sleep(0.0005)

        stop = asyncio.Event()
        async with heard(own_server) as before:
            feeding = asyncio.create_task(feed(stop))
            await eventually(lambda: len(before) > 100)
            own_server.kill()
            await own_server.wait()
        away_since = given
        await eventually(lambda: out.stats.dropped["overflow"] > 50)  # the queue has been full
        assert out.stats.queued == 200
        await own_server.start()
        async with heard(own_server) as after:
            at_return = given
            await eventually(lambda: after and after[-1] >= at_return)
            stop.set()
            await feeding
            await out.close()
            await eventually(lambda: given - 1 in after)
            numbers = before + after
        assert max(Counter(numbers).values()) == 1
        assert before == sorted(before)
        assert after == sorted(after)
        assert accounted(out) == given
        assert out.stats.published >= len(numbers)
        lost = out.stats.dropped
        print(f"given {given}, away since {away_since}, heard {len(numbers)}, dropped {lost}")
        assert set(lost) <= {"overflow", "unconfirmed"}
        assert lost["unconfirmed"] < 100
        price = await layer.prices.get("EURUSD")
        assert price is not None
        assert price.time == NOON + given - 1


async def test_after_an_outage_the_latest_tick_of_each_symbol_is_published_at_once(
    own_server: ServerProcess,
) -> None:
    async with rtx.open(impatient(own_server.url)) as layer:
        async with layer.market_data.publisher(queue_size=50) as out:
            out.offer(tick(0))
            await out.flush()
            own_server.kill()
            await own_server.wait()
            out.offer(tick(1))
            await eventually(lambda: layer.market_data._writer.down is not None)
            for number in range(2, 2_000):
                out.offer(tick(number, f"S{number % 10}"))
                assert out.stats.queued <= 50
            await own_server.start()
            await out.flush()
        assert accounted(out) == 2_000
        assert set(out.stats.dropped) <= {"conflated", "unconfirmed"}
        prices = await layer.prices.get_many([f"S{number}" for number in range(10)])
        assert sorted(price.time - NOON for price in prices.values()) == [*range(1_990, 2_000)]


async def test_a_write_that_was_never_sent_is_sent_when_the_server_is_back(
    own_server: ServerProcess,
) -> None:
    async with rtx.open(impatient(own_server.url)) as layer:
        own_server.kill()
        await own_server.wait()
        await eventually(lambda: layer.market_data._writer.down is not None)
        async with layer.market_data.publisher() as out:
            for number in range(20):
                out.offer(tick(number))
            sending = asyncio.create_task(out.send(tick(20)))
            with pytest.raises(NotPublished, match="21 ticks still wait"):
                await out.flush(timeout=0.2)
            await own_server.start()
            async with heard(own_server) as numbers:
                await out.flush()
                await eventually(lambda: numbers[-1:] == [20])
                assert max(Counter(numbers).values()) == 1
        assert await sending
        assert out.stats.published == 21
        assert not out.stats.dropped


async def test_close_into_a_black_hole_ends_in_its_time_and_says_what_is_lost(
    own_server: ServerProcess,
) -> None:
    async with Proxy(Address("127.0.0.1", own_server.port)) as proxy:
        settings = impatient(f"redis://{proxy.address}")
        settings = settings.model_copy(
            update={"pool": settings.pool.model_copy(update={"read_timeout": 30.0})}
        )
        async with rtx.open(settings) as layer:
            out = layer.market_data.publisher(close_timeout=0.2)
            out.offer(tick(0))
            await out.flush()
            proxy.freeze()
            out.offer(tick(1))
            await eventually(lambda: out.stats.queued == 0)
            for number in range(2, 12):
                out.offer(tick(number))
            began = time.monotonic()
            with pytest.raises(NotPublished) as lost:
                await out.close()
            print(f"closed after {time.monotonic() - began:.3f} s")
            assert time.monotonic() - began < 10
            assert lost.value.lost == {"unconfirmed": 1, "unsent": 10}
            assert accounted(out) == 12
            proxy.faults = lambda: Faults(hang_up=True)
            proxy.cut_all()


async def test_what_was_sent_and_not_answered_is_not_sent_again(
    own_server: ServerProcess,
) -> None:
    """The server gets the write and publishes it; the answer comes too late."""
    async with (
        Proxy(Address("127.0.0.1", own_server.port)) as proxy,
        rtx.open(impatient(f"redis://{proxy.address}")) as layer,
        heard(own_server) as numbers,
        layer.market_data.publisher() as out,
    ):
        out.offer(tick(0))
        await out.flush()
        replies = _hold_replies(proxy)
        out.offer(tick(1))
        out.offer(tick(2))
        with pytest.raises(NotPublished, match="2 unconfirmed"):
            await out.flush()
        replies.set()
        out.offer(tick(3))
        await out.flush()
        await eventually(lambda: numbers[-1:] == [3])
        assert numbers == [0, 1, 2, 3]
        assert out.stats.published == 2
        assert out.stats.dropped == {"unconfirmed": 2}


def _hold_replies(proxy: Proxy) -> asyncio.Event:
    """Requests go on, replies wait until the event is set."""
    go_on = asyncio.Event()
    proxy._thawed = _OnlyForRequests(go_on)
    return go_on


class _OnlyForRequests(asyncio.Event):
    """Lets the proxy's pump of requests pass, and that of replies when the event is set."""

    def __init__(self, go_on: asyncio.Event) -> None:
        super().__init__()
        self._go_on = go_on

    async def wait(self) -> bool:  # type: ignore[override]
        name = asyncio.current_task().get_coro().__name__  # type: ignore[union-attr]
        return name == "_requests" or await self._go_on.wait()


async def test_a_tick_that_the_server_refuses_is_counted_under_the_servers_reason(
    own_server: ServerProcess,
) -> None:
    root = redis_py.Redis.from_url(own_server.url)
    rules = ("on", "nopass", "~*", "&market_data:GOOD", "+@all")
    await root.execute_command("ACL", "SETUSER", "feed", *rules)
    settings = Settings.load(url=f"redis://feed:x@127.0.0.1:{own_server.port}")
    async with rtx.open(settings) as layer:
        out = layer.market_data.publisher()
        for number in range(400):
            out.offer(tick(number, "GOOD" if number % 2 else "BAD"))
        with pytest.raises(NotPublished, match="200 access_denied"):
            await out.close()
        assert out.stats.published == 200
        assert out.stats.dropped == {"access_denied": 200}
    await root.aclose()
