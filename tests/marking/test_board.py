"""The board: the latest price of each symbol, never an old one and never one from before it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
import redis.asyncio as redis_py

import rtx
from rtx.errors import ServerError
from rtx.marking import PriceBoard
from rtx.models import now_ms
from rtx.setting_groups import TTLSettings
from rtx.settings import Settings
from rtx.topology.process import ServerProcess
from tests.conftest import eventually


def tick(symbol: str = "EURUSD", bid: float = 1.0, at: int | None = None) -> rtx.Tick:
    return rtx.Tick(symbol, bid=bid, ask=2.0, time=now_ms() if at is None else at)


def has(board: PriceBoard, bid: float, symbol: str = "EURUSD") -> Callable[[], bool]:
    def check() -> bool:
        price = board.get(symbol)
        return price is not None and price.bid == bid

    return check


@pytest.fixture
async def layer(settings: Settings) -> AsyncIterator[rtx.DataLayer]:
    """Prices that stay fresh for the length of a test."""
    lasting = settings.model_copy(update={"ttl": TTLSettings(price=60.0)})
    async with rtx.open(lasting) as opened:
        yield opened


async def test_the_latest_tick_of_a_symbol_is_its_price(layer: rtx.DataLayer) -> None:
    layer.board.follow("EURUSD", "GBPUSD")
    await layer.board.ready()
    assert layer.board.get("EURUSD") is None
    await layer.market_data.publish_many([tick(bid=1.1), tick("GBPUSD", 1.2), tick(bid=1.3)])
    last = tick(bid=1.4)
    await layer.market_data.publish_many([last, tick("USDJPY", 150.0)])
    await eventually(has(layer.board, 1.4))
    assert layer.board.get("EURUSD") == rtx.Price("EURUSD", 1.4, 2.0, last.time)
    assert layer.board.get("USDJPY") is None
    found = layer.board.get_many(["USDJPY", "GBPUSD", "EURUSD"])
    assert [(name, price.bid) for name, price in found.items()] == [
        ("GBPUSD", 1.2),
        ("EURUSD", 1.4),
    ]


async def test_the_cached_price_comes_first(layer: rtx.DataLayer) -> None:
    await layer.prices.put(rtx.Price("EURUSD", 1.1, 1.2))
    layer.board.follow("EURUSD", "GBPUSD")
    await layer.board.ready()
    assert layer.board.get("EURUSD") == await layer.prices.get("EURUSD")
    assert layer.board.get("GBPUSD") is None
    assert layer.board.stats.cached == 1


async def test_prices_cached_by_other_programs_are_read_or_passed_over(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    await witness.set(layer.keys.price("A"), "{not json")
    await witness.set(layer.keys.price("B"), b'{"symbol":"B","time":1700000000000,"bid":1,"ask":2}')
    layer.board.follow("A", "B")
    await layer.board.ready()
    assert layer.board.get_many(["A", "B"]) == {"B": rtx.Price("B", 1.0, 2.0, 1_700_000_000_000)}


async def test_all_symbols_can_be_followed_at_once(layer: rtx.DataLayer) -> None:
    layer.board.follow("*")
    await layer.board.ready()
    await layer.market_data.publish_many([tick("A", 1.1), tick("B", 1.2)])
    await eventually(has(layer.board, 1.2, "B"))
    assert has(layer.board, 1.1, "A")()


async def test_a_symbol_is_followed_once(layer: rtx.DataLayer) -> None:
    layer.board.follow("EURUSD", "EURUSD")
    layer.board.follow("EURUSD")
    layer.board.follow("GBPUSD", "EURUSD")
    layer.board.follow()
    await layer.board.ready()
    await layer.market_data.publish_many([tick(), tick("GBPUSD")])
    await eventually(has(layer.board, 1.0, "GBPUSD"))
    await eventually(has(layer.board, 1.0))
    assert layer.board.stats.ticks == 2


async def test_a_late_tick_never_takes_the_place_of_a_newer_one(layer: rtx.DataLayer) -> None:
    now = now_ms()
    layer.board.follow("EURUSD")
    await layer.board.ready()
    await layer.market_data.publish(tick(bid=1.2, at=now))
    await eventually(has(layer.board, 1.2))
    await layer.market_data.publish(tick(bid=1.1, at=now - 1))
    await eventually(lambda: layer.board.stats.late == 1)
    assert has(layer.board, 1.2)()
    await layer.market_data.publish(tick(bid=1.3, at=now))  # of the same time: the later one
    await eventually(has(layer.board, 1.3))


# --- freshness -------------------------------------------------------------------------------


@pytest.fixture
async def brief(settings: Settings) -> AsyncIterator[rtx.DataLayer]:
    """Prices live 300 ms."""
    async with rtx.open(settings.model_copy(update={"ttl": TTLSettings(price=0.3)})) as opened:
        yield opened


async def test_a_price_is_gone_when_its_time_is_over(brief: rtx.DataLayer) -> None:
    brief.board.follow("EURUSD")
    await brief.board.ready()
    before = time.monotonic()
    await brief.market_data.publish(tick())
    await eventually(lambda: brief.board.stats.ticks == 1)
    if time.monotonic() - before < 0.3:
        assert has(brief.board, 1.0)()
    await eventually(lambda: brief.board.get("EURUSD") is None)
    assert time.monotonic() - before >= 0.3


async def test_a_cached_price_has_only_what_is_left_of_its_time(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    await layer.prices.put(rtx.Price("EURUSD", 1.1, 1.2))
    await witness.pexpire(layer.keys.price("EURUSD"), 500)
    before = time.monotonic()
    layer.board.follow("EURUSD")
    await layer.board.ready()
    await eventually(lambda: layer.board.get("EURUSD") is None, within=5)
    assert time.monotonic() - before < 5  # and not after the 60 s that prices live here


async def test_what_has_run_out_holds_no_older_tick_back(brief: rtx.DataLayer) -> None:
    now = now_ms()
    brief.board.follow("EURUSD")
    await brief.board.ready()
    await brief.market_data.publish(tick(bid=1.2, at=now + 86_400_000))  # a feed's clock is wrong
    await eventually(lambda: brief.board.stats.ticks == 1)
    await eventually(lambda: brief.board.get("EURUSD") is None)

    async def heard() -> bool:
        await brief.market_data.publish(tick(bid=1.1, at=now))
        return has(brief.board, 1.1)()

    await eventually(heard)


# --- breaks ----------------------------------------------------------------------------------


async def cut(witness: redis_py.Redis) -> None:
    await witness.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


async def test_what_came_before_a_break_is_not_fresh_until_the_next_tick(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    now = now_ms()
    layer.board.follow("EURUSD", "GBPUSD")
    await layer.board.ready()
    await layer.market_data.publish_many([tick(at=now), tick("GBPUSD")])
    await eventually(has(layer.board, 1.0, "GBPUSD"))
    await witness.delete(layer.keys.price("EURUSD"))
    await cut(witness)
    await layer.market_data.publish(tick("GBPUSD", 1.2))  # missed, but it is cached
    await eventually(has(layer.board, 1.2, "GBPUSD"))
    assert layer.board.stats.gaps == 1
    assert layer.board.get("EURUSD") is None
    await layer.market_data.publish(tick(bid=0.9, at=now - 1))  # older than what was there
    await eventually(lambda: layer.board.stats.late == 1)
    assert layer.board.get("EURUSD") is None
    await layer.market_data.publish(tick(bid=1.1))
    await eventually(has(layer.board, 1.1))


async def test_after_a_break_the_cached_price_is_fresh_again(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    layer.board.follow("EURUSD")
    await layer.board.ready()
    await layer.market_data.publish(tick())
    await eventually(has(layer.board, 1.0))
    await cut(witness)
    await eventually(lambda: layer.board.stats.gaps == 1)
    await eventually(has(layer.board, 1.0))  # the same tick, which is the latest still
    assert layer.board.stats.cached == 1


async def test_a_break_leaves_nothing_fresh_of_all_symbols(
    layer: rtx.DataLayer, witness: redis_py.Redis
) -> None:
    layer.board.follow("*")
    await layer.board.ready()
    await layer.market_data.publish_many([tick("A"), tick("B")])
    await eventually(has(layer.board, 1.0, "B"))
    await cut(witness)

    async def heard() -> bool:
        await layer.market_data.publish(tick("A", 1.1))
        return has(layer.board, 1.1, "A")()

    await eventually(heard)
    assert layer.board.get("B") is None


async def test_an_outage_is_sat_out(own_server: ServerProcess) -> None:
    settings = Settings.load(url=own_server.url, ttl={"price": 60.0})
    async with rtx.open(settings) as layer:
        layer.board.follow("EURUSD")
        await layer.board.ready()
        await layer.market_data.publish(tick())
        await eventually(has(layer.board, 1.0))
        own_server.kill()
        await own_server.wait()
        layer.board.follow("GBPUSD")  # while it is away
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await layer.board.ready()
        await own_server.start()
        async with asyncio.timeout(10):
            await layer.board.ready()

        async def heard() -> bool:
            try:
                await layer.market_data.publish_many([tick(bid=1.1), tick("GBPUSD", 1.2)])
            except rtx.Unavailable:
                return False
            return has(layer.board, 1.1)() and has(layer.board, 1.2, "GBPUSD")()

        await eventually(heard)


async def test_a_refused_subscription_is_told_and_asked_for_again(
    own_server: ServerProcess,
) -> None:
    async with redis_py.Redis.from_url(own_server.url) as witness:
        user = ["ACL", "SETUSER", "reader", "on", ">p", "~*", "+@all"]
        await witness.execute_command(*user, "resetchannels")
        url = own_server.url.replace("://", "://reader:p@")
        async with rtx.open(Settings.load(url=url)) as layer:
            layer.board.follow("EURUSD")
            with pytest.raises(ServerError):
                await layer.board.ready()
            await witness.execute_command(*user, "allchannels")

            async def heard() -> bool:
                await layer.market_data.publish(tick())
                return has(layer.board, 1.0)()

            await eventually(heard)
            await layer.board.ready()
            assert layer.board.stats.restarts > 0


async def test_nothing_is_left_when_the_layer_is_closed(settings: Settings) -> None:
    before = asyncio.all_tasks()
    async with rtx.open(settings) as layer:
        layer.board.follow("*")
        layer.board.follow("EURUSD")
        await layer.board.ready()
    assert asyncio.all_tasks() == before
    with pytest.raises(rtx.Unavailable):
        layer.board.follow("GBPUSD")
